"""What the keeper needs from the settings, read without the library that checks them.

What enters: server.toml, group.toml and the heartbeat key. What leaves: frozen values. Called when
the process starts and at `reload`. The agents check settings before they store them
(`config.load`); importing that here would cost a third of the 200 ms in which the keeper has to be
back. A test compares names and defaults with `config.schema`.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everup.errors import BadInput, EverupError
from everup.keeper.desk import Timing
from everup.places import KEEPER_PORT, WITNESS_PORT, Places

MS = 1_000_000
TIMING_DEFAULTS_MS = {"heartbeat_ms": 100, "lease_ms": 1000, "renew_ms": 250}
MODE_DEFAULT = "durable"


@dataclass(frozen=True, slots=True)
class MemberPlace:
    """Where a member's keeper listens: channels first, then its management address."""

    name: str
    addresses: tuple[str, ...]
    port: int


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    server: str
    own: MemberPlace
    peers: tuple[MemberPlace, ...]
    group_id: str
    """Empty while this server is in no group."""
    key: bytes
    timing: Timing
    mode: str
    public: tuple[str, ...]

    @property
    def members(self) -> set[str]:
        return {self.server, *(peer.name for peer in self.peers)}


def read_settings(places: Places) -> KeeperSettings:
    """Raises BadInput when server.toml is missing or unreadable; no group is not a mistake."""
    server = _toml(places.server_settings)
    if server is None:
        raise BadInput(
            f"{places.server_settings} is missing",
            remedy="everup init on the first server, everup join or everup witness on the others",
        )
    group = _toml(places.group_settings) or {}
    try:
        return _settings(server, group, _key(places.heartbeat_key))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"the settings cannot be used: {error!r}", remedy="everup config check"
        ) from error


def _toml(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", remedy="everup config check") from error
    except OSError as error:
        raise EverupError(f"{path} cannot be read: {error.strerror}") from error


def _key(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        return b""


def _settings(server: dict[str, Any], group: dict[str, Any], key: bytes) -> KeeperSettings:
    name = str(server["name"])
    members = [_place(member) for member in group.get("members", ())]
    own = next((member for member in members if member.name == name), None) or _place(server)
    timing = TIMING_DEFAULTS_MS | group.get("timing", {})
    return KeeperSettings(
        server=name,
        own=own,
        peers=tuple(member for member in members if member.name != name),
        group_id=str(group.get("group_id", "")),
        key=key,
        timing=Timing(
            int(timing["heartbeat_ms"]) * MS,
            int(timing["lease_ms"]) * MS,
            int(timing["renew_ms"]) * MS,
        ),
        mode=str(group.get("mode", MODE_DEFAULT)),
        public=tuple(str(public["address"]) for public in group.get("public", ())),
    )


def _place(member: dict[str, Any]) -> MemberPlace:
    addresses = (*member.get("channels", ()), member["management"])
    port = WITNESS_PORT if member.get("identity") == "witness" else KEEPER_PORT
    return MemberPlace(
        str(member["name"]), tuple(str(address) for address in dict.fromkeys(addresses)), port
    )
