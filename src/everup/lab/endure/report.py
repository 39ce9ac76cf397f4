"""The result of an endurance run.

What enters: rounds as they end. What leaves: a JSON file with everything that is needed to repeat
and to judge them, written anew after each round, so that a run that was broken off has one too.
"""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Round:
    """One round. Times in ms, -1 where nothing was measured. `pause_ms`: the longest time without
    an acknowledged transaction. `whole_ms`: from the repair of what people repair to a whole group.
    """

    number: int
    kind: str
    values: dict[str, Any]
    after_s: float
    sentence: str = ""
    active_before: str = ""
    active_after: str = ""
    epoch_before: int = 0
    epoch_after: int = 0
    acknowledged: int = 0
    lost: int = -1
    resurrected: int = -1
    compared_entries: int = 0
    compared_bytes: int = 0
    identical: bool = False
    pause_ms: int = -1
    whole_ms: int = -1
    took_ms: int = -1
    began: str = ""
    findings: list[str] = field(default_factory=list)
    evidence: str = ""

    @property
    def sound(self) -> bool:
        """The lab can go on to the next round, whatever else was found."""
        kept = self.lost == 0 and self.resurrected == 0 and self.identical
        return kept and self.whole_ms >= 0


@dataclass
class Report:
    """Everything that a run found out. `findings` of the report: what belongs to no round."""

    seed: int
    rounds: list[Round] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @property
    def all_findings(self) -> list[str]:
        of_rounds = [
            f"Round {each.number} ({each.kind}): {sentence}"
            for each in self.rounds
            for sentence in each.findings
        ]
        return [*self.findings, *of_rounds]

    @property
    def ok(self) -> bool:
        return bool(self.rounds) and not self.all_findings

    def median(self, name: str) -> int:
        """Over the rounds that measured it; -1 without any."""
        values = [getattr(each, name) for each in self.rounds if getattr(each, name) >= 0]
        return round(statistics.median(values)) if values else -1

    def to_json(self) -> dict[str, Any]:
        kinds = sorted({each.kind for each in self.rounds})
        return {
            "seed": self.seed,
            "rounds": [asdict(each) for each in self.rounds],
            "kinds": {kind: sum(each.kind == kind for each in self.rounds) for kind in kinds},
            "acknowledged": sum(each.acknowledged for each in self.rounds),
            "lost": sum(max(0, each.lost) for each in self.rounds),
            "resurrected": sum(max(0, each.resurrected) for each in self.rounds),
            "medians": {name: self.median(name) for name in ("pause_ms", "whole_ms", "took_ms")},
            "versions": self.versions,
            "ok": self.ok,
            "findings": self.all_findings,
        }

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(self.to_json(), indent=1) + "\n")
        temporary.rename(path)
