"""The prefix proof: at every point of a journal the database on the replayed tree is whole.

What enters: the journal of a database that ran under the guard, and the client's own list of the
rows that were acknowledged, each with the moment. What leaves: complaints. The journal is replayed
step by step by the replayer of the tests and by the product's applier side by side; at each chosen
point both trees must be equal, and the database, started on a copy, must hold rows 1 to k without a
gap, unharmed, k being at least what had been acknowledged by then. Called by test_fuse_prefix.
"""

import os
import random
import shutil
import socket
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from guarding import GROUP_ID, GuardProcess
from replaying import BATCH, CREATE, Entry, Replayer, describe, differences, entries

from everup.journal.reader import Cursor
from everup.journal.record import Record
from everup.model.ids import root_object_id
from everup.model.position import ORIGIN
from everup.replicate.apply import TreeSet, apply_record, records_of
from everup.replicate.lower import open_tree
from everup.replicate.names import TreeOperations
from everup.system.clock import boottime_ns
from everup.wire.local import subscribe

CAUSE_FSYNC = 3
TREE = 1
Row = tuple[int, int, str]
"""(number, crc of the text, text), as the database gives it back."""


class Acknowledgement(NamedTuple):
    row: int
    boot_ns: int


@dataclass
class Recording:
    """A journal and what the client knows about it."""

    journal: Path
    acknowledged: list[Acknowledgement] = field(default_factory=list)
    attempted: int = 0

    def acknowledge(self, row: int) -> None:
        self.acknowledged.append(Acknowledgement(row, boottime_ns()))

    def promised_at(self, boot_ns: int) -> int:
        """Highest row that was acknowledged before a moment; rows are inserted in order."""
        return max((ack.row for ack in self.acknowledged if ack.boot_ns <= boot_ns), default=0)


class Passive:
    """Stands for the other server of a group in durable mode: acknowledges every closed batch."""

    NAME = "secondary"

    def __init__(self, guard: GuardProcess) -> None:
        self._channel = subscribe(guard.places.guard_socket, "follow")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._channel.connection.settimeout(None)
        while (line := self._channel.receive()) is not None:
            sequence = line.get("closed", {}).get("sequence", 0)
            self._channel.send({"verb": "acknowledged", "server": self.NAME, "sequence": sequence})

    def stop(self) -> None:
        self._channel.connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._channel.close()


class Client(Protocol):
    """A database that can be looked at in a directory which is thrown away afterwards."""

    name: str

    def rows(self, directory: Path) -> list[Row]:
        """Start on the directory as it is, check what can be checked, read all rows, stop.

        Raises AssertionError when it does not start, or finds itself damaged.
        """
        ...


def text_of(row: int) -> str:
    """Different for every row, of changing length."""
    generator = random.Random(row)
    return "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(1, 400)))


def crc_of(text: str) -> int:
    return zlib.crc32(text.encode()) & 0x7FFFFFFF


def complaints(rows: list[Row], promised: int, attempted: int) -> list[str]:
    """What is wrong with the rows of a database at one point, in sentences."""
    found = []
    numbers = [row[0] for row in rows]
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"rows are missing in between: {len(numbers)} up to {max(numbers)}")
    if len(numbers) < promised:
        found.append(f"row {promised} was acknowledged, {len(numbers)} rows are here")
    if len(numbers) > attempted:
        found.append(f"{len(numbers)} rows are here, {attempted} were written")
    found += [f"row {n} is damaged" for n, crc, text in rows if crc_of(text) != crc]
    found += [f"row {n} is another one" for n, _, text in rows if text != text_of(n)]
    return found


@dataclass(frozen=True)
class Points:
    """Where to look, from record `begin` on: fsync boundaries (all, or `ends` of them and the last
    one), and so many points between records."""

    begin: int
    seed: int
    ends: int | None = None
    between: int = 0

    def of(self, records: list[Entry]) -> list[int]:
        """Indexes of the last record of each point."""
        generator = random.Random(self.seed)
        ends = [
            index
            for index in range(self.begin, len(records))
            if records[index].operation == BATCH and records[index].arguments[32] == CAUSE_FSYNC
        ]
        chosen = ends if self.ends is None else generator.sample(ends, self.ends) + ends[-1:]
        between = generator.sample(range(self.begin, len(records)), self.between)
        return sorted({*chosen, *between})


class Applied:
    """The tree that the product's applier makes of the same journal."""

    def __init__(self, journal: Path, target: Path) -> None:
        target.mkdir()
        self.target = target
        self._records = self._read(journal)
        self._trees = TreeSet(
            lambda number: TreeOperations(open_tree(target, number, GROUP_ID, adopt=True))
        )

    @staticmethod
    def _read(journal: Path) -> Iterator[Record]:
        cursor = Cursor(journal, ORIGIN)
        while (batch := cursor.next()) is not None:
            yield from records_of(batch)
        cursor.close()

    def advance(self, sequence: int) -> None:
        for record in self._records:
            apply_record(self._trees, record)
            if record.sequence >= sequence:
                return

    def close(self) -> None:
        self._trees.close()


def prove(
    recording: Recording,
    client: Client,
    base: Path,
    points: Points,
    *,
    spoil: Callable[[list[Entry]], None] | None = None,
) -> tuple[int, list[str]]:
    """(points looked at, complaints). `spoil` changes the records before: the proof must see it."""
    records = list(entries(recording.journal))
    applied = None
    if spoil is None:
        applied = Applied(recording.journal, base / "applied")
    else:
        spoil(records)
    target = base / "replayed"
    target.mkdir()
    replayer = Replayer(target, TREE, root_object_id(GROUP_ID, TREE))
    found: list[str] = []
    done = 0
    looks = points.of(records)
    for point in looks:
        for entry in records[done : point + 1]:
            if entry.operation >= CREATE:
                replayer.apply(entry)
        done = point + 1
        where = f"{client.name}, after record {records[point].sequence}"
        if applied is not None:
            applied.advance(records[point].sequence)
            whole = records[point].operation == BATCH
            unlike = differences(_seen(target, whole), _seen(applied.target, whole))
            found += [f"{where}: the applier's tree differs: {each}" for each in unlike]
        found += [f"{where}: {each}" for each in _look(recording, client, base, records[point])]
    if applied is not None:
        applied.close()
    return len(looks), found


def _seen(root: Path, times: bool) -> dict[bytes, Any]:
    """A tree without the counts of links: the replayer holds one more of every file."""
    return {name: (*facts[:4], *facts[5:]) for name, facts in describe(root, times).items()}


def _look(recording: Recording, client: Client, base: Path, at: Entry) -> list[str]:
    look = base / "look"
    subprocess.run(["cp", "-a", base / "replayed", look], check=True, timeout=60)
    try:
        rows = client.rows(look)
    except AssertionError as problem:
        return [str(problem)]
    finally:
        shutil.rmtree(look)
    return complaints(rows, recording.promised_at(at.boot_ns), recording.attempted)


def hint_of(entry: Entry) -> str:
    """Path that a WRITE names."""
    return os.fsdecode(entry.arguments[10:])
