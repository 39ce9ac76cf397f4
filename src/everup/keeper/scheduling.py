"""Keep this process in memory and ahead of others: a late heartbeat looks like a dead server.

What enters: nothing. What leaves: locked memory, and "real-time" or "nice". Called by the mains,
the priority before everything else: on a busy machine the imports alone would take half a second.
"""

import ctypes
import gc
import os
import threading

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
PRIORITY = 10
NICE = -15
STACK_BYTES = 256 << 10


def lock_memory() -> bool:
    """Nothing of this process is ever paged out; False when that is not permitted."""
    library = ctypes.CDLL(None, use_errno=True)
    flags = _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT
    return int(library.mlockall(flags)) == 0


def raise_priority() -> str:
    """Real-time round robin where permitted, else a better nice value; says which."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
        return "real-time"
    except OSError:
        pass
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError:
        return "ordinary"
    return "nice"


def settle() -> None:
    """Memory: locked, small thread stacks, and no collection over what lives for ever."""
    threading.stack_size(STACK_BYTES)
    lock_memory()
    gc.collect()
    gc.freeze()
