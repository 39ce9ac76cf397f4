"""Mistakes put into the production keeper on purpose: the simulator has to find each of them.

What leaves: context managers that change a class and put it back. A simulator that lets one of them
pass proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from everup.keeper import lease
from everup.keeper.desk import Desk
from everup.keeper.holding import Holding
from everup.keeper.protocol import Keeper
from everup.keeper.record import Known, majority
from everup.keeper.standing import Standing
from everup.keeper.voter import Voter

MUTANTS: dict[str, Callable[[], Any]] = {}


@contextmanager
def changed(owner: Any, **attributes: Any) -> Iterator[None]:
    old = {name: owner.__dict__[name] for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in old.items():
            setattr(owner, name, value)


def mutant(make: Callable[[], Any]) -> Callable[[], Any]:
    MUTANTS[make.__name__] = make
    return make


@mutant
def lease_counted_from_the_reply() -> Any:
    real_reply = Holding.reply

    def reply(self: Holding, voter: str, message: Any) -> None:
        real_reply(self, voter, replace(message, sent_ns=self.desk.now_ns))

    return changed(Holding, reply=reply)


@mutant
def epoch_not_persisted() -> Any:
    real = Desk.note_state

    def note_state(self: Desk) -> None:
        real(self)
        store = self._output.store
        if store is not None:
            self._output.store = (store[0], replace(store[1], promised=0, holder=""))

    return changed(Desk, note_state=note_state)


@mutant
def answered_before_stored() -> Any:
    return changed(Desk, storing=property(lambda self: bool(self.note_state())))


@mutant
def vote_forgotten_at_restart() -> Any:
    real = Voter.__init__

    def init(self: Voter, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **{**options, "restarted": False})

    return changed(Voter, __init__=init)


@mutant
def voters_shrunk_by_the_wrong_side() -> Any:
    real = Standing.begin

    def begin(self: Standing, deadline_ns: int, force: bool, minimum_epoch: int) -> None:
        known = self.desk.voter.state.known
        if known is not None and self.desk.server in known.record.voters:
            version, alone = known.record.version + 1, (self.desk.server,)
            record = replace(known.record, version=version, voters=alone)
            self.desk.voter.adopt(Known(record))
        real(self, deadline_ns, force, minimum_epoch)

    return changed(Standing, begin=begin)


@mutant
def one_majority_is_enough() -> Any:
    def quorum(self: Known, agreeing: Any) -> bool:
        return majority(self.record.voters, agreeing)

    def needed_by(self: Known, server: str) -> Any:
        return (self.record.voters,)

    return changed(
        Known, quorum=quorum, needed_by=needed_by, electorates=lambda self: (self.record.voters,)
    )


@mutant
def running_lease_ignored() -> Any:
    return changed(Voter, _busy=lambda self, asker, now_ns: ("", 0))


@mutant
def no_reserve_for_clock_rates() -> Any:
    return changed(lease, holder_lease_ns=lambda lease_ns: lease_ns)


@mutant
def list_not_asked() -> Any:
    return changed(Known, may_stand=lambda self, server: server in self.record.voters)


@mutant
def lost_memory_ignored() -> Any:
    real = Voter.__init__

    def init(self: Voter, server: str, state: Any, *arguments: Any, **options: Any) -> None:
        real(self, server, replace(state, admission=0), *arguments, **options)

    return changed(Voter, __init__=init)


@mutant
def finished_said_too_early() -> Any:
    return changed(Keeper, finished_epoch=lambda self: self.standing.own_epoch)
