"""Run a program inside a lab server: run as a file, with the standard library alone.

What enters: `enter.py GROUP_FILE LEADER_PID PROGRAM ...`. It joins the server's control group (so
that a power cut ends it too) and all namespaces of the server's first process, then runs PROGRAM
with our stdin, stdout and stderr. What leaves: its exit code, or 128 + the signal that ended it.
Chosen over nsenter(1), which cannot join a control group and would outlive a power cut.
"""

import ctypes
import os
import signal
import sys

_NAMESPACES = ("cgroup", "ipc", "uts", "net", "pid", "mnt")
_PR_SET_PDEATHSIG = 1
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _enter(leader: int) -> None:
    root = os.open(f"/proc/{leader}/root", os.O_RDONLY | os.O_CLOEXEC)
    handles = [
        os.open(f"/proc/{leader}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _NAMESPACES
    ]
    for handle, name in zip(handles, _NAMESPACES, strict=True):
        if _libc.setns(handle, 0) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")
        os.close(handle)
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")


def main(group_file: str, leader: int, program: list[str]) -> int:
    with open(group_file, "w", encoding="ascii") as handle:  # noqa: PTH123 - import of pathlib costs 5 ms
        handle.write(str(os.getpid()))
    try:
        _enter(leader)
    except (FileNotFoundError, ProcessLookupError):
        sys.stderr.write("The server has no power.\n")
        return 1
    child = os.fork()
    if child == 0:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        environment = dict(_ENVIRONMENT)
        if "TERM" in os.environ:
            environment["TERM"] = os.environ["TERM"]
        try:
            os.execvpe(program[0], program, environment)
        except OSError as error:
            sys.stderr.write(f"{program[0]}: {error.strerror}\n")
            os._exit(127)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
