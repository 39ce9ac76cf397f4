"""The control turn's memory, durable before anything is done that rests on it.

What enters: `State`. What leaves: the same after a restart; a state that cannot be read stops the
agent with a sentence, since a guessed role could open a gate. Called by the loop.
"""

from pathlib import Path

import msgspec

from everup.errors import Corrupt
from everup.model.role import State
from everup.system.files import REAL_DOOR, Door, save_bytes


class StateStore:
    def __init__(self, path: Path, door: Door = REAL_DOOR) -> None:
        self._path = path
        self._door = door

    def load(self) -> State:
        """The state saved last; a new one when there is none. Raises Corrupt."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return State()
        try:
            return msgspec.json.decode(data, type=State)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Corrupt(
                f"{self._path} cannot be read: {error}",
                remedy="move the file away and start the agent again: this server then follows",
            ) from error

    def save(self, state: State) -> None:
        """Durable when it returns. Raises OSError; then the old state is still there."""
        data = msgspec.json.encode(state)
        save_bytes(self._path, data, operation="save-state", door=self._door)
