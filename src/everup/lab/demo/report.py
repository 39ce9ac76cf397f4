"""The demo's result: what each round measured, and what was not as promised.

What enters: figures. What leaves: build/demo.json as the contracts give it, and sentences for every
broken promise.
"""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LEAST_ACKNOWLEDGED = 2000
_RESYNC_SLACK_BYTES = 64 << 20
_MAIL_LIMIT_MS = 5000
# Medians that a demo aims at on a quiet machine; told, not judged.
AIMS_MS = {"promotion_ms": 2000, "outage_ms": 6000, "switchover_ms": 4000}
_MEDIANS = ("promotion_ms", "outage_ms", "switchover_ms", "switchover_pause", "mail_ms")


@dataclass
class Compared:
    """How much was compared."""

    entries: int = 0
    bytes: int = 0


@dataclass
class Round:
    """One power cut with everything that follows it. Times in ms, -1 where nothing was measured."""

    mode: str = ""
    degraded_ms: int = 0
    acknowledged: int = 0
    acknowledged_before_cut: int = 0
    lost: int = -1
    outage_ms: int = -1
    promotion_ms: int = -1
    switchover_ms: int = -1
    switchover_pause: int = -1
    mail_ms: int = -1
    resync_ms: int = -1
    resync_bytes: int = -1
    changed_bytes: int = -1
    tree_bytes: int = 0
    compared: Compared = field(default_factory=Compared)
    identical: bool = False
    amcheck: bool = False
    epoch_before: int = 0
    epoch_after: int = 0
    cut_after_ms: int = 0


def broken_promises(number: int, figures: Round) -> list[str]:
    """A sentence for each promise that this round did not keep."""
    start = f"Round {number}:"
    limit = round(1.5 * figures.changed_bytes) + _RESYNC_SLACK_BYTES
    checks = [
        (figures.mode == "durable", f"the mode was {figures.mode}, not durable"),
        (figures.lost == 0, f"{figures.lost} acknowledged transactions are missing"),
        (figures.degraded_ms == 0, f"durable mode was degraded for {figures.degraded_ms} ms"),
        (figures.identical, "the trees were not proven identical"),
        (figures.amcheck, "pg_amcheck did not pass"),
        (
            figures.acknowledged_before_cut >= LEAST_ACKNOWLEDGED,
            f"only {figures.acknowledged_before_cut} transactions were acknowledged before the cut",
        ),
        (figures.promotion_ms >= 0, "the other server never answered on the public address"),
        (figures.outage_ms >= 0, "no transaction was acknowledged after the cut"),
        (figures.switchover_ms >= 0, "the switchover was not measured"),
        (
            0 <= figures.resync_bytes <= limit,
            f"the resync moved {figures.resync_bytes} bytes, more than the {limit} allowed",
        ),
        (0 <= figures.mail_ms <= _MAIL_LIMIT_MS, f"the mail took {figures.mail_ms} ms (-1: none)"),
        (figures.epoch_after > figures.epoch_before, "the epoch did not grow"),
    ]
    return [f"{start} {sentence}." for good, sentence in checks if not good]


@dataclass
class Report:
    """Everything that a demo found out."""

    rounds: list[Round] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    seed: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings and bool(self.rounds)

    @property
    def medians(self) -> dict[str, float]:
        """Of every time that was measured at least once."""
        found = {}
        for name in _MEDIANS:
            values = [getattr(each, name) for each in self.rounds if getattr(each, name) >= 0]
            if values:
                found[name] = statistics.median(values)
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "rounds": [asdict(each) for each in self.rounds],
            "medians": self.medians,
            "versions": self.versions,
            "ok": self.ok,
            "findings": self.findings,
            "seed": self.seed,
        }

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")
