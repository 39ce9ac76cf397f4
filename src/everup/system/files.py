"""Small files that must survive a power cut whole.

What enters: bytes or JSON. What leaves: a file that holds either the old or the new content.
Called by every process that keeps state. Calls are labelled with the operation they belong to,
so that a test can fail exactly one of them (`Door`).
"""

import json
import os
from pathlib import Path
from typing import Any


class Door:
    """The system calls through which durable state goes; tests hand in one that fails on purpose.

    The first argument of each call names the operation ("save-vote", "append-receive", ...).
    """

    def fdatasync(self, operation: str, descriptor: int) -> None:
        del operation
        os.fdatasync(descriptor)

    def fsync(self, operation: str, descriptor: int) -> None:
        del operation
        os.fsync(descriptor)

    def write(self, operation: str, descriptor: int, data: bytes | memoryview) -> int:
        del operation
        return os.write(descriptor, data)

    def replace(self, operation: str, source: Path, target: Path) -> None:
        del operation
        os.replace(source, target)


REAL_DOOR = Door()


def sync_directory(path: Path, operation: str = "sync-directory", door: Door = REAL_DOOR) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        door.fsync(operation, descriptor)
    finally:
        os.close(descriptor)


def save_bytes(
    path: Path, data: bytes, *, operation: str, mode: int = 0o600, door: Door = REAL_DOOR
) -> None:
    """Replace `path` by `data`, durably: write beside, sync, rename, sync the directory.

    Does not promise anything when the disk lies about a sync, and keeps no owner other than ours.
    Raises OSError; then the old content is still there.
    """
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        view = memoryview(data)
        while view:
            view = view[door.write(operation, descriptor, view) :]
        door.fsync(operation, descriptor)
    finally:
        os.close(descriptor)
    door.replace(operation, beside, path)
    sync_directory(path.parent, operation, door)


def save_json(
    path: Path, value: Any, *, operation: str, mode: int = 0o600, door: Door = REAL_DOOR
) -> None:
    """`save_bytes` of a JSON document."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    save_bytes(path, text.encode(), operation=operation, mode=mode, door=door)


def load_json(path: Path) -> Any | None:
    """Read a JSON document; None when the file does not exist.

    Raises ValueError when it holds something else: state is never guessed.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deep") from error
