"""Jobs that move the active role on request: switchover, failover.

What enters: what a person asked for. What leaves: a job that ends when the other server is in
service, or with the reason why not. Called by the service. The steps are the table's; a job only
asks the loop and watches. Pressed on a passive server, a switchover is asked of the active one.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from everup.agent.group_view import is_active
from everup.agent.jobs import Job
from everup.agent.lost_job import LostSwitchover
from everup.agent.parts import Parts
from everup.agent.waiting import Predicate, until
from everup.decide import explain
from everup.errors import DeadlinePassed, EverupError, NotConnected, Refused, error_from_json
from everup.model.observation import Observation
from everup.model.role import Cause, Role, State

SWITCH_DEADLINE_MS = 300_000
STAND_DEADLINE_MS = 180_000
POLL_S = 0.3
POLL_FAILURES_MAX = 5
"""Then the roles are looked at instead: the job may have gone with its server's power."""

Json = dict[str, Any]


class Switching:
    """`status`: the group as this server shows it."""

    def __init__(self, parts: Parts, status: Callable[[], Awaitable[Json]]) -> None:
        self._parts = parts
        self._status = status

    # --- switchover

    async def check(self, job: Job, to: str | None) -> None:
        """Say whether a switchover is possible, and change nothing."""
        loop = self._parts.loop
        observation = loop.observation
        if observation is None:
            raise NotConnected("the agent has just started and has seen nothing yet")
        if loop.state.role is not Role.ACTIVE:
            raise Refused(
                f"this server is {loop.state.role.value}; only the active one hands over",
                code="not-active",
            )
        others = [n for n in observation.group.servers if n != observation.server]
        wanted = [to] if to else others
        reasons = {name: explain.not_ready(observation, name) for name in wanted}
        ready = [name for name, reason in reasons.items() if not reason]
        if not ready:
            raise Refused(
                "; ".join(reasons.values()) or "there is no other server", code="not-ready"
            )
        job.result = {"to": ready[0], "possible": True}
        job.say(f"a switchover to {ready[0]} is possible now")

    async def hand_over(self, job: Job, to: str | None) -> None:
        """Hand the active role to `to`, or to the best that is ready, and see it in service."""
        loop = self._parts.loop
        began = time.monotonic()
        answer = await loop.requests.ask("switchover", to=to or "")
        if not answer.accepted:
            raise Refused(
                f"no switchover: {answer.sentence}", remedy="everup status", code=answer.code
            )
        partner, epoch = loop.state.partner, loop.state.epoch
        job.say(f"handing the active role to {partner}")
        await until(loop, self._moved(job, partner, epoch), SWITCH_DEADLINE_MS, "the switchover")
        job.result = {"to": partner, "took_ms": round((time.monotonic() - began) * 1000)}
        job.say(f"{partner} is active")

    def _moved(self, job: Job, partner: str, epoch: int) -> Predicate:
        def shown(s: State, o: Observation) -> bool:
            if s.role is Role.ACTIVE and s.epoch > epoch:
                raise EverupError(
                    f"the switchover to {partner} was taken back: it did not get into service",
                    remedy=f"everup events, and the logs of the units on {partner}",
                    code="switched-back",
                )
            job.sentence = _progress(s, partner)
            other = _acting_instead(o, partner, epoch)
            if other:
                raise EverupError(
                    f"{other} has become active instead of {partner}",
                    remedy=f"everup events; everup switchover --to {partner} tries it again",
                    code="switched-elsewhere",
                )
            found = o.keeper.peer(partner) if o.keeper is not None else None
            return found is not None and found.facts.role == "active" and found.facts.epoch > epoch

        return shown

    # --- failover

    async def take_over(self, job: Job, force: bool) -> None:
        """Make this server active because a person says so."""
        loop = self._parts.loop
        answer = await loop.requests.ask("failover", force=force)
        if not answer.accepted:
            remedy = "" if force else "everup failover --force accepts what may be lost"
            raise Refused(f"no failover: {answer.sentence}", remedy=remedy, code=answer.code)
        job.say("standing for the active role")

        def shown(s: State, o: Observation) -> bool:
            if s.role in (Role.PASSIVE, Role.REJOINING) and s.row == "refused":
                refusal = o.outcome("Stand")
                reason = refusal.sentence if refusal is not None else "no reason"
                raise Refused(f"the voters refused: {reason}", code="not-granted")
            if loop.decision is not None:
                job.sentence = loop.decision.sentence
            return is_active(s)

        await until(loop, shown, STAND_DEADLINE_MS, "the failover")
        job.say(f"{self._parts.membership.name} is active")

    # --- on behalf of another server

    async def follow(self, job: Job, server: str, path: str, body: dict[str, Any]) -> None:
        """Ask `server` for the job and show its progress as ours.

        When that server loses its power, or its agent is started anew, the job is lost with it; the
        roles of the group then say how a switchover has ended.
        """
        before = await self._status()
        answer = await self._parts.membership.peers.forward(server, "POST", path, body)
        theirs = await self._followed(job, server, answer["job"])
        if theirs is None:
            await self._judge(job, server, path, body, before)
            return
        if theirs["state"] == "failed":
            raise error_from_json(theirs.get("error") or {})
        job.sentence, job.result = str(theirs["sentence"]), dict(theirs.get("result", {}))

    async def _followed(self, job: Job, server: str, theirs: Json) -> Json | None:
        """Their job at its end; None when it was lost."""
        failures = 0
        deadline = time.monotonic() + SWITCH_DEADLINE_MS / 1000
        while theirs["state"] == "running":
            if time.monotonic() > deadline:
                raise DeadlinePassed(f"the job on {server} is still running")
            await asyncio.sleep(POLL_S)
            path = f"/v1/jobs/{theirs['id']}"
            try:
                answer = await self._parts.membership.peers.forward(server, "GET", path)
                theirs, failures = answer["job"], 0
            except NotConnected:
                failures += 1
            except EverupError as error:
                if error.code != "unknown-job":
                    raise
                return None
            if failures > POLL_FAILURES_MAX:
                return None
            job.sentence = str(theirs["sentence"])
        return None if (theirs.get("error") or {}).get("code") == "agent-stopped" else theirs

    async def _judge(self, job: Job, server: str, path: str, body: Json, before: Json) -> None:
        if path != "/v1/switchover":
            raise NotConnected(
                f"{server} was lost during the {job.kind}: how far it came is not known",
                remedy="everup status shows how things are",
                code="job-lost",
            )
        job.say(f"{server} does not tell any more how far it is; the roles of the group will")
        judge = LostSwitchover(server, int(before["epoch"]), str(body.get("to") or ""))
        deadline = time.monotonic() + SWITCH_DEADLINE_MS / 1000
        while (sentence := judge.look(await self._status(), _now_ms())) is None:
            if time.monotonic() > deadline:
                raise DeadlinePassed(
                    f"the switchover has not ended: {job.sentence}", remedy="everup status"
                )
            await asyncio.sleep(POLL_S)
        job.say(sentence)


def _acting_instead(o: Observation, partner: str, epoch: int) -> str:
    """A third server that is in service under a later epoch."""
    for found in o.keeper.peers if o.keeper is not None else ():
        if found.server != partner and found.facts.role == "active" and found.facts.epoch > epoch:
            return found.server
    return ""


def _now_ms() -> int:
    return round(time.monotonic() * 1000)


def _progress(s: State, partner: str) -> str:
    if s.role is Role.SWITCHING:
        return f"out of service step by step; {partner} receives what was written last"
    if s.cause is Cause.SWITCHBACK:
        return "taking the active role back"
    return f"waiting for {partner} to be in service"
