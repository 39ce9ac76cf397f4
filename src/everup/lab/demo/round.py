"""One round of the demo: load, power cut, takeover, proof, return, switchover back.

What enters: a stage with a synchronized group. What leaves: the round's figures, and the timeline's
lines while they come about.
"""

import random
import time

from everup.errors import DeadlinePassed, EverupError
from everup.lab.compare import Comparison
from everup.lab.demo.measure import (
    Acknowledged,
    Answer,
    first_answer_of,
    longest_gap_ms,
    read_acknowledged,
    read_answers,
    round_ms,
)
from everup.lab.demo.report import LEAST_ACKNOWLEDGED, Compared, Round
from everup.lab.demo.steps import Steps, wait_for
from everup.lab.demo.timeline import Timeline
from everup.lab.demo.watch import Watch

WORKERS = 4
_LOAD_AFTER_TAKEOVER_S = 2.0
_TAKEOVER_DEADLINE_S = 60.0
_RETURN_DEADLINE_S = 240
_LONGEST_WAIT_FOR_THE_CUT_S = 4.0
_TAIL_BYTES = 1 << 17


class RoundRunner:
    """Runs rounds on one stage, one after the other."""

    def __init__(self, steps: Steps, timeline: Timeline, chance: random.Random, accounts: int):
        self._steps = steps
        self._stage = steps.stage
        self._group = steps.group
        self._timeline = timeline
        self._chance = chance
        self._accounts = accounts

    def run(self, figures: Round) -> None:
        """Fill in `figures` step by step: what was measured before an error stays."""
        old = self._group.active()
        new = self._steps.other(old)
        figures.epoch_before = int(self._group.status(old)["epoch"])
        first = self._steps.acknowledged_count()
        cut_at = self._load_and_cut(figures, old)
        self._takeover(figures, new, cut_at)
        self._stage.stop_load()
        figures.acknowledged = self._steps.acknowledged_count() - first
        sound = self._look_up(figures, new)
        self._return(figures, old, new)
        self._compare(figures, new)
        self._switch_back(figures, new, old)
        figures.amcheck = self._look_up(figures, old) and sound
        self._compare(figures, old)
        figures.epoch_after = int(self._group.status(old)["epoch"])

    def _load_and_cut(self, figures: Round, active: str) -> float:
        """Returns the moment just before the first cable went down."""
        line = self._timeline
        first = self._steps.acknowledged_count()
        with Watch(self._group, active) as watch:
            self._stage.start_load(WORKERS, self._accounts)
            began = time.monotonic()
            line.say(f"{WORKERS} clients write through the public address to {active}")
            wait_for(
                f"{LEAST_ACKNOWLEDGED} acknowledged transactions",
                lambda: self._steps.acknowledged_count() - first >= LEAST_ACKNOWLEDGED or None,
                180,
            )
            time.sleep(self._chance.uniform(0.1, _LONGEST_WAIT_FOR_THE_CUT_S))
        figures.mode, figures.degraded_ms = watch.mode, watch.degraded_ms
        figures.acknowledged_before_cut = self._steps.acknowledged_count() - first
        cut_at = line.zero()
        loaded_s = cut_at - began
        self._steps.lab.power_cut(active)
        figures.cut_after_ms = round_ms(time.monotonic() - cut_at)
        line.loud(
            f"The power of {active} fails under load: {figures.acknowledged_before_cut}"
            f" transactions acknowledged, {figures.acknowledged_before_cut / loaded_s:.0f}/s",
            at=cut_at,
        )
        return cut_at

    def _takeover(self, figures: Round, new: str, cut_at: float) -> None:
        line = self._timeline
        answer = wait_for(
            f"{new} answers on the public address",
            lambda: first_answer_of(self._answers(), new, cut_at),
            _TAKEOVER_DEADLINE_S,
        )
        figures.promotion_ms = round_ms(answer.at - cut_at)
        line.good(f"{new} answers on the public address", at=answer.at)
        first = wait_for(
            "The first transaction after the power cut", lambda: self._first_after(answer.at), 60
        )
        figures.outage_ms = round_ms(first.at - cut_at)
        line.good(f"The clients' transactions go on at {new}", at=first.at)
        try:
            mail = wait_for("A mail", lambda: self._steps.mail_after(cut_at), 15)
        except DeadlinePassed:
            line.bad("No mail arrived.")
        else:
            figures.mail_ms = round_ms(mail["at_monotonic"] - cut_at)
            line.good(f"Mail to the operator: {mail['subject']}", at=mail["at_monotonic"])
        time.sleep(_LOAD_AFTER_TAKEOVER_S)

    def _answers(self) -> list[Answer]:
        return read_answers(self._stage.probe_log, _TAIL_BYTES)

    def _first_after(self, moment: float) -> Acknowledged | None:
        found = read_acknowledged(self._stage.load_logs, _TAIL_BYTES)
        return next((each for each in found if each.at > moment), None)

    def _look_up(self, figures: Round, active: str) -> bool:
        """Every transaction that the client was told is done must be there.

        True when pg_amcheck finds nothing.
        """
        line, server = self._timeline, self._steps.lab.server(active)
        with line.working("looking up every acknowledged transaction"):
            promised = {each.key for each in read_acknowledged(self._stage.load_logs)}
            missing = promised - self._stage.database.ledger(server)
            complaint = self._stage.database.amcheck(server)
        figures.lost = max(figures.lost, len(missing))
        if missing:
            line.bad(f"{len(missing)} of {len(promised)} acknowledged transactions are missing")
        else:
            line.good(f"All {len(promised)} acknowledged transactions are there")
        if complaint:
            line.bad(f"pg_amcheck: {complaint}")
        else:
            line.good("pg_amcheck finds tables and indexes whole")
        return not complaint

    def _return(self, figures: Round, old: str, active: str) -> None:
        line, steps = self._timeline, self._steps
        before, changed = steps.channel_bytes(active), steps.journal_bytes(active)
        began = time.monotonic()
        steps.lab.power_on(old, wait=False)
        line.say(f"{old} has power again")
        with line.working(f"{old} boots, rejoins and is resynchronized"):
            self._group.wait(active, "synchronized", _RETURN_DEADLINE_S)
        figures.resync_ms = round_ms(time.monotonic() - began)
        figures.resync_bytes = steps.channel_bytes(active) - before
        figures.changed_bytes = changed
        line.good(
            f"{old} is back by itself as passive and synchronized"
            f" ({figures.resync_bytes >> 10} KiB over the channel)"
        )

    def _compare(self, figures: Round, active: str) -> None:
        line = self._timeline
        with line.working("comparing both servers' files byte by byte"):
            found = self._steps.compare(active)
        figures.compared = Compared(found.entries, found.bytes)
        figures.tree_bytes = found.bytes
        figures.identical = found.identical
        self._tell_comparison(found)
        if not found.identical:
            raise EverupError(f"The trees differ: {found.differences[0]}")

    def _tell_comparison(self, found: Comparison) -> None:
        line = self._timeline
        if found.identical:
            line.good(
                f"Both servers hold the same: {found.entries} entries,"
                f" {found.bytes >> 20} MiB, byte by byte"
            )
        for sentence in found.differences[:10]:
            line.bad(sentence)

    def _switch_back(self, figures: Round, active: str, to: str) -> None:
        line = self._timeline
        first = self._steps.acknowledged_count()
        self._stage.start_load(WORKERS, self._accounts)
        wait_for(
            "Transactions before the switchover",
            lambda: self._steps.acknowledged_count() - first >= 200 or None,
            60,
        )
        began = line.zero()
        line.loud(f"Switchover from {active} to {to} under load", at=began)
        self._group.everup(active, "switchover")
        done = time.monotonic()
        first_after = wait_for(
            "Transactions after the switchover", lambda: self._first_after(done), 60
        )
        time.sleep(1.0)
        self._stage.stop_load()
        moments = [each.at for each in read_acknowledged(self._stage.load_logs)]
        end = first_after.at
        figures.switchover_ms = round(longest_gap_ms(moments, began, end))
        answers = [each.at for each in read_answers(self._stage.probe_log)]
        figures.switchover_pause = round(longest_gap_ms(answers, began, end))
        line.good(
            f"Switched over: {figures.switchover_ms} ms between two transactions,"
            f" {figures.switchover_pause} ms without an echo"
        )
        if self._group.active() != to:
            raise EverupError(f"After the switchover {to} is not the active server.")
        self._group.wait(to, "synchronized", _RETURN_DEADLINE_S)
