"""How a switchover ended is judged by the roles when the job was lost."""

from typing import Any

import pytest

from everup.agent.lost_job import SETTLED_MS, LostSwitchover
from everup.errors import Refused


def status(holder: str | None, epoch: int, state: str = "synchronized") -> dict[str, Any]:
    return {"state": state, "epoch": epoch, "arbiter": {"holder": holder}}


def test_lost_job_another_server_in_service_is_success() -> None:
    judge = LostSwitchover("a", 4)
    assert judge.look(status("a", 4, "changing"), 0) is None
    assert judge.look(status(None, 4, "no-active"), 60_000) is None
    assert judge.look(status("b", 5), 61_000) == "b is active"


def test_lost_job_the_same_server_must_stand_still_before_it_counts_as_failed() -> None:
    judge = LostSwitchover("a", 4, "b")
    assert judge.look(status("a", 4), 0) is None
    assert judge.look(status("a", 4, "changing"), SETTLED_MS) is None
    assert judge.look(status("a", 4), SETTLED_MS + 1) is None
    with pytest.raises(Refused) as caught:
        judge.look(status("a", 4), 2 * SETTLED_MS + 1)
    assert caught.value.code == "not-switched"


@pytest.mark.parametrize(("holder", "code"), [("a", "switched-back"), ("c", "not-switched")])
def test_lost_job_names_who_is_active_instead(holder: str, code: str) -> None:
    judge = LostSwitchover("a", 4, "b")
    judge.look(status(holder, 6), 0)
    with pytest.raises(Refused) as caught:
        judge.look(status(holder, 6), SETTLED_MS)
    assert caught.value.code == code and holder in caught.value.sentence
