"""What the parts of the protocol share: the vote, the settings, and the tray of what goes out.

What enters: messages and events of the parts. What leaves: one `Output` per input of the protocol.
Called by standing, holding, peers and protocol. Pure.

A message that rests on a changed vote waits here until that vote is stored.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from everup.keeper.messages import Message, Request
from everup.keeper.record import Known
from everup.keeper.voter import Voter, VoteState

WAITING_MAX = 512
RETRY_NS = 50_000_000
"""Interval at which an unanswered question is repeated."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Intervals of the group, in nanoseconds."""

    heartbeat_ns: int = 100_000_000
    lease_ns: int = 1_000_000_000
    renew_ns: int = 250_000_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the agent wants to know at once."""

    kind: str
    details: dict[str, Any]


@dataclass(slots=True)
class Output:
    """What the process has to do, in this order: lease, sends, store, events.

    `lease` is (epoch, deadline) for the lease page, deadline 0 clears it. `store` is to be made
    durable and then reported with `Keeper.stored(number)`; a newer one replaces an older one.
    """

    lease: tuple[int, int] | None = None
    sends: list[tuple[str, Message]] = field(default_factory=list)
    store: tuple[int, VoteState] | None = None
    events: list[Event] = field(default_factory=list)


class Desk:
    """Shared by the parts of one keeper; `now_ns` is set at each input."""

    def __init__(
        self, server: str, voter: Voter, timing: Timing, run: int, now_ns: int, members: set[str]
    ) -> None:
        self.server = server
        self.voter = voter
        self.timing = timing
        self.run = run
        self.now_ns = now_ns
        self.members = members
        self.epoch_seen = voter.state.promised
        self.local: deque[Message] = deque()
        self._output = Output()
        self._noted = voter.state
        self._number = 0
        self._binding = 0
        self._stored = 0
        self._waiting: deque[tuple[int, str, Message]] = deque(maxlen=WAITING_MAX)

    # storing

    def note_state(self) -> None:
        """Ask for storage when the vote has changed."""
        state = self.voter.state
        if state == self._noted:
            return
        self._number += 1
        if not _only_settled(self._noted, state):
            self._binding = self._number
        self._noted = state
        self._output.store = (self._number, state)

    @property
    def number(self) -> int:
        """Of the newest state that was handed out to be stored."""
        self.note_state()
        return self._number

    def store_ahead(self, known: Known) -> int:
        """Have the vote stored as if its record were `known`; the number to wait for."""
        self.note_state()
        self._number += 1
        self._output.store = (self._number, replace(self.voter.state, known=known))
        return self._number

    def stored(self, number: int) -> None:
        """State `number` is durable: what waited for it may leave."""
        self._stored = max(self._stored, number)
        while self._waiting and self._waiting[0][0] <= self._stored:
            _, to, message = self._waiting.popleft()
            self._put(to, message)

    @property
    def storing(self) -> bool:
        """Whether something that others rely on is not durable yet."""
        self.note_state()
        return self._binding > self._stored

    # sending

    def send(self, to: str, message: Message) -> None:
        """Send what rests on nothing that has to be stored."""
        self._put(to, message)

    def send_when_stored(self, to: str, message: Message) -> None:
        """Send as soon as the vote, as it is now, is durable."""
        if self.storing:
            self._waiting.append((self._binding, to, message))
        else:
            self._put(to, message)

    def _put(self, to: str, message: Message) -> None:
        if to == self.server:
            self.local.append(message)
        else:
            self._output.sends.append((to, message))

    def ask(self, to: str, request: Request) -> None:
        """Put a request to a voter; our own voter answers like any other."""
        if to == self.server:
            self.answer(self.server, request)
        else:
            self.send(to, request)

    def answer(self, asker: str, request: Request) -> None:
        """Let our voter answer."""
        reply = self.voter.answer(asker, request, self.now_ns)
        self.send_when_stored(asker, reply)

    # the rest of the output

    def publish(self, epoch: int, deadline_ns: int) -> None:
        self._output.lease = (epoch, deadline_ns)

    def event(self, kind: str, **details: Any) -> None:
        self._output.events.append(Event(kind, details))

    def take(self) -> Output:
        """The output so far; a new tray begins."""
        self.note_state()
        output, self._output = self._output, Output()
        return output

    def saw_epoch(self, epoch: int) -> None:
        self.epoch_seen = max(self.epoch_seen, epoch)


def _only_settled(old: VoteState, new: VoteState) -> bool:
    """Whether the only news is that a stored record is committed; nobody relies on that."""
    if old.known is None or new.known is None:
        return False
    return replace(old, known=new.known) == new and old.known.settled() == new.known
