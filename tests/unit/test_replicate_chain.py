"""Who supplies the third server, and when that changes: the rules, with time as an argument."""

from pathlib import Path

import pytest

from everup.config.schema import GroupSettings, Member
from everup.errors import ProtocolError
from everup.journal.operation import Epoch, encode_write
from everup.journal.record import Operation
from everup.journal.writer import CAUSE_AGE, JournalWriter
from everup.model.position import ORIGIN, Position
from everup.places import Places
from everup.replicate.chain import (
    GRACE_SECONDS,
    HAND_OVER_SECONDS,
    PAUSE_SECONDS_MIN,
    Chain,
    passing_pair,
)
from everup.replicate.context import Context
from everup.replicate.guardlink import GuardLink
from everup.replicate.lag import PeerLag
from everup.replicate.passedon import PassedOn
from everup.replicate.peerview import PeerView
from everup.wire.messages import Relayed, WirePosition

MEMBERS = [
    Member(name="c", identity="tertiary", management="10.0.0.3"),
    Member(name="a", identity="primary", management="10.0.0.1"),
    Member(name="b", identity="secondary", management="10.0.0.2"),
]
HEARD = Relayed(server="c", connected=True, consistent=True)
UNHEARD = Relayed(server="c", connected=False, consistent=False)


def made() -> Chain:
    chain = Chain()
    chain.arrange("b", "c", True)
    chain.heard("b", True, None)
    return chain


def test_who_passes_on_follows_the_order_of_identities() -> None:
    assert passing_pair(MEMBERS, "a") == ("b", "c")
    assert passing_pair(MEMBERS, "b") == ("a", "c")
    assert passing_pair(MEMBERS, "c") == ("a", "b")
    assert passing_pair(MEMBERS[:2], "a") == ("", "")


def test_only_a_peer_in_sync_is_handed_over_and_only_to_one_in_sync() -> None:
    chain = made()
    assert not chain.hand_over("b", True, 0.0)
    assert not chain.hand_over("c", False, 0.0)
    chain.heard("b", False, None)
    assert not chain.hand_over("c", True, 0.0)
    chain.heard("b", True, None)
    assert chain.hand_over("c", True, 0.0)
    assert chain.passes_on("b") and chain.supplier("c") == "b" and not chain.supplier("b")


def test_a_star_hands_nobody_over_and_takes_back_at_once() -> None:
    chain = made()
    assert chain.hand_over("c", True, 0.0)
    chain.heard("b", True, HEARD)
    assert chain.follow(1.0) == (True, HEARD)
    chain.arrange("b", "c", False)
    assert chain.follow(1.0)[0] is False
    chain.take_back(1.0)
    assert not chain.hand_over("c", True, 1000.0)


def test_what_is_not_reached_in_time_is_taken_back_and_tried_later_and_later() -> None:
    chain = made()
    assert chain.hand_over("c", True, 0.0)
    chain.heard("b", True, UNHEARD)
    assert chain.follow(HAND_OVER_SECONDS - 0.1)[0]
    assert not chain.follow(HAND_OVER_SECONDS + 0.1)[0]
    chain.take_back(10.0)
    assert not chain.hand_over("c", True, 10.0 + 2 * PAUSE_SECONDS_MIN - 0.1)
    assert chain.hand_over("c", True, 10.0 + 2 * PAUSE_SECONDS_MIN)


def test_a_link_that_breaks_is_given_a_moment() -> None:
    chain = made()
    assert chain.hand_over("c", True, 0.0)
    chain.heard("b", True, HEARD)
    assert chain.follow(100.0)[0]
    chain.heard("b", True, UNHEARD)
    assert chain.follow(100.0 + GRACE_SECONDS - 0.1)[0]
    assert not chain.follow(100.0 + GRACE_SECONDS + 0.1)[0]


def test_when_the_one_that_passes_on_is_lost_nothing_is_waited_for() -> None:
    woken = []
    chain = made()
    chain.on_change = lambda: woken.append(1)
    assert chain.hand_over("c", True, 0.0)
    chain.heard("b", True, HEARD)
    assert chain.follow(1.0)[0]
    woken.clear()
    chain.lost("b")
    assert woken and chain.follow(1.0) == (False, None)
    # What was said before a hand-over does not count for the next one.
    chain.take_back(1.0)
    chain.heard("b", True, HEARD)
    assert chain.hand_over("c", True, 1.0 + PAUSE_SECONDS_MIN)
    assert chain.follow(2.0 + PAUSE_SECONDS_MIN) == (True, None)


def test_one_that_falls_out_of_sync_passes_nothing_on() -> None:
    """Its disk is full, say: it and its link to the third server stay connected."""
    chain = made()
    assert chain.hand_over("c", True, 0.0)
    chain.heard("b", True, HEARD)
    assert chain.follow(1.0)[0]
    chain.heard("b", False, HEARD)
    assert not chain.follow(1.0)[0]
    chain.take_back(1.0)
    assert not chain.hand_over("c", True, 1000.0)
    chain.heard("b", True, None)
    assert chain.hand_over("c", True, 1000.0)


def test_a_position_that_goes_back_is_asked_for_again(tmp_path: Path) -> None:
    """What the third server has lost is not taken for acknowledged."""
    places = Places.below(tmp_path)
    places.make()
    writer = JournalWriter(places.journal)
    writer.recover()
    writer.begin_epoch(Epoch(1, ORIGIN, "a", "boot", "founding"))
    ends = []
    for _ in range(3):
        writer.append(Operation.WRITE, 1, bytes(16), encode_write(0, b"f"), b"x" * 50)
        writer.close_batch(CAUSE_AGE)
        ends.append(writer.position)
    context = Context(places, "a", GroupSettings(version=1, group="g", group_id="id"))
    chain, lag = made(), PeerLag(places, "c", 1)
    view = PeerView(context, "c", GuardLink(places.guard_socket), lag)
    view.acknowledged = ends[1]
    passed_on = PassedOn(context, chain, view, lag)
    assert chain.hand_over("c", True, 0.0)

    def stands_at(position: Position) -> None:
        durable = WirePosition.of(position)
        chain.heard(
            "b", True, Relayed(server="c", connected=True, consistent=True, durable=durable)
        )
        assert passed_on.follow(1.0)

    stands_at(ends[1])
    stands_at(ends[2])
    assert view.acknowledged == ends[2]
    with pytest.raises(ProtocolError) as caught:
        stands_at(ends[0])
    assert caught.value.code == "position-back"
    passed_on.close()
