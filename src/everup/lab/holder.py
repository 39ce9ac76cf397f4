"""The process that owns a lab's namespaces: run as a file, with the standard library alone.

What enters: the files through which it joins its control group. What leaves: a mount and a network
namespace of their own, in which the lab's disks, bridges and servers live, and the word `ready` on
stdout. Because every mount and device of the lab exists only in here, the end of this process and
of the servers is the end of all of them: `lab down` has nothing else to undo.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int = 0) -> None:
    encoded = kind.encode() if kind is not None else None
    result = _libc.mount(source.encode(), target.encode(), encoded, flags, None)
    _check(result, f"mount {target}")


def _is_foreign(kind: str, source: str) -> bool:
    """Mounts of other programs' tests or labs: a copy of them in here would keep them alive."""
    return kind.startswith("fuse") or kind == "overlay" or source.startswith("/dev/loop")


def _drop_foreign_mounts() -> None:
    targets = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, source = after.split()[:2]
        if _is_foreign(kind, source) and before.split()[4] != "/":
            targets.append(before.split()[4].encode().decode("unicode_escape"))
    for target in reversed(targets):
        _libc.umount2(target.encode(), _MNT_DETACH)


def main(joining: list[str]) -> None:
    """Join the group, make the namespaces, say so, and stay until killed."""
    for path in joining:
        Path(path).write_text(str(os.getpid()))
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET), "unshare")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _drop_foreign_mounts()
    _mount("tmpfs", "/run", "tmpfs")
    for name in ("netns", "lab"):
        os.mkdir(f"/run/{name}", 0o755)
    # These two would be inherited from the host: bridges must not route, nor answer by themselves.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(1, b"ready\n")
    os.close(1)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
