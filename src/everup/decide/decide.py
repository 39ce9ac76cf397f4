"""THE HEART: what this server does next.

What enters: what it remembers (`State`) and what it sees (`Observation`, time included). What
leaves: what to remember and what to do (`Decision`). Pure: the same two values always give the
same decision, so an incident that was recorded can be replayed. Called by the agent's loop, by the
simulator and by the scenarios; the steps themselves are rows of `table`, `duties` and `remarks`.
"""

from dataclasses import replace

from everup.decide import explain, invariants
from everup.decide.duties import DUTIES
from everup.decide.remarks import REMARKS
from everup.decide.row import Row
from everup.decide.table import TRANSITIONS
from everup.model.action import Action, Answer, Decision, Said
from everup.model.observation import Observation
from everup.model.role import State

ALL_ROWS: tuple[Row, ...] = (*TRANSITIONS, *REMARKS, *DUTIES)


def decide(state: State, observation: Observation) -> Decision:
    """One turn. A change of role performs nothing itself: the next turn's duties do.

    So the state in which an action is performed was always made durable before.
    """
    change = _transition(state, observation)
    if change is not None:
        decision = _change_role(state, observation, change)
    else:
        decision = _do_duties(state, observation)
    invariants.check(state, observation, decision)
    return decision


def _transition(s: State, o: Observation) -> Row | None:
    return next((row for row in TRANSITIONS if s.role in row.sources and row.condition(s, o)), None)


def _change_role(s: State, o: Observation, row: Row) -> Decision:
    assert row.target is not None
    remembered = row.remember(s, o) if row.remember is not None else s
    after = replace(
        remembered,
        role=row.target,
        cause=row.cause if row.cause is not None else s.cause,
        row=row.id,
        since_ms=o.now_ms,
        boot_id=o.boot_id,
    )
    said = (_say(s, o, row),) if row.said else ()
    answer = _answer(s, o, row)
    return Decision(after, (), (row.id,), said, answer, explain.situation(after, o))


def _do_duties(s: State, o: Observation) -> Decision:
    noted, fired, said = s, [], []
    for row in REMARKS:
        if s.role in row.sources and row.condition(noted, o):
            fired.append(row.id)
            if row.said:
                said.append(_say(noted, o, row))
            noted = row.remember(noted, o) if row.remember is not None else noted
    actions: list[Action] = []
    for row in DUTIES:
        if s.role in row.sources and row.condition(s, o):
            fired.append(row.id)
            actions += row.deeds(s, o)
    answer = _answer(s, o, None)
    sentence = explain.situation(s, o)
    return Decision(noted, tuple(actions), tuple(fired), tuple(said), answer, sentence)


def _say(s: State, o: Observation, row: Row) -> Said:
    words = {**explain.words(s, o), **row.words(s, o)}
    return Said(row.id, row.severity, row.sentence.format(**words), row.told)


def _answer(s: State, o: Observation, row: Row | None) -> Answer | None:
    """A request is taken up by a row, or refused: it never stays open for a later turn.

    `hold` is no such request, it is a condition that lasts until it is taken away.
    """
    if o.request is None or o.request.kind == "hold":
        return None
    if row is not None and row.answers:
        return Answer(o.request.id, True, row.id, _say(s, o, row).sentence)
    if row is not None:
        return None
    code, sentence = explain.refusal(s, o)
    return Answer(o.request.id, False, code, sentence)
