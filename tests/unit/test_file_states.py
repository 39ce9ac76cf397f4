"""States of single objects: what is counted where, and pace, counts and paths below them."""

import os
from pathlib import Path

import pytest

from everup.agent.file_states import path_states, server_states, tree_view
from everup.config.load import parse_group
from everup.config.schema import ProtectedTree
from everup.errors import Refused
from everup.places import Places
from everup.replicate.context import Context
from everup.replicate.counting import check_paths, count_below
from everup.replicate.resting import ASKED, REST_SECONDS_MAX, Pace, gentle

TREES = (ProtectedTree(id=1, path="/srv/data"),)
GROUP = f"""
version = 1
group = "shop"
group_id = "{"ab" * 16}"
[[protect]]
id = 1
path = "/srv/data"
"""


@pytest.fixture
def context(tmp_path: Path) -> Context:
    places = Places.below(tmp_path)
    places.make()
    root = places.lower(1)
    (root / "orders").mkdir(parents=True)
    for number in range(5):
        (root / "orders" / f"file{number}").write_bytes(b"")
    (root / "orders2").write_bytes(b"")
    os.setxattr(root, "trusted.everup.group", ("ab" * 16).encode())
    return Context(places, "alpha", parse_group(GROUP))


pytestmark = pytest.mark.fuse  # needs root: trusted attributes


def states(*, in_sync: bool = True, busy: tuple[str, ...] = (), different: tuple[str, ...] = ()):
    """What the replicator and the keeper of the active server say of `b`."""
    counts = {"synchronized": 8, "out_of_sync": 0, "unchecked": 0}
    tree = {"1": {**counts, "paths": list(different), "busy": list(busy)}}
    result = {"at": "2026-01-01T00:00:00Z", "position": {"epoch": 1, "sequence": 7}, "trees": tree}
    replicator = {
        "peers": [{"server": "b", "in_sync": in_sync}],
        "verify": {"results": {"b": result}, "whole": {"b": result}},
    }
    return server_states(replicator, {"peers": []})


def view(context: Context, below: str, servers) -> dict:
    count = count_below(context, 1, below.encode())
    return tree_view(TREES, {"1": below}, {1: count}, servers)["trees"][0]


def test_entries_are_counted_with_everything_below_them(context: Context) -> None:
    shown = view(context, "", states(busy=("orders/file1", "orders2")))
    assert shown["objects"] == 8 and shown["path"] == "/srv/data"
    assert shown["servers"]["b"] == {"synchronized": 6, "out_of_sync": 0, "unchecked": 2}
    entries = {entry["path"]: entry for entry in shown["entries"]}
    assert set(entries) == {"/srv/data/orders", "/srv/data/orders2"}
    assert entries["/srv/data/orders"]["servers"]["b"] == {
        "synchronized": 5,
        "out_of_sync": 0,
        "unchecked": 1,
    }
    assert entries["/srv/data/orders2"]["servers"]["b"]["unchecked"] == 1
    file = view(context, "orders/file1", states(busy=("orders/file1",)))
    assert file["objects"] == 1 and not file["directory"]
    assert file["servers"]["b"]["unchecked"] == 1


def test_what_differed_is_out_of_sync_until_it_is_repaired(context: Context) -> None:
    broken = view(context, "orders", states(in_sync=False, different=("orders/file1",)))
    assert broken["servers"]["b"] == {"synchronized": 0, "out_of_sync": 1, "unchecked": 5}
    repaired = view(context, "orders", states(in_sync=True, different=("orders/file1",)))
    assert repaired["servers"]["b"]["synchronized"] == 6


def test_a_server_that_was_never_proven_is_unchecked(context: Context) -> None:
    replicator = {"peers": [{"server": "b", "in_sync": True}]}
    servers = server_states(replicator, {"peers": []})
    assert view(context, "", servers)["servers"]["b"]["unchecked"] == 8
    assert path_states(TREES, servers)[0]["state"] == "unchecked"
    proven = {"at": "2026-01-01T00:00:00Z", "epoch": 1, "sequence": 5}
    servers = server_states(replicator, {"peers": [{"server": "b", "facts": {"proven": proven}}]})
    assert view(context, "", servers)["servers"]["b"]["synchronized"] == 8
    (state,) = path_states(TREES, servers)
    assert (state["state"], state["at"]) == ("synchronized", proven["at"])
    assert state["position"] == {"epoch": 1, "sequence": 5}


def test_a_path_that_is_not_there_is_refused(context: Context) -> None:
    check_paths(context, {1: b"orders/file1"})
    for act in (
        lambda: check_paths(context, {1: b"orders/nothing"}),
        lambda: count_below(context, 1, b"orders/nothing"),
    ):
        with pytest.raises(Refused) as caught:
            act()
        assert caught.value.code == "path-missing"
        assert "/srv/data/orders/nothing" in caught.value.sentence


def test_a_path_that_leads_out_of_the_tree_is_refused(context: Context) -> None:
    """Also to something that is there."""
    (context.places.lower(1).parent / "beside").write_bytes(b"")
    for path in (b"../beside", b"orders/../../beside", b".."):
        with pytest.raises(Refused) as caught:
            check_paths(context, {1: path})
        assert caught.value.code == "path-missing"


def test_a_tree_that_is_too_large_is_counted_as_far_as_it_goes(context: Context) -> None:
    assert count_below(context, 1, b"", seconds_max=-1.0)["cut"]


def test_pace() -> None:
    assert ASKED.rest_s(2.0, 1 << 30) == 2.0
    assert gentle(1 << 20).rest_s(1.0, 32 << 20) == 31.0, "the rate"
    assert gentle(1 << 30).rest_s(1.0, 32 << 20) == pytest.approx(9.0), "a tenth of the time"
    assert Pace(0.5, 1).rest_s(1.0, 1 << 30) == REST_SECONDS_MAX
    busy = (64 << 20, 5000)
    assert gentle(1 << 20).waits(*busy) and not ASKED.waits(*busy)
    assert not gentle(1 << 20).waits(100, 10)
