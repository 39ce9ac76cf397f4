"""How verifications end: what is saved, told and repaired, also when one of our own parts fails."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everup.config.load import parse_group
from everup.places import Places
from everup.replicate.context import Context
from everup.replicate.dialling import Place
from everup.replicate.resting import ASKED
from everup.replicate.verify import TreeCount, Verification
from everup.replicate.verifying import Verifying
from everup.system.files import load_json

GROUP = f"""
version = 1
group = "shop"
group_id = "{"ab" * 16}"
[[protect]]
id = 1
path = "/srv/data"
"""


class Link:
    """What a verification needs of a link."""

    server = "beta"
    epoch = 1
    in_sync = True
    place = Place("beta", (), 1)

    def __init__(self, saved: Callable[[], bool]) -> None:
        self._saved = saved
        self.compared_before_saving: list[bool] = []

    def compare(self) -> None:
        self.compared_before_saving.append(not self._saved())

    def status(self) -> dict[str, Any]:
        return {"send_queue": {"bytes": 0, "oldest_ms": 0}}


class Ended(Verification):
    """One that has found something."""

    found: TreeCount

    @property
    def counts(self) -> dict[int, TreeCount]:
        return {1: self.found}

    def _run(self) -> None:
        return None


def ended(places: Places, found: TreeCount) -> Verification:
    """One of everything, at its end."""
    context = Context(places, "alpha", parse_group(GROUP))
    verification = Ended(context, 1, Link.place, {1: b""}, ASKED, lambda: (0, 0))
    verification.found = found
    verification.start()
    return verification


class Broken(dict[int, bytes]):
    """Paths that nobody can look up."""

    def __contains__(self, tree: object) -> bool:
        raise ZeroDivisionError(tree)


DIFFERENT = TreeCount(10, {b"different"}, {b"busy"})


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places.below(tmp_path)
    found.make()
    return found


@pytest.fixture
def verifying(places: Places) -> Verifying:
    return Verifying(Context(places, "alpha", parse_group(GROUP)), lambda: [])


def test_a_mistake_of_ours_is_an_error_and_no_proof(places: Places, verifying: Verifying) -> None:
    """An exception that nobody expected: here of the paths that were asked for."""
    verifying._whole = {"beta": {"number": 1}}
    context = Context(places, "alpha", parse_group(GROUP))
    broken = Verification(context, 1, Link.place, Broken(), ASKED, lambda: (0, 0))
    broken.start()
    verifying.follow(Link(lambda: True), broken, 2)  # type: ignore[arg-type]
    status = verifying.status()
    assert status["results"]["beta"]["error"]["code"] == "internal"
    assert status["whole"] == {"beta": {"number": 1}}, "what was proven before is still known"
    assert status["running"] == {}


def test_the_repair_is_asked_for_before_the_result_is_known(
    places: Places, verifying: Verifying
) -> None:
    path = places.state / "verified.json"
    link = Link(path.exists)
    verifying.follow(link, ended(places, DIFFERENT), 3)  # type: ignore[arg-type]
    assert link.compared_before_saving == [True]
    assert load_json(path)["whole"]["beta"]["number"] == 3


def test_what_was_too_busy_is_not_called_equal(places: Places, verifying: Verifying) -> None:
    lines = verifying._context.events.subscribe()
    next(lines)
    verification = ended(places, TreeCount(10, set(), {b"busy", b"too"}))
    verifying.follow(Link(lambda: False), verification, 4)  # type: ignore[arg-type]
    told = next(lines)
    assert told["event"] == "verify-equal"
    assert told["sentence"].startswith("8 objects proven equal on beta; 2 more were written")


def test_a_result_that_cannot_be_saved_ends_the_verification_all_the_same(
    places: Places, verifying: Verifying
) -> None:
    (places.state / "verified.json.new").mkdir()
    began = time.monotonic()
    verifying.follow(Link(lambda: False), ended(places, DIFFERENT), 5)  # type: ignore[arg-type]
    assert verifying.status()["results"]["beta"]["number"] == 5
    assert time.monotonic() - began < 5
