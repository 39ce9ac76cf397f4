"""Perform actions in order, without ever holding up the loop.

What enters: the actions of each turn. What leaves: which are under way, and how each ended, as
facts of the next turn. Called by the agent's loop. Each lane has at most one task; an action that
is asked for again while it is under way is left alone, one that nobody asks for any more while
its lane is wanted for something else is given up, and one that failed is tried again after a pause.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from everup.act.performers import PERFORMERS
from everup.act.tools import Tools
from everup.errors import DeadlinePassed, EverupError
from everup.model.action import Action, Lane, Stand, StartUnits
from everup.model.observation import Outcome
from everup.model.position import Position
from everup.system.clock import boottime_ns

log = logging.getLogger(__name__)

PAUSE_MS = 200
PAUSE_MS_MAX = 5_000
SETTLE_MS = 300
"""An action that was done is not done again sooner, so that its effect can be observed."""
RESTART_MS = 5_000
"""Units that ended after they ran are systemd's to restart first."""


@dataclass
class _Work:
    """What one lane is doing."""

    task: "asyncio.Task[None]"
    keys: tuple[str, ...]


class Executor:
    """`woken` is called whenever an action ended: the result is worth a turn at once."""

    def __init__(self, tools: Tools, woken: Callable[[], None]) -> None:
        self._tools = tools
        self._woken = woken
        self._lanes: dict[Lane, _Work] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._last: dict[str, Action] = {}

    @property
    def under_way(self) -> frozenset[str]:
        return frozenset(key for work in self._lanes.values() for key in work.keys)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(self._outcomes.values())

    def perform(self, actions: tuple[Action, ...]) -> None:
        """Begin what is not under way; returns at once."""
        by_lane: dict[Lane, list[Action]] = defaultdict(list)
        for action in actions:
            by_lane[action.lane].append(action)
        for lane, wanted in by_lane.items():
            self._fill(lane, wanted)

    async def stop(self) -> None:
        """Give up what is under way; the other processes finish or undo it themselves."""
        tasks = [work.task for work in self._lanes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- inside

    def _fill(self, lane: Lane, wanted: list[Action]) -> None:
        work = self._lanes.get(lane)
        if work is not None:
            if any(action.key in work.keys for action in wanted):
                return
            log.info("%s is given up for %s", ", ".join(work.keys), wanted[0].key)
            work.task.cancel()
        due = [action for action in wanted if self._due(action)]
        if not due:
            return
        task = asyncio.create_task(self._run(lane, due))
        self._lanes[lane] = _Work(task, tuple(action.key for action in due))
        task.add_done_callback(lambda ended: self._ended(lane, ended))

    def _due(self, action: Action) -> bool:
        outcome = self._outcomes.get(action.key)
        if outcome is None or self._last.get(action.key) != action:
            return True
        since_ms = _now_ms() - outcome.at_ms
        if outcome.done:
            return since_ms >= (RESTART_MS if isinstance(action, StartUnits) else SETTLE_MS)
        if isinstance(action, Stand):
            return True  # The table itself says when to stand again.
        return since_ms >= min(PAUSE_MS << min(outcome.tries - 1, 8), PAUSE_MS_MAX)

    async def _run(self, lane: Lane, actions: list[Action]) -> None:
        for action in actions:
            if not await self._perform(action):
                return  # What follows in a lane rests on what comes before it.

    async def _perform(self, action: Action) -> bool:
        try:
            async with asyncio.timeout(action.deadline_ms / 1000 + 1):
                position = await PERFORMERS[type(action)].perform(self._tools, action)
        except TimeoutError:
            self._note(action, DeadlinePassed(f"{action.key} took too long"))
            return False
        except EverupError as error:
            self._note(action, error)
            return False
        except OSError as error:
            self._note(action, EverupError(f"{action.key}: {error}"))
            return False
        self._note(action, None, position)
        return True

    def _note(
        self, action: Action, error: EverupError | None, position: Position | None = None
    ) -> None:
        old = self._outcomes.get(action.key)
        again = old is not None and not old.done and self._last.get(action.key) == action
        tries = old.tries + 1 if old is not None and again else 1
        if error is None:
            outcome = Outcome(action.key, True, _now_ms(), tries, position=position)
            log.info("done: %s", action)
        else:
            outcome = Outcome(action.key, False, _now_ms(), tries, error.code, error.sentence)
            log.log(logging.WARNING if tries == 1 else logging.DEBUG, "%s: %s", action, error)
        self._outcomes[action.key] = outcome
        self._last[action.key] = action
        self._woken()

    def _ended(self, lane: Lane, task: "asyncio.Task[None]") -> None:
        work = self._lanes.get(lane)
        if work is not None and work.task is task:
            del self._lanes[lane]
        if not task.cancelled() and task.exception() is not None:
            # A mistake of ours: the turn goes on without this action, the log has the place.
            log.error("an action failed unexpectedly", exc_info=task.exception())
        self._woken()


def _now_ms() -> int:
    return boottime_ns() // 1_000_000
