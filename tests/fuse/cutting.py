"""A small real disk for one protected directory, and its power cut.

What enters: a directory. What leaves: the same directory as the mount point of an image of its own,
whose power can be cut (from that moment on nothing more reaches the image, the log of its file
system included) and which can be read again afterwards; or which stands still for a while. Used by
tests of what was synced, and of what takes long.
"""

import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FS_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878


def _run(*command: str | Path) -> str:
    return subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True, timeout=60
    ).stdout


class SmallDisk:
    """An ext4 image, mounted at `path` until `unmount`."""

    def __init__(self, image: Path, path: Path, mebibytes: int) -> None:
        self.image = image
        self.path = path
        with image.open("wb") as file:
            file.truncate(mebibytes << 20)
        _run("mkfs.ext4", "-q", "-m", "0", image)
        self.mount()
        (path / "lost+found").rmdir()
        path.chmod(0o755)
        os.sync()

    def mount(self) -> None:
        self.path.mkdir(exist_ok=True)
        # No commit of the log by itself within a test: only what is synced is on the disk.
        _run("mount", "-o", "loop,commit=600", self.image, self.path)

    def cut_power(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    @staticmethod
    @contextmanager
    def frozen(path: Path) -> Iterator[None]:
        """Context in which whoever changes something on the disk of this directory waits."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.ioctl(descriptor, _FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(descriptor, _FITHAW, 0)
            os.close(descriptor)

    def unmount(self) -> None:
        """Returns when the kernel has let the image go; only then may it be mounted again."""
        _run("umount", self.path)
        give_up = time.monotonic() + 20
        while _run("losetup", "-j", self.image).strip():
            assert time.monotonic() < give_up, "the image is still in use"
            time.sleep(0.01)
