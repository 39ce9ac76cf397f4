"""Small files that must survive a power cut whole.

What enters: bytes or JSON. What leaves: a file that holds either the old or the new content.
Called by every process that keeps state. Calls are labelled with the operation they belong to,
so that a test can fail exactly one of them (`Door`).
"""

import errno
import json
import os
from math import isfinite
from pathlib import Path
from typing import Any

RESERVE_NAME = "reserve"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


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

    On a full disk the reserve of that directory is given up for it (`keep_reserve`).
    Does not promise anything when the disk lies about a sync, and keeps no owner other than ours.
    Raises OSError; then the old content is still there.
    """
    beside = path.with_name(path.name + ".new")
    try:
        _write_beside(beside, data, operation, mode, door)
    except OSError as problem:
        if problem.errno not in _NO_SPACE or not _give_up_reserve(path.parent):
            raise
        _write_beside(beside, data, operation, mode, door)
    door.replace(operation, beside, path)
    sync_directory(path.parent, operation, door)


def _write_beside(beside: Path, data: bytes, operation: str, mode: int, door: Door) -> None:
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        view = memoryview(data)
        while view:
            view = view[door.write(operation, descriptor, view) :]
        door.fsync(operation, descriptor)
    finally:
        os.close(descriptor)


def keep_reserve(directory: Path, reserve_bytes: int) -> None:
    """Have room set aside for small files in `directory`; called now and then. Raises OSError.

    It is made again only when there is plenty, so that it does not take the very last space.
    """
    path = directory / RESERVE_NAME
    if path.exists():
        return
    status = os.statvfs(directory)
    if status.f_bavail * status.f_frsize < 4 * reserve_bytes:
        return
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, reserve_bytes)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(beside, path)


def _give_up_reserve(directory: Path) -> bool:
    try:
        (directory / RESERVE_NAME).unlink()
    except OSError:
        return False
    # ext4 and XFS give the blocks back when the removal is on the disk.
    sync_directory(directory)
    return True


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
        return json.loads(data, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deep") from error


def _finite(text: str) -> float:
    """No state has an infinite number; `int` of one would not even be a ValueError."""
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is not a number")
    return value
