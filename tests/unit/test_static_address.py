"""A public address leaves the operating system's settings, or exact lines are named."""

from pathlib import Path

import pytest

from everup.agent.membership.static_address import move_out, plan
from everup.errors import Refused
from everup.places import Places

PUBLIC = ("192.0.2.10/24",)
IFUPDOWN = Path("/etc/network/interfaces")
NETWORKD = Path("/etc/systemd/network/10-eth0.network")


def commented(path: Path, text: str) -> list[str]:
    return [text.split("\n")[n - 1].strip() for n in plan(path, text, PUBLIC).comment_out]


def asked(path: Path, text: str) -> list[tuple[int, str]]:
    return [(line.number, line.text.strip()) for line in plan(path, text, PUBLIC).ask_person]


def test_static_address_elsewhere_is_left_alone() -> None:
    text = "iface eth0 inet static\n  address 192.0.2.100/24\n# address 192.0.2.10\n"
    assert plan(IFUPDOWN, text, PUBLIC) == plan(IFUPDOWN, "", PUBLIC)


def test_static_address_of_an_alias_goes_with_its_stanza() -> None:
    text = (
        "auto eth0\niface eth0 inet static\n    address 192.0.2.11/24\n    gateway 192.0.2.1\n\n"
        "auto eth0:0\niface eth0:0 inet static\n    address 192.0.2.10\n    netmask 255.255.255.0\n"
    )
    assert commented(IFUPDOWN, text) == [
        "auto eth0:0",
        "iface eth0:0 inet static",
        "address 192.0.2.10",
        "netmask 255.255.255.0",
    ]


def test_static_address_second_stanza_of_an_interface_goes() -> None:
    text = (
        "auto eth0\niface eth0 inet static\n  address 192.0.2.11/24\n"
        "iface eth0 inet static\n  address 192.0.2.10/24\n"
    )
    assert commented(IFUPDOWN, text) == ["iface eth0 inet static", "address 192.0.2.10/24"]


def test_static_address_only_one_of_the_interface_is_for_a_person() -> None:
    text = "auto eth0\niface eth0 inet static\n  address 192.0.2.10/24\n  gateway 192.0.2.1\n"
    assert asked(IFUPDOWN, text) == [(3, "address 192.0.2.10/24")]
    assert commented(IFUPDOWN, text) == []


def test_static_address_added_by_a_command_goes() -> None:
    text = (
        "iface eth0 inet static\n  address 192.0.2.11/24\n"
        "  up ip addr add 192.0.2.10/24 dev eth0\n  down ip addr del 192.0.2.10/24 dev eth0\n"
    )
    assert len(commented(IFUPDOWN, text)) == 2


def test_static_address_networkd_line_goes_when_another_stays() -> None:
    two = "[Match]\nName=eth0\n[Network]\nAddress=192.0.2.11/24\nAddress=192.0.2.10/24\n"
    assert commented(NETWORKD, two) == ["Address=192.0.2.10/24"]
    dhcp = "[Network]\nDHCP=yes\nAddress=192.0.2.10/24\n"
    assert commented(NETWORKD, dhcp) == ["Address=192.0.2.10/24"]
    alone = "[Network]\nAddress=192.0.2.10/24\nGateway=192.0.2.1\n"
    assert asked(NETWORKD, alone) == [(2, "Address=192.0.2.10/24")]
    section = "[Network]\nDHCP=yes\n[Address]\nAddress=192.0.2.10/24\n"
    assert asked(NETWORKD, section) == [(4, "Address=192.0.2.10/24")]


def test_static_address_of_other_programs_is_for_a_person() -> None:
    netplan = Path("/etc/netplan/01.yaml")
    assert asked(netplan, "addresses:\n  - 192.0.2.10/24\n") == [(2, "- 192.0.2.10/24")]
    assert asked(netplan, "addresses: [192.0.2.10/24]\n")


def test_static_address_is_moved_with_a_backup(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    file = tmp_path / "etc/network/interfaces.d/eth0"
    file.parent.mkdir(parents=True)
    before = "iface eth0 inet dhcp\niface eth0 inet static\n  address 192.0.2.10/24\n"
    file.write_text(before)
    file.chmod(0o640)
    assert move_out(places, PUBLIC) == [file]
    assert "192.0.2.10" not in "".join(
        line for line in file.read_text().splitlines() if not line.startswith("#")
    )
    assert file.stat().st_mode & 0o777 == 0o640
    backup = places.var / "backup/etc/network/interfaces.d/eth0"
    assert backup.read_text() == before
    assert move_out(places, PUBLIC) == []


def test_static_address_refusal_names_file_and_line_and_changes_nothing(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    good = tmp_path / "etc/systemd/network/a.network"
    bad = tmp_path / "etc/systemd/network/b.network"
    good.parent.mkdir(parents=True)
    good.write_text("[Network]\nDHCP=yes\nAddress=192.0.2.10/24\n")
    bad.write_text("[Network]\nAddress=192.0.2.10/24\n")
    with pytest.raises(Refused) as caught:
        move_out(places, PUBLIC)
    assert f"{bad}:2: Address=192.0.2.10/24" in caught.value.sentence
    assert not good.read_text().startswith("#")
    assert "#" not in good.read_text()
    assert not places.var.exists()
