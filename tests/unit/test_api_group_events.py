"""The events of all servers in one list: order, cursors, who does not answer."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from everup.agent.event_log import EventLog
from everup.agent.group_events import ASK_S, GroupEvents
from everup.agent.membership.foundation import Founding, found, invite
from everup.agent.membership.joining import Newcomer, join
from everup.agent.membership.membership import Membership
from everup.api.memory import MemoryAgent
from everup.api.server import ApiServer
from everup.places import Places
from everup.system.installation import install


class Pair:
    """primary asks; secondary has a real API, over TLS, behind which an agent in memory answers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.net = f"127.{os.getpid() % 60 + 160}.{time.monotonic_ns() // 1000 % 250}"
        self.there = MemoryAgent(("secondary", "primary"))
        self.own = EventLog(root / "events.jsonl", "primary")
        self.heard = True

    async def build(self) -> None:
        places = [Places.below(self.root / name) for name in ("primary", "secondary")]
        group, _ = found(places[0], Founding("shop", "primary", (), f"{self.net}.1", ()))
        self.here = Membership(places[0], lambda: "primary")
        inviting = ApiServer(MemoryAgent(), self.here, peer_host=f"{self.net}.1")
        await inviting.start()
        install(places[1])
        newcomer = Newcomer("secondary", f"{self.net}.2", (), "0.1.0")
        token = invite(places[0], group, "primary", "server")
        await asyncio.to_thread(join, places[1], token, "server", newcomer)
        await inviting.stop()
        self.away = Membership(places[1], lambda: "primary")
        self.server = ApiServer(self.there, self.away, peer_host=f"{self.net}.2")
        await self.server.start()
        servers = ("primary", "secondary")
        self.events = GroupEvents(
            self.own, "primary", self.here.peers, lambda: servers, lambda name: self.heard
        )

    async def close(self) -> None:
        await self.server.stop()
        await self.here.close()
        await self.away.close()

    async def look(self, cursors: dict[str, int], limit: int = 50) -> tuple[list[str], dict]:
        answer = await self.events.after(cursors, limit)
        return [event["sentence"] for event in answer["events"]], answer


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    await pair.build()
    yield pair
    await pair.close()


async def say(pair: Pair, *sentences: str) -> None:
    """Events in turn: here, there, here ..."""
    for number, sentence in enumerate(sentences):
        # Moments are told in milliseconds.
        await asyncio.sleep(0.002)
        if number % 2:
            pair.there.tell("test", "info", sentence)
        else:
            pair.own.add("test", "info", sentence)


async def test_group_events_are_merged_by_time_and_bounded(pair: Pair) -> None:
    await say(pair, "a", "b", "c", "d", "e")
    sentences, answer = await pair.look({})
    assert sentences[1:] == ["a", "b", "c", "d", "e"]
    assert [event["server"] for event in answer["events"][1:3]] == ["primary", "secondary"]
    assert answer["unreachable"] == []
    newest, _ = await pair.look({}, limit=2)
    assert newest == ["d", "e"]


async def test_group_events_cursors_repeat_nothing_and_lose_nothing(pair: Pair) -> None:
    await say(pair, "a", "b", "c", "d")
    sentences, answer = await pair.look({}, limit=1)
    assert sentences == ["d"], "what is older was left out for good"
    await say(pair, "e", "f", "g")
    told: list[str] = []
    for _ in range(4):
        sentences, answer = await pair.look(answer["cursors"], limit=1)
        told += sentences
    assert told == ["e", "f", "g"]


async def test_group_events_name_who_is_not_heard_and_ask_again_later(pair: Pair) -> None:
    await say(pair, "a", "b")
    pair.heard = False
    sentences, answer = await pair.look({})
    assert (sentences, answer["unreachable"]) == (["a"], ["secondary"])
    pair.heard = True
    pair.events._silent_until.clear()
    sentences, answer = await pair.look(answer["cursors"])
    assert sentences[-1] == "b" and answer["unreachable"] == []


async def test_group_events_a_dead_server_costs_a_bounded_time_once(pair: Pair) -> None:
    await pair.server.stop()
    began = time.monotonic()
    for _ in range(3):
        assert (await pair.look({}))[1]["unreachable"] == ["secondary"]
    assert time.monotonic() - began < ASK_S + 1
