"""Giving up a single privilege of root.

What enters: the number of a capability. What leaves: a process that does not have it any more.
Called by the guard's worker.
"""

import ctypes
import os
from struct import Struct

SYS_RESOURCE = 24
"""Lets its holder exceed disk quotas: what is written for a user must not."""

_VERSION_3 = 0x20080522
_HEAD = Struct("<II")
_SETS = Struct("<IIIIII")
_libc = ctypes.CDLL(None, use_errno=True)


def give_up(capability: int) -> None:
    """Drop a capability from this thread, for good, and from all that it starts. Raises OSError.

    Capabilities belong to threads: call it before there is a second one.
    """
    head = ctypes.create_string_buffer(_HEAD.pack(_VERSION_3, 0), _HEAD.size)
    sets = ctypes.create_string_buffer(_SETS.size)
    if _libc.capget(head, sets) < 0:
        raise _failed()
    values = list(_SETS.unpack(sets.raw))
    word, bit = divmod(capability, 32)
    for kind in range(3):
        values[3 * word + kind] &= ~(1 << bit)
    if _libc.capset(head, ctypes.create_string_buffer(_SETS.pack(*values), _SETS.size)) < 0:
        raise _failed()


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
