"""A group of keepers on a perfect network with one clock, for stories told step by step.

What enters: cuts, held disks, time. What leaves: events with their time, and the keepers
to look at. Uses the production protocol; only the surroundings are small.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from everup.keeper.desk import Output, Timing
from everup.keeper.messages import Message
from everup.keeper.protocol import Keeper
from everup.keeper.record import Known, Record
from everup.keeper.voter import VoteState

MS = 1_000_000
START_NS = 5_000 * MS


class Bench:
    def __init__(self, *members: str, listed: tuple[str, ...] = (), voters: tuple[str, ...] = ()):
        self.members = set(members)
        self.timing = Timing()
        self.now_ns = START_NS
        self.blocked: set[tuple[str, str]] = set()
        self.held_disks: set[str] = set()
        self.unsaved: dict[str, tuple[int, VoteState]] = {}
        self.disks: dict[str, VoteState] = {}
        self.pages: dict[str, tuple[int, int]] = {}
        self.events: list[tuple[float, str, str, dict[str, Any]]] = []
        self.keepers: dict[str, Keeper] = {}
        self.runs = 0
        self._mail: deque[tuple[str, str, Message]] = deque()
        record = Record(3, 0, voters or members, listed or members, "durable")
        for name in members:
            self.disks[name] = VoteState(known=Known(record))
            self.start(name, restarted=False)

    # life

    def start(self, name: str, *, restarted: bool = True) -> None:
        self.runs += 1
        self.keepers[name] = Keeper(
            name,
            self.members,
            self.timing,
            self.disks[name],
            self.now_ns,
            run=self.runs,
            page=self.pages.get(name, (0, 0)),
            restarted=restarted,
        )

    def stop(self, name: str, *, power: bool = True) -> None:
        del self.keepers[name]
        self.unsaved.pop(name, None)
        if power:
            self.pages.pop(name, None)

    # time and mail

    def run(self, ms: float) -> None:
        """Let `ms` pass."""
        end_ns = self.now_ns + int(ms * MS)
        while True:
            self._deliver()
            due = min((k.wake_at_ns() for k in self.keepers.values()), default=end_ns)
            if due > end_ns:
                break
            self.now_ns = max(self.now_ns, due)
            for name, keeper in list(self.keepers.items()):
                if keeper.wake_at_ns() <= self.now_ns:
                    self.do(name, keeper.tick(self.now_ns))
        self.now_ns = end_ns

    def do(self, name: str, output: Output) -> None:
        if output.lease is not None:
            self.pages[name] = output.lease
        for event in output.events:
            at_ms = (self.now_ns - START_NS) / MS
            self.events.append((at_ms, name, event.kind, event.details))
        self._mail.extend((name, to, message) for to, message in output.sends)
        if output.store is not None:
            self.unsaved[name] = output.store
            self._save(name)

    def _save(self, name: str) -> None:
        if name in self.held_disks or name not in self.unsaved:
            return
        number, state = self.unsaved.pop(name)
        self.disks[name] = state
        self.do(name, self.keepers[name].stored(self.now_ns, number))

    def free_disk(self, name: str) -> None:
        self.held_disks.discard(name)
        self._save(name)
        self._deliver()

    def _deliver(self) -> None:
        while self._mail:
            sender, to, message = self._mail.popleft()
            if to in self.keepers and (sender, to) not in self.blocked:
                self.do(to, self.keepers[to].receive(self.now_ns, sender, message))

    # cables

    def isolate(self, name: str) -> None:
        for other in self.members - {name}:
            self.blocked |= {(name, other), (other, name)}

    def heal(self) -> None:
        self.blocked.clear()

    # wishes

    def stand(self, name: str, ms: int = 3000, **options: Any) -> None:
        keeper = self.keepers[name]
        self.do(name, keeper.stand(self.now_ns, self.now_ns + ms * MS, **options))

    def propose(self, name: str, ms: int = 1000, **change: Any) -> str:
        keeper = self.keepers[name]
        refusal, output = keeper.propose(self.now_ns, change, self.now_ns + ms * MS)
        self.do(name, output)
        return refusal

    def permit_all(self) -> None:
        for name, keeper in self.keepers.items():
            self.do(name, keeper.permit(self.now_ns, {}))

    # looking

    def holders(self) -> list[str]:
        return [name for name, keeper in self.keepers.items() if keeper.lease is not None]

    def last(self, kind: str, name: str | None = None) -> tuple[float, dict[str, Any]]:
        """Time in ms and details of the newest event of a kind."""
        for at_ms, who, what, details in reversed(self.events):
            if what == kind and name in (None, who):
                return at_ms, details
        raise AssertionError(f"no event {kind} of {name} in {self.events}")

    def kinds(self, name: str) -> list[str]:
        return [what for _, who, what, _ in self.events if who == name]
