"""A verification that begins by itself: by whom it is begun, with what, and what is told of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from everup.agent.event_log import EventLog
from everup.agent.scheduled import Scheduled
from everup.agent.verify_due import AGAIN_S
from everup.errors import Refused
from everup.model.role import Role

NOW_S = 1.8e9
RECENT = {"epoch": 1, "sequence": 5, "at": "2027-01-15T07:00:00Z"}


class Replicator:
    """Notes what it is asked; `refuses` when it cannot do it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refuses = False

    async def call(self, verb: str, *, wait_ms: int, **arguments: Any) -> dict[str, Any]:
        self.asked.append((verb, arguments))
        if self.refuses:
            raise Refused("no", code="no-peer-in-sync")
        return {"number": 1}


class Server:
    """What the schedule needs of an agent's parts."""

    def __init__(self, root: Path, facts: dict[str, Any]) -> None:
        self.replicator = Replicator()
        self.events = EventLog(root / "events.jsonl", "a")
        self.extra_facts: dict[str, Any] = {}
        self.loop = SimpleNamespace(state=SimpleNamespace(role=Role.ACTIVE))
        current = SimpleNamespace(verify_every_hours=168)
        self.membership = SimpleNamespace(settings=SimpleNamespace(current=current))
        self.replication: dict[str, Any] = {"peers": [{"server": "b", "in_sync": True}]}
        peers = [{"server": "b", "facts": facts}]
        self.world = SimpleNamespace(
            answers={"replicator": self.replication, "keeper": {"peers": peers}}
        )


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """Active; the other one was never proven."""
    return Server(tmp_path, {})


def scheduled(server: Server) -> Scheduled:
    return Scheduled(server)  # type: ignore[arg-type]


async def test_the_active_server_begins_and_says_why(server: Server) -> None:
    await scheduled(server).look(NOW_S)
    assert server.replicator.asked == [("verify", {"scheduled": True})]
    (event,) = server.events.after(0, 10)
    assert (event.kind, event.severity) == ("verify-started", "info")
    assert "b was never proven equal as a whole" in event.sentence


async def test_nobody_else_begins_and_never_twice_at_once(server: Server) -> None:
    mine = scheduled(server)
    server.loop.state.role = Role.PASSIVE
    await mine.look(NOW_S)
    server.loop.state.role = Role.ACTIVE
    server.replication["verify"] = {"running": {"b": {}}}
    await mine.look(NOW_S)
    assert server.replicator.asked == []


async def test_the_setting_counts_at_once(server: Server) -> None:
    server.membership.settings.current.verify_every_hours = 0
    await scheduled(server).look(NOW_S)
    assert server.replicator.asked == []


async def test_what_cannot_begin_is_tried_again_later(server: Server) -> None:
    mine = scheduled(server)
    server.replicator.refuses = True
    with pytest.raises(Refused):
        await mine.look(NOW_S)
    await mine.look(NOW_S + AGAIN_S - 1)
    assert len(server.replicator.asked) == 1
    server.replicator.refuses = False
    await mine.look(NOW_S + AGAIN_S)
    assert len(server.replicator.asked) == 2


async def test_a_write_behind_the_mounts_is_remembered_over_a_restart(tmp_path: Path) -> None:
    server = Server(tmp_path, {"proven": RECENT})
    mine = scheduled(server)
    await mine.look(NOW_S)
    assert server.replicator.asked == []
    server.events.add("written-behind", "warning", "A process wrote ...")
    server.membership.settings.current.verify_every_hours = 0
    server.world.answers["keeper"]["peers"][0]["facts"] = {}
    for each in (mine, scheduled(Server(tmp_path, {}))):
        parts = each._parts
        parts.membership.settings.current.verify_every_hours = 0
        await each.look(NOW_S)
        assert parts.replicator.asked == [("verify", {"scheduled": True})]  # type: ignore[attr-defined]
        assert "behind the mounts" in parts.events.after(0, 10)[-1].sentence


def test_a_passive_server_tells_of_its_proof_and_an_active_one_does_not(server: Server) -> None:
    position = {"epoch": 1, "sequence": 5, "checksum": "00"}
    server.replication["proven"] = {"position": position, "at": RECENT["at"]}
    mine = scheduled(server)
    server.loop.state.role = Role.PASSIVE
    mine.publish()
    assert server.extra_facts == {"proven": RECENT}
    server.loop.state.role = Role.ACTIVE
    mine.publish()
    assert server.extra_facts == {}
