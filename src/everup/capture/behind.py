"""What was written behind the mounts, as a small file: written by the tripwire, read by `status`.

What enters: findings. What leaves: the same, in any process, over restarts of the worker. It lies
in the guard's memory, so it is gone after a boot.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from everup.system.files import load_json, save_json

NAME = "behind.json"
LAST_MAX = 20
STARTING = "starting"
WATCHING = "watching"
BLIND = "blind"
NOTHING = {"state": "starting", "sentence": "", "count": 0, "overflows": 0, "last": []}


def load_behind(memory: Path) -> dict[str, Any]:
    """`{state, sentence, count, overflows, last: [{path, pid, command, at}]}`."""
    return load_json(memory / NAME) or dict(NOTHING)


class Behind:
    """The findings of one tripwire, added to those of the ones before it."""

    def __init__(self, memory: Path) -> None:
        self._path = memory / NAME
        self._value = load_behind(memory)
        self._changed = False

    def state(self, state: str, sentence: str) -> None:
        if (self._value["state"], self._value["sentence"]) != (state, sentence):
            self._value.update(state=state, sentence=sentence)
            self._changed = True

    def add(self, path: str, pid: int, command: str) -> None:
        entry = {"path": path, "pid": pid, "command": command, "at": round(time.time(), 3)}
        self._value["count"] += 1
        self._value["last"] = [*self._value["last"], entry][-LAST_MAX:]
        self._changed = True

    def overflow(self) -> None:
        """Some writes were not looked at: there were too many at once."""
        self._value["overflows"] += 1
        self._changed = True

    def keep(self) -> None:
        """Let others see what has changed; with the next change if there is no room for it now."""
        if self._changed:
            with suppress(OSError):
                save_json(self._path, self._value, operation="save-behind")
                self._changed = False


def news(before: dict[str, Any], now: dict[str, Any]) -> str:
    """A sentence for people about what came between; empty when nothing did."""
    count = now["count"] - before["count"]
    if count > 0:
        last = now["last"][-1]
        who = f"{last['command']} (process {last['pid']})" if last["command"] else "A process"
        more = f", and {count - 1} more" if count > 1 else ""
        return (
            f"{who} wrote {last['path']}{more} behind the mount: the other servers do not have it "
            "before the trees are compared"
        )
    if now["overflows"] > before["overflows"]:
        return (
            "So much was written on the file system of the protected paths that writes behind the "
            "mounts may have been missed"
        )
    if now["state"] == BLIND != before["state"]:
        return str(now["sentence"])
    return ""
