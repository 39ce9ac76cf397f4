"""Clocks of this machine.

What leaves: nanoseconds. Deadlines use the boot-time clock, which goes on during suspend and is
never set by anybody; wall time is for people and for records only.
"""

import time
from pathlib import Path


def boottime_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds; comparable between processes of one boot."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_ns() -> int:
    """Wall clock in nanoseconds since 1970; may jump."""
    return time.time_ns()


def boot_id() -> bytes:
    """16 bytes that change at every boot of the kernel."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return bytes.fromhex(text.replace("-", ""))
