"""What the client knows against what the database holds.

What enters: the client's histories (see `everup.lab.guests.load`), the rows of the ledger and the
sum of all account balances. What leaves: a judgement. Pure but for reading the files.

A transaction is one row of the ledger and one more on one balance, so the sum of the balances is
the number of rows: a change that was lost or applied twice shows, also when its row is there.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

Key = tuple[int, int]

# The last word about a transaction; `begin` and `commit` leave it open.
_HAPPENED = ("done", "present")
_NEVER = ("failed", "undone", "absent")
_EXAMPLES = 5


@dataclass
class History:
    """What the client knows: transactions that happened, those that never can, and all it began."""

    begun: set[Key] = field(default_factory=set)
    happened: set[Key] = field(default_factory=set)
    never: set[Key] = field(default_factory=set)
    acknowledged: int = 0

    def note(self, worker: int, lines: Iterable[str]) -> None:
        """Take in the lines of one worker's history."""
        for line in lines:
            event, number, _ = line.split()
            key = worker, int(number)
            if event == "begin":
                self.begun.add(key)
            elif event in _HAPPENED:
                self.happened.add(key)
                self.acknowledged += event == "done"
            elif event in _NEVER:
                self.never.add(key)


@dataclass(frozen=True)
class Judgement:
    """`lost`: known to have happened, not there. `resurrected`: known never to have happened, or
    never begun, yet there."""

    lost: frozenset[Key]
    resurrected: frozenset[Key]
    balance: int
    rows: int

    def sentences(self) -> list[str]:
        """Every breach; empty when client and database agree."""
        found = []
        if self.lost:
            found.append(f"{len(self.lost)} acknowledged transactions are lost: {_few(self.lost)}.")
        if self.resurrected:
            words = "transactions that never happened are in the ledger"
            found.append(f"{len(self.resurrected)} {words}: {_few(self.resurrected)}.")
        if self.balance != self.rows:
            found.append(
                f"The balances sum up to {self.balance}, but the ledger has {self.rows} rows:"
                " a change was lost or applied twice."
            )
        return found


def _few(keys: frozenset[Key]) -> str:
    return ", ".join(f"{worker}/{number}" for worker, number in sorted(keys)[:_EXAMPLES])


def read_history(directory: Path) -> History:
    """All workers' histories; an unfinished last line is left out."""
    history = History()
    for path in sorted(directory.glob("history-*.log")):
        worker = int(path.stem.removeprefix("history-"))
        history.note(worker, path.read_text().split("\n")[:-1])
    return history


def judge(history: History, ledger: set[Key], balance: int) -> Judgement:
    """Compare. Rows of workers without any history (an older load's) are nobody's business here."""
    first: dict[int, int] = {}
    for worker, number in history.begun:
        first[worker] = min(number, first.get(worker, number))
    ours = {key for key in ledger if key[1] >= first.get(key[0], key[1] + 1)}
    return Judgement(
        lost=frozenset(history.happened - ledger),
        resurrected=frozenset((history.never & ledger) | (ours - history.begun)),
        balance=balance,
        rows=len(ledger),
    )
