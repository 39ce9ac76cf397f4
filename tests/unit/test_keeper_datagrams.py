"""Messages, seals and the refusal of what goes backwards."""

import json

import pytest

from everup.errors import ProtocolError
from everup.keeper.messages import FACTS_BYTES_MAX, Beat, Message, Reply, Request, decode, encode
from everup.keeper.record import Known, Record
from everup.keeper.seal import DATAGRAM_BYTES_MAX, Freshness, Sealer

RECORD = Record(4, 7, ("primary", "secondary", "witness"), ("primary", "secondary"), "durable")
JOINT = Known(RECORD, Record(3, 7, ("primary",), ("primary",), "durable"))
MESSAGES: list[Message] = [
    Beat(7, 7, 6, 1 << 52, Known(RECORD), {"role": "active", "lag": 3}),
    Beat(0, 0, 0, 1, None),
    Request("ask", 8, 1_000_000_000, 123456789, 5, JOINT),
    Request("renew", 8, 1_000_000_000, 123456789, 5, JOINT, 1 << 52),
    Request("vote", 8, 1_000_000_000, 123456789, 5, Known(RECORD)),
    Reply("renew", 8, 1_000_000_000, 123456789, 5, "", 0, 8, JOINT),
    Reply("vote", 8, 1_000_000_000, 123456789, 5, "granted-elsewhere", 400, 9, None),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_come_back_as_they_were(message: Message) -> None:
    assert decode(encode(message)) == message


def test_the_largest_heartbeat_fits_into_one_packet() -> None:
    facts = {"sentence": "x" * (FACTS_BYTES_MAX - 20)}
    sealer = Sealer(b"k" * 32, "0" * 32)
    size = len(
        sealer.seal(
            "primary",
            "secondary",
            1 << 60,
            1 << 60,
            encode(Beat(7, 7, 6, 1 << 52, Known(RECORD), facts)),
        )
    )
    assert size <= 1400, "an Ethernet frame, without fragments"


@pytest.mark.parametrize(
    "change",
    [
        {"type": "greeting"},
        {"kind": "beg"},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": 1.5},
        {"epoch": 1 << 63},
        {"known": None},
        {"known": {"record": {"version": 1}}},
        {"known": {"record": {**RECORD.to_json(), "voters": []}}},
        {"known": {"record": {**RECORD.to_json(), "mode": "often"}}},
    ],
)
def test_what_is_no_message_is_refused(change: dict[str, object]) -> None:
    value = json.loads(encode(MESSAGES[4])) | change
    with pytest.raises(ProtocolError):
        decode(json.dumps(value).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}", b"\xff"])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_a_seal_is_opened_with_the_same_key_and_group_only() -> None:
    sealer = Sealer(b"k" * 32, "shop")
    datagram = sealer.seal("a", "b", 3, 9, b"body")
    opened = sealer.open(datagram)
    assert (opened.sender, opened.recipient, opened.incarnation) == ("a", "b", 3)
    assert (opened.counter, opened.body) == (9, b"body")
    for other in (Sealer(b"l" * 32, "shop"), Sealer(b"k" * 32, "other")):
        with pytest.raises(ProtocolError):
            other.open(datagram)


def test_every_changed_byte_breaks_the_seal() -> None:
    sealer = Sealer(b"k" * 32, "shop")
    datagram = sealer.seal("a", "b", 3, 9, b"body")
    for place in range(len(datagram)):
        broken = bytearray(datagram)
        broken[place] ^= 1
        with pytest.raises(ProtocolError):
            sealer.open(bytes(broken))


@pytest.mark.parametrize("size", [0, 10, 53, DATAGRAM_BYTES_MAX + 1])
def test_datagrams_of_impossible_length_are_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        Sealer(b"k" * 32, "shop").open(bytes(size))


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Sealer(b"short", "shop")


def test_nothing_goes_backwards() -> None:
    fresh = Freshness()
    assert fresh.accept("a", 2, 5)
    assert not fresh.accept("a", 2, 5), "the same over another channel"
    assert not fresh.accept("a", 2, 4)
    assert not fresh.accept("a", 1, 900), "an earlier life, or a restored copy"
    assert fresh.accept("a", 2, 6)
    assert fresh.accept("a", 3, 1)
    assert fresh.accept("b", 1, 1)
