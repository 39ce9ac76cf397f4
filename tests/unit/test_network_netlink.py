"""Encodings for the kernel, and the text of the rules; the kernel itself is asked in `contract`."""

import struct

import pytest

from everup.network.hide import egress_rules, rules
from everup.network.netlink import attribute, attributes, message, nested
from everup.network.permission import places


@pytest.mark.parametrize("size", range(9))
def test_attributes_are_padded_and_come_back(size: int) -> None:
    value = bytes(range(size))
    data = attribute(7, value) + nested(8, attribute(1, b"x"))
    assert len(data) % 4 == 0
    found = list(attributes(data))
    assert found[0] == (7, value)
    assert found[1][0] == 8
    assert list(attributes(found[1][1])) == [(1, b"x")]


@pytest.mark.parametrize("data", [b"\1", b"\0\0\0\0", b"\xff\xff\0\0abc"])
def test_broken_attributes_end_the_walk(data: bytes) -> None:
    assert list(attributes(data)) == []


def test_a_message_carries_its_length() -> None:
    data = message(20, 5, 77, b"abcd")
    assert struct.unpack_from("=IHHI", data) == (20, 20, 5, 77)


def test_each_address_is_in_every_set_that_is_asked() -> None:
    four = places(["192.0.2.10/24"], at_exit=True)
    assert [(family, name) for family, name, _ in four] == [
        (1, "leased4"),
        (3, "leased4"),
        (5, "leased4"),
    ]
    six = places(["2001:db8::10/64"], at_exit=False)
    assert {name for _, name, _ in six} == {"leased6", "leased_target6"}
    assert {key for _, _, key in six} == {bytes.fromhex("20010db8000000000000000000000010")}


def test_the_rules_name_every_address_once() -> None:
    script = rules(["192.0.2.10/24", "192.0.2.10/24", "2001:db8::10"])
    assert script.count("192.0.2.10") == 2, "once for inet, once for arp"
    assert "0x20010db8000000000000000000000010" in script
    assert "add element" not in rules([])


def test_interface_names_do_not_become_nft_words() -> None:
    script = egress_rules(["192.0.2.10"], ["eth0.10", "br-lan"])
    assert 'device "eth0.10"' in script
    assert "chain netdev everup out_657468302e3130 " in script
