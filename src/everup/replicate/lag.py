"""What one peer lacks, at any time: while it is connected, while it is away, after a restart.

What enters: the places in this server's logs up to which batches were sent and acknowledged. What
leaves: bytes, operations and age of what only this server has. Nothing is counted along the way:
the logs themselves hold it, so a figure is the size of what lies behind a place in them, and the
first record there says since when. While its trees are being copied a peer has what it had before:
what it acknowledges meanwhile is of no use without the rest. Owned by the peer's link; `measure`
may be called by any thread.
"""

import json
import os
import threading
from collections import deque
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from everup.journal.record import HEADER_BYTES, MAGIC
from everup.journal.segment import HEADER_BYTES as SEGMENT_HEADER_BYTES
from everup.journal.segment import SUFFIX
from everup.model.position import Position
from everup.places import Places
from everup.replicate.logs import Place
from everup.replicate.tail import JournalTail
from everup.system.clock import boottime_ns, wall_ns

PLACES_MAX = 4096
NOTHING = {"bytes": 0, "operations": 0, "oldest_ms": 0}
_HEAD = Struct("<4s12xQQ8xQQ")
"""magic, epoch, sequence, wall clock, boot clock of a record."""


class Mark(NamedTuple):
    """A batch end and where it lies."""

    position: Position
    place: Place


class PeerLag:
    """Figures of one peer. All but `measure`: the link's thread only."""

    def __init__(self, places: Places, server: str, epoch: int) -> None:
        self._places = places
        self._epoch = epoch
        self._path = places.state / f"peer-{server}.json"
        self._sent: deque[Mark] = deque()
        self._saved: Mark | None = None
        self._before: Mark | None = None
        self._copying = False
        self._tail: JournalTail | None = None
        self._tail_name = ""
        self._lock = threading.Lock()
        self.mark = self._saved = self._load()
        """What the peer surely has on its disk; None: it was never heard of."""

    # the link's side

    def began(self, position: Position, place: Place, *, copy: bool = False) -> None:
        """The peer has everything up to here, or will have when its trees are copied; batches
        follow from here on."""
        if copy and not self._copying:
            # Not of one that broke off and is made again.
            self._before = self.mark
        self._copying = copy
        self._sent.clear()
        self.mark = Mark(position, place)

    def copied(self) -> None:
        """The copy is complete and proven."""
        self._copying = False

    @property
    def _usable(self) -> Mark | None:
        """What the peer could go on with."""
        return self._before if self._copying else self.mark

    def sent(self, position: Position, place: Place) -> None:
        if len(self._sent) >= PLACES_MAX:
            # The one before is acknowledged with it at the latest.
            self._sent.pop()
        self._sent.append(Mark(position, place))

    def acknowledged(self, position: Position) -> None:
        while self._sent and self._sent[0].position.sequence <= position.sequence:
            self.mark = self._sent.popleft()

    def save(self) -> None:
        """So that a later process knows it too; not worth a sync: an old mark only counts more."""
        mark = self._usable
        if mark is None or mark == self._saved:
            return
        value = {"position": mark.position.to_json(), "place": list(mark.place)}
        beside = self._path.with_name(self._path.name + ".new")
        try:
            beside.write_text(json.dumps(value))
            os.replace(beside, self._path)
        except OSError:
            return
        self._saved = mark

    def _load(self) -> Mark | None:
        try:
            value = json.loads(self._path.read_text())
            log, segment, offset = value["place"]
            place = Place(str(log), str(segment), int(offset))
            mark = Mark(Position.from_json(value["position"]), place)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return mark if self._is_there(mark) else None

    def _is_there(self, mark: Mark) -> bool:
        """Whether the log still has this place: a later one may use the same name."""
        try:
            path = self._path_of(mark.place)
            head = self._head(path, mark.place.offset)
            whole = head is None and path.stat().st_size >= mark.place.offset
        except OSError:
            return False
        return whole or (head is not None and head[0] == mark.position.sequence + 1)

    # figures

    def measure(self) -> dict[str, int]:
        """Everything that the peer has not acknowledged, or cannot use yet; never raises."""
        try:
            with self._lock:
                return self._measure(self._usable)
        except OSError:
            # Segments come and go: the next look will tell.
            return dict(NOTHING)

    def _measure(self, mark: Mark | None) -> dict[str, int]:
        journal = _sizes(self._places.journal)
        behind: list[tuple[Path, int, int]] = []
        if mark is not None:
            own = _sizes(self._path_of(mark.place).parent)
            behind = [(path, size, 0) for path, size in own if path.name > mark.place.segment]
            size = dict(own).get(self._path_of(mark.place))
            if size is not None:
                behind.insert(0, (self._path_of(mark.place), size, mark.place.offset))
        if mark is None or mark.place.log != "journal":
            behind += [(path, size, 0) for path, size in journal]
        parts = [(p, s, max(o, SEGMENT_HEADER_BYTES)) for p, s, o in behind]
        parts = [(path, size, offset) for path, size, offset in parts if size > offset]
        waiting = sum(size - offset for _, size, offset in parts)
        if not waiting:
            return dict(NOTHING)
        first = self._head(parts[0][0], parts[0][2])
        done = mark.position.sequence if mark is not None else first[0] - 1 if first else 0
        return {
            "bytes": waiting,
            "operations": max(1, self._latest_sequence(journal) - done),
            "oldest_ms": self._age_ms(first) if first else 0,
        }

    def _path_of(self, place: Place) -> Path:
        directory = self._places.journal if place.log == "journal" else self._places.receive
        return directory / place.segment

    @staticmethod
    def _head(path: Path, offset: int) -> tuple[int, int, int, int] | None:
        """(sequence, epoch, wall, boot) of the record there; None when there is none (yet)."""
        with path.open("rb") as file:
            data = os.pread(file.fileno(), HEADER_BYTES, offset)
        if len(data) < HEADER_BYTES:
            return None
        magic, epoch, sequence, wall, boot = _HEAD.unpack_from(data)
        return (sequence, epoch, wall, boot) if magic == MAGIC else None

    def _age_ms(self, head: tuple[int, int, int, int]) -> int:
        _, epoch, wall, boot = head
        # An epoch never outlives a boot, so within this one the clock that nobody sets is right.
        age = boottime_ns() - boot if epoch == self._epoch else wall_ns() - wall
        return max(0, age) // 1_000_000

    def _latest_sequence(self, journal: list[tuple[Path, int]]) -> int:
        newest = journal[-1][0].name if journal else ""
        if self._tail is None or self._tail_name != newest:
            if self._tail is not None:
                self._tail.close()
            self._tail, self._tail_name = JournalTail(self._places.journal), newest
        return self._tail.sequence()


def _sizes(directory: Path) -> list[tuple[Path, int]]:
    """Segments with their sizes, oldest first."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                try:
                    found.append((Path(entry.path), entry.stat(follow_symlinks=False).st_size))
                except FileNotFoundError:
                    continue
    return sorted(found)
