"""Words that rows of several kinds fill their sentences with.

What enters: state and observation. What leaves: the words by name. Used by `taking` and `holding`.
"""

from everup.decide import work as w
from everup.model.observation import Observation
from everup.model.role import State


def partner_words(s: State, o: Observation) -> dict[str, str]:
    return {"partner": w.target_of(s, o) or w.giver(o) or s.partner}


def start_sentence(o: Observation) -> str:
    outcome = o.outcome("StartUnits")
    return outcome.sentence.rstrip(".") if outcome is not None else ""
