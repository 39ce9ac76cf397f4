"""The holder's side of the lease: renew it, change the record with it, give it up.

What enters: replies, time, the agent's permission and wishes. What leaves: renewals, the deadline
to publish, events. Called by the protocol. Pure.

A change of the record travels in the renewals: a voter that stores it and renews has accepted it.
"""

from dataclasses import dataclass, replace
from typing import Any

from everup.keeper.desk import RETRY_NS, Desk
from everup.keeper.lease import Lease
from everup.keeper.messages import Reply, Request
from everup.keeper.record import MODES, Known, Record, majority


@dataclass(slots=True)
class Proposal:
    """A change that the agent waits for."""

    key: tuple[int, int]
    deadline_ns: int


class Holding:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.lease: Lease | None = None
        self.permitted_until_ns = 0
        self.proposal: Proposal | None = None
        self.runs: dict[str, int] = {}
        """Incarnation of each member, as heard last."""
        self._decided: tuple[int, int] | None = None
        """Key of a change that both majorities have accepted; being stored as committed."""
        self._decision = 0
        self._next_ns = 0
        self._newer_epoch_told = 0
        self._ended_ns = 0
        """When the last lease that was given up early would have ended."""
        self._ended_epoch = 0

    # begin and end

    def begin(self, lease: Lease) -> None:
        """A lease was won, or found again after a restart of the process."""
        self.fail_proposal("new-epoch")
        self.lease, self._decided = lease, None
        self._newer_epoch_told = lease.epoch
        self._next_ns = self.desk.now_ns
        self.desk.publish(lease.epoch, lease.deadline_ns)

    def end(self, reason: str, *, silent_already: bool) -> None:
        """The lease is over. `silent_already`: this server has stopped acting under it."""
        lease = self.lease
        if lease is None:
            return
        self.fail_proposal("lease-lost")
        self.lease = None
        self._ended_ns = 0 if silent_already else lease.deadline_ns
        self._ended_epoch = lease.epoch
        self.desk.publish(lease.epoch, 0)
        self.desk.event("lease-lost", epoch=lease.epoch, reason=reason)

    def resume(self, epoch: int, deadline_ns: int) -> bool:
        """Take up what the lease page of this boot says, after a restart of the process."""
        if deadline_ns <= self.desk.now_ns:
            return False
        state = self.desk.voter.state
        if (state.promised, state.holder) == (epoch, self.desk.server):
            self.begin(Lease(epoch, deadline_ns))
            return True
        self._ended_ns, self._ended_epoch = deadline_ns, epoch
        self.desk.publish(epoch, 0)
        return False

    @property
    def acting_epoch(self) -> int | None:
        """Epoch under which something on this server may still act; None when nothing may."""
        if self.lease is not None:
            return self.lease.epoch
        return self._ended_epoch if self.desk.now_ns < self._ended_ns else None

    # time

    def wake_at_ns(self) -> int | None:
        lease = self.lease
        if lease is None:
            return self._ended_ns if self._ended_ns > self.desk.now_ns else None
        times = [lease.deadline_ns, self._next_ns, self.permitted_until_ns]
        if self.proposal is not None and self._decided is None:
            times.append(self.proposal.deadline_ns)
        return min(times)

    def expire(self) -> None:
        """The deadline is over: everything on this server has stopped by itself."""
        if self.lease is not None and self.desk.now_ns >= self.lease.deadline_ns:
            self.end("expired", silent_already=True)

    def tick(self) -> None:
        lease, now = self.lease, self.desk.now_ns
        if lease is None:
            return
        if now >= self.permitted_until_ns:
            self.end("no-permission", silent_already=False)
            return
        if self._overruled(lease):
            self.end("newer-epoch", silent_already=False)
            return
        self._finish_inherited(lease)
        late = self.proposal is not None and now >= self.proposal.deadline_ns
        if late and self._decided is None:
            self._withdraw(lease)
        if now >= self._next_ns:
            self._renew(lease)

    def _overruled(self, lease: Lease) -> bool:
        known = self.desk.voter.state.known
        return known is None or (known.committed and known.record.epoch > lease.epoch)

    def _renew(self, lease: Lease) -> None:
        desk, known = self.desk, self.desk.voter.state.known
        assert known is not None
        hurry = lease.proposed is not None or (
            lease.deadline_ns - desk.now_ns < desk.timing.lease_ns // 2
        )
        self._next_ns = desk.now_ns + (RETRY_NS if hurry else desk.timing.renew_ns)
        mine = Request("renew", lease.epoch, desk.timing.lease_ns, desk.now_ns, desk.run, known)
        theirs = mine
        if known.previous is not None and desk.storing:
            # The proposer stores first; until then the others hear of the old record only.
            theirs = replace(mine, known=Known(known.previous))
        for voter in theirs.known.everyone:
            if voter != desk.server:
                desk.ask(voter, replace(theirs, voter_run=lease.runs.get(voter, 0)))
        if known.votes(desk.server):
            desk.ask(desk.server, mine)

    # replies

    def reply(self, voter: str, reply: Reply) -> None:
        lease, known = self.lease, self.desk.voter.state.known
        if lease is None or known is None or reply.run != self.desk.run:
            return
        if reply.promised > lease.epoch and voter != self.desk.server:
            self.heard_promise(reply.promised)
        if reply.reason == "unknown-voter":
            self._admit(lease, known, voter)
        if not reply.granted or reply.epoch != lease.epoch or reply.kind == "ask":
            return
        lease.acknowledge(voter, reply.sent_ns, reply.lease_ns)
        if lease.proposed is not None and reply.known is not None:
            self._accepted(lease, voter, reply.known, known)
        self._extend(lease)

    def _extend(self, lease: Lease) -> None:
        known = self.desk.voter.state.known
        if (
            known is not None
            and self.desk.now_ns < lease.deadline_ns
            and lease.extend(self.desk.server, known)
        ):
            self.desk.publish(lease.epoch, lease.deadline_ns)

    def heard_promise(self, epoch: int) -> None:
        """Somebody promised a newer epoch: the agent may mint a newer one without a gap."""
        if self.lease is not None and epoch > self._newer_epoch_told:
            self._newer_epoch_told = epoch
            self.desk.event("newer-epoch", epoch=epoch)

    def heard_holder(self, server: str, epoch: int) -> None:
        """Somebody says that it holds `epoch`."""
        if self.lease is not None and epoch > self.lease.epoch:
            self.end(f"newer-epoch: {server} holds {epoch}", silent_already=False)

    # changes of the record

    def propose(self, change: dict[str, Any], deadline_ns: int, reachable: set[str]) -> str:
        """Begin a change. Returns "" when it has begun, "same" when nothing changes, or why not.

        The result follows as event "proposed".
        """
        desk, lease, known = self.desk, self.lease, self.desk.voter.state.known
        if lease is None or known is None:
            return "not-the-holder"
        if not known.committed or self.proposal is not None:
            return "in-progress"
        try:
            record = self._changed(known.record, change, lease.epoch)
        except (ValueError, TypeError) as error:
            return f"bad-record: {error}"
        if replace(record, version=known.record.version, epoch=known.record.epoch) == known.record:
            return "same"
        here = reachable | {desk.server}
        if not (majority(record.voters, here) and majority(known.record.voters, here)):
            return "not-reachable"
        self.proposal = Proposal(record.key, deadline_ns)
        self._put(lease, Known(record, known.record, self.desk.server))
        return ""

    def _changed(self, old: Record, change: dict[str, Any], epoch: int) -> Record:
        unknown = set(change) - {"voters", "may_take_over", "mode"}
        if unknown:
            raise ValueError(f"unknown field {sorted(unknown)[0]}")
        record = Record(
            old.version + 1,
            epoch,
            tuple(str(name) for name in change.get("voters", old.voters)),
            tuple(str(name) for name in change.get("may_take_over", old.may_take_over)),
            str(change.get("mode", old.mode)),
        )
        record.check()
        assert record.mode in MODES
        strangers = {*record.voters, *record.may_take_over} - self.desk.members
        if strangers:
            raise ValueError(f"{sorted(strangers)[0]} is not a member")
        if self.desk.server not in record.voters or self.desk.server not in record.may_take_over:
            raise ValueError("the holder stays a voter and on the list")
        return record

    def _put(self, lease: Lease, known: Known) -> None:
        """Make `known` ours and let the next renewals carry it."""
        lease.proposed, self._decided = known.key, None
        lease.accepted.clear()
        lease.runs = dict(self.runs)
        self.desk.voter.adopt(known)
        self._renew(lease)

    def _finish_inherited(self, lease: Lease) -> None:
        """An unfinished change found at the beginning of a lease is brought to its end."""
        known = self.desk.voter.state.known
        if known is None or known.previous is None or lease.proposed is not None:
            return
        record = replace(known.record, version=known.record.version + 1, epoch=lease.epoch)
        self._put(lease, self._anew(known, record))

    def _anew(self, known: Known, record: Record) -> Known:
        """`record` in the place of an unfinished one. What another began, that one may declare
        as well as we: it has no owner any more.
        """
        here = self.desk.server
        return Known(record, known.previous, here if known.owner == here else "")

    def _admit(self, lease: Lease, known: Known, voter: str) -> None:
        """A voter began without a memory: it votes under a record made after we heard of that.

        It grants nothing before its longest lease is over; whoever holds a lease then holds it
        without what that voter has forgotten.
        """
        heard = self.runs.get(voter, 0) > lease.runs.get(voter, 0)
        if not heard or self.proposal is not None or self._decided is not None:
            return
        old = known.record
        record = replace(old, version=old.version + 1, epoch=lease.epoch)
        if known.committed:
            self._put(lease, Known(record, old, self.desk.server))
        else:
            self._put(lease, self._anew(known, record))

    def _accepted(self, lease: Lease, voter: str, theirs: Known, mine: Known) -> None:
        if theirs.key != lease.proposed or mine.key != lease.proposed or mine.committed:
            return
        lease.accepted.add(voter)
        if self._decided is None and mine.quorum(lease.accepted):
            self._decided = mine.key
            self._decision = self.desk.store_ahead(mine.settled())

    def stored(self, number: int) -> None:
        """A decision counts, and is told, when it is durable here: see `Known.owner`."""
        lease, known = self.lease, self.desk.voter.state.known
        if self._decided is None or number < self._decision:
            return
        if lease is None or known is None or known.key != self._decided:
            self._decided = None
        elif self.desk.number != self._decision:
            # Something else was stored over it meanwhile.
            self._decision = self.desk.store_ahead(known.settled())
        else:
            self._declare(lease, known)

    def _declare(self, lease: Lease, known: Known) -> None:
        lease.proposed = self._decided = None
        self.desk.voter.adopt(known.settled())
        self._next_ns = self.desk.now_ns
        self._extend(lease)
        record = known.record.to_json()
        self.desk.event("record-changed", record=record)
        if self.proposal is not None and self.proposal.key == known.key:
            self.proposal = None
            self.desk.event("proposed", committed=True, record=record, reason="")

    def _withdraw(self, lease: Lease) -> None:
        """No majority in time: propose the old content anew.

        Nobody can have committed the change but this lease, which from now on ignores what still
        comes in for it.
        """
        known = self.desk.voter.state.known
        assert known is not None and known.previous is not None
        old = known.previous
        self.fail_proposal("no-majority")
        record = replace(old, version=known.record.version + 1, epoch=lease.epoch)
        self._put(lease, self._anew(known, record))

    def fail_proposal(self, reason: str) -> None:
        if self.proposal is not None:
            self.proposal = None
            known = self.desk.voter.state.known
            record = None
            if known is not None:
                record = (known.previous or known.record).to_json()
            self.desk.event("proposed", committed=False, record=record, reason=reason)
