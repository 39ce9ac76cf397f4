"""A server's own disk: an image file with a real file system, which can lose power.

What enters: where the lab is and how the disk shall be formatted. What leaves: a mounted disk with
the server's writable layer and its real directories, or one that was cut off with the file system's
own shutdown: what was not synced is gone, as after a power failure.
"""

import fcntl
import os
import struct
import time
from pathlib import Path

from everup.errors import BadInput, DeadlinePassed
from everup.lab.base import Base
from everup.lab.commands import run_host
from everup.lab.layout import REAL_DIRECTORIES, real_directory

FILE_SYSTEMS = ("ext4", "xfs")
DEFAULT_BYTES = 12 << 30
_FS_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2

_FORMAT = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
_OPTIONS = {"ext4": "loop,noinit_itable,errors=continue", "xfs": "loop"}


class Disk:
    """The disk of one server of a lab."""

    def __init__(self, base: Base, server: str) -> None:
        self._base = base
        self.image = base.directory / "images" / f"{server}.img"
        self.inside = f"/run/lab/disk/{server}"

    @property
    def root(self) -> Path:
        """The host's way to the root of the mounted disk."""
        return self._base.path(self.inside)

    def real(self, path: str) -> Path:
        """The host's way to the server's own directory or file `path`, below any gate.

        `path` must lie in one of the real directories.
        """
        if not any(path == real or path.startswith(f"{real}/") for real in REAL_DIRECTORIES):
            raise BadInput(f"{path} is not in a real directory of the lab's servers.")
        return self.root / real_directory(path)

    @property
    def file_system(self) -> str:
        """What the image was formatted with."""
        return run_host(["blkid", "-o", "value", "-s", "TYPE", str(self.image)]).stdout.strip()

    def create(self, file_system: str, size_bytes: int = DEFAULT_BYTES) -> None:
        """Format a new disk and make the directories that every server needs."""
        if file_system not in FILE_SYSTEMS:
            raise BadInput(
                f"A lab disk cannot be formatted with {file_system}.",
                remedy=f"Choose one of {', '.join(FILE_SYSTEMS)}.",
            )
        self.image.parent.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as handle:
            handle.truncate(size_bytes)
        run_host([*_FORMAT[file_system], str(self.image)], timeout_s=120)
        self.mount(file_system)
        for name in ("up", "work"):
            (self.root / name).mkdir(mode=0o755)
        for path in REAL_DIRECTORIES:
            self._make_real(path)
        self.sync()

    def sync(self) -> None:
        """Everything written so far is on the disk."""
        self._base.run(["sync", "-f", self.inside], timeout_s=120)

    def _make_real(self, path: str) -> None:
        """Like the host's directory in owner and mode, but empty."""
        target = self.root / real_directory(path)
        target.mkdir(parents=True, exist_ok=True)
        if Path(path).is_dir():
            like = Path(path).stat()
            os.chown(target, like.st_uid, like.st_gid)
            target.chmod(like.st_mode & 0o7777)

    def mount(self, file_system: str | None = None) -> None:
        kind = file_system or self.file_system
        self.root.mkdir(parents=True, exist_ok=True)
        self._base.run(
            ["mount", "-t", kind, "-o", _OPTIONS[kind], str(self.image), self.inside], timeout_s=120
        )

    def lose_power(self) -> None:
        """From this call's return nothing more reaches the disk, the file system's log included."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def unmount(self, *, deadline_s: float = 20.0) -> None:
        """Unmount and wait until the kernel has let the image go.

        Only then may it be mounted again: as long as anything holds the old file system, its cached
        blocks could still be written over what a new mount writes.
        """
        self._base.run(["umount", self.inside], timeout_s=deadline_s)
        end = time.monotonic() + deadline_s
        while run_host(["losetup", "-j", str(self.image)]).stdout.strip():
            if time.monotonic() > end:
                raise DeadlinePassed(f"The disk image {self.image} is still in use.")
            time.sleep(0.01)
