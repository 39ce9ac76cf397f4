"""Put a journal that cannot be gone on with out of the way, whole, and remember that it is so.

What enters: the sentence that says what is wrong with it. What leaves: an empty journal, the old
one under another name beside it, and a note of where it ended. Called by the guard at its start.

Nothing is cut or repaired: a person may want to look. The server then has no position of its own;
it comes back by comparison, and its next epoch begins where nobody stands.
"""

import os
import secrets
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from everup.errors import Corrupt
from everup.journal.record import HEADER_BYTES as RECORD_BYTES_MIN
from everup.journal.segment import HEADER_BYTES, decode_header
from everup.model.position import CHECKSUM_BYTES, ORIGIN, Position
from everup.system.files import load_json, save_json, sync_directory

NOTE_NAME = "journal-aside.json"
KEPT_MAX = 1
"""A journal may have the size of its quota: only the newest one that was put aside is kept."""


class Aside(NamedTuple):
    """A journal that was put aside and not followed by another one yet."""

    path: str
    sentence: str
    end: Position
    """Behind everything that it may have held; no batch ends there."""


def load_aside(state: Path) -> Aside | None:
    """None when there is none. Raises ValueError when the note is not readable."""
    value = load_json(state / NOTE_NAME)
    if value is None:
        return None
    return Aside(str(value["path"]), str(value["sentence"]), Position.from_json(value["end"]))


def forget_aside(state: Path) -> None:
    """A new epoch has begun a journal; the old one stays where it is for a person to look at."""
    (state / NOTE_NAME).unlink(missing_ok=True)


def put_aside(journal: Path, state: Path, sentence: str, epoch: int, sequence: int) -> Aside:
    """Durable when it returns; repeated after a crash in the middle it ends the same way.

    `epoch`, `sequence`: the highest that anybody here knows of. Raises OSError.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    # A journal that is a mounted disk of its own cannot be renamed: its files move within it.
    mounted = os.path.ismount(journal)
    base = journal / "damaged-" if mounted else journal.with_name(f"{journal.name}.damaged-")
    path = base.with_name(base.name + stamp)
    number = max(sequence, _highest_sequence(journal))
    end = Position(epoch, number, secrets.token_bytes(CHECKSUM_BYTES)) if number else ORIGIN
    note = {"path": str(path), "sentence": sentence, "end": end.to_json()}
    # First, so that what a crash in the middle leaves is not taken for a whole journal.
    save_json(state / NOTE_NAME, note, operation="journal-aside")
    older = sorted(base.parent.glob(base.name + "*"))
    if mounted:
        path.mkdir(mode=0o700, exist_ok=True)
        for file in [*journal.glob("*.segment"), *journal.glob("*.segment.new")]:
            os.rename(file, path / file.name)
        sync_directory(journal, "journal-aside")
    else:
        os.rename(journal, path)
        journal.mkdir(mode=0o700)
        sync_directory(journal.parent, "journal-aside")
    for one in older[: len(older) + 1 - KEPT_MAX]:
        if one != path:
            shutil.rmtree(one, ignore_errors=True)
    return Aside(str(path), sentence, end)


def _highest_sequence(journal: Path) -> int:
    """Not less than the last one, from headers and sizes: what the segments hold is not trusted.
    Every record has at least 80 bytes."""
    highest = 0
    for path in journal.glob("*.segment"):
        try:
            with path.open("rb") as file:
                first, _, _ = decode_header(path, file.read(HEADER_BYTES))
                highest = max(highest, first + os.fstat(file.fileno()).st_size // RECORD_BYTES_MIN)
        except (Corrupt, OSError):
            continue
    return highest
