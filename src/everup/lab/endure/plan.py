"""What shall happen in each round: drawn from the seed alone.

What enters: a seed, a number of rounds. What leaves: plans, the same for the same seed on any
machine. A round's own numbers come from the seed and the round's number, so that round 17 can be
repeated without the sixteen before it. Kinds are dealt like cards from a deck that has each once
(and two faults at a time more often). Servers are named by role (`active`, `passive`, `witness`),
since the same plan must fit whoever is active when its moment comes.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Values = dict[str, Any]

ROLES = ("active", "passive", "witness")
DATA_ROLES = ("active", "passive")
PROCESSES = (
    "guard-worker",
    "guard-holder",
    "replicator",
    "keeper",
    "agent",
    "console",
    "everything",
)
LINKS = (
    "channel",
    "public",
    "management",
    "active:channel",
    "active:public",
    "passive:public",
    "active:management",
    "passive:management",
    "witness:management",
)
_LONGEST_WAIT_S = 2.5


@dataclass(frozen=True)
class Plan:
    """One round. `after_s`: seconds of undisturbed load before the fault."""

    number: int
    kind: str
    values: Values
    after_s: float

    @property
    def marks(self) -> tuple[str, ...]:
        """The kind, and `KIND:PROCESS` for each process that is killed: what may be said depends
        on it."""
        killed = self.values.get("processes", ())
        own = (self.kind, *(f"{self.kind}:{process}" for process in killed))
        return (*own, *(mark for part in self.parts for mark in part.marks))

    @property
    def parts(self) -> tuple["Plan", ...]:
        """The faults that a round of several consists of."""
        return tuple(
            Plan(self.number, part["kind"], part["values"], part["after_s"])
            for part in self.values.get("parts", ())
        )


def _seconds(chance: random.Random, least: float, most: float) -> float:
    return round(chance.uniform(least, most), 3)


def _power_cut(chance: random.Random) -> Values:
    return {"off_s": chance.choice((_seconds(chance, 0, 2), _seconds(chance, 5, 15)))}


def _data_off(chance: random.Random) -> Values:
    first = chance.choice(DATA_ROLES)
    return {
        "first_off": chance.choice(DATA_ROLES),
        "between_s": chance.choice((0.0, _seconds(chance, 0.05, 4))),
        "off_s": _seconds(chance, 0, 3),
        "first_on": first,
        "on_between_s": chance.choice((0.0, _seconds(chance, 0.5, 10))),
    }


def _all_off(chance: random.Random) -> Values:
    order = list(ROLES)
    chance.shuffle(order)
    return {"off_s": _seconds(chance, 0, 3), "on": order, "on_between_s": _seconds(chance, 0, 4)}


def _short_freeze(chance: random.Random) -> Values:
    return {"who": chance.choice(ROLES), "freeze_s": _seconds(chance, 0.05, 0.8)}


def _long_freeze(chance: random.Random) -> Values:
    return {"freeze_s": _seconds(chance, 1.2, 15)}


def _kill(chance: random.Random) -> Values:
    times = chance.choice((1, 1, 2, 3))
    return {
        "processes": [chance.choice(PROCESSES) for _ in range(times)],
        "gaps_s": [_seconds(chance, 0.05, 2) for _ in range(times)],
    }


def _kill_witness(chance: random.Random) -> Values:
    return {"gaps_s": [_seconds(chance, 0.2, 2) for _ in range(chance.randint(1, 3))]}


def _cut(chance: random.Random) -> Values:
    return {"link": chance.choice(LINKS), "cut_s": _cut_seconds(chance)}


def _cut_one_way(chance: random.Random) -> Values:
    return {**_cut(chance), "one_way": chance.choice(("in", "out"))}


def _cut_seconds(chance: random.Random) -> float:
    return chance.choice(
        (_seconds(chance, 0.1, 1), _seconds(chance, 1, 6), _seconds(chance, 8, 16))
    )


def _isolate(chance: random.Random) -> Values:
    return {"cut_s": _cut_seconds(chance), "one_way": chance.choice(("", "", "in", "out"))}


def _flap(chance: random.Random) -> Values:
    turns = chance.randint(3, 8)
    return {
        "link": chance.choice(LINKS),
        "cut_s": [_seconds(chance, 0.05, 1.2) for _ in range(turns)],
        "whole_s": [_seconds(chance, 0.05, 1.2) for _ in range(turns)],
    }


def _slow(chance: random.Random) -> Values:
    return {
        "delay_ms": chance.choice((5, 20, 60)),
        "rate_mbit": chance.choice((5, 20, 100)),
        "slow_s": _seconds(chance, 3, 8),
    }


def _full_disk(chance: random.Random) -> Values:
    return {"full_s": _seconds(chance, 2, 9)}


def _stale_first(chance: random.Random) -> Values:
    return {"alone_s": _seconds(chance, 1, 5), "on_between_s": _seconds(chance, 2, 12)}


def _in_resync(chance: random.Random) -> Values:
    return {"alone_s": _seconds(chance, 1, 5), "into_s": _seconds(chance, 0, 2.5)}


def _in_switchover(chance: random.Random) -> Values:
    return {"who": chance.choice(DATA_ROLES), "into_s": _seconds(chance, 0.02, 1.8)}


def _two_faults(chance: random.Random) -> Values:
    """The second begins while the first still lasts, or just after."""
    parts = []
    for kind, after_s in ((chance.choice(_SIMPLE), 0.0), (chance.choice(_SIMPLE), None)):
        values = KINDS[kind](chance)
        parts.append(
            {
                "kind": kind,
                "values": values,
                "after_s": _seconds(chance, 0.05, 5) if after_s is None else after_s,
            }
        )
    return {"parts": parts}


def _nothing(_: random.Random) -> Values:
    return {}


_SIMPLE = (
    *("power-cut-active", "power-cut-passive", "power-cut-witness", "reboot-active"),
    *("shutdown-active", "shutdown-passive"),
    *("freeze-short", "freeze-active", "freeze-passive", "kill-active", "kill-passive"),
    *("kill-witness", "cut", "cut-one-way", "isolate-active", "isolate-passive", "flap"),
    *("slow-channel", "full-disk-passive", "switchover"),
)

KINDS: dict[str, Callable[[random.Random], Values]] = {
    "power-cut-active": _power_cut,
    "power-cut-passive": _power_cut,
    "power-cut-witness": _power_cut,
    "both-off": _data_off,
    "all-off": _all_off,
    "reboot-active": _nothing,
    "reboot-passive": _nothing,
    "shutdown-active": _power_cut,
    "shutdown-passive": _power_cut,
    "freeze-short": _short_freeze,
    "freeze-active": _long_freeze,
    "freeze-passive": _long_freeze,
    "kill-active": _kill,
    "kill-passive": _kill,
    "kill-witness": _kill_witness,
    "cut": _cut,
    "cut-one-way": _cut_one_way,
    "isolate-active": _isolate,
    "isolate-passive": _isolate,
    "flap": _flap,
    "slow-channel": _slow,
    "full-disk-passive": _full_disk,
    "switchover": _nothing,
    "switchover-in-resync": _in_resync,
    "power-cut-in-switchover": _in_switchover,
    "power-cut-active-in-resync": _in_resync,
    "stale-first": _stale_first,
    "two-faults": _two_faults,
}
DECK = (*KINDS, "two-faults", "two-faults", "two-faults")


def draw(seed: int, number: int) -> Plan:
    """The plan of round `number` (from 1) under `seed`."""
    deck, card = divmod(number - 1, len(DECK))
    kinds = list(DECK)
    random.Random(f"{seed}/deck/{deck}").shuffle(kinds)
    chance = random.Random(f"{seed}/round/{number}")
    after_s = _seconds(chance, 0.2, _LONGEST_WAIT_S)
    return Plan(number, kinds[card], KINDS[kinds[card]](chance), after_s)
