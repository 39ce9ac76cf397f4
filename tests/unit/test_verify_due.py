"""When a verification begins by itself: in virtual time, over months."""

import json

from everup.agent.scheduled import TOUCHED, known_servers, proof_facts, seconds
from everup.agent.verify_due import AGAIN_S, Known, due

HOUR = 3600.0
WEEK = 168


def test_a_week_after_the_last_proof_and_not_before() -> None:
    """Ninety days, looked at every ten seconds of an hour's step: one each week."""
    proven_s, tried_s, begun = 1e9, None, []
    for hour in range(90 * 24):
        now_s = 1e9 + hour * HOUR
        if due(now_s, WEEK, [Known("b", True, proven_s)], tried_s):
            begun.append(hour)
            proven_s = tried_s = now_s
    assert begun == [WEEK * n for n in range(1, 13)]


def test_never_by_time_alone_when_switched_off() -> None:
    now_s = 1e9 + 10_000 * HOUR
    assert due(now_s, 0, [Known("b", True, None), Known("c", True, 1e9)], None) == ""
    assert due(now_s, 0, [Known("b", True, 1e9, 2e9, "written behind")], None) == "written behind"


def test_a_doubt_counts_until_the_next_proof() -> None:
    doubtful = Known("b", True, 1000.0, 1500.0, "why")
    assert due(1501.0, WEEK, [doubtful], None) == "why"
    assert due(1501.0, WEEK, [Known("b", True, 1600.0, 1500.0, "why")], None) == ""


def test_an_attempt_that_failed_is_not_repeated_at_once() -> None:
    """A disk or a link that fails costs one attempt in a quarter of an hour."""
    known, tried_s, begun = [Known("b", True, None)], None, 0
    for second in range(0, 7200, 10):
        if due(1e9 + second, WEEK, known, tried_s):
            tried_s, begun = 1e9 + second, begun + 1
    assert begun == 7200 / AGAIN_S


def test_who_is_not_in_sync_is_left_alone_and_the_others_are_not() -> None:
    away, here = Known("b", False, None), Known("c", True, None)
    assert due(1e9, WEEK, [away], None) == ""
    assert due(1e9, WEEK, [away, here], None) == "c was never proven equal as a whole"


def test_clocks_that_jump_neither_stop_it_nor_repeat_it() -> None:
    future = Known("b", True, 1e9 + 1000 * HOUR)
    assert "future" in due(1e9, WEEK, [future], None)
    assert due(1e9, WEEK, [Known("b", True, 1e9 + 2 * HOUR)], None) == ""
    assert due(1e9, WEEK, [Known("b", True, None)], 2e9) != "", "tried in the future"


def test_what_is_known_comes_from_the_newest_word() -> None:
    """The peer says when it was proven, and doubts itself after a narrow repair."""
    at = "2026-01-02T00:00:00Z"
    replicator = {
        "peers": [{"server": "b", "in_sync": True}],
        "verify": {"whole": {"b": {"at": at}}},
    }
    facts = {"b": {"proven": {"at": "2026-01-01T00:00:00Z"}, "doubt": [1_767_400_000, TOUCHED]}}
    (known,) = known_servers(replicator, facts, (0.0, ""))
    assert known.proven_s == seconds(at)
    assert "stopped uncleanly" in known.doubt
    (known,) = known_servers(replicator, {"b": {"doubt": "x"}}, (5.0, "written-behind"))
    assert (known.doubt_s, known.doubt) == (5.0, "something was written behind the mounts")
    (known,) = known_servers({"peers": replicator["peers"]}, {}, (0.0, ""))
    assert known.proven_s is None


def test_a_heartbeat_says_when_and_what_has_cast_doubt_on_it_since() -> None:
    proven = {"position": {"epoch": 2, "sequence": 9, "checksum": "00"}, "at": "1970-01-01T00:01Z"}
    assert proof_facts({}, (0.0, "")) == {}
    place = {"epoch": 2, "sequence": 9, "at": proven["at"]}
    assert proof_facts(proven, (59.0, "written-behind")) == {"proven": place}
    doubted = proof_facts(proven, (61.0, "written-behind"))
    assert doubted == {"proven": place, "doubt": [61, "written-behind"]}
    narrow = proof_facts({**proven, "touched": {"at": "1970-01-01T00:02Z"}}, (0.0, ""))
    assert narrow["doubt"] == [120, TOUCHED]
    assert len(json.dumps(narrow)) < 120, "there is little room in a heartbeat"


def test_moments_with_any_zone_are_read() -> None:
    assert seconds("1970-01-01T01:00:00+01:00") == seconds("1970-01-01T00:00:00Z") == 0.0
    assert seconds("yesterday") is None and seconds(None) is None
