"""Dear bytes: the cap holds and changes live, what the peer has stays at home, pieces instead of
blocks."""

import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import wait_for
from test_replicate_pair import Pair

from everup.errors import Corrupt
from everup.journal.reader import Cursor
from everup.journal.segment import list_segments
from everup.model.position import ORIGIN, Position
from everup.places import Places

pytestmark = pytest.mark.fuse  # needs root: trusted extended attributes

MEBI = 1 << 20


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def cap(pair: Pair, kbit_per_s: int) -> None:
    """As after `everup config apply`."""
    settings = pair.alpha.places.group_settings
    kept = settings.read_text().partition("\n[bandwidth]")[0]
    settings.write_text(f"{kept}\n[bandwidth]\nkbit_per_s = {kbit_per_s}\n")
    if pair.alpha.process is not None:
        pair.alpha.call("reload")


def write(pair: Pair, name: str, data: bytes) -> None:
    pair.guard.create(name)
    for at in range(0, len(data), 256 << 10):
        pair.guard.write(name, at, data[at : at + (256 << 10)])
        pair.guard.end_batch()


def sent_bytes(pair: Pair) -> int:
    return int(pair.peer()["bytes_sent"])


def test_slow_cap_is_kept_and_lifted_live(pair: Pair) -> None:
    cap(pair, 8000)
    pair.start()
    pair.wait_in_sync()
    begin, before = time.monotonic(), sent_bytes(pair)
    write(pair, "noise", os.urandom(8 * MEBI))
    assert time.monotonic() - begin < 1, "whoever writes does not wait for the line"
    time.sleep(2)
    spent, sent = time.monotonic() - begin, sent_bytes(pair) - before
    assert 0.7e6 * spent < sent < 1.1e6 * spent + 200_000, (sent, spent)
    peer = pair.peer()
    assert peer["link"]["cap_bytes_per_s"] == 1_000_000
    assert peer["connected"], "a slow line is no silence"
    cap(pair, 0)
    begin = time.monotonic()
    pair.compare()
    assert time.monotonic() - begin < 4, "8 MiB would need 6 s more"
    assert pair.peer()["link"]["cap_bytes_per_s"] == 0


def test_slow_batches_longer_than_the_silence_arrive(pair: Pair) -> None:
    """Six seconds for one frame, and nobody takes the source for dead."""
    pair.start()
    pair.wait_in_sync()
    cap(pair, 1200)
    time.sleep(1.1)
    before = sent_bytes(pair)
    pair.guard.create("noise")
    for part in range(4):
        pair.guard.write("noise", part << 18, os.urandom(MEBI >> 2))
    pair.settle(20)
    assert sent_bytes(pair) - before < 1.2 * MEBI, "it was sent once"
    pair.compare()


def slow_pair(pair: Pair) -> None:
    """A line on which references pay, fast enough for a test."""
    cap(pair, 80_000)
    pair.start()
    pair.wait_in_sync()


def test_slow_copy_of_what_the_peer_has_is_not_sent(pair: Pair) -> None:
    """Written through the stream, or there before the sync; small files and large ones."""
    noise = random.Random(1)
    (pair.alpha.lower() / "old").write_bytes(noise.randbytes(MEBI + 5000))
    slow_pair(pair)
    content = {f"f{n}": noise.randbytes(size) for n, size in enumerate((2000, 5000, 3 * MEBI))}
    for name, data in content.items():
        write(pair, name, data)
    pair.settle()
    wait_for(lambda: pair.peer()["applied"] == pair.peer()["sent"], 10, "told")
    before = sent_bytes(pair)
    for name, data in content.items():
        write(pair, f"copy-{name}", data)
    write(pair, "copy-old", (pair.alpha.lower() / "old").read_bytes())
    pair.settle()
    sent = sent_bytes(pair) - before
    assert sent < 60_000, sent
    pair.compare()


def test_slow_what_the_peer_has_no_more_is_asked_for(pair: Pair) -> None:
    """Its file was damaged, removed, or is none: the hash tells, the bytes are sent after all."""
    noise = random.Random(2)
    slow_pair(pair)
    names = ("damaged", "removed", "replaced", "kept")
    content = {name: noise.randbytes(300_000) for name in names}
    for name, data in content.items():
        write(pair, name, data)
    pair.settle()
    wait_for(lambda: pair.peer()["applied"] == pair.peer()["sent"], 10, "told")
    lower = pair.beta.lower()
    with (lower / "damaged").open("r+b") as file:
        file.seek(100)
        file.write(b"bit rot")
    (lower / "removed").rename(lower / "elsewhere")
    (lower / "replaced").unlink()
    os.mkfifo(lower / "replaced")
    before = sent_bytes(pair)
    for name, data in content.items():
        write(pair, f"copy-{name}", data)
    write(pair, "after", b"in order" * 1000)
    end = pair.guard.end_batch().to_json()
    wait_for(lambda: pair.beta.call("status")["applied"] == end, 20, "applied")
    for name, data in content.items():
        assert (lower / f"copy-{name}").read_bytes() == data
    sent = sent_bytes(pair) - before
    assert 100_000 < sent < 800_000, "what was still there was not sent"


def test_slow_stored_bytes_are_those_of_the_journal(pair: Pair) -> None:
    """Compressed and referred to on the way, byte for byte the same in the receive log."""
    slow_pair(pair)
    begin = pair.guard.journal.position
    data = random.Random(3).randbytes(400_000)
    for name in ("one", "two"):
        write(pair, name, data)
        pair.settle()
        wait_for(lambda: pair.peer()["applied"] == pair.peer()["sent"], 10, "told")
    end = pair.guard.journal.position
    ours, theirs = (batches(server.places, begin) for server in (pair.alpha, pair.beta))
    assert begin != ORIGIN and len(ours) >= 2
    assert theirs and theirs == ours[-len(theirs) :]
    assert pair.beta.call("status")["received"] == end.to_json()


def batches(places: Places, after: Position) -> list[bytes]:
    """All that a log holds behind a position, or behind its own begin if that is later."""
    found = []
    for directory in (places.journal, places.receive):
        segments = list_segments(directory)
        if not segments:
            continue
        try:
            cursor = Cursor(directory, after)
        except Corrupt:
            cursor = Cursor(directory, segments[0].start)
        while (batch := cursor.next()) is not None:
            found.append(batch.data)
        cursor.close()
    return found


def test_slow_many_small_changes_cost_little_each(pair: Pair) -> None:
    """Without check sums and numbers that follow from the rest, and many in one packet."""
    slow_pair(pair)
    pair.guard.create("log")
    pair.settle()
    before, at = sent_bytes(pair), 0
    raw = pair.peer()["bytes_written"]
    for number in range(3000):
        line = b"%d something happened\n" % number
        pair.guard.write("log", at, line)
        at += len(line)
        if number % 20 == 0:
            pair.guard.end_batch()
    pair.settle()
    written = pair.peer()["bytes_written"] - raw
    assert written > 3000 * 100
    sent = sent_bytes(pair) - before
    assert sent * 5 < written, (sent, written)
    pair.compare()


def test_slow_resync_sends_pieces_not_blocks(pair: Pair) -> None:
    noise = random.Random(4)
    size = 16 * MEBI
    (pair.alpha.lower() / "table").write_bytes(noise.randbytes(size))
    pair.start()
    pair.wait_in_sync()
    pages = noise.sample(range(size // 8192), 20)
    with (pair.beta.lower() / "table").open("r+b") as file:
        for page in pages:
            file.seek(page * 8192)
            file.write(noise.randbytes(8192))
    pair.alpha.call("compare")
    copied = lambda: pair.beta.call("status")["sync"].get("copied_bytes")  # noqa: E731
    wait_for(lambda: 0 < copied() < size, 30, "compared again")
    pair.wait_in_sync()
    pair.compare()
    assert copied() == 20 * 8192
