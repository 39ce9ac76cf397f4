"""One vote: what a server has promised, to whom, and what it answers to somebody who asks.

What enters: requests and the time (nanoseconds of this server's boot-time clock). What leaves:
answers, and whether the durable part changed; then the answer may leave only after it is stored.
Called by the protocol. Pure.

Durable are promised epoch, holder, the longest lease ever granted and the record; a renewal
changes none of them and costs no disk. The grant itself lives in memory: after a restart the voter
waits until the longest lease that it can have forgotten is over.
"""

from dataclasses import dataclass, replace
from typing import Any

from everup.keeper.messages import Reply, Request
from everup.keeper.record import Known, count

RESTART_WAIT_FACTOR_PERCENT = 101


@dataclass(frozen=True, slots=True)
class VoteState:
    """The durable part."""

    promised: int = 0
    holder: str = ""
    longest_lease_ns: int = 0
    known: Known | None = None
    admission: int = 0
    """0, or the incarnation in which this voter began without a memory; it may have had one.

    It votes again as soon as a holder, having heard of that incarnation, has made a record.
    """

    def to_json(self) -> dict[str, Any]:
        return {
            "promised": self.promised,
            "holder": self.holder,
            "longest_lease_ns": self.longest_lease_ns,
            "known": None if self.known is None else self.known.to_json(),
            "admission": self.admission,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "VoteState":
        """Raises ValueError, KeyError or TypeError: a vote is never guessed."""
        known = value["known"]
        return cls(
            count(value["promised"]),
            str(value["holder"]),
            count(value["longest_lease_ns"]),
            None if known is None else Known.from_json(known),
            count(value["admission"]),
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease that this voter gave and that still runs."""

    holder: str
    epoch: int
    until_ns: int


class Voter:
    """`state` is replaced, never changed in place; the caller compares it to see what to store."""

    def __init__(
        self, server: str, state: VoteState, now_ns: int, *, lease_ns: int, restarted: bool
    ) -> None:
        self.server = server
        self.state = state
        self.grant: Grant | None = None
        self._forgotten_until_ns = 0
        if restarted:
            longest = state.longest_lease_ns or lease_ns
            self._forgotten_until_ns = now_ns + longest * RESTART_WAIT_FACTOR_PERCENT // 100

    # requests

    def answer(self, asker: str, request: Request, now_ns: int) -> Reply:
        """Grant or refuse. When `state` changed, the reply must wait until it is stored."""
        if request.kind == "renew":
            self._follow(asker, request)
        elif request.known.committed:
            self.learn(request.known)
        reason, wait_ns = self._refusal(asker, request, now_ns)
        if not reason and request.kind != "ask":
            self._give(asker, request, now_ns)
        return Reply(
            request.kind,
            request.epoch,
            request.lease_ns,
            request.sent_ns,
            request.run,
            reason,
            max(0, wait_ns),
            self.state.promised,
            self.state.known,
        )

    def _refusal(self, asker: str, request: Request, now_ns: int) -> tuple[str, int]:
        state, known = self.state, request.known
        if state.known is None:
            return "no-record", 0
        if state.known.key > known.key:
            return "stale-record", 0
        if not known.votes(self.server):
            return "not-a-voter", 0
        if state.admission > request.voter_run:
            return "unknown-voter", 0
        if request.kind != "renew" and not known.may_stand(asker):
            return "not-on-list", 0
        if (request.epoch, asker) != (state.promised, state.holder):
            if request.epoch <= state.promised:
                return "newer-epoch", 0
            return self._busy(asker, now_ns)
        return "", 0

    def _busy(self, asker: str, now_ns: int) -> tuple[str, int]:
        """Whether a lease that was given to somebody else may still run."""
        grant = self.grant
        if grant is not None and grant.holder != asker and grant.until_ns > now_ns:
            return "granted-elsewhere", grant.until_ns - now_ns
        if self.state.holder != asker and self._forgotten_until_ns > now_ns:
            return "restarted", self._forgotten_until_ns - now_ns
        return "", 0

    def _give(self, asker: str, request: Request, now_ns: int) -> None:
        until_ns = now_ns + request.lease_ns
        if self.grant is not None and self.grant.holder == asker:
            until_ns = max(until_ns, self.grant.until_ns)
        self.grant = Grant(asker, request.epoch, until_ns)
        longest = max(self.state.longest_lease_ns, request.lease_ns)
        self.state = replace(
            self.state,
            promised=request.epoch,
            holder=asker,
            longest_lease_ns=longest,
            admission=0,
        )

    # the record

    def _follow(self, asker: str, request: Request) -> None:
        """Take the record of a holder: of this epoch, or of a newer one that it has won."""
        known, state = request.known, self.state
        if request.epoch < state.promised:
            return
        if request.epoch == state.promised and asker != state.holder:
            return
        mine = state.known
        if mine is None:
            self.state = replace(state, known=known)
            return
        # What an earlier proposer did not get committed before this epoch was won is void.
        void = not mine.committed and mine.record.epoch < request.epoch
        if known.key > mine.key or void or (known.key == mine.key and known.committed):
            self.state = replace(state, known=known)

    def learn(self, known: Known | None) -> None:
        """Hearsay: only what is committed counts, and only when it is newer."""
        if known is None or not known.committed:
            return
        mine = self.state.known
        if mine is None or known.key > mine.key or (known.key == mine.key and not mine.committed):
            self.state = replace(self.state, known=known)

    def adopt(self, known: Known) -> None:
        """Store a record of our own making, or a newer one met while standing."""
        self.state = replace(self.state, known=known)

    def found(self, known: Known) -> None:
        """The first record of a group: there is nothing that could have been forgotten."""
        self.state = replace(self.state, known=known, admission=0)

    def promise(self, epoch: int, lease_ns: int, now_ns: int, known: Known) -> None:
        """A forced stand: vote for ourselves under a record of our own."""
        self.grant = Grant(self.server, epoch, now_ns + lease_ns)
        longest = max(self.state.longest_lease_ns, lease_ns)
        self.state = replace(
            self.state,
            promised=epoch,
            holder=self.server,
            longest_lease_ns=longest,
            known=known,
            admission=0,
        )

    # the end of a lease

    def finished(self, holder: str, epoch: int) -> None:
        """`holder` says that it does not act under `epoch` or older any more: free the vote."""
        if self.grant is not None and self.grant.holder == holder and self.grant.epoch <= epoch:
            self.grant = None
        if self.state.holder == holder and self.state.promised <= epoch:
            self._forgotten_until_ns = 0

    def free_in_ns(self, asker: str, now_ns: int) -> int:
        """How long until `asker` could be granted something new; 0 = now."""
        return self._busy(asker, now_ns)[1]
