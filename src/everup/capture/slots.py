"""Requests in shared memory: what a killed worker was doing, found again by the next one.

What enters: requests as the kernel wrote them, intents, parked requests. What leaves: the same,
after a SIGKILL at any moment. The memory is a file on tmpfs, one per mounted tree; it survives the
process, not the machine. Called by the session (reads into slots), the handlers (intents) and the
settlement after a restart.

A slot holds one request from the moment the kernel hands it out until it is answered. Its first
four bytes are the request's length; zero means empty. An intent belongs to the request whose
`unique` it carries and is written, `unique` last, before the lower tree is changed.
"""

import threading
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from everup.limits import PAYLOAD_BYTES_MAX
from everup.system.sharedmemory import map_file

CONTROL_BYTES = 4096
REQUEST_BYTES = PAYLOAD_BYTES_MAX + 4096
SLOT_BYTES = CONTROL_BYTES + REQUEST_BYTES
PARKED_MAX = 4096

WAITS_DISK = 1
WAITS_PEERS = 2

_LENGTH = Struct("<I")
_INTENT = Struct("<Q16s16sQ")
_FAILED = Struct("<IxxxxQ")
_FAILED_AT = 64
_JOURNALED = Struct("<IxxxxQ")
_JOURNALED_AT = 96
_UNIQUE = Struct("<Q")
_PARKED = Struct("<QQIHxx")
_PARKED_BYTES = 32
_HEAD = Struct("<8sQQQ")
_HEAD_MAGIC = b"EVSLOT01"
_PARKED_AT = 4096
_SLOTS_AT = _PARKED_AT + PARKED_MAX * _PARKED_BYTES
_NO_LENGTH = bytes(4)

assert _SLOTS_AT % 4096 == 0 and SLOT_BYTES % 4096 == 0


class Intent(NamedTuple):
    """What a worker was about to change, as far as the next one cannot see it afterwards."""

    loser: int
    """Node that loses a name by the change; 0 if none does."""
    first_id: bytes
    second_id: bytes


class Slot:
    """Place of one request. Used by one thread."""

    __slots__ = ("_memory", "number", "request")

    def __init__(self, memory: memoryview, number: int) -> None:
        start = _SLOTS_AT + number * SLOT_BYTES
        self.number = number
        self._memory = memory[start : start + CONTROL_BYTES]
        self.request = memory[start + CONTROL_BYTES : start + SLOT_BYTES]

    @property
    def used(self) -> bool:
        return bool(_LENGTH.unpack_from(self.request)[0])

    def clear(self) -> None:
        """The request is answered (or needs no answer)."""
        self.request[0:4] = _NO_LENGTH

    def intend(self, unique: int, loser: int, first: bytes, second: bytes) -> None:
        """From here on the lower tree may carry the change of this request."""
        _INTENT.pack_into(self._memory, 0, loser, first, second, unique)

    def intent(self, unique: int) -> Intent | None:
        loser, first, second, owner = _INTENT.unpack_from(self._memory)
        return Intent(loser, first, second) if owner == unique else None

    def fail(self, unique: int, number: int) -> None:
        """The request ends with this error; nothing of it is in the journal."""
        _FAILED.pack_into(self._memory, _FAILED_AT, number, unique)

    def failed(self, unique: int) -> int:
        """Error with which the request was (about to be) answered; 0 if none."""
        number, owner = _FAILED.unpack_from(self._memory, _FAILED_AT)
        return int(number) if owner == unique else 0

    def note_journaled(self, unique: int, written: int) -> None:
        """The last record of the request is in the journal (or it needs none): what is left to do
        is to answer it. Done once more, it might undo what was asked for since."""
        _JOURNALED.pack_into(self._memory, _JOURNALED_AT, written, unique)

    def journaled(self, unique: int) -> int | None:
        """Bytes that the request wrote (0 for others); None when it is not known to be done."""
        written, owner = _JOURNALED.unpack_from(self._memory, _JOURNALED_AT)
        return int(written) if owner == unique else None


class Parked(NamedTuple):
    """A request that waits without a thread: for the disk, or for the other servers."""

    place: int
    unique: int
    node: int
    sequence: int
    written: int
    state: int


class Slots:
    """All shared memory of one mounted tree."""

    def __init__(self, path: Path, count: int) -> None:
        size = _SLOTS_AT + count * SLOT_BYTES
        # Populated: the kernel must not fault while it copies a request for a dying process.
        self._memory = memoryview(map_file(path, size, populate=True))
        self._lock = threading.Lock()
        self.slots = [Slot(self._memory, number) for number in range(count)]
        magic, self._features, _, _ = _HEAD.unpack_from(self._memory)
        if magic != _HEAD_MAGIC:
            self.set_features(0)
        self._free = [i for i in reversed(range(PARKED_MAX)) if not self._read(i).unique]

    @property
    def features(self) -> int:
        """What INIT agreed on; 0 before it."""
        return int(self._features)

    def set_features(self, features: int) -> None:
        self._features = features
        _HEAD.pack_into(self._memory, 0, _HEAD_MAGIC, features, 0, 0)

    def _read(self, place: int) -> Parked:
        at = _PARKED_AT + place * _PARKED_BYTES
        (unique,) = _UNIQUE.unpack_from(self._memory, at)
        return Parked(place, unique, *_PARKED.unpack_from(self._memory, at + _UNIQUE.size))

    def park(self, unique: int, node: int, sequence: int, written: int, state: int) -> Parked:
        """Keep a request without its slot. OSError (EAGAIN) when too many wait already."""
        with self._lock:
            if not self._free:
                raise OSError(11, "too many requests wait")
            place = self._free.pop()
        parked = Parked(place, unique, node, sequence, written, state)
        self._write(parked)
        return parked

    def _write(self, parked: Parked) -> None:
        at = _PARKED_AT + parked.place * _PARKED_BYTES
        _PARKED.pack_into(self._memory, at + _UNIQUE.size, *parked[2:])
        # Last: a place counts from here on.
        _UNIQUE.pack_into(self._memory, at, parked.unique)

    def change(self, parked: Parked, **values: int) -> Parked:
        parked = parked._replace(**values)
        self._write(parked)
        return parked

    def unpark(self, parked: Parked) -> None:
        at = _PARKED_AT + parked.place * _PARKED_BYTES
        self._memory[at : at + 8] = bytes(8)
        with self._lock:
            self._free.append(parked.place)

    def parked(self) -> list[Parked]:
        """Everything that waits; read once after a restart."""
        return [entry for i in range(PARKED_MAX) if (entry := self._read(i)).unique]
