"""The audit after a round: is everything as if nothing had happened?

What enters: a scene whose group has said that it is whole, the client's logs. What leaves: facts,
and a sentence for each broken promise. Load and churn stand still while it looks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from everup.lab.compare import Comparison, compare_trees
from everup.lab.database import PROTECTED
from everup.lab.demo.measure import Answer, read_answers
from everup.lab.endure.history import judge, read_history
from everup.lab.endure.scene import Cast, Scene, quietly, wait_until

_POSITION_S = 30.0
_SAME_POLLS = 3
_TOLD_DIFFERENCES = 10
_TWO_AT_ONCE_S = 0.25


@dataclass
class Facts:
    """What an audit has found. Counts are over the whole run so far."""

    acknowledged: int = 0
    rows: int = 0
    lost: int = 0
    resurrected: int = 0
    entries: int = 0
    bytes: int = 0
    identical: bool = False
    findings: list[str] = field(default_factory=list)


class Audit:
    """Judges one scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._database = scene.stage.database

    def examine(self, since: float) -> Facts:
        """Everything; `since`: monotonic moment of the round's beginning."""
        facts = Facts()
        cast = self._scene.cast()
        self._one_active(cast, facts)
        self._one_voice(since, facts)
        self._client(cast, facts)
        self._trees(cast, facts)
        return facts

    def _one_active(self, cast: Cast, facts: Facts) -> None:
        roles = self._scene.roles()
        passives = self._scene.passives(cast.active)
        if roles != {cast.active: "active", **dict.fromkeys(passives, "passive")}:
            facts.findings.append(f"The servers' own words about their roles: {roles}.")
        gates = {n: self._scene.ask(n, "guard")["gate"] for n in (cast.active, *passives)}
        if gates != {cast.active: "open", **dict.fromkeys(passives, "closed")}:
            facts.findings.append(f"The gates are {gates}.")

    def _one_voice(self, since: float, facts: Facts) -> None:
        """The echo runs on both servers all the time; only the active one may be heard."""
        answers = [a for a in read_answers(self._scene.stage.probe_log) if a.asked_at > since]
        facts.findings += two_voices(answers)

    def _client(self, cast: Cast, facts: Facts) -> None:
        server = self._scene.server(cast.active)
        history = read_history(self._scene.stage.load_logs)
        ledger = self._database.ledger(server)
        total = self._database.ask(
            server, "SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts"
        )
        judgement = judge(history, ledger, int(total[0]))
        facts.acknowledged, facts.rows = history.acknowledged, judgement.rows
        facts.lost, facts.resurrected = len(judgement.lost), len(judgement.resurrected)
        facts.findings += judgement.sentences()

    def _trees(self, cast: Cast, facts: Facts) -> None:
        found = compare_at_rest(self._scene, cast)
        facts.entries, facts.bytes, facts.identical = found.entries, found.bytes, found.identical
        if not found.identical:
            count = len(found.differences)
            facts.findings.append(f"The trees differ in {count} places.")
            facts.findings += found.differences[:_TOLD_DIFFERENCES]


def two_voices(answers: list[Answer]) -> list[str]:
    """Two servers that answer from the public address within a quarter of a second, by turns."""
    changes = [
        (before, after) for before, after in pairwise(answers) if before.server != after.server
    ]
    for (first, _), (_, last) in pairwise(changes):
        if last.at - first.at < _TWO_AT_ONCE_S:
            return [f"Two servers answered from the public address at {first.at:.3f}."]
    return []


@contextmanager
def at_rest(scene: Scene, server: str) -> Iterator[None]:
    """The database of the server stands still, with nothing unwritten of its own."""
    database = scene.stage.database
    unit = f"{database.unit}.service"
    database.ask(scene.server(server), "CHECKPOINT")
    scene.run(server, "systemctl", "freeze", unit)
    try:
        yield
    finally:
        scene.run(server, "systemctl", "thaw", unit)


def compare_at_rest(scene: Scene, cast: Cast, deadline_s: float = _POSITION_S) -> Comparison:
    """The active server's lower tree and every other, read from the host at one position."""
    found = Comparison()
    with at_rest(scene, cast.active):
        for passive in scene.passives(cast.active):
            _wait_one_position(scene, cast.active, passive, deadline_s)
            for path in PROTECTED:
                mine, theirs = (scene.server(n).disk.real(path) for n in (cast.active, passive))
                found += compare_trees(mine, theirs, names=(cast.active, passive))
    return found


def _wait_one_position(scene: Scene, active: str, passive: str, deadline_s: float) -> None:
    """The passive has applied what the active has written, seen several times in a row."""
    seen: list[object] = []

    def same() -> bool:
        written = quietly(lambda: scene.ask(active, "guard")["position"])
        applied = quietly(lambda: scene.ask(passive, "replicator")["applied"])
        if written is None or written != applied:
            seen.clear()
            return False
        seen.append(written)
        return seen[-_SAME_POLLS:] == [written] * _SAME_POLLS

    wait_until("Both servers at one position", same, deadline_s)
