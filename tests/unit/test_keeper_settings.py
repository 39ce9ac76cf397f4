"""The keeper's own reader of the settings agrees with the schema that checks them."""

from pathlib import Path

import pytest

from everup.config.schema import GroupSettings, Timing
from everup.errors import BadInput
from everup.keeper.settings import MODE_DEFAULT, TIMING_DEFAULTS_MS, read_settings
from everup.places import KEEPER_PORT, WITNESS_PORT, Places

SERVER = 'name = "primary"\nidentity = "primary"\ngroup = "shop"\nmanagement = "192.0.2.11"\n'
GROUP = """
version = 1
group = "shop"
group_id = "0123456789abcdef0123456789abcdef"
mode = "async"
[timing]
lease_ms = 2000
[[members]]
name = "primary"
identity = "primary"
management = "192.0.2.11"
channels = ["10.0.0.1", "192.0.2.11"]
[[members]]
name = "witness"
identity = "witness"
management = "192.0.2.13"
[[public]]
address = "192.0.2.10/24"
interface = "eth0"
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places.below(tmp_path)
    made.make()
    made.server_settings.write_text(SERVER)
    return made


def test_defaults_are_those_of_the_schema() -> None:
    for name, value in TIMING_DEFAULTS_MS.items():
        assert getattr(Timing(), name) == value
    assert GroupSettings(version=1, group="x", group_id="y").mode == MODE_DEFAULT


def test_a_whole_group(places: Places) -> None:
    places.group_settings.write_text(GROUP)
    places.heartbeat_key.write_bytes(b"secret of the group\n")
    settings = read_settings(places)
    assert settings.members == {"primary", "witness"}
    assert settings.own.addresses == ("10.0.0.1", "192.0.2.11")
    assert settings.own.port == KEEPER_PORT
    assert [(p.name, p.port) for p in settings.peers] == [("witness", WITNESS_PORT)]
    assert settings.timing.lease_ns == 2_000_000_000
    assert settings.timing.renew_ns == 250_000_000
    assert settings.mode == "async"
    assert settings.public == ("192.0.2.10/24",)
    assert settings.key == b"secret of the group"


def test_a_server_without_a_group(places: Places) -> None:
    settings = read_settings(places)
    assert settings.group_id == ""
    assert settings.members == {"primary"}
    assert settings.own.addresses == ("192.0.2.11",)


def test_what_cannot_be_read_is_a_sentence(places: Places) -> None:
    places.group_settings.write_text("version = ")
    with pytest.raises(BadInput, match=r"group\.toml"):
        read_settings(places)
    places.group_settings.write_text('members = [{name = "x"}]')
    with pytest.raises(BadInput, match="settings"):
        read_settings(places)
    places.server_settings.unlink()
    with pytest.raises(BadInput, match="missing"):
        read_settings(places)
