"""The keeper as a value machine: inputs with a time, outputs to carry out; no clock, no socket.

What enters: messages of other keepers, ticks, "stored", and the agent's wishes. What leaves: one
`Output` for each. Called by the keeper's process and by the simulator, which share this code.

How it works is told in docs/protocol/keeper.md; the parts are `voter` (what I promised), `standing`
(how I win), `holding` (how I keep and change), `peers` (whom I hear).
"""

from typing import Any

from everup.keeper.desk import Desk, Output, Timing
from everup.keeper.holding import Holding
from everup.keeper.lease import Lease
from everup.keeper.messages import Beat, Message, Reply, Request
from everup.keeper.peers import Peers
from everup.keeper.record import Known, Record
from everup.keeper.standing import Standing
from everup.keeper.voter import Voter, VoteState

PERMISSION_NS = 30_000_000_000
"""How long the agent's word counts; it says it again every second."""


class Keeper:
    """`state` is what was stored last; `restarted` is False only in tests of a first second.

    `run` is the incarnation, which grows with every start. `page` is what the lease page of this
    boot says, (0, 0) after a boot.
    """

    def __init__(
        self,
        server: str,
        members: set[str],
        timing: Timing,
        state: VoteState,
        now_ns: int,
        *,
        run: int,
        page: tuple[int, int] = (0, 0),
        restarted: bool = True,
    ) -> None:
        if state == VoteState():
            state = VoteState(admission=run)
        voter = Voter(server, state, now_ns, lease_ns=timing.lease_ns, restarted=restarted)
        self.desk = Desk(server, voter, timing, run, now_ns, members | {server})
        self.standing = Standing(self.desk)
        self.holding = Holding(self.desk)
        self.peers = Peers(self.desk)
        self.facts: dict[str, Any] = {}
        self._next_beat_ns = now_ns
        self._granted_to = ""
        self.holding.permitted_until_ns = now_ns + PERMISSION_NS
        self.holding.resume(*page)

    # inputs

    def receive(self, now_ns: int, sender: str, message: Message) -> Output:
        """A message that came in fresh and sealed."""
        self._at(now_ns)
        if sender in self.desk.members and sender != self.desk.server:
            self._take(sender, message)
        return self._finish()

    def tick(self, now_ns: int) -> Output:
        """Time has passed; due at `wake_at_ns`, harmless at any time."""
        self._at(now_ns)
        return self._finish()

    def stored(self, now_ns: int, number: int) -> Output:
        """State `number`, or a newer one, is durable."""
        self._at(now_ns)
        self.desk.stored(number)
        self.holding.stored(number)
        return self._finish()

    def permit(self, now_ns: int, facts: dict[str, Any]) -> Output:
        """The agent lives: it may go on for 30 s, and tells the others this."""
        self._at(now_ns)
        self.facts = facts
        self.holding.permitted_until_ns = now_ns + PERMISSION_NS
        return self._finish()

    def stand(
        self, now_ns: int, deadline_ns: int, *, force: bool = False, minimum_epoch: int = 0
    ) -> Output:
        """Try to get the lease; the result is event "stood"."""
        self._at(now_ns)
        self.holding.permitted_until_ns = max(
            self.holding.permitted_until_ns, now_ns + PERMISSION_NS
        )
        self.standing.begin(deadline_ns, force, minimum_epoch)
        return self._finish()

    def release(self, now_ns: int, *, silent_already: bool) -> Output:
        """Give the lease up. `silent_already`: address muted and nothing answers any more."""
        self._at(now_ns)
        self.standing.cancel("released")
        self.holding.end("released", silent_already=silent_already)
        self._next_beat_ns = now_ns
        return self._finish()

    def propose(self, now_ns: int, change: dict[str, Any], deadline_ns: int) -> tuple[str, Output]:
        """Change the record; "" means that the result will be event "proposed"."""
        self._at(now_ns)
        refusal = self.holding.propose(change, deadline_ns, self.peers.reachable())
        return refusal, self._finish()

    def configure(self, now_ns: int, members: set[str], timing: Timing) -> Output:
        """New settings of the group."""
        self._at(now_ns)
        self.desk.members = members | {self.desk.server}
        self.desk.timing = timing
        self.peers.configure()
        return self._finish()

    def found(self, now_ns: int, mode: str) -> Output:
        """The first record of a new group: we alone. Ignored when there is a record."""
        self._at(now_ns)
        if self.desk.voter.state.known is None:
            alone = (self.desk.server,)
            self.desk.voter.found(Known(Record(1, 0, alone, alone, mode)))
        return self._finish()

    # what others may read

    @property
    def known(self) -> Known | None:
        return self.desk.voter.state.known

    @property
    def lease(self) -> Lease | None:
        """The lease that this server holds, as of the last input."""
        return self.holding.lease

    def wake_at_ns(self) -> int:
        """When `tick` is due, by this server's clock."""
        times = [self._next_beat_ns]
        grant = self.desk.voter.grant
        if self._granted_to and grant is not None:
            times.append(grant.until_ns)
        for part in (self.standing, self.holding, self.peers):
            at_ns = part.wake_at_ns()
            if at_ns is not None:
                times.append(at_ns)
        return min(times)

    def finished_epoch(self) -> int:
        """Nothing here acts, or ever will, under this epoch or an older one of ours."""
        attempt = self.standing.attempt
        finished = self.standing.own_epoch
        if attempt is not None and attempt.lease is not None:
            finished = attempt.epoch - 1
        acting = self.holding.acting_epoch
        return finished if acting is None else min(finished, acting - 1)

    # inside

    def _at(self, now_ns: int) -> None:
        self.desk.now_ns = max(now_ns, self.desk.now_ns)
        # What comes in after the end, however quickly, does not count for the lease.
        self.holding.expire()

    def _take(self, sender: str, message: Message) -> None:
        match message:
            case Beat():
                self._beat(sender, message)
            case Request():
                self.desk.answer(sender, message)
            case Reply():
                self._reply(sender, message)

    def _beat(self, sender: str, beat: Beat) -> None:
        self.peers.heard(sender, beat)
        self.holding.runs[sender] = beat.run
        self.desk.saw_epoch(max(beat.promised, beat.holding))
        self.desk.voter.finished(sender, beat.finished)
        self.desk.voter.learn(beat.known)
        self.holding.heard_promise(beat.promised)
        self.holding.heard_holder(sender, beat.holding)

    def _reply(self, sender: str, reply: Reply) -> None:
        self.desk.saw_epoch(reply.promised)
        self.desk.voter.learn(reply.known)
        if self.holding.lease is not None and self.holding.lease.epoch == reply.epoch:
            self.holding.reply(sender, reply)
            return
        self._won(self.standing.reply(sender, reply))

    def _won(self, lease: Lease | None) -> None:
        if lease is None:
            return
        self.holding.begin(lease)
        forced = self.known is not None and self.known.record.epoch == lease.epoch
        self.desk.event("lease-won", epoch=lease.epoch, forced=forced)
        self._next_beat_ns = self.desk.now_ns

    def _finish(self) -> Output:
        self.holding.tick()
        self._won(self.standing.tick())
        self.peers.tick()
        while self.desk.local:
            message = self.desk.local.popleft()
            if isinstance(message, Reply):
                self._reply(self.desk.server, message)
        self.desk.voter.finished(self.desk.server, self.finished_epoch())
        self._notice_free()
        if self.desk.now_ns >= self._next_beat_ns:
            self._send_beats()
        return self.desk.take()

    def _notice_free(self) -> None:
        """Tell the agent when the lease of another server, as far as we vote, has ended."""
        grant, now_ns = self.desk.voter.grant, self.desk.now_ns
        running = grant is not None and grant.until_ns > now_ns
        holder = grant.holder if grant is not None and running else ""
        if self._granted_to and not running and self._granted_to != self.desk.server:
            self.desk.event("lease-free", holder=self._granted_to)
        self._granted_to = holder

    def _send_beats(self) -> None:
        self._next_beat_ns = self.desk.now_ns + self.desk.timing.heartbeat_ns
        lease = self.holding.lease
        # What an agent said that is silent for as long as it may be is not true any more.
        alive = self.desk.now_ns < self.holding.permitted_until_ns
        beat = Beat(
            self.desk.voter.state.promised,
            0 if lease is None else lease.epoch,
            self.finished_epoch(),
            self.desk.run,
            self.known,
            self.facts if alive else {},
        )
        for name in sorted(self.peers.peers):
            self.desk.send(name, beat)
