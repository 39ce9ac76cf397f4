"""Start one server's machine in a mount namespace that sees no other server's disk.

Run as a file, with the standard library alone: `launch.py HOLDER_PID SERVER GROUP_FILE... --
PROGRAM ...`. What leaves: this process becomes PROGRAM (systemd-nspawn), a member of the groups and
inside the lab's namespaces. nspawn moves its root over the old one instead of leaving it, so every
mount that it could see stays in use until it ends; a disk that lost power could then never be
unmounted while another server runs.
"""

import ctypes
import os
import sys

_CLONE_NEWNS = 0x00020000
_MNT_DETACH = 2
_OTHERS = ("/run/lab/disk/", "/run/lab/root/")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as handle:  # noqa: PTH123 - import of pathlib costs 5 ms
        return handle.read()


def _enter(holder: int) -> None:
    handles = [os.open(f"/proc/{holder}/ns/{name}", os.O_RDONLY) for name in ("net", "mnt")]
    for handle in handles:
        _check(_libc.setns(handle, 0), "setns")
        os.close(handle)
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    os.chdir("/")


def _drop_other_servers(server: str) -> None:
    targets = [line.split()[4] for line in _read("/proc/self/mountinfo").splitlines()]
    for target in reversed(targets):
        if target.startswith(_OTHERS) and not target.endswith(f"/{server}"):
            _check(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def main(holder: int, server: str, groups: list[str], program: list[str]) -> None:
    for group in groups:
        with open(group, "w", encoding="ascii") as handle:  # noqa: PTH123 - as above
            handle.write(str(os.getpid()))
    _enter(holder)
    _drop_other_servers(server)
    os.execvp(program[0], program)


if __name__ == "__main__":
    words = sys.argv[1:]
    end_of_groups = words.index("--")
    main(int(words[0]), words[1], words[2:end_of_groups], words[end_of_groups + 1 :])
