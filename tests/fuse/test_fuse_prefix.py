"""The strongest proof against crashes: whatever prefix of the journal reaches another server, the
database there starts without repair and holds every row that had been acknowledged by then, and
nothing but a prefix of the rows. With controls: a lost or a misplaced WRITE is seen."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from databases import MARIADB, POSTGRES, MariaDb, Postgres, Sqlite
from guarding import GuardProcess
from prefix import (
    Passive,
    Points,
    Recording,
    hint_of,
    prove,
)
from replaying import WRITE, Entry, entries

pytestmark = pytest.mark.fuse
SEED = 20261122
ROWS = 60
ENDS = None if int(os.environ.get("EVERUP_LONGER", "1")) > 1 else 4
"""How many fsync boundaries of the larger databases are looked at; the soak wants all."""


@pytest.fixture
def base() -> Iterator[Path]:
    """Databases do not run as root, who alone may enter pytest's own directories."""
    with TemporaryDirectory(prefix="everup-prefix-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        sockets = path / "sockets"
        sockets.mkdir()
        sockets.chmod(0o777)
        yield path


@pytest.fixture
def guard(base: Path) -> Iterator[GuardProcess]:
    """Durable: an fsync ends a batch and is answered when the other server has it."""
    process = GuardProcess(base)
    try:
        process.start()
        process.arm()
        process.open(mode="durable", needs=(Passive.NAME,))
        yield process
    finally:
        process.stop()


def record(
    guard: GuardProcess, client: Sqlite | Postgres | MariaDb, rows: int
) -> tuple[Recording, int]:
    """Run a database under the guard; where its set-up ended, in records."""
    recording = Recording(guard.places.journal)
    passive = Passive(guard)
    try:
        client.create(guard.tree)
        begin = sum(1 for _ in entries(guard.places.journal))
        client.insert(recording, rows)
        client.stop()
    finally:
        passive.stop()
    guard.call("close", grace_ms=10_000)
    return recording, begin


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_sqlite_is_whole_at_every_fsync_and_between(
    guard: GuardProcess, base: Path, journal_mode: str
) -> None:
    client = Sqlite(journal_mode)
    recording, begin = record(guard, client, ROWS)
    points, found = prove(recording, client, base, Points(begin, SEED, between=50))
    assert found == []
    assert points > ROWS and recording.promised_at(1 << 62) == ROWS


def test_postgresql_is_whole_at_fsyncs_and_between(guard: GuardProcess, base: Path) -> None:
    if not POSTGRES.exists():
        pytest.skip("PostgreSQL 15 is not installed")
    client = Postgres(base / "sockets")
    recording, begin = record(guard, client, 120)
    points, found = prove(recording, client, base, Points(begin, SEED, ends=ENDS, between=4))
    assert found == []
    assert points >= 8 and recording.promised_at(1 << 62) == 120


def test_mariadb_is_whole_at_fsyncs_and_between(guard: GuardProcess, base: Path) -> None:
    if not MARIADB.exists():
        pytest.skip("MariaDB is not installed")
    client = MariaDb(base / "sockets")
    recording, begin = record(guard, client, 120)
    points, found = prove(recording, client, base, Points(begin, SEED, ends=ENDS, between=4))
    assert found == []
    assert points >= 8 and recording.promised_at(1 << 62) == 120


# Controls: what the proof must be able to see.


@pytest.fixture
def sqlite(guard: GuardProcess) -> tuple[Sqlite, Recording, int]:
    """A recorded run with a rollback journal, in which the order of writes is everything."""
    client = Sqlite("delete")
    return client, *record(guard, client, 25)


def transactions(records: list[Entry], begin: int) -> list[tuple[int, list[int]]]:
    """Per transaction: the write that makes its rollback journal valid; then those to the data, of
    which the first is the header and the second the rows."""
    found: list[tuple[int, list[int]]] = []
    before = -1
    for index in range(begin, len(records)):
        if records[index].operation != WRITE:
            continue
        if hint_of(records[index]) != "things.db":
            before = index
        elif found and found[-1][0] == before:
            found[-1][1].append(index)
        else:
            found.append((before, [index]))
    return found


def test_control_a_lost_write_is_seen(sqlite: tuple[Sqlite, Recording, int], base: Path) -> None:
    client, recording, begin = sqlite

    def lose_one(records: list[Entry]) -> None:
        _, (_, lost, *_) = transactions(records, begin)[10]
        records[lost] = records[lost]._replace(payload=b"")

    _, found = prove(recording, client, base, Points(begin, SEED), spoil=lose_one)
    assert found != []


def test_control_writes_in_another_order_are_seen(
    sqlite: tuple[Sqlite, Recording, int], base: Path
) -> None:
    """A page of the database goes before the header that makes the rollback journal valid."""
    client, recording, begin = sqlite

    def exchange(records: list[Entry]) -> None:
        valid, (_, data, *_) = transactions(records, begin)[10]
        records[valid], records[data] = records[data], records[valid]

    _, found = prove(recording, client, base, Points(begin, SEED), spoil=exchange)
    assert found != []
