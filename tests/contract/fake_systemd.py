"""A systemd in memory; `test_units_contract` proves that it behaves like the real one.

What enters and leaves: as of `everup.system.systemd.Systemd`. Units behave by the last word of
their name: "bad" fails to start, "slow" is never ready, "deaf" ignores TERM, "nowhere" is unknown.
Drop-ins are read from disk at `reload`.
"""

from pathlib import Path

from everup.errors import DeadlinePassed
from everup.system.systemd import SystemdError, UnitState


class FakeSystemd:
    def __init__(self, directory: Path, flag: Path) -> None:
        self._directory, self._flag = directory, flag
        self._drop_ins: dict[str, tuple[str, ...]] = {}
        self.active: set[str] = set()
        self.calls: list[str] = []
        self.shut_down = False

    async def state(self, name: str) -> UnitState:
        active = "active" if name in self.active else "inactive"
        load = "not-found" if _is(name, "nowhere") else "loaded"
        return UnitState(name, load, active, "", self._drop_ins.get(name, ()))

    async def stopping(self) -> bool:
        return self.shut_down

    async def start(self, name: str, deadline_ms: int) -> None:
        self.calls.append(f"start {name}")
        if self.shut_down:
            raise SystemdError(f"systemd refused StartUnit: {name} is destructive.")
        if _is(name, "slow"):
            raise DeadlinePassed(f"{name} did not start in {deadline_ms} ms")
        held = bool(self._drop_ins.get(name)) and not self._flag.exists()
        if _is(name, "bad") or held:
            raise SystemdError(f"{name} did not start")
        self.active.add(name)

    async def stop(self, name: str, deadline_ms: int) -> bool:
        self.calls.append(f"stop {name}")
        was_active = name in self.active
        self.active.discard(name)
        return not (_is(name, "deaf") and was_active)

    async def reload(self) -> None:
        self.calls.append("reload")
        files = self._directory.glob("*.d/*.conf")
        self._drop_ins = {p.parent.name.removesuffix(".d"): (str(p),) for p in files}


def _is(name: str, word: str) -> bool:
    return name.removesuffix(".service").endswith(word)
