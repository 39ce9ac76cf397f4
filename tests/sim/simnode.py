"""One simulated server: the production keeper with a clock, a disk and a lease page of its own.

What enters: true time and what the world does to it. What leaves: what its keeper wants done. The
model of an agent is here too: it stands, shrinks and grows the voters, switches over, at random.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from everup.keeper.desk import Output, Timing
from everup.keeper.protocol import Keeper
from everup.keeper.seal import Freshness
from everup.keeper.voter import VoteState

SECOND = 1_000_000_000
AWAY_NS = 2 * SECOND
AGENT_TURN_NS = SECOND // 5


@dataclass
class Disk:
    """What survives a power cut."""

    state: VoteState = field(default_factory=VoteState)
    boots: int = 0
    busy_until: int = 0
    broken_until: int = 0
    """True time until which nothing can be stored."""


class Node:
    def __init__(self, name: str, members: set[str], timing: Timing, random: Random) -> None:
        self.name, self.members, self.timing, self.random = name, members, timing, random
        self.rate = 1 + random.choice((-0.01, 0.01, random.uniform(-0.01, 0.01)))
        self.disk = Disk()
        self.page = (0, 0)
        self.starts = 0
        self.booted_at = 0
        self.keeper: Keeper | None = None
        self.paused = False
        self.inbox: list[tuple[int, int, str, Any]] = []
        self.counter = 0
        self.run = 0
        self.fresh = Freshness()
        self.timer_at = 0
        self.life = 0
        """Grows with every end of the process: what belongs to an earlier life is void."""
        self.away_since: dict[str, int] = {}
        self.rests_until = 0
        self.newer_epoch = 0
        self.calm = False

    # clock

    def local(self, true_ns: int) -> int:
        """This server's boot-time clock; starts at one hour at each boot."""
        return 3600 * SECOND + int((true_ns - self.booted_at) * self.rate)

    def true(self, local_ns: int) -> int:
        return self.booted_at + int((local_ns - 3600 * SECOND) / self.rate)

    # life

    def boot(self, true_ns: int) -> None:
        """Power on."""
        self.booted_at = true_ns
        self.disk.boots += 1
        self.page, self.starts = (0, 0), 0
        self.start(true_ns)

    def start(self, true_ns: int) -> None:
        """The process starts; the page of this boot and what is on disk are all it knows."""
        self.starts += 1
        self.run = (self.disk.boots << 20) | self.starts
        self.counter, self.inbox, self.paused = 0, [], False
        self.fresh = Freshness()
        self.away_since, self.rests_until, self.newer_epoch = {}, 0, 0
        self.keeper = Keeper(
            self.name,
            self.members,
            self.timing,
            self.disk.state,
            self.local(true_ns),
            run=self.run,
            page=self.page,
        )

    def stop(self, *, power: bool) -> None:
        self.keeper = None
        self.life += 1
        self.paused = False
        if power:
            self.page = (0, 0)

    # the agent's model

    def turn(self, now: int) -> list[Output]:
        """What an agent would ask for now; at most one thing per turn."""
        keeper = self.keeper
        assert keeper is not None
        outputs = [keeper.permit(now, {"role": "sim"})]
        if keeper.lease is None:
            outputs += self._turn_without(keeper, now)
        else:
            outputs += self._turn_as_holder(keeper, now)
        return outputs

    def _turn_without(self, keeper: Keeper, now: int) -> list[Output]:
        known = keeper.known
        if known is None or not known.may_stand(self.name) or now < self.rests_until:
            return []
        if keeper.standing.attempt is not None or keeper.peers.holder()[0]:
            return []
        return [keeper.stand(now, now + 3 * SECOND)]

    def _turn_as_holder(self, keeper: Keeper, now: int) -> list[Output]:
        known, lease = keeper.known, keeper.lease
        assert known is not None and lease is not None
        if self.newer_epoch > lease.epoch:
            self.newer_epoch = 0
            return [keeper.stand(now, now + SECOND)]
        if not self.calm and self.random.random() < 0.01:
            self.rests_until = now + 3 * SECOND
            self.page = (lease.epoch, 0)
            return [keeper.release(now, silent_already=True)]
        change = self._wanted_change(keeper, now)
        if not change:
            return []
        _, output = keeper.propose(now, change, now + SECOND)
        return [output]

    def _wanted_change(self, keeper: Keeper, now: int) -> dict[str, Any]:
        here = keeper.peers.reachable() | {self.name}
        for member in self.members:
            if member in here:
                self.away_since.pop(member, None)
            else:
                self.away_since.setdefault(member, now)
        known = keeper.known
        assert known is not None
        record = known.record
        away = {m for m, since in self.away_since.items() if now - since > AWAY_NS}
        servers = [m for m in sorted(self.members) if m != "witness"]
        if away & set(record.voters) or (not self.calm and self.random.random() < 0.02):
            left = [self.name, *(s for s in servers if s in here and s != self.name)]
            return {"voters": left if len(left) >= 3 else [self.name]}
        if self.random.random() < 0.1:
            listed = {s for s in servers if self.random.random() < 0.7} | {self.name}
            return {"may_take_over": sorted(listed)}
        if here >= self.members and len(self.members) > 2 and self.random.random() < 0.3:
            voters = servers if len(servers) > 2 else sorted(self.members)
            return {"voters": voters, "may_take_over": servers}
        return {}
