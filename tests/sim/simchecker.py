"""The promises, checked in true time, which no server knows.

What enters: every lease that a server publishes, every win, every commit. What leaves: violations
as (promise, sentence).
"""

from __future__ import annotations

from everup.keeper.record import Known, Record

MS = 1_000_000


class Checker:
    def __init__(self, first: Record) -> None:
        self.violations: list[tuple[str, str]] = []
        self.until: dict[str, tuple[int, int]] = {}
        """Server -> (epoch, true end of what it may still do)."""
        self.last_epoch = 0
        self.last_holder = ""
        self.committed = first
        self.failovers = 0
        self.released = False
        self.switchovers = 0

    def publishes(self, now: int, server: str, epoch: int, true_end: int) -> None:
        """`server` may act under `epoch` until `true_end` (0: not at all)."""
        if true_end <= now:
            self.until.pop(server, None)
            return
        self.until[server] = (epoch, true_end)
        for other, (other_epoch, other_end) in self.until.items():
            if other != server and other_end > now:
                self._violated(
                    "single-active",
                    f"at {now / MS:.1f} ms {server} acts in epoch {epoch} while {other} acts in "
                    f"epoch {other_epoch} for {(other_end - now) / MS:.1f} ms more",
                )

    def loses_power(self, server: str) -> None:
        self.until.pop(server, None)

    def wins(self, now: int, server: str, epoch: int, known: Known | None) -> None:
        if epoch <= self.last_epoch:
            self._violated(
                "epochs-grow", f"{server} won epoch {epoch} after {self.last_epoch} was won"
            )
        if known is None or known.key < self.committed.key:
            self._violated(
                "record-kept", f"{server} won epoch {epoch} without {self.committed.to_json()}"
            )
        if server not in self.committed.may_take_over:
            self._violated(
                "listed", f"{server} won epoch {epoch}, not listed in {self.committed.to_json()}"
            )
        self.last_epoch = max(epoch, self.last_epoch)
        if self.last_holder and server != self.last_holder:
            if self.released:
                self.switchovers += 1
            else:
                self.failovers += 1
        self.released = False
        self.last_holder = server

    def commits(self, server: str, record: Record) -> None:
        if record.key <= self.committed.key:
            self._violated(
                "record-kept",
                f"{server} committed {record.to_json()} after {self.committed.to_json()}",
            )
            return
        self.committed = record

    def _violated(self, promise: str, sentence: str) -> None:
        if len(self.violations) < 5:
            self.violations.append((promise, sentence))
