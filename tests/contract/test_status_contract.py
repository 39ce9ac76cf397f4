"""The group in memory and the real agent answer `status` in one shape: that of the contract."""

from typing import Any, Literal

import msgspec
import pytest

from everup.agent.status_view import status_json
from everup.api.memory import MemoryAgent
from everup.config.schema import GroupSettings, Member, PublicAddress
from everup.model.action import Decision
from everup.model.observation import Keeper, KeeperPeer, Observation, PeerFacts
from everup.model.role import State


class Position(msgspec.Struct, frozen=True):
    epoch: int
    sequence: int
    checksum: str


class Applied(msgspec.Struct, frozen=True):
    epoch: int
    sequence: int


class Proven(msgspec.Struct, frozen=True):
    """Up to where, and when, the server was proven equal as a whole."""

    epoch: int
    sequence: int
    at: str


class ServerShape(msgspec.Struct, frozen=True):
    name: str
    identity: str
    role: Literal["active", "passive", "unknown"]
    reachable: bool
    gate: Literal["open", "closed"]
    position: Position | None
    applied: Applied | None
    sync: Literal["synchronized", "syncing", "out-of-sync", "unchecked", "unknown"]
    proven: Proven | None
    version: str


class Arbiter(msgspec.Struct, frozen=True):
    kind: str
    holder: str | None
    voters: tuple[str, ...]
    may_take_over: tuple[str, ...]
    expires_in_ms: int | None
    automatic_failover: bool
    risk: str | None


class Queue(msgspec.Struct, frozen=True):
    bytes: int
    operations: int
    oldest_ms: int


class Replication(msgspec.Struct, frozen=True):
    send_queue: Queue
    receive_queue: Queue
    recovery_point_ms: int


class Warned(msgspec.Struct, frozen=True):
    id: str
    sentence: str
    remedy: str


class Public(msgspec.Struct, frozen=True):
    address: str
    holder: str | None


class Status(msgspec.Struct, frozen=True):
    group: str
    epoch: int
    mode: Literal["async", "durable"]
    state: str
    sentence: str
    arbiter: Arbiter
    public_addresses: tuple[Public, ...]
    servers: tuple[ServerShape, ...]
    replication: Replication
    protected: tuple[str, ...]
    units: tuple[str, ...]
    warnings: tuple[Warned, ...]


async def memory() -> Any:
    agent = MemoryAgent()
    agent.warnings.append({"id": "w", "sentence": "s", "remedy": "r"})
    return await agent.status()


async def real(answers: dict[str, Any] | None = None) -> Any:
    settings = GroupSettings(
        version=1,
        group="shop",
        group_id="0" * 32,
        members=(
            Member(name="primary", identity="primary", management="192.0.2.11"),
            Member(name="secondary", identity="secondary", management="192.0.2.12"),
            Member(name="witness", identity="witness", management="192.0.2.20"),
        ),
        public=(PublicAddress(address="192.0.2.10/24", interface="eth0"),),
    )
    peer = KeeperPeer("secondary", True, 20, PeerFacts(role="passive", gate="closed"))
    seen = Observation(now_ms=5, boot_id="b", server="primary", keeper=Keeper(peers=(peer,)))
    return status_json(
        settings, State(), seen, Decision(State()), answers or {}, {"version": "0.1.0"}
    )


@pytest.mark.parametrize("answer", [memory, real])
async def test_status_has_the_shape_of_the_contract(answer: Any) -> None:
    status = msgspec.convert(msgspec.json.decode(msgspec.json.encode(await answer())), Status)
    assert [server.name for server in status.servers] == ["primary", "secondary"]
    assert status.group == "shop"


async def test_status_before_the_first_protect_is_calm() -> None:
    """Nothing is out of sync, and nothing is at risk, where nothing is protected."""
    status = await real()
    assert status["state"] == "unprotected"
    assert "everup protect" in status["sentence"]
    assert status["arbiter"]["risk"] == ""
    assert {server["sync"] for server in status["servers"]} <= {"unchecked", "unknown"}


async def test_status_warns_of_what_guard_and_replicator_say_of_the_data() -> None:
    guard = {"journal": {"bytes": 1 << 50}}
    status = await real({"guard": guard, "replicator": {"receive_queue": {"bytes": 1 << 50}}})
    found = [warning["id"] for warning in status["warnings"]]
    assert {"journal-quota", "receive-log-quota"} <= set(found)
