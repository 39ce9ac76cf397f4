"""Keeps (state, observation, decision) of the turns that did something, to replay an incident.

What enters: every turn. What leaves: files of JSON lines, a ring of bounded size; `read` gives them
back, and a test turns them into a scenario. Called by the loop. Never in the way: what cannot be
written is left out.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from everup.model.action import Decision
from everup.model.observation import Observation
from everup.model.role import State

log = logging.getLogger(__name__)

FILES = 8
FILE_BYTES_MAX = 1 << 20
QUIET_MS = 10_000
"""A turn like the one before is recorded no more often."""


class Recorder:
    def __init__(self, directory: Path, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self._directory = directory
        self._file_bytes_max = file_bytes_max
        directory.mkdir(mode=0o700, exist_ok=True)
        self._number = max((_number(p) for p in directory.glob("*.jsonl")), default=0)
        self._last: tuple[Any, ...] = ()
        self._last_ms = 0

    def note(self, state: State, observation: Observation, decision: Decision) -> None:
        """Record the turn when it differs from the last one, or enough time has passed."""
        kind = (decision.state.role, decision.fired, decision.actions)
        same = kind == self._last and decision.state == state
        if same and observation.now_ms - self._last_ms < QUIET_MS:
            return
        self._last, self._last_ms = kind, observation.now_ms
        actions = [type(action).__name__ for action in decision.actions]
        line = msgspec.json.encode(
            {
                "state": state,
                "observation": observation,
                "after": decision.state,
                "fired": decision.fired,
                "actions": actions,
            }
        )
        try:
            self._append(line)
        except OSError as error:
            log.debug("a turn was not recorded: %s", error)

    def _append(self, line: bytes) -> None:
        path = self._path(self._number)
        if self._number == 0 or path.stat().st_size + len(line) > self._file_bytes_max:
            self._number += 1
            path = self._path(self._number)
            self._path(self._number - FILES).unlink(missing_ok=True)
        with path.open("ab") as file:
            file.write(line + b"\n")

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08d}.jsonl"


class Turn(msgspec.Struct, frozen=True):
    """One recorded turn."""

    state: State
    observation: Observation
    after: State
    fired: tuple[str, ...]
    actions: tuple[str, ...]


def read(directory: Path) -> Iterator[Turn]:
    """Recorded turns, oldest first; a line that was cut off is left out."""
    for path in sorted(directory.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                yield msgspec.json.decode(line, type=Turn)
            except msgspec.DecodeError:
                continue


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0
