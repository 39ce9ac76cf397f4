"""Jobs that begin and end the protection of directories.

What enters: paths and units. What leaves: a job that ends when the applications run behind the
open gate (or, for `unprotect`, without any gate). Called by the service. Nothing stays half done:
whatever fails, the settings, the gates and the units are put back as they were.

The server is held (`requests.hold`) while things change: it keeps its lease, so nobody takes over,
but it does not serve. Stopping, arming, standing and starting are the table's own steps.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from everup.agent.jobs import Job
from everup.agent.owners import differences, owners_below
from everup.agent.parts import Parts
from everup.agent.waiting import Predicate, until
from everup.capture.openfiles import open_files
from everup.capture.preflight import refusals
from everup.config.schema import GroupSettings, Mode, ProtectedTree
from everup.decide import data as d
from everup.decide import work as w
from everup.errors import EverupError, Refused
from everup.model.observation import Observation
from everup.model.role import Role, State
from everup.places import Places

HOLD_DEADLINE_MS = 120_000
ARM_DEADLINE_MS = 60_000
STAND_DEADLINE_MS = 60_000
STEPS = 6
NAMED_MAX = 10


@dataclass(frozen=True)
class Wish:
    """What a person asked to protect."""

    paths: tuple[str, ...]
    units: tuple[str, ...]
    mode: Mode | None


class Protecting:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # --- protect

    async def protect(self, job: Job, wish: Wish) -> None:
        """From plain directories with running applications to protected ones."""
        before = self._parts.membership.settings.current
        new_paths = [p for p in wish.paths if p not in {tree.path for tree in before.protect}]
        await self._check(job, wish, new_paths, before)
        if self._parts.loop.state.role is Role.ACTIVE and not needs_a_pause(before, wish):
            await self._change_mode(job, wish)
            return
        began = time.monotonic()
        try:
            await self._change(job, wish, new_paths, before)
        except BaseException:
            await asyncio.shield(self._undo(job, wish, before))
            raise
        pause_ms = round((time.monotonic() - began) * 1000)
        job.result = {"pause_ms": pause_ms}
        job.advance(STEPS, STEPS)
        job.say(f"protected; the applications were stopped for {pause_ms / 1000:.1f} s")

    async def _change_mode(self, job: Job, wish: Wish) -> None:
        """The paths and units are protected as they are wished; at most the mode is another."""
        mode = self._parts.membership.settings.current.mode
        job.result = {"pause_ms": 0}
        if wish.mode in (None, mode):
            job.say("protected already; nothing was changed")
            return
        await self._parts.membership.change(lambda old: _with(old, wish, ()))
        self._parts.loop.wake()
        job.say(f"protected already; the mode is {wish.mode} now instead of {mode}")

    async def _check(
        self, job: Job, wish: Wish, new_paths: Sequence[str], before: GroupSettings
    ) -> None:
        job.say("checking paths, units and accounts")
        job.advance(0, STEPS)
        self._refuse_elsewhere(before)
        protected = [t.path for t in before.protect]
        await asyncio.to_thread(_refuse_paths, new_paths, protected, self._parts.places)
        await self._check_units(wish.units)
        await self._check_accounts([Path(p) for p in new_paths])

    def _refuse_elsewhere(self, before: GroupSettings) -> None:
        role = self._parts.loop.state.role
        if role in (Role.UNPROTECTED, Role.ACTIVE):
            return
        o = self._parts.loop.observation
        nobody_yet = o is not None and not d.founded(self._parts.loop.state, o)
        if role in (Role.PASSIVE, Role.REJOINING) and nobody_yet:
            return  # An earlier protect was interrupted: this one finishes it.
        raise Refused(
            f"this server is {role.value}: what is protected begins where the data are in use",
            remedy="run everup protect on the active server",
            code="not-active",
        )

    async def _check_units(self, units: Sequence[str]) -> None:
        missing = await self._parts.services.missing(tuple(units))
        if missing:
            raise Refused(
                f"systemd does not know {', '.join(missing)}",
                remedy="systemctl list-units shows the names",
                code="unknown-unit",
            )

    async def _check_accounts(self, paths: Sequence[Path]) -> None:
        membership = self._parts.membership
        owners = await asyncio.to_thread(owners_below, paths)
        wrong: list[str] = []
        for member in membership.settings.current.servers:
            if member.name == membership.name:
                continue
            theirs = await membership.peers.accounts(member.name)
            wrong += differences(owners, member.name, theirs)
        if wrong:
            raise Refused(
                "; ".join(wrong),
                remedy="give these users and groups the same number on every server",
                code="accounts-differ",
            )

    async def _change(
        self, job: Job, wish: Wish, new_paths: Sequence[str], before: GroupSettings
    ) -> None:
        parts, loop = self._parts, self._parts.loop
        await self._hold(job, wish.units)
        job.advance(1, STEPS)
        await self._refuse_open_files(new_paths)
        job.say("telling every server what is protected")
        await parts.membership.change(lambda old: _with(old, wish, new_paths))
        job.advance(2, STEPS)
        loop.wake()
        job.say("putting the gate over the paths")
        await until(loop, _ready_to_found(self._tree_ids()), ARM_DEADLINE_MS, "arming the gate")
        job.advance(3, STEPS)
        await self._go_active(job)

    async def _hold(self, job: Job, units: Sequence[str]) -> None:
        """Out of service: by the table when active, else the units are stopped here."""
        parts, loop = self._parts, self._parts.loop
        job.say("stopping the applications")
        loop.requests.hold = True
        loop.wake()
        await until(loop, _held, HOLD_DEADLINE_MS, "going out of service")
        application = parts.membership.settings.current.application
        await parts.services.stop(tuple(units), application.stop_deadline_ms)

    async def _refuse_open_files(self, paths: Sequence[str]) -> None:
        found = await asyncio.to_thread(_in_the_way, paths)
        if found:
            raise Refused(
                "these processes use files that are to be protected: " + "; ".join(found),
                remedy="stop them, or name their units with --unit so that they are stopped",
                code="files-open",
            )

    async def _go_active(self, job: Job) -> None:
        loop = self._parts.loop
        job.say("opening the gate")
        answer = await loop.requests.ask("found")
        if not answer.accepted:
            raise Refused(answer.sentence, remedy="everup status", code=answer.code)
        loop.requests.hold = False
        application = self._parts.membership.settings.current.application
        deadline_ms = STAND_DEADLINE_MS + application.start_deadline_ms * len(application.units)
        await until(loop, self._watch_active(job), deadline_ms, "going into service")
        if w.start_failed(loop.state, _observed(loop.observation)):
            raise EverupError(
                "the applications did not start behind the gate",
                remedy="look at the logs of the units",
                code="unit-failed",
            )
        job.advance(5, STEPS)

    def _watch_active(self, job: Job) -> Predicate:
        loop = self._parts.loop

        def shown(s: State, o: Observation) -> bool:
            if s.row == "refused" and s.role in (Role.PASSIVE, Role.REJOINING):
                refusal = o.outcome("Stand")
                reason = refusal.sentence if refusal is not None else "no reason"
                raise Refused(f"the voters refused: {reason}", code="not-granted")
            if s.role is Role.PROMOTING:
                job.advance(4, STEPS)
            if loop.decision is not None:
                job.sentence = loop.decision.sentence
            return s.role is Role.ACTIVE

        return shown

    def _tree_ids(self) -> frozenset[int]:
        return frozenset(tree.id for tree in self._parts.membership.settings.current.protect)

    async def _undo(self, job: Job, wish: Wish, before: GroupSettings) -> None:
        """Back to what was before, as far as it can be; the first reason stays the job's error."""
        job.say("putting everything back")
        parts, loop = self._parts, self._parts.loop
        try:
            loop.requests.hold = True
            await until(loop, _held, HOLD_DEADLINE_MS, "going out of service")
            await parts.membership.change(lambda old: _restored(old, before))
            ids = self._tree_ids()
            await until(loop, _armed_exactly(ids), ARM_DEADLINE_MS, "taking the gate away")
            if ids:
                await self._go_active(job)
        except EverupError as error:
            parts.events.add("undo-failed", "critical", f"protect was not undone: {error}")
        finally:
            loop.requests.hold = False
            loop.wake()
        if not before.protect:
            await self._start_plain(wish.units)

    async def _start_plain(self, units: Sequence[str]) -> None:
        """Start units that nothing holds any more."""
        parts = self._parts
        application = parts.membership.settings.current.application
        try:
            await parts.services.start(tuple(units), application.start_deadline_ms)
        except EverupError as error:
            parts.events.add("unit-not-started", "critical", f"{error}", told=True)

    # --- unprotect

    async def unprotect(self, job: Job, paths: Sequence[str]) -> None:
        """Back to plain directories and units that start by themselves; all paths when empty."""
        parts, loop = self._parts, self._parts.loop
        before = parts.membership.settings.current
        gone = list(paths) or [tree.path for tree in before.protect]
        unknown = [p for p in gone if p not in {tree.path for tree in before.protect}]
        if unknown or not gone:
            raise Refused(
                f"not protected: {', '.join(unknown) or 'nothing is'}", code="unknown-path"
            )
        self._refuse_elsewhere(before)
        units = before.application.units
        try:
            await self._hold(job, ())
            job.say("telling every server")
            after = await parts.membership.change(lambda old: _without(old, gone))
            loop.wake()
            job.say("taking the gate away")
            ids = frozenset(tree.id for tree in after.protect)
            await until(loop, _armed_exactly(ids), ARM_DEADLINE_MS, "taking the gate away")
            if after.protect:
                await self._go_active(job)
        finally:
            loop.requests.hold = False
            loop.wake()
        if not after.protect:
            await self._start_plain(units)
        job.say("not protected any more: " + ", ".join(gone))


# --- paths -------------------------------------------------------------------------------------


def _refuse_paths(paths: Sequence[str], protected: Sequence[str], places: Places) -> None:
    """Raise one Refused with every reason against every path."""
    if not paths and not protected:
        raise Refused("no path was named", remedy="everup protect PATH ...", code="no-path")
    reasons: list[Refused] = []
    for number, path in enumerate(paths):
        others = [Path(p) for p in (*protected, *paths[:number])]
        reasons += refusals(Path(path), others, places)
    if reasons:
        remedies = dict.fromkeys(reason.remedy for reason in reasons if reason.remedy)
        raise Refused(
            "; ".join(reason.sentence for reason in reasons),
            remedy="; ".join(remedies),
            code=reasons[0].code,
        )


def _in_the_way(paths: Sequence[str]) -> list[str]:
    """Processes that have something below the paths open, in words."""
    found = [use for path in paths for use in open_files(Path(path))]
    return [f"{use.command} ({use.pid}) {use.how} {use.path}" for use in found[:NAMED_MAX]]


# --- settings ----------------------------------------------------------------------------------


def needs_a_pause(before: GroupSettings, wish: Wish) -> bool:
    """Whether applications must be stopped for a wish; paths that are protected need nothing."""
    paths = {tree.path for tree in before.protect}
    return not (paths.issuperset(wish.paths) and {*before.application.units}.issuperset(wish.units))


def _with(old: GroupSettings, wish: Wish, new_paths: Sequence[str]) -> GroupSettings:
    """Ids are never used again for another path, or a peer would take one tree for the other."""
    first = max((tree.id for tree in old.protect), default=0) + 1
    trees = tuple(ProtectedTree(id=first + n, path=p) for n, p in enumerate(new_paths))
    known = old.application.units
    units = (*known, *(u for u in wish.units if u not in known))
    return msgspec.structs.replace(
        old,
        protect=(*old.protect, *trees),
        mode=wish.mode or old.mode,
        application=msgspec.structs.replace(old.application, units=units),
    )


def _without(old: GroupSettings, gone: Sequence[str]) -> GroupSettings:
    kept = tuple(tree for tree in old.protect if tree.path not in gone)
    units = old.application.units if kept else ()
    application = msgspec.structs.replace(old.application, units=units)
    return msgspec.structs.replace(old, protect=kept, application=application)


def _restored(old: GroupSettings, before: GroupSettings) -> GroupSettings:
    return msgspec.structs.replace(
        old, protect=before.protect, mode=before.mode, application=before.application
    )


# --- what is waited for ------------------------------------------------------------------------


def _held(s: State, o: Observation) -> bool:
    outside = s.role in (Role.UNPROTECTED, Role.PASSIVE, Role.REJOINING)
    return outside and o.request is not None and o.request.kind == "hold" and not o.flag


def _armed_exactly(ids: frozenset[int]) -> Predicate:
    def shown(s: State, o: Observation) -> bool:
        same = o.guard is not None and set(o.guard.armed) == ids == set(o.group.trees)
        return same and w.units_held(s, o)

    return shown


def _ready_to_found(ids: frozenset[int]) -> Predicate:
    def shown(s: State, o: Observation) -> bool:
        ready = o.keeper is not None and o.replicator is not None
        outside = s.role in (Role.PASSIVE, Role.REJOINING)
        settled = o.guard is not None and set(o.guard.armed) == ids == set(o.group.trees)
        return ready and outside and settled and w.units_held(s, o)

    return shown


def _observed(o: Observation | None) -> Observation:
    assert o is not None
    return o
