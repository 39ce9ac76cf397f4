"""Endurance without a lab: plans come from the seed alone, and the audit can see each breach."""

import pytest

from everup.lab.demo.measure import Answer
from everup.lab.endure.acts import Acts
from everup.lab.endure.audit import two_voices
from everup.lab.endure.expected import EXPECTED, unexpected
from everup.lab.endure.history import History, Judgement, judge
from everup.lab.endure.logs import Line, parse, spoken_in
from everup.lab.endure.plan import DECK, KINDS, PROCESSES, draw
from everup.lab.endure.report import Report, Round
from everup.lab.endure.scene import Blackout, Cast
from everup.lab.endure.words import tell

CAST = Cast("secondary", "primary")


# --- plans -----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_faults_and_moments() -> None:
    plans = [draw(7, number) for number in range(1, 60)]
    assert plans == [draw(7, number) for number in range(1, 60)]
    assert plans != [draw(8, number) for number in range(1, 60)]


def test_every_kind_comes_once_in_each_deck() -> None:
    count = len(DECK)
    for deck in range(3):
        kinds = [draw(3, deck * count + number).kind for number in range(1, count + 1)]
        assert sorted(kinds) == sorted(DECK)
        assert set(kinds) == set(KINDS)


def test_two_faults_carry_the_marks_of_both() -> None:
    plans = [draw(5, number) for number in range(1, 400)]
    pairs = [plan for plan in plans if plan.kind == "two-faults"]
    assert len(pairs) > 20
    for plan in pairs:
        assert {part.kind for part in plan.parts} < set(plan.marks)


def test_every_plan_can_be_told_and_has_an_act() -> None:
    for number in range(1, 20 * len(KINDS)):
        plan = draw(11, number)
        assert tell(plan, CAST)
        assert callable(getattr(Acts, plan.kind.replace("-", "_")))


# --- the client's history --------------------------------------------------------------------


def history(*lines: str) -> History:
    found = History()
    found.note(0, [f"{line} 1.0" for line in lines])
    return found


DONE = ("begin 1", "commit 1", "done 1")


def judged(lines: tuple[str, ...], rows: set[int], balance: int | None = None) -> Judgement:
    ledger = {(0, number) for number in rows}
    return judge(history(*lines), ledger, len(rows) if balance is None else balance)


def test_what_agrees_is_no_finding() -> None:
    open_one = ("begin 2", "commit 2")
    for rows in ({1}, {1, 2}):
        assert judged((*DONE, *open_one), rows).sentences() == []
    assert judged((*DONE, "begin 3", "failed 3", "begin 50", "undone 50"), {1}).sentences() == []


def test_an_acknowledged_transaction_that_is_missing_is_lost() -> None:
    assert judged(DONE, set()).lost == {(0, 1)}
    assert judged(("begin 1", "commit 1", "present 1"), set()).lost == {(0, 1)}


@pytest.mark.parametrize("word", ["failed", "undone", "absent"])
def test_one_that_never_happened_but_is_there_is_resurrected(word: str) -> None:
    assert judged(("begin 1", f"{word} 1"), {1}).resurrected == {(0, 1)}


def test_a_row_that_nobody_began_is_resurrected_but_an_older_loads_rows_are_not() -> None:
    assert judged(("begin 10", "commit 10", "done 10"), {3, 10, 11}).resurrected == {(0, 11)}


def test_a_balance_that_is_not_the_number_of_rows_is_a_lost_or_doubled_change() -> None:
    assert "applied twice" in judged(DONE, {1}, balance=2).sentences()[0]
    assert judged(DONE, {1}, balance=0).sentences()


# --- answers from the public address ---------------------------------------------------------


def answers(*servers: tuple[float, str]) -> list[Answer]:
    return [Answer(at, at - 0.001, server) for at, server in servers]


def test_two_servers_by_turns_are_heard_and_a_failover_and_back_is_not() -> None:
    taken = answers((1.0, "primary"), (2.2, "secondary"), (2.22, "secondary"), (4.0, "primary"))
    assert two_voices(taken) == []
    both = answers((1.0, "primary"), (1.02, "secondary"), (1.04, "primary"))
    assert two_voices(both)


# --- what the servers say --------------------------------------------------------------------


def entry(message: str, unit: str = "everup-agent.service", **more: str) -> dict[str, object]:
    return {"MESSAGE": message, "_SYSTEMD_UNIT": unit, "__REALTIME_TIMESTAMP": "5000000", **more}


def test_complaints_are_read_and_the_rest_is_not() -> None:
    assert parse("primary", entry("INFO everup.agent.jobs: done")) is None
    line = parse("primary", entry("Traceback (most recent call last):"))
    assert line == Line("primary", 5.0, "everup-agent", "Traceback (most recent call last):")
    assert parse("client", entry("Traceback", "lab-load.service")) is None
    assert parse("primary", entry("Traceback", "everup-lab-echo.service")) is None
    panic = entry("[3-1] 2026 [9] PANIC:  could not", "", SYSLOG_IDENTIFIER="postgres")
    assert parse("primary", panic) is not None
    log = entry("[3-1] 2026 [9] LOG:  checkpoint", "", SYSLOG_IDENTIFIER="postgres")
    assert parse("primary", log) is None
    failed = entry("Failed with result", "init.scope", _PID="1", UNIT="everup-guard.service")
    assert parse("primary", {**failed, "PRIORITY": "4"}) is not None
    assert parse("primary", {**failed, "PRIORITY": "6"}) is None


def test_only_the_words_of_a_server_that_loses_its_power_are_left_out() -> None:
    blackout = Blackout("primary", 4.5, 5.5)
    words = "everup-guard: the journal could not be written: Input/output error"
    assert spoken_in(Line("primary", 5.0, "everup-guard", words), blackout)
    assert not spoken_in(Line("primary", 4.4, "everup-guard", words), blackout)
    assert not spoken_in(Line("secondary", 5.0, "everup-guard", words), blackout)
    line = Line("primary", 4.4, "everup-guard", words)
    assert unexpected([line], ("power-cut-active",)) == [line]


def test_a_line_that_nobody_gave_a_reason_for_is_unexpected() -> None:
    killed = Line(
        "primary", 1.0, "everup-guard", "everup-guard: worker ended (-9), starting it again"
    )
    panic = Line("primary", 1.0, "postgres", "[4-1] x PANIC:  could not fdatasync file")
    assert unexpected([killed, panic], ("kill-active", "kill-active:guard-worker")) == [panic]
    assert unexpected([killed], ("switchover",)) == [killed]
    trace = Line("primary", 1.0, "everup-agent", "Traceback (most recent call last):")
    assert unexpected([trace], ("power-cut-active",)) == [trace]


def test_every_expected_line_has_a_reason_and_marks_that_exist() -> None:
    for each in EXPECTED:
        assert each.reason
        for mark in each.marks:
            kind, colon, process = mark.partition(":")
            assert any(known.startswith(kind) for known in KINDS), mark
            assert not colon or (kind in KINDS and process in PROCESSES), mark


# --- the report ------------------------------------------------------------------------------


def test_a_report_without_rounds_or_with_a_finding_is_not_good() -> None:
    report = Report(seed=1)
    assert not report.ok
    good = Round(1, "switchover", {}, 0.5, lost=0, resurrected=0, identical=True, whole_ms=9)
    report.rounds.append(good)
    assert report.ok
    assert good.sound
    good.findings.append("something")
    assert report.to_json()["findings"] == ["Round 1 (switchover): something"]
    assert not report.ok
    good.identical = False
    assert not good.sound
