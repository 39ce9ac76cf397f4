"""Owners below a path: the same names and numbers on every server, or protect is refused."""

import os
import pwd
from pathlib import Path

from everup.agent.owners import Owners, differences, owners_below


def test_owners_below_are_all_found(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("x")
    (tmp_path / "link").symlink_to("/etc/shadow-that-is-not-there")
    found = owners_below([tmp_path])
    assert found.users == {os.geteuid()} and os.getegid() in found.groups


def test_owners_that_differ_are_named() -> None:
    root = pwd.getpwuid(0).pw_name
    owners = Owners({0, 4_000_000_000}, set())
    assert differences(owners, "b", {"users": {root: 0}, "groups": {}}) == []
    other = {"users": {root: 5}, "groups": {}}
    assert differences(owners, "b", other) == [f"user {root!r} is 0 here and 5 on b"]
    assert differences(owners, "b", {}) == [f"user {root!r} does not exist on b"]
    taken = {"users": {root: 0, "mallory": 4_000_000_000}}
    assert differences(owners, "b", taken) == [
        "user 4000000000 has no name here but is 'mallory' on b"
    ]
