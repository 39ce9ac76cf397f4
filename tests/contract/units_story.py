"""What `Services` may expect of systemd, told as one story.

What enters: something that keeps the contract of `Manager`: systemd itself, on a server of the lab
where this file runs as a script, or the one in memory. What leaves: "kept", or an AssertionError
that says what was not. Units: good, bad (fails to start), slow (never ready), deaf (ignores TERM).
"""

import asyncio
import sys
from pathlib import Path

from everup.applications.services import Manager, Services
from everup.errors import DeadlinePassed
from everup.system.systemd import Systemd, SystemdError

UNITS = {
    "good": "[Service]\nExecStart=/bin/sleep infinity\n",
    "bad": "[Service]\nType=oneshot\nExecStart=/bin/false\n",
    "slow": "[Service]\nType=oneshot\nExecStart=/bin/sleep 60\nTimeoutStartSec=90\n",
    "deaf": "[Service]\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'\n"
    "TimeoutStopSec=60\n",
}
PREFIX = "everup-story-"


def name(word: str) -> str:
    return f"{PREFIX}{word}.service"


async def story(manager: Manager, directory: Path, flag: Path) -> None:
    """The contract; every step leaves the units stopped."""
    await _states(manager)
    await _starts(manager)
    await _stops(manager)
    await _holds(Services(manager, directory, flag), flag)


async def _states(manager: Manager) -> None:
    assert (await manager.state(name("nowhere"))).load == "not-found"
    state = await manager.state(name("good"))
    assert (state.load, state.active) == ("loaded", "inactive")
    assert not await manager.stopping(), "nobody shuts this server down"


async def _starts(manager: Manager) -> None:
    await manager.start(name("good"), 5_000)
    assert (await manager.state(name("good"))).active == "active"
    await manager.start(name("good"), 5_000)
    await _raises(manager.start(name("bad"), 5_000), SystemdError)
    await _raises(manager.start(name("slow"), 300), DeadlinePassed)
    assert await manager.stop(name("slow"), 5_000)


async def _stops(manager: Manager) -> None:
    assert await manager.stop(name("good"), 5_000)
    assert (await manager.state(name("good"))).active == "inactive"
    assert await manager.stop(name("good"), 5_000), "stopping twice is no mistake"
    await manager.start(name("deaf"), 5_000)
    assert not await manager.stop(name("deaf"), 500), "it had to be killed"
    assert (await manager.state(name("deaf"))).active in ("inactive", "failed")


async def _holds(services: Services, flag: Path) -> None:
    flag.unlink(missing_ok=True)
    good = (name("good"),)
    await services.hold(good)
    try:
        assert [(u.name, u.held) for u in await services.states(good)] == [(*good, True)]
        await _raises(services.start(good, 5_000), SystemdError)
        flag.touch()
        await services.start(good, 5_000)
        assert await services.stop(good, 5_000) == []
    finally:
        flag.unlink(missing_ok=True)
        await services.hold(())
    await services.start(good, 5_000)
    assert await services.stop(good, 5_000) == []


async def _raises(work: "object", kind: type[Exception]) -> None:
    try:
        await work  # type: ignore[misc]
    except kind:
        return
    raise AssertionError(f"no {kind.__name__} was raised")


async def _with_systemd(directory: Path, flag: Path) -> None:
    systemd = Systemd()
    for word, text in UNITS.items():
        (directory / name(word)).write_text(text)
    try:
        await systemd.reload()
        await story(systemd, directory, flag)
    finally:
        for word in UNITS:
            (directory / name(word)).unlink()
        await systemd.reload()
        systemd.close()


if __name__ == "__main__":
    asyncio.run(_with_systemd(Path("/run/systemd/system"), Path(sys.argv[1])))
    print("kept")
