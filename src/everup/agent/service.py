"""The agent of a server as the API sees it: status, events, jobs.

What enters: places and membership. What leaves: `Everup`, whose methods the API serves. Made by
the process that also serves the API; it starts the control loop and what feeds it.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import IO, Any
from urllib.parse import quote

from everup.agent.alerting import Alerting
from everup.agent.bundles import Bundles
from everup.agent.feeds import Feeds
from everup.agent.group_events import GroupEvents
from everup.agent.group_view import see_group
from everup.agent.jobs import Job
from everup.agent.membership.membership import Membership
from everup.agent.parts import Parts, assemble
from everup.agent.protecting import Protecting, Wish
from everup.agent.proving import Proving
from everup.agent.queues import own_queues
from everup.agent.scheduled import Scheduled
from everup.agent.status_view import status_json
from everup.agent.switching import Switching
from everup.config.schema import Mode
from everup.decide.conditions import silent
from everup.errors import BadInput, EverupError, NotConnected, Refused
from everup.model.role import Role
from everup.places import Places
from everup.system.systemd import Systemd

log = logging.getLogger(__name__)

Json = dict[str, Any]
FIRST_TURN_S = 5.0
DATA_ASK_MS = 5_000


class Everup:
    """One server's agent."""

    def __init__(self, places: Places, membership: Membership) -> None:
        self._systemd = Systemd(self._units_changed)
        self._parts: Parts = assemble(places, membership, self._systemd)
        self._switching = Switching(self._parts, self.status)
        self._protecting = Protecting(self._parts)
        self._alerting = Alerting(self._parts)
        self._feeds = Feeds(self._parts)
        self._proving = Proving(self._parts)
        self._scheduled = Scheduled(self._parts)
        self._bundles = Bundles(
            (places.divergence, places.quarantine), membership.name, self._path_of
        )
        self._group_events = GroupEvents(
            self._parts.events,
            membership.name,
            membership.peers,
            lambda: [member.name for member in membership.settings.current.servers],
            self._heard,
        )
        self._tasks: list[asyncio.Task[None]] = []

    # --- life

    async def start(self) -> None:
        """Begin to take turns. Returns after the first one, so that `status` has an answer."""
        loop = self._parts.loop
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, loop.wake)
        self._parts.membership.settings.on_change.append(self._settings_changed())
        self._spawn(loop.run(), "control loop")
        self._spawn(self._feeds.run(), "feeds")
        self._spawn(self._alerting.run(), "alerts")
        self._spawn(self._scheduled.run(), "scheduled verification")
        try:
            async with asyncio.timeout(FIRST_TURN_S), loop.turned:
                await loop.turned.wait_for(lambda: loop.decision is not None)
        except TimeoutError:
            log.warning("the first turn takes long")

    async def stop(self) -> None:
        """End; what runs on this server goes on without the agent."""
        await self._parts.jobs.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._parts.executor.stop()
        self._systemd.close()

    def active_server(self) -> str | None:
        """Who is active as far as this server knows; None when nobody is."""
        loop, settings = self._parts.loop, self._parts.membership.settings.current
        if loop.observation is None or loop.decision is None:
            return None
        keeper = self._parts.world.answers.get("keeper", {})
        view = see_group(settings, loop.state, loop.observation, keeper, {}, "")
        return view.active.name if view.active is not None else None

    def wake(self) -> None:
        """Take a turn now."""
        self._parts.loop.wake()

    # --- what the API serves

    async def status(self) -> Json:
        parts, loop = self._parts, self._parts.loop
        if loop.observation is None or loop.decision is None:
            raise NotConnected("the agent has just started and has seen nothing yet")
        return status_json(
            parts.membership.settings.current,
            loop.state,
            loop.observation,
            loop.decision,
            parts.world.answers,
            parts.extra_facts,
        )

    async def events(self, after: int, limit: int) -> list[Json]:
        return [event.to_json() for event in self._parts.events.after(after, limit)]

    async def group_events(self, cursors: dict[str, int], limit: int) -> Json:
        return await self._group_events.after(cursors, limit)

    async def job(self, job_id: str) -> Json:
        return self._parts.jobs.get(job_id).to_json()

    async def protect(self, paths: list[str], units: list[str], mode: str | None) -> Json:
        if mode not in (None, "async", "durable"):
            raise BadInput(f"mode must be async or durable, not {mode!r}")
        chosen: Mode | None = mode  # type: ignore[assignment]
        clean = tuple(dict.fromkeys(p.rstrip("/") or "/" for p in paths))
        wish = Wish(clean, tuple(dict.fromkeys(units)), chosen)
        return self._start("protect", lambda job: self._protecting.protect(job, wish))

    async def unprotect(self, paths: list[str]) -> Json:
        elsewhere = self._active_elsewhere()
        if elsewhere:
            body = {"paths": paths}
            return self._follow("unprotect", elsewhere, "/v1/unprotect", body)
        clean = [p.rstrip("/") or "/" for p in paths]
        return self._start("unprotect", lambda job: self._protecting.unprotect(job, clean))

    async def switchover(self, to: str | None, dry_run: bool) -> Json:
        self._refuse_unprotected()
        elsewhere = self._active_elsewhere()
        if elsewhere:
            # Pressed on a passive server it means: come here.
            target = to or self._parts.membership.name
            body = {"to": target, "dry_run": dry_run}
            return self._follow("switchover", elsewhere, "/v1/switchover", body)
        if dry_run:
            return self._start("switchover", lambda job: self._switching.check(job, to))
        return self._start("switchover", lambda job: self._switching.hand_over(job, to))

    async def failover(self, force: bool) -> Json:
        self._refuse_unprotected()
        if self._parts.loop.state.role in (Role.ACTIVE, Role.SWITCHING):
            raise Refused(
                "this server is active",
                remedy="run everup failover on the server that is to take over",
                code="already-active",
            )
        return self._start("failover", lambda job: self._switching.take_over(job, force))

    # --- data

    async def verify(self, path: str | None, gentle: bool) -> Json:
        self._refuse_unprotected()
        elsewhere = self._active_elsewhere()
        if elsewhere:
            body = {"path": path, "gentle": gentle}
            return self._follow("verify", elsewhere, "/v1/verify", body, beside=True)
        return self._start(
            "verify", lambda job: self._proving.verify(job, path, gentle), beside=True
        )

    async def sync_data(self, path: str | None, allow_removals: bool) -> Json:
        self._refuse_unprotected()
        elsewhere = self._active_elsewhere()
        if elsewhere:
            body = {"path": path, "allow_removals": allow_removals}
            return self._follow("sync", elsewhere, "/v1/sync", body, beside=True)
        return self._start(
            "sync", lambda job: self._proving.sync(job, path, allow_removals), beside=True
        )

    async def verified(self) -> Json:
        active = self.active_server()
        if active is None or active == self._parts.membership.name:
            return self._proving.report()
        return await self._parts.membership.peers.forward(active, "GET", "/v1/verify")

    async def verified_tree(self, path: str | None) -> Json:
        self._refuse_unprotected()
        active = self.active_server()
        if active is None or active == self._parts.membership.name:
            return await self._proving.tree(path)
        query = f"?path={quote(path)}" if path else ""
        route = f"/v1/verify/tree{query}"
        return await self._parts.membership.peers.forward(active, "GET", route)

    async def allow_removals(self) -> None:
        """The next copy onto this server may remove as much as it has to."""
        await self._parts.replicator.call("allow_removals", wait_ms=DATA_ASK_MS)

    async def queues(self) -> Json:
        return await asyncio.to_thread(own_queues, self._parts)

    async def group_queues(self) -> Json:
        return await self._gathered("/v1/queues", "servers", [await self.queues()])

    async def bundles(self) -> list[Json]:
        return await asyncio.to_thread(self._bundles.short_list)

    async def group_bundles(self) -> Json:
        return await self._gathered("/v1/divergence", "bundles", await self.bundles())

    async def bundle(self, name: str) -> Json:
        return await asyncio.to_thread(self._bundles.show, name)

    async def delete_bundle(self, name: str) -> None:
        await asyncio.to_thread(self._bundles.delete, name)
        self._parts.events.add("divergence-deleted", "info", f"The bundle {name} was deleted.")

    async def export_bundle(self, name: str, out: IO[bytes]) -> None:
        await asyncio.to_thread(self._bundles.export, name, out)

    # --- inside

    def _refuse_unprotected(self) -> None:
        if not self._parts.membership.settings.current.protect:
            raise Refused(
                "nothing is protected yet", remedy="everup protect PATH", code="nothing-protected"
            )

    async def _gathered(self, path: str, key: str, found: list[Json]) -> Json:
        """This server's answer and those of the others, with the names of the silent ones."""
        membership, unreachable = self._parts.membership, []
        for member in membership.settings.current.servers:
            if member.name == membership.name:
                continue
            try:
                if not self._heard(member.name):
                    raise NotConnected(f"{member.name} is not heard")
                answer = await membership.peers.forward(member.name, "GET", path)
            except EverupError:
                unreachable.append(member.name)
                continue
            theirs = answer.get(key, answer)
            found += theirs if isinstance(theirs, list) else [theirs]
        return {key: found, "unreachable": unreachable}

    def _path_of(self, tree: int) -> str:
        trees = self._parts.membership.settings.current.protect
        return next((t.path for t in trees if t.id == tree), f"/tree-{tree}")

    def _heard(self, server: str) -> bool:
        """Whether a peer is worth asking; without a keeper nobody knows, so it is asked."""
        observation = self._parts.loop.observation
        if observation is None or observation.keeper is None:
            return True
        return not silent(observation, server)

    def _active_elsewhere(self) -> str | None:
        active = self.active_server()
        return None if active == self._parts.membership.name else active

    def _start(
        self, kind: str, work: Callable[[Job], Awaitable[None]], *, beside: bool = False
    ) -> Json:
        return self._parts.jobs.start(kind, work, beside=beside).to_json()

    def _follow(
        self, kind: str, server: str, path: str, body: Json, *, beside: bool = False
    ) -> Json:
        def work(job: Job) -> Awaitable[None]:
            return self._switching.follow(job, server, path, body)

        return self._start(kind, work, beside=beside)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_ended)
        self._tasks.append(task)

    def _units_changed(self) -> None:
        self._parts.watch.changed()
        self._parts.loop.wake()

    def _settings_changed(self) -> Callable[[object], None]:
        """Settings may be stored by another thread."""
        running = asyncio.get_running_loop()
        return lambda settings: void(running.call_soon_threadsafe(self._parts.loop.wake))


def void(value: object) -> None:
    """A callback's result that nobody needs."""
    del value


def _ended(task: "asyncio.Task[None]") -> None:
    """A part that ends by itself is a mistake of ours: end the process, systemd starts it anew."""
    if task.cancelled():
        return
    log.critical("%s ended: %r", task.get_name(), task.exception(), exc_info=task.exception())
    raise SystemExit(70)
