"""Is the worker stuck? Asked by the holder, every half second.

What enters: the page of the worker's pulse (see `pulse`) and what /proc says of its threads. What
leaves: the reason to replace it, or none. Two ways to be stuck:

- its pulse stops: it was stopped (SIGSTOP), or one thread never gives the interpreter back;
- its pulse says that requests have waited for a lock for long, and nobody works who could hold it.

Not stuck is who waits for a slow disk (a thread in the kernel, state D or inside a call), for the
lease (it sleeps and looks again) or for the processor (runnable, but it gets none); nor is it when
we ourselves were late: then the whole machine stood still, and that time is not counted.
"""

import mmap
import os
from pathlib import Path
from typing import NamedTuple

TICK_S = 0.5
LATE_S = 1.0
SILENT_S = 5.0
STUCK_S = 5.0
"""With the ticks in between a stuck worker is replaced within 10 s."""
SPINNING_S = 3.0
PAGE_BYTES = 4096
PULSE, STUCK_MS = 0, 1
"""Words of the page."""
_STOPPED = frozenset("Tt")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Threads(NamedTuple):
    """All threads of a process: one letter of state each, and their processor time together."""

    states: str
    processor_s: float


def threads_of(pid: int) -> Threads:
    """What /proc says; no states when the process is gone."""
    states, ticks = "", 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            fields = Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()
            states += fields[0]
            ticks += int(fields[11]) + int(fields[12])
    except OSError:
        pass
    return Threads(states, ticks / _TICKS_PER_S)


def make_page() -> int:
    """Descriptor of a page that holder and worker share."""
    descriptor = os.memfd_create("everup-pulse", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, PAGE_BYTES)
    return descriptor


class Judge:
    """The decision, without a clock or a process (pure)."""

    def __init__(self) -> None:
        self._pulse = -1
        self._looked_s = 0.0
        self._silent_s = 0.0
        self._processor_s = 0.0
        self._stuck_s = 0.0

    def judge(self, now_s: float, pulse: int, stuck_ms: int, threads: Threads) -> str:
        """The reason why it is stuck; empty if it is not. Called at every tick."""
        passed_s = now_s - self._looked_s if self._looked_s else 0.0
        self._looked_s = now_s
        if pulse != self._pulse:
            self._pulse, self._silent_s = pulse, 0.0
            self._processor_s = threads.processor_s
            if stuck_ms < STUCK_S * 1000:
                return ""
            return f"requests have waited for a lock for {stuck_ms / 1000:.0f} s"
        if passed_s > LATE_S or "D" in threads.states:
            return ""
        self._silent_s += passed_s
        if self._silent_s < SILENT_S:
            return ""
        return self._silence(threads)

    def _silence(self, threads: Threads) -> str:
        said = f"nothing was heard of the worker for {self._silent_s:.0f} s"
        if _STOPPED & set(threads.states):
            return f"{said}: it was stopped"
        used_s = threads.processor_s - self._processor_s
        if "R" in threads.states:
            # Runnable: either it computes without end, or the machine has no time for it.
            return f"{said}: it computes without end" if used_s > SPINNING_S else ""
        return f"{said}: its threads wait for each other"


class Watch:
    """Looks at one worker after the other."""

    def __init__(self, page: int) -> None:
        self._words = memoryview(mmap.mmap(page, PAGE_BYTES)).cast("Q")
        self._judge: Judge | None = None
        self._pid = 0
        self.reason = ""

    def begin(self, pid: int) -> None:
        """Another worker; its pulse begins when it has got the word."""
        self._pid, self._judge, self.reason = pid, None, ""
        self._words[PULSE] = self._words[STUCK_MS] = 0

    def look(self, now_s: float) -> str:
        """The reason to kill it, said once; empty if there is none."""
        pulse = self._words[PULSE]
        if not pulse or self.reason:
            return ""
        if self._judge is None:
            self._judge = Judge()
        threads = threads_of(self._pid)
        self.reason = self._judge.judge(now_s, pulse, self._words[STUCK_MS], threads)
        return self.reason
