"""Which of the processes that wait for us were killed, and may be let go.

What enters: thread ids as the kernel names them in requests. What leaves: yes or no, from /proc.
The kernel tells of any first signal that reaches a waiting process (PostgreSQL sends itself many)
and then of no further one. But an fsync that a signal ends is unknown to applications: they take it
for a broken disk. So only the killed are let go, and who got a signal is looked at again and again.
Called by `syncing`.
"""

import signal
from pathlib import Path

_KILL = 1 << (signal.SIGKILL - 1)
_FIELDS = (b"SigPnd:", b"ShdPnd:")


def killed(thread: int) -> bool:
    """Whether SIGKILL is pending for this thread; False for one that cannot be seen from here."""
    try:
        status = Path(f"/proc/{thread}/status").read_bytes()
    except OSError:
        return False
    lines = (line.split() for line in status.splitlines() if line.startswith(_FIELDS))
    return any(int(words[1], 16) & _KILL for words in lines)
