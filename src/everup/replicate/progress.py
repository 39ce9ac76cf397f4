"""How far a sync is: what both sides count while it runs, and what the status shows of it.

What enters: counts of the sync's own thread. What leaves: the JSON of a sync in the status. Used by
`resync` on the source and `synctarget` on the target.
"""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Written by one thread. Bytes are those of file contents."""

    state: str = "walking"
    done_bytes: int = 0
    total_bytes: int = 0
    objects: int = 0
    started: float = field(default_factory=time.monotonic)

    def status(self, sentence: str) -> dict[str, Any]:
        elapsed = max(time.monotonic() - self.started, 0.001)
        rate = int(self.done_bytes / elapsed)
        left = max(0, self.total_bytes - self.done_bytes)
        return {
            "state": self.state,
            "done_bytes": min(self.done_bytes, self.total_bytes),
            "total_bytes": self.total_bytes,
            "rate_bytes_per_s": rate,
            "left_ms": left * 1000 // rate if rate and self.state == "copying" else 0,
            "sentence": sentence,
        }
