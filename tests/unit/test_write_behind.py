"""Writes in a thread of their own: all arrive, an error is told, no number is reused too soon."""

import fcntl
import os
import random
from pathlib import Path

import pytest

from everup.replicate.filecopy import BEHIND_FROM_BYTES, FileCopy
from everup.replicate.writebehind import WriteBehind


def test_write_behind_everything_is_there_when_a_file_ends(tmp_path: Path) -> None:
    behind, noise = WriteBehind(), random.Random(1)
    parts = [noise.randbytes(BEHIND_FROM_BYTES + n) for n in range(40)]
    path = tmp_path / "file"
    path.touch()
    file = FileCopy(os.open(path, os.O_RDWR), lambda: None)
    at = 0
    for part in parts:
        file.write(at, part, behind)
        at += len(part)
    file.end(at, 10**18)
    assert path.read_bytes() == b"".join(parts)
    assert path.stat().st_mtime_ns == 10**18, "nothing was written after its time was set"
    behind.close()


def test_write_behind_an_error_ends_the_copy(tmp_path: Path) -> None:
    behind = WriteBehind()
    path = tmp_path / "file"
    path.touch()
    file = FileCopy(os.open(path, os.O_RDONLY), lambda: None)
    with pytest.raises(OSError):
        file.write(0, bytes(BEHIND_FROM_BYTES), behind)
        file.end(BEHIND_FROM_BYTES, 0)
    behind.close()
    file.close()


def test_write_behind_a_short_write_does_not_overtake_one_that_fails() -> None:
    """Otherwise the file has its size, and nobody sees the hole in it."""
    behind = WriteBehind()
    descriptor = os.memfd_create("file", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 5)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    file = FileCopy(descriptor, lambda: None)
    file.write(1 << 20, bytes(BEHIND_FROM_BYTES), behind)
    with pytest.raises(PermissionError):
        file.write(0, b"short", behind)
    assert os.pread(descriptor, 5, 0) == bytes(5)
    behind.close()
    file.close()


def test_write_behind_a_file_that_is_given_up_is_closed_behind_its_writes(tmp_path: Path) -> None:
    """Otherwise they would go to whatever is opened next under the same number."""
    behind = WriteBehind()
    for number in range(20):
        path = tmp_path / str(number)
        path.touch()
        file = FileCopy(os.open(path, os.O_RDWR), lambda: None)
        file.write(0, bytes([number]) * BEHIND_FROM_BYTES, behind)
        file.close()
    behind.close()
    for number in range(20):
        assert (tmp_path / str(number)).read_bytes() == bytes([number]) * BEHIND_FROM_BYTES
