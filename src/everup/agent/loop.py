"""The control loop of a server: observe, decide, remember, act; then again.

What enters: the world, the executor, the store. What leaves: roles that change, actions performed,
events said. Called by the service. A turn runs at once when something reports an event, and at
least every 100 ms; nothing in it waits for an action.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from everup.agent.event_log import EventLog
from everup.agent.recorder import Recorder
from everup.agent.state_store import StateStore
from everup.decide.decide import decide
from everup.decide.remarks import TROUBLES
from everup.errors import DeadlinePassed, EverupError
from everup.model.action import Action, Answer, Decision, Said
from everup.model.observation import Observation, Outcome, Request
from everup.model.role import Role, State
from everup.observe.facts import fitted, own_facts
from everup.observe.world import Asked, Hand

log = logging.getLogger(__name__)

TURN_MS = 100
TURN_MS_MIN = 5
"""Events that come in a burst are looked at together."""
PERMIT_MS = 500
TAKES_OFFICE = (Role.STANDING, Role.PROMOTING, Role.ACTIVE, Role.SWITCHING)
"""Roles whose beginning must be remembered before anything is done in them."""
ANSWER_MS = 10_000
"""A request is answered by the next turn; a turn may wait for the disk."""


class Observes(Protocol):
    async def gather(self, hand: Hand) -> Observation: ...


class Acts(Protocol):
    @property
    def under_way(self) -> frozenset[str]: ...

    @property
    def outcomes(self) -> tuple[Outcome, ...]: ...

    def perform(self, actions: tuple[Action, ...]) -> None: ...


class Requests:
    """What people ask the loop for, one thing at a time, and what became of it."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._next = 1
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self.current: Request | None = None
        self.hold = False
        """While True this server goes out of service, or does not stand."""

    @property
    def shown(self) -> Request | None:
        """What the next turn sees."""
        if self.current is not None:
            return self.current
        return Request(0, "hold") if self.hold else None

    async def ask(self, kind: str, *, to: str = "", force: bool = False) -> Answer:
        """Put a request to the next turn and wait for its answer."""
        assert kind in ("found", "switchover", "failover")
        number, self._next = self._next, self._next + 1
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self.current = Request(number, kind, to, force)  # type: ignore[arg-type]
        self._wake()
        try:
            async with asyncio.timeout(ANSWER_MS / 1000):
                return await answer
        except TimeoutError as error:
            raise DeadlinePassed(f"the request {kind!r} was not answered in time") from error
        finally:
            self._waiting.pop(number, None)
            if self.current is not None and self.current.id == number:
                self.current = None

    def answered(self, answer: Answer) -> None:
        """The loop took the request up or refused it."""
        if self.current is not None and self.current.id == answer.request:
            self.current = None
        waiting = self._waiting.pop(answer.request, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)


class ControlLoop:
    """`decides` is `decide`; only a test of what follows a broken promise puts another one in."""

    def __init__(
        self,
        world: Observes,
        executor: Acts,
        store: StateStore,
        events: EventLog,
        recorder: Recorder,
        keeper: Asked,
        extra_facts: dict[str, Any],
        decides: Callable[[State, Observation], Decision] = decide,
    ) -> None:
        self._decides = decides
        self._world, self._executor, self._store = world, executor, store
        self._events, self._recorder, self._keeper = events, recorder, keeper
        self._extra_facts = extra_facts
        self._woken = asyncio.Event()
        self._speaking: frozenset[str] = frozenset()
        self._last_said: Said | None = None
        self._stored = True
        self._permit: asyncio.Task[None] | None = None
        self.requests = Requests(self.wake)
        self.state: State = store.load()
        self.observation: Observation | None = None
        self.decision: Decision | None = None
        self.turned = asyncio.Condition()

    def wake(self) -> None:
        """Something happened: take a turn now."""
        self._woken.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._woken.clear()
            changed = await self.turn()
            await asyncio.sleep(TURN_MS_MIN / 1000)
            if changed:
                continue
            try:
                async with asyncio.timeout((TURN_MS - TURN_MS_MIN) / 1000):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def turn(self) -> bool:
        """One turn; True when the role changed, so that the next one is due at once."""
        executor = self._executor
        hand = Hand(executor.under_way, executor.outcomes, self.requests.shown)
        # This is the loop.
        observation = await self._world.gather(hand)
        before = self.state
        try:
            decision = self._decides(before, observation)
        except AssertionError as error:
            self._broken_promise(error)
            return False
        if not await self._remember(before, decision.state):
            self._permit_keeper(observation, replace(decision, state=before))
            return False
        self.state = decision.state
        executor.perform(decision.actions)
        # The rest is telling: nothing above depends on it.
        self._recorder.note(before, observation, decision)
        self._tell(observation, decision, changed=decision.state.role != before.role)
        await self._publish(observation, decision)
        return decision.state.role != before.role

    async def _remember(self, before: State, after: State) -> bool:
        """Store the state; False when it cannot be stored and must not be acted on without.

        A full disk keeps a server from taking office, never from leaving it or from going on.
        """
        if after == before:
            return True
        try:
            await asyncio.to_thread(self._store.save, after)
        except OSError as error:
            if "state-not-stored" not in self._speaking:
                sentence = f"the agent's state cannot be stored: {error.strerror}"
                self._events.add("state-not-stored", "critical", sentence, told=True)
                self._speaking |= {"state-not-stored"}
            self._stored = False
            return after.role == before.role or after.role not in TAKES_OFFICE
        self._stored = True
        return True

    def _broken_promise(self, error: AssertionError) -> None:
        """A mistake of ours: this turn does nothing, the lease and the guard keep the promise."""
        if "invariant" not in self._speaking:
            self._events.add("invariant", "critical", f"a turn was refused: {error}", told=True)
            self._speaking |= {"invariant"}
            log.exception("a turn broke an invariant")

    def _tell(self, o: Observation, decision: Decision, *, changed: bool) -> None:
        for said in decision.said:
            holds_on = said.row in self._speaking and said.row in TROUBLES
            # A server that stands again and again has only one thing to say.
            if not holds_on and said != self._last_said:
                self._events.add(said.row, said.severity, said.sentence, told=said.told)
                self._last_said = said
        if not changed:
            lasting = self._speaking & {"state-not-stored"} if not self._stored else frozenset()
            self._speaking = lasting | {said.row for said in decision.said}
        if decision.answer is not None:
            self.requests.answered(decision.answer)
        self._permit_keeper(o, decision)

    def _permit_keeper(self, o: Observation, decision: Decision) -> None:
        """Tell the keeper that the agent lives; its beats carry our facts to the others."""
        if self._permit is not None and not self._permit.done():
            return
        trouble = next((row for row in decision.fired if row in TROUBLES), "")
        facts = own_facts(decision.state, o, sentence=decision.sentence, trouble=trouble)
        self._permit = asyncio.create_task(
            self._send_permit(fitted({**facts, **self._extra_facts}))
        )

    async def _send_permit(self, facts: dict[str, Any]) -> None:
        try:
            await self._keeper.ask("permit", wait_ms=PERMIT_MS, facts=facts)
        except EverupError as error:
            log.debug("the keeper was not permitted: %s", error)

    async def _publish(self, o: Observation, decision: Decision) -> None:
        async with self.turned:
            self.observation, self.decision = o, decision
            self.turned.notify_all()
