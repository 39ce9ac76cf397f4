"""Moving a thread of ours into a lab's network.

What enters: a process of the lab. What leaves: the calling thread (and only it) in that process's
network namespace; sockets that it opened before stay where they were.
"""

import ctypes
import os

from everup.lab.commands import LabError

_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def join_network(process_id: int) -> None:
    """Move the calling thread into the network namespace of a process."""
    handle = os.open(f"/proc/{process_id}/ns/net", os.O_RDONLY)
    try:
        if _libc.setns(handle, _CLONE_NEWNET) != 0:
            raise LabError(f"setns: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(handle)
