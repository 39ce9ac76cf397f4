"""How hard to compress: a level that fits the link and the processor (pure).

What enters: bytes per second that the link takes, how long the oldest batch has waited, and what
compressing cost so far. What leaves: a rung of the ladder. Called by `replicate.pipe` and by the
sync channel; time enters as an argument. Why so: docs/decisions/0010-slow-links.md.

The rule compares two times. A higher rung costs processor time for every byte, and saves the link
the time for the bytes that it does not have to carry. A step up is taken while it saves more than
it costs, and while the compressor can still keep the link full. A link that was never full slows
nobody: it gets the first rung.
"""

from typing import NamedTuple

HOLD_MS = 3000
"""A better rung is taken when it was better for this long: a new one forgets what came before."""
URGENT_MS = 1000
"""When batches wait this long, bytes count twice."""
HEADROOM = 1.25
"""The compressor must fill the link and have this much left."""
MEASURED_PART = 0.1
"""Weight of a new measurement."""
MEASURED_FROM_BYTES = 16 << 10
"""Shorter bodies say more about the call than about the level."""


class Rung(NamedTuple):
    level: int
    """zstd's level; negative ones are its fast ones."""
    window_log: int
    """Bytes that are remembered for repeats, as a power of two."""
    bytes_per_s: float
    """Raw bytes that a core of the machine we measured on compresses in a second."""
    share: float
    """Compressed bytes per raw byte of a web server's log; only its steps matter."""


LADDER = (
    Rung(-5, 20, 765e6, 0.297),
    Rung(1, 22, 597e6, 0.1885),
    Rung(3, 22, 260e6, 0.170),
    Rung(6, 24, 87e6, 0.153),
    Rung(9, 24, 38e6, 0.148),
    Rung(12, 24, 18e6, 0.146),
)
SLOW_FROM = 2
"""From this rung on a link is so slow that nothing is left uncompressed."""


class LinkState(NamedTuple):
    """What is known about the way to a peer."""

    bytes_per_s: float
    """What it takes when it is full; 0: it never was."""
    oldest_ms: float
    """Age of the oldest batch that is not acknowledged."""


class Measured(NamedTuple):
    """This machine and this data, relative to the ladder's figures."""

    speed: float = 1.0
    share: float = 1.0


def best_rung(link: LinkState, measured: Measured) -> int:
    """Index of the rung that a patient person would choose now."""
    if link.bytes_per_s <= 0:
        return 0
    weight = 2.0 if link.oldest_ms >= URGENT_MS else 1.0
    chosen = 0
    for index in range(1, len(LADDER)):
        below, here = LADDER[index - 1], LADDER[index]
        costs = (1 / here.bytes_per_s - 1 / below.bytes_per_s) / measured.speed
        saves = (below.share - here.share) * measured.share / link.bytes_per_s
        fills = here.bytes_per_s * measured.speed * here.share * measured.share
        if costs > saves * weight or fills < link.bytes_per_s * HEADROOM:
            break
        chosen = index
    return chosen


class LevelControl:
    """Remembers the rung in use; belongs to one thread."""

    def __init__(self) -> None:
        self._index = 0
        self._better = 0
        self._better_since_ms = 0.0
        self.measured = Measured()

    @property
    def rung(self) -> Rung:
        return LADDER[self._index]

    def note(self, raw_bytes: int, packed_bytes: int, spent_ns: int) -> None:
        """What the rung in use made of a body, and the processor time that it took."""
        if raw_bytes < MEASURED_FROM_BYTES or spent_ns <= 0:
            return
        rung = self.rung
        speed = raw_bytes * 1e9 / spent_ns / rung.bytes_per_s
        share = packed_bytes / raw_bytes / rung.share
        before = self.measured
        self.measured = Measured(
            before.speed + (speed - before.speed) * MEASURED_PART,
            before.share + (share - before.share) * MEASURED_PART,
        )

    def choose(self, link: LinkState, now_ms: float) -> Rung:
        """The rung for what is compressed now."""
        best = best_rung(link, self.measured)
        if best == self._index or best != self._better:
            self._better, self._better_since_ms = best, now_ms
        elif now_ms - self._better_since_ms >= HOLD_MS:
            self._index = best
        return self.rung
