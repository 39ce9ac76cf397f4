"""One settings document for all: the active server first, then everybody, sooner or later."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from everup.agent.membership.foundation import Founding, found, invite
from everup.agent.membership.joining import Newcomer, join
from everup.agent.membership.membership import Membership
from everup.api.memory import MemoryAgent
from everup.api.server import ApiServer
from everup.config.schema import GroupSettings
from everup.config.text import group_text
from everup.errors import EverupError, NotConnected
from everup.places import Places
from everup.system.installation import install


class Pair:
    """Two members on loopback; `primary` is active. A server can be away and come back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.net = f"127.{os.getpid() % 60 + 100}.{time.monotonic_ns() // 1000 % 250}"
        self.members: dict[str, Membership] = {}
        self.servers: dict[str, ApiServer] = {}
        self.numbers = {"primary": 1, "secondary": 2}

    async def build(self) -> None:
        places = Places.below(self.root / "primary")
        group, _ = found(places, Founding("shop", "primary", (), f"{self.net}.1", ()))
        await self.begin("primary")
        token = invite(places, group, "primary", "server")
        newcomer = Newcomer("secondary", f"{self.net}.2", (), "0.1.0")
        there = Places.below(self.root / "secondary")
        install(there)
        await asyncio.to_thread(join, there, token, "server", newcomer)
        await self.begin("secondary")

    async def begin(self, name: str) -> None:
        membership = Membership(Places.below(self.root / name), lambda: "primary")
        host = f"{self.net}.{self.numbers[name]}"
        server = ApiServer(MemoryAgent(), membership, peer_host=host)
        await server.start()
        self.members[name], self.servers[name] = membership, server

    async def end(self, name: str) -> None:
        await self.servers.pop(name).stop()
        await self.members.pop(name).close()

    def version(self, name: str) -> int:
        return self.members[name].settings.current.version


def lease(ms: int):
    """An edit that sets the length of the lease."""

    def edit(old: GroupSettings) -> GroupSettings:
        return msgspec.structs.replace(old, timing=msgspec.structs.replace(old.timing, lease_ms=ms))

    return edit


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    await pair.build()
    yield pair
    for name in list(pair.servers):
        await pair.end(name)


async def test_settings_changed_on_a_passive_server_are_on_both(pair: Pair) -> None:
    stored = await pair.members["secondary"].change(lease(3000))
    assert stored.version == 3
    for member in pair.members.values():
        assert member.settings.current.timing.lease_ms == 3000


async def test_settings_do_not_change_when_the_active_server_is_away(pair: Pair) -> None:
    await pair.end("primary")
    with pytest.raises(NotConnected):
        await pair.members["secondary"].change(lease(3000))
    assert pair.version("secondary") == 2
    assert pair.members["secondary"].settings.current.timing.lease_ms == 1000


async def test_settings_that_break_a_relation_change_nothing(pair: Pair) -> None:
    with pytest.raises(EverupError) as caught:
        await pair.members["primary"].change(lease(100))
    assert caught.value.code == "config-invalid"
    assert {pair.version("primary"), pair.version("secondary")} == {2}


async def test_settings_reach_a_server_that_was_away(pair: Pair) -> None:
    await pair.end("secondary")
    await pair.members["primary"].change(lease(3000))
    await pair.begin("secondary")
    assert pair.version("secondary") == 2
    spreading = asyncio.create_task(pair.members["secondary"].keep_spread(0.02))
    async with asyncio.timeout(10):
        while pair.version("secondary") != 3:
            await asyncio.sleep(0.02)
    spreading.cancel()


async def test_settings_are_pushed_to_a_server_that_was_away(pair: Pair) -> None:
    await pair.end("secondary")
    await pair.members["primary"].change(lease(3000))
    await pair.begin("secondary")
    spreading = asyncio.create_task(pair.members["primary"].keep_spread(0.02))
    async with asyncio.timeout(10):
        while pair.version("secondary") != 3:
            await asyncio.sleep(0.02)
    spreading.cancel()


async def test_settings_of_one_version_that_differ_end_as_the_active_servers(pair: Pair) -> None:
    for name, ms in (("primary", 3000), ("secondary", 4000)):
        settings = pair.members[name].settings
        new = msgspec.structs.replace(lease(ms)(settings.current), version=3)
        settings.accept(group_text(new))
    with pytest.raises(EverupError) as caught:
        await pair.members["secondary"].peers.push_settings(
            "primary", pair.members["secondary"].settings.text()
        )
    assert caught.value.code == "settings-conflict"
    tasks = [asyncio.create_task(m.keep_spread(0.02)) for m in pair.members.values()]
    async with asyncio.timeout(10):
        while pair.members["secondary"].settings.current.timing.lease_ms != 3000:
            await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    assert pair.members["primary"].settings.current.timing.lease_ms == 3000


async def test_settings_of_another_group_and_older_ones_are_refused(pair: Pair) -> None:
    secondary = pair.members["secondary"].settings
    foreign = msgspec.structs.replace(secondary.current, group_id="f" * 32, version=9)
    old = msgspec.structs.replace(secondary.current, version=1)
    for document, code in ((foreign, "foreign-group"), (old, "settings-older")):
        with pytest.raises(EverupError) as caught:
            await pair.members["primary"].peers.push_settings("secondary", group_text(document))
        assert caught.value.code == code
    assert secondary.current.version == 2
