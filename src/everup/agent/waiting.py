"""Wait until the control loop shows something.

What enters: a predicate over state and observation. What leaves: when it holds, or DeadlinePassed
with what was waited for. Called by jobs: they ask, the loop does, they watch.
"""

import asyncio
from collections.abc import Callable

from everup.agent.loop import ControlLoop
from everup.errors import DeadlinePassed
from everup.model.observation import Observation
from everup.model.role import State

Predicate = Callable[[State, Observation], bool]


async def until(loop: ControlLoop, shown: Predicate, deadline_ms: int, wish: str) -> None:
    """Return at the first turn after which `shown` holds. It may raise to give up early."""

    def holds() -> bool:
        return loop.observation is not None and shown(loop.state, loop.observation)

    try:
        async with asyncio.timeout(deadline_ms / 1000), loop.turned:
            await loop.turned.wait_for(holds)
    except TimeoutError as error:
        sentence = loop.decision.sentence if loop.decision is not None else "no turn was taken"
        raise DeadlinePassed(
            f"{wish} did not happen in {deadline_ms / 1000:.0f} s: {sentence}",
            remedy="everup status",
        ) from error
