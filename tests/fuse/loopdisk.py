"""A small ext4 file system of a test's own, to be filled and mounted with any options.

What enters: an empty directory. What leaves: the same directory, mounted. Needs root.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everup.system.mounts import MNT_DETACH, mounts_at, unmount


@contextmanager
def small_disk(image: Path, place: Path, megabytes: int, options: str = "") -> Iterator[None]:
    """`place` is a file system of this size; attributes may be as long as the kernel allows."""
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(
        ["mkfs.ext4", "-q", "-m", "0", "-O", "ea_inode,^has_journal", str(image)],
        check=True, timeout=60,
    )  # fmt: skip
    words = ["mount", "-o", f"loop,{options}".rstrip(","), str(image), str(place)]
    subprocess.run(words, check=True, timeout=30)
    try:
        place.chmod(0o755)
        (place / "lost+found").rmdir()
        yield
    finally:
        while mounts_at(place):
            unmount(place, MNT_DETACH)
        image.unlink()
