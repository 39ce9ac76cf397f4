"""vote.json: what the voter must not forget, and which life of this keeper it is.

What enters: states to keep. What leaves: the state of the last life, and the incarnation of this
one. Called by the keeper's process; saving runs in a thread of its own, because a small synced
write on a busy disk can take half a second and nothing may sit between a heartbeat and its lease.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everup.errors import Corrupt
from everup.keeper.record import count
from everup.keeper.voter import VoteState
from everup.places import Places
from everup.system.clock import wall_ns
from everup.system.files import REAL_DOOR, Door, load_json, save_json

FORMAT = 1
_STARTS_BITS = 20
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Life:
    """One run of the process."""

    state: VoteState
    incarnation: int
    boots: int


class VoteFile:
    """The file and the small counter beside it that a reboot forgets."""

    def __init__(self, places: Places, server: str, boot_id: bytes, door: Door = REAL_DOOR) -> None:
        self._path = places.vote
        self._starts = places.run / "keeper.starts"
        self._server = server
        self._boot = boot_id.hex()
        self._door = door
        self._boots = 0

    def begin(self) -> Life:
        """Read what is kept and begin a new life, whose incarnation is the largest ever.

        Within one boot the starts are counted in memory, so a restart waits for no disk. Raises
        Corrupt when the file is not ours or not whole: a vote is never guessed.
        """
        value = self._load()
        # A server that was set up anew under its old name must not go backwards.
        state, boots = VoteState(), wall_ns() // 1_000_000_000
        if value is not None:
            state, boots = self._parse(value)
        starts = _count(self._starts) + 1
        if value is None or value.get("boot_id") != self._boot or starts == 1:
            boots, starts = boots + 1, 1
        self._boots = boots
        if starts == 1:
            self.save(state)
        self._starts.write_text(str(starts))
        return Life(state, boots << _STARTS_BITS | starts, boots)

    def _load(self) -> dict[str, Any] | None:
        try:
            value = load_json(self._path)
        except ValueError as error:
            raise self._corrupt(str(error)) from error
        if value is None:
            return None
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise self._corrupt("unknown format")
        if value.get("server") != self._server:
            raise self._corrupt(f"it belongs to {value.get('server')!r}")
        return value

    def _parse(self, value: dict[str, Any]) -> tuple[VoteState, int]:
        try:
            return VoteState.from_json(value["state"]), count(value["boots"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._corrupt(repr(error)) from error

    def _corrupt(self, reason: str) -> Corrupt:
        return Corrupt(
            f"{self._path} cannot be used: {reason}",
            remedy="remove this server from the voters (on the active), then delete the file",
        )

    def save(self, state: VoteState) -> None:
        """Durably. Raises OSError."""
        value = {
            "format": FORMAT,
            "server": self._server,
            "boots": self._boots,
            "boot_id": self._boot,
            "state": state.to_json(),
        }
        save_json(self._path, value, operation="save-vote", door=self._door)


def _count(path: Path) -> int:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0


class Saver:
    """Saves the newest state in a thread; older ones that wait are skipped.

    `saved(number)` is called from the thread. A failing disk is tried again for ever, twice a
    second: until then nothing that rests on the state leaves this server.
    """

    def __init__(
        self,
        save: Callable[[VoteState], None],
        saved: Callable[[int], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._save, self._saved, self._failed = save, saved, failed
        self._wanted: tuple[int, VoteState] | None = None
        self._condition = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="save-vote", daemon=True)
        self._thread.start()

    def put(self, number: int, state: VoteState) -> None:
        with self._condition:
            self._wanted = (number, state)
            self._condition.notify()

    def stop(self) -> None:
        """Save what is still wanted and end."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._wanted is None:
                    if self._stopping:
                        return
                    self._condition.wait()
                number, state = self._wanted
                self._wanted = None
            try:
                self._save(state)
            except OSError as error:
                self._failed(error)
                self._try_again(number, state)
            else:
                self._saved(number)

    def _try_again(self, number: int, state: VoteState) -> None:
        with self._condition:
            if self._wanted is None:
                self._wanted = (number, state)
                if not self._stopping:
                    self._condition.wait(RETRY_S)
                else:
                    self._wanted = None
