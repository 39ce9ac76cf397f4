"""Warnings about a server's own data: each by its own fact, none when all is well."""

from typing import Any

import pytest

from everup.agent.data_warnings import data_warnings

QUOTA = 1 << 30
WELL: dict[str, Any] = {
    "journal": {"bytes": QUOTA // 2, "quota_bytes": QUOTA, "aside": None, "dirty": None},
    "behind": {"state": "watching", "sentence": "", "count": 0, "overflows": 0, "last": []},
}
LAST = {"path": "/srv/db/7", "pid": 9, "command": "cp", "at": 1.0}
WRONG: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("journal-aside", {"aside": {"path": "/var/x", "sentence": "torn"}}, {}, "/var/x: torn"),
    ("journal-dirty", {"dirty": {"sentence": "at most 4 KiB"}}, {}, "at most 4 KiB"),
    ("journal-quota", {"bytes": QUOTA * 7 // 10 + 1}, {}, "70 % of its quota"),
    ("journal-quota", {"bytes": QUOTA * 95 // 100 + 1}, {}, "95 % of its quota"),
    ("behind-mount", {}, {"count": 3, "last": [LAST]}, "3 times since it was started; the last"),
]


def test_a_server_that_is_well_has_no_warnings() -> None:
    assert data_warnings("a", WELL, {"receive_queue": {"bytes": QUOTA // 2}}, QUOTA) == []
    assert data_warnings("a", {}, {}, QUOTA) == []


@pytest.mark.parametrize(("identifier", "journal", "behind", "words"), WRONG)
def test_what_is_wrong_is_a_warning_of_its_own(
    identifier: str, journal: dict[str, Any], behind: dict[str, Any], words: str
) -> None:
    guard = {
        "journal": {**WELL["journal"], **journal},
        "behind": {**WELL["behind"], **behind},
    }
    (found,) = data_warnings("a", guard, {}, QUOTA)
    assert found["id"] == identifier and words in found["sentence"] and found["remedy"]


def test_shared_memory_without_room_is_a_warning() -> None:
    memory = {"state": "full", "sentence": "/run is full"}
    (found,) = data_warnings("a", {**WELL, "memory": memory}, {}, QUOTA)
    assert found["id"] == "guard-memory" and "/run is full" in found["sentence"]
    ok = {"state": "ok", "sentence": ""}
    assert data_warnings("a", {**WELL, "memory": ok}, {}, QUOTA) == []


def test_what_waits_to_be_applied_is_held_against_the_quota() -> None:
    (found,) = data_warnings("a", WELL, {"receive_queue": {"bytes": QUOTA}}, QUOTA)
    assert found["id"] == "receive-log-quota" and "the receive log of a" in found["sentence"]
