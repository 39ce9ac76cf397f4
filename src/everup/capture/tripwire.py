"""The process that notices when somebody writes to a protected tree behind its mount.

What enters: the armed trees; what the kernel tells of files closed after writing. What leaves: the
findings (see `behind`). Started by the worker, with which it ends; a process of its own, so that a
busy file system never takes the interpreter from the handlers.

Watched is the whole lower file system, since a mark on the guard's own bind would see only what
comes through it. What our own processes close is left out by their command line. Not seen are
changes of names and attributes alone, stores by a descriptor that is never closed, and what happens
while the worker is being replaced: comparing with the other servers finds those.
"""

import os
import select
import sys
import time
from pathlib import Path

from everup.capture import gate, runstate
from everup.capture.behind import BLIND, WATCHING, Behind
from everup.places import Places
from everup.system.fanotify import Closed, open_watch, read_watch, watch_file_system
from everup.system.kernelcalls import FileHandle, die_with_parent, open_by_handle
from everup.system.mounts import mounts_at

STEP_S = 0.5
GATHER_S = 0.02
OURS_MAX = 1024
NICE = 5


class Tripwire:
    """Trees that are watched; `look` once and again."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._behind = Behind(runstate.memory_directory(places))
        self._watch = open_watch()
        self._roots: dict[int, tuple[str, int]] = {}
        self._paths: dict[int, str] = {}
        self._ours: set[int] = set()

    def follow_gates(self) -> None:
        """Watch every tree that is armed by now. Raises OSError."""
        self._paths = {t.tree_id: str(t.path) for t in gate.load_armed(self._places)}
        for tree_id in [*self._roots]:
            if tree_id not in self._paths or self._gone(*self._roots[tree_id]):
                os.close(self._roots.pop(tree_id)[1])
        for tree_id in self._paths.keys() - self._roots.keys():
            lower = self._places.lower(tree_id)
            if mounts_at(lower):
                watch_file_system(self._watch, lower)
                root = os.open(lower, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._roots[tree_id] = (str(lower), root)
        self._behind.state(WATCHING, "")
        self._behind.keep()

    @staticmethod
    def _gone(lower: str, root: int) -> bool:
        """Whether the mount was taken away (and may be there anew): no path leads there then, and
        what happens in the tree would not be recognised."""
        return os.readlink(f"/proc/self/fd/{root}") != lower

    def look(self) -> None:
        """Wait a moment for something, then judge all of it."""
        if not select.select([self._watch], [], [], STEP_S)[0]:
            return
        # One look at many events: most are our own.
        time.sleep(GATHER_S)
        events, lost = read_watch(self._watch)
        if lost:
            self._behind.overflow()
        commands: dict[int, str] = {}
        for event in events:
            self._judge(event, commands)
        self._behind.keep()

    def _judge(self, event: Closed, commands: dict[int, str]) -> None:
        if event.pid not in commands:
            commands[event.pid] = self._command_of(event.pid)
        if event.pid in self._ours:
            return
        path = self._path_of(event.directory)
        if path is not None:
            name = os.fsdecode(event.name)
            self._behind.add(f"{path}/{name}", event.pid, commands[event.pid])

    def _command_of(self, pid: int) -> str:
        """Name of a process; empty when it has ended. Ours are remembered beyond their end."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
        except OSError:
            return ""
        self._ours.discard(pid)
        if words[1:2] == [b"-m"] and words[2].startswith(b"everup."):
            if len(self._ours) >= OURS_MAX:
                self._ours.clear()
            self._ours.add(pid)
        return name

    def _path_of(self, directory: FileHandle) -> str | None:
        """Path as applications know it, of a directory in a watched tree; None for all others."""
        for tree_id, (lower, root) in self._roots.items():
            try:
                descriptor = open_by_handle(root, directory, os.O_PATH)
            except OSError:
                continue
            try:
                path = os.readlink(f"/proc/self/fd/{descriptor}")
            finally:
                os.close(descriptor)
            if path == lower or path.startswith(lower + "/"):
                return self._paths[tree_id] + path[len(lower) :]
        return None


def main() -> int:
    """Until the worker ends."""
    die_with_parent()
    if os.getppid() == 1:
        raise SystemExit("everup-guard: the worker is gone")
    os.nice(NICE)
    places = Places.real()
    try:
        wire = Tripwire(places)
        while True:
            wire.follow_gates()
            wire.look()
    except OSError as error:
        behind = Behind(runstate.memory_directory(places))
        behind.state(BLIND, f"Writes behind the mounts are not noticed: {error.strerror}")
        behind.keep()
        print(f"everup-guard: tripwire: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
