"""A server stands for the lease: it asks around first, then promises, then collects votes.

What enters: the agent's wish, replies, time. What leaves: questions, and a lease when it was won.
Called by the protocol. Pure.

The first round changes nothing anywhere (`ask`), so a server that cannot win, because others still
hear the holder, disturbs nobody. Only when a majority would agree does it promise a new epoch.
"""

from dataclasses import dataclass, field

from everup.keeper.desk import RETRY_NS, Desk
from everup.keeper.lease import Lease
from everup.keeper.messages import Reply, Request, RequestKind
from everup.keeper.record import Known, Record, majority

FRESH_NS = 3 * RETRY_NS
"""How long a voter's "I would" counts."""
FORCED_EPOCH_STEP = 1000
"""A forced epoch is far above all that unreachable servers can have promised meanwhile."""


@dataclass(slots=True)
class Attempt:
    """One wish of the agent; several epochs may be tried until `deadline_ns`."""

    deadline_ns: int
    force: bool
    minimum_epoch: int
    started_ns: int
    next_ns: int
    epoch: int = 0
    phase: str = "asking"
    key: tuple[int, int] = (0, 0)
    agreed_ns: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    lease: Lease | None = None
    vote_until_ns: int = 0
    forced: bool = False
    reason: str = "no-majority"


class Standing:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.attempt: Attempt | None = None
        self.own_epoch = 0
        """Highest epoch that we ever promised to ourselves."""
        state = desk.voter.state
        if state.holder == desk.server:
            self.own_epoch = state.promised

    # wishes

    def begin(self, deadline_ns: int, force: bool, minimum_epoch: int) -> None:
        """Stand until `deadline_ns`; a second wish while one is open extends it."""
        now = self.desk.now_ns
        if self.attempt is not None:
            self.attempt.deadline_ns = max(self.attempt.deadline_ns, deadline_ns)
            self.attempt.force = self.attempt.force or force
            self.attempt.minimum_epoch = max(self.attempt.minimum_epoch, minimum_epoch)
            return
        self.attempt = Attempt(deadline_ns, force, minimum_epoch, now, now)
        self.tick()

    def cancel(self, reason: str) -> None:
        """Give the wish up; nothing that was promised for it will be used."""
        if self.attempt is not None:
            self._end(False, reason)

    def _end(self, granted: bool, reason: str) -> None:
        attempt, known = self.attempt, self.desk.voter.state.known
        assert attempt is not None
        self.attempt = None
        self.desk.event(
            "stood",
            granted=granted,
            epoch=attempt.epoch if granted else 0,
            reason=reason,
            forced=attempt.forced,
            record=None if known is None else known.record.to_json(),
        )

    # time

    def wake_at_ns(self) -> int | None:
        attempt = self.attempt
        return None if attempt is None else min(attempt.next_ns, attempt.deadline_ns)

    def tick(self) -> Lease | None:
        """Go on with the wish; returns the lease when it has just been won."""
        attempt, now = self.attempt, self.desk.now_ns
        if attempt is None:
            return None
        if now >= attempt.deadline_ns:
            self._end(False, attempt.reason)
        elif attempt.phase == "asking":
            return self._ask(attempt)
        elif attempt.forced:
            return self._count(attempt)
        elif now >= attempt.vote_until_ns or self._record_changed(attempt):
            self._start_over(attempt)
        elif attempt.phase == "voting" and now >= attempt.next_ns:
            self._send_votes(attempt)
        return None

    def _record_changed(self, attempt: Attempt) -> bool:
        known = self.desk.voter.state.known
        return known is None or known.key != attempt.key

    # first round

    def _ask(self, attempt: Attempt) -> Lease | None:
        desk, known = self.desk, self.desk.voter.state.known
        if attempt.force and desk.now_ns >= self._force_at_ns(attempt):
            return self._force(attempt)
        if known is None or not known.may_stand(desk.server):
            self._cannot_stand(attempt, known)
            return None
        if desk.now_ns < attempt.next_ns:
            return None
        attempt.next_ns = desk.now_ns + RETRY_NS
        attempt.epoch = max(desk.epoch_seen + 1, attempt.minimum_epoch)
        attempt.key = known.key
        request = self._request("ask", attempt.epoch, known)
        for voter in known.everyone:
            desk.ask(voter, request)
        return None

    def _cannot_stand(self, attempt: Attempt, known: Known | None) -> None:
        if known is None:
            reason = "no-record"
        elif self.desk.server not in known.record.voters:
            reason = "not-a-voter"
        else:
            reason = "not-on-list"
        if not attempt.force:
            self._end(False, reason)
            return
        attempt.reason = reason
        attempt.next_ns = self._force_at_ns(attempt)

    def _request(self, kind: RequestKind, epoch: int, known: Known) -> Request:
        desk = self.desk
        return Request(kind, epoch, desk.timing.lease_ns, desk.now_ns, desk.run, known)

    # votes

    def _send_votes(self, attempt: Attempt) -> None:
        known = self.desk.voter.state.known
        assert known is not None
        attempt.next_ns = self.desk.now_ns + RETRY_NS
        request = self._request("vote", attempt.epoch, known)
        for voter in known.everyone:
            self.desk.ask(voter, request)

    def _promise(self, attempt: Attempt, known: Known) -> None:
        """A majority would agree: promise the epoch ourselves, the others are asked after that."""
        desk = self.desk
        attempt.phase = "promising"
        attempt.lease = Lease(attempt.epoch)
        attempt.vote_until_ns = attempt.next_ns = desk.now_ns + desk.timing.lease_ns
        attempt.agreed_ns.clear()
        self.own_epoch = max(self.own_epoch, attempt.epoch)
        desk.saw_epoch(attempt.epoch)
        desk.ask(desk.server, self._request("vote", attempt.epoch, known))

    def _start_over(self, attempt: Attempt) -> None:
        """This epoch was not won and is not used; a delay of our own keeps rivals apart."""
        attempt.phase, attempt.lease = "asking", None
        attempt.agreed_ns.clear()
        attempt.refused.clear()
        seed = int.from_bytes(self.desk.server.encode(), "big") + attempt.epoch * 31
        attempt.next_ns = self.desk.now_ns + RETRY_NS * (seed * 2654435761 % 97) // 97

    def reply(self, voter: str, reply: Reply) -> Lease | None:
        """A voter answered; returns the lease when that completes it."""
        attempt = self.attempt
        if attempt is None or reply.run != self.desk.run or reply.epoch != attempt.epoch:
            return None
        if not reply.granted:
            self._refused(attempt, voter, reply)
        elif reply.kind == "ask" and attempt.phase == "asking":
            self._agreed(attempt, voter, reply)
        elif reply.kind == "vote" and attempt.lease is not None:
            attempt.lease.acknowledge(voter, reply.sent_ns, reply.lease_ns)
            attempt.refused.discard(voter)
            if voter == self.desk.server and attempt.phase == "promising":
                attempt.phase = "voting"
                self._send_votes(attempt)
            return self._count(attempt)
        return None

    def _agreed(self, attempt: Attempt, voter: str, reply: Reply) -> None:
        known, now = self.desk.voter.state.known, self.desk.now_ns
        if known is None or known.key != attempt.key:
            return
        attempt.agreed_ns[voter] = reply.sent_ns
        fresh = {v for v, sent_ns in attempt.agreed_ns.items() if sent_ns > now - FRESH_NS}
        if all(majority(voters, fresh) for voters in known.needed_by(self.desk.server)):
            self._promise(attempt, known)

    def _count(self, attempt: Attempt) -> Lease | None:
        """Whether the votes are a lease with time left."""
        lease, known = attempt.lease, self.desk.voter.state.known
        if lease is None or known is None or known.key != attempt.key:
            return None
        if self.desk.server not in lease.until_ns:
            return None
        lease.extend(self.desk.server, known)
        if lease.deadline_ns <= self.desk.now_ns:
            return None
        self._end(True, "forced" if attempt.forced else "")
        return lease

    def _refused(self, attempt: Attempt, voter: str, reply: Reply) -> None:
        desk, mine = self.desk, self.desk.voter.state.known
        attempt.reason = reply.reason
        if reply.kind == "vote":
            self._vote_refused(attempt, voter)
            return
        attempt.agreed_ns.pop(voter, None)
        if attempt.phase != "asking" or mine is None:
            return
        if reply.reason == "newer-epoch":
            attempt.next_ns = min(attempt.next_ns, desk.now_ns + RETRY_NS // 5)
        elif reply.wait_ns > 0:
            # Be there at the very moment at which the vote is free.
            attempt.next_ns = min(attempt.next_ns, desk.now_ns + reply.wait_ns + 1_000_000)
        elif reply.known is not None and reply.known.key > mine.key:
            # An unfinished change: whoever stands now has to stand under it as well.
            desk.voter.adopt(reply.known)
            attempt.next_ns = desk.now_ns

    def _vote_refused(self, attempt: Attempt, voter: str) -> None:
        """Start over as soon as those who have not refused cannot be a majority."""
        known = self.desk.voter.state.known
        if attempt.lease is None or attempt.forced or known is None:
            return
        attempt.refused.add(voter)
        left = set(known.everyone) - attempt.refused
        needed = known.needed_by(self.desk.server)
        if voter == self.desk.server or not all(majority(voters, left) for voters in needed):
            self._start_over(attempt)

    # force

    def _force_at_ns(self, attempt: Attempt) -> int:
        """The ordinary way gets two leases, or half of the time allowed."""
        half_ns = (attempt.deadline_ns - attempt.started_ns) // 2
        at_ns = attempt.started_ns + min(half_ns, 2 * self.desk.timing.lease_ns)
        free_ns = self.desk.now_ns + self.desk.voter.free_in_ns(self.desk.server, self.desk.now_ns)
        return max(at_ns, free_ns)

    def _force(self, attempt: Attempt) -> Lease | None:
        """Nobody can be asked and a person has decided: we become the only voter, loudly."""
        desk, known = self.desk, self.desk.voter.state.known
        epoch = max(desk.epoch_seen + FORCED_EPOCH_STEP, attempt.minimum_epoch)
        version = 1 if known is None else known.record.version + 1
        mode = "async" if known is None else known.record.mode
        record = Record(version, epoch, (desk.server,), (desk.server,), mode)
        attempt.phase, attempt.forced, attempt.epoch = "voting", True, epoch
        attempt.key, attempt.next_ns = record.key, attempt.deadline_ns
        attempt.lease = Lease(epoch)
        self.own_epoch = epoch
        desk.saw_epoch(epoch)
        desk.voter.promise(epoch, desk.timing.lease_ns, desk.now_ns, Known(record))
        desk.event("forced", epoch=epoch, record=record.to_json())
        desk.ask(desk.server, self._request("vote", epoch, Known(record)))
        return None
