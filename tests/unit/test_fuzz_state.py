"""Damaged state files, settings, tokens, datagrams and object ids: refused by name, never guessed,
never a crash of the process that reads them."""

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.damaging import DEEP, FUZZED, damaged, survives

from everup.agent.membership.tokens import Token
from everup.agent.state_store import StateStore
from everup.config.load import ConfigInvalid, parse_group, parse_server
from everup.errors import BadInput, Corrupt, ProtocolError
from everup.journal.activity import Mark, load_mark
from everup.journal.history import load_history
from everup.keeper.messages import Beat, Request, decode, encode
from everup.keeper.record import Known, Record
from everup.keeper.seal import Sealer
from everup.keeper.store import VoteFile
from everup.keeper.voter import VoteState
from everup.model.position import ORIGIN, Position
from everup.model.role import State
from everup.places import Places
from everup.replicate.seal import Seal
from everup.replicate.suspects import Suspects, load_suspects, save_suspects
from everup.replicate.treestate import AT, OPEN, TreeState, load_tree_state
from everup.system.kernelcalls import FileHandle
from everup.system.leasepage import PAGE_BYTES, LeasePageReader, LeasePageWriter
from everup.system.objectid import decode_id, encode_id

OBJECT = bytes(range(16))
HERE = Position(3, 4, OBJECT)
RECORD = Record(4, 7, ("primary", "secondary"), ("primary",), "async")
BOOT = bytes(range(16))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    made = Places.below(tmp_path_factory.mktemp("state"))
    made.make()
    return made


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([])


@st.composite
def replaced(draw: st.DrawFn, valid: Sequence[bytes]) -> bytes:
    """A JSON document in which one value, anywhere, is another one."""
    document = json.loads(draw(st.sampled_from(valid)))
    setters = _setters(document)
    setters[draw(st.integers(0, len(setters) - 1))](draw(VALUES))
    return json.dumps(document).encode()


def _setters(value: Any) -> list[Callable[[Any], None]]:
    """One per value inside a document."""
    found: list[Callable[[Any], None]] = []
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else list(range(len(value))):
            found.append(lambda new, key=key: value.__setitem__(key, new))
            found += _setters(value[key])
    return found


# state files

TREES = [
    json.dumps(TreeState(AT, HERE).to_json()).encode(),
    json.dumps(TreeState("syncing", begin=HERE, until=HERE).to_json()).encode(),
]
SUSPECTS = (
    b'{"was_open":true,"open_epoch":0,"fork":null,"bundle":"","settled":false,'
    b'"copy_began_ns":null,"objects":[[1,"000102030405060708090a0b0c0d0e0f"]]}'
)
HISTORY = json.dumps([{"epoch": 1, "parent": ORIGIN.to_json(), "server": "primary"}]).encode()
ACTIVITY = json.dumps({"version": 1, "position": HERE.to_json(), "wall_ns": 5}).encode()
VOTE = VoteState(7, "primary", 10**9, Known(RECORD, RECORD, "primary"), 0)
VOTE_FILE = json.dumps(
    {"format": 1, "server": "primary", "boots": 5, "boot_id": BOOT.hex(), "state": VOTE.to_json()}
).encode()


@FUZZED
@given(data=damaged([*TREES, *DEEP]) | replaced(TREES))
def test_tree_json(places: Places, data: bytes) -> None:
    """What is not understood is a tree at no position."""
    places.tree.write_bytes(data)
    found = survives(lambda: load_tree_state(places.tree))
    assert isinstance(found, TreeState)
    assert found.state != AT or found.position is not None


@FUZZED
@given(data=damaged([SUSPECTS, *DEEP]) | replaced([SUSPECTS]))
def test_suspects_json(places: Places, data: bytes) -> None:
    """What is not understood makes everything suspect."""
    (places.state / "suspects.json").write_bytes(data)
    found = survives(lambda: load_suspects(places.state))
    assert isinstance(found, Suspects)
    assert found.changed_after_ns == 0 or set(json.loads(data)) >= {"objects", "fork", "was_open"}


@FUZZED
@given(data=damaged([VOTE_FILE, *DEEP]) | replaced([VOTE_FILE]))
def test_vote_json(places: Places, data: bytes) -> None:
    places.vote.write_bytes(data)
    survives(lambda: VoteFile(places, "primary", BOOT).begin(), Corrupt)


@FUZZED
@given(data=damaged([msgspec.json.encode(State()), *DEEP]))
def test_agent_json(places: Places, data: bytes) -> None:
    path = places.state / "agent.json"
    path.write_bytes(data)
    survives(lambda: StateStore(path).load(), Corrupt)


@FUZZED
@given(data=damaged([b'{"epoch": 5}', *DEEP]))
def test_seal_json(places: Places, data: bytes) -> None:
    """A promise is never guessed: the process does not start, or has the one that is there."""
    path = places.state / "seal.json"
    path.write_bytes(data)
    found = survives(lambda: Seal(path), ValueError, KeyError, TypeError)
    assert not isinstance(found, Seal) or found.epoch == json.loads(data)["epoch"]


@FUZZED
@given(data=damaged([ACTIVITY, *DEEP]) | replaced([ACTIVITY]))
def test_activity_json(places: Places, data: bytes) -> None:
    """What is not understood is no mark: then everything counts as hot."""
    (places.state / "activity.json").write_bytes(data)
    found = survives(lambda: load_mark(places.state))
    assert found is None or isinstance(found, Mark)


@FUZZED
@given(data=damaged([HISTORY, *DEEP]) | replaced([HISTORY]))
def test_history_json(places: Places, data: bytes) -> None:
    places.history.write_bytes(data)
    survives(lambda: load_history(places.history), ValueError, KeyError, TypeError)


@FUZZED
@given(data=damaged([bytes(PAGE_BYTES)]))
def test_the_lease_page(places: Places, data: bytes) -> None:
    """Nothing but a whole page of this boot is a lease."""
    writer = LeasePageWriter(places.lease_page, BOOT)
    writer.write(5, 10**18)
    whole = places.lease_page.read_bytes()
    assert LeasePageReader(places.lease_page, BOOT).read() == (5, 10**18)
    mixed = (data + whole[len(data) :])[:PAGE_BYTES]
    places.lease_page.write_bytes(mixed)
    found = survives(lambda: LeasePageReader(places.lease_page, BOOT).read())
    assert found == (0, 0) or (mixed[:8], mixed[32:48]) == (whole[:8], BOOT)
    places.lease_page.unlink()


# settings and tokens

SERVER = b'name = "a"\nidentity = "primary"\ngroup = "shop"\nmanagement = "127.0.0.1"\n'
GROUP = (
    b'version = 1\ngroup = "shop"\ngroup_id = "' + b"ab" * 16 + b'"\n'
    b'[[members]]\nname = "a"\nidentity = "primary"\nmanagement = "127.0.0.1"\n'
    b'[[protect]]\nid = 1\npath = "/srv/data"\n'
)


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@FUZZED
@given(damaged([SERVER, GROUP]))
def test_settings(data: bytes) -> None:
    for parse in (parse_server, parse_group):
        survives(lambda parse=parse: parse(text_of(data)), ConfigInvalid)


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 3000, "a." * 30_000 + "b = 1", "a = " + "9" * 9999]
)
def test_settings_that_are_too_deep_or_too_long(text: str) -> None:
    data = text.encode()
    for parse in (parse_server, parse_group):
        survives(lambda parse=parse: parse(text_of(data)), ConfigInvalid)


TOKEN = Token("server", "shop", ("127.0.0.1", "::1"), 7571, bytes(32), bytes(16))


@FUZZED
@given(damaged([TOKEN.encode().encode(), b"everup1-", b"everup1-AAAA"]))
def test_tokens(data: bytes) -> None:
    survives(lambda: Token.decode(text_of(data)), BadInput)


@FUZZED
@given(st.binary(max_size=200))
def test_tokens_with_a_right_check_sum(data: bytes) -> None:
    for body in (data, bytes([1]) + data, bytes([1, 0, 9, 0]) + bytes(48) + data):
        whole = body + zlib.crc32(body).to_bytes(4, "big")
        text = "everup1-" + base64.urlsafe_b64encode(whole).decode().rstrip("=")
        survives(lambda text=text: Token.decode(text), BadInput)


# datagrams

DATAGRAMS = [
    encode(Beat(7, 7, 6, 5, Known(RECORD), {"role": "active"})),
    encode(Request("renew", 8, 10**9, 1, 5, Known(RECORD, RECORD, "primary"), 1)),
]
SEALER = Sealer(b"k" * 32, "shop")


@FUZZED
@given(damaged([*DATAGRAMS, *(deep[:4096] for deep in DEEP)]))
def test_keeper_messages(data: bytes) -> None:
    survives(lambda: decode(data), ProtocolError)


@FUZZED
@given(replaced(DATAGRAMS))
def test_keeper_messages_with_another_value(data: bytes) -> None:
    survives(lambda: decode(data), ProtocolError)


@FUZZED
@given(damaged([SEALER.seal("a", "b", 3, 9, DATAGRAMS[0])]))
def test_datagrams(data: bytes) -> None:
    found = survives(lambda: SEALER.open(data), ProtocolError)
    assert isinstance(found, ProtocolError) or SEALER.seal("a", "b", 3, 9, DATAGRAMS[0]) == data


# object ids

HANDLES = [FileHandle(1, bytes(range(8))), FileHandle(0x81, bytes(range(12)))]


@FUZZED
@given(damaged([encode_id(OBJECT, handle) for handle in HANDLES]), st.sampled_from(HANDLES))
def test_object_ids(value: bytes, handle: FileHandle) -> None:
    found = survives(lambda: decode_id(value, handle))
    assert found is None or encode_id(bytes(found), handle) == value  # type: ignore[arg-type]


def test_an_id_counts_for_its_own_carrier_only() -> None:
    """cp --preserve=xattr and a restored backup copy the attribute to another object."""
    one, other = FileHandle(1, bytes(8)), FileHandle(1, bytes(7) + b"\1")
    assert decode_id(encode_id(OBJECT, one), one) == OBJECT
    assert decode_id(encode_id(OBJECT, one), other) is None
    assert decode_id(encode_id(OBJECT, one), FileHandle(2, bytes(8))) is None


def test_what_is_saved_is_what_these_tests_damage(places: Places) -> None:
    """Control: the undamaged examples are read as what they say."""
    places.tree.write_bytes(TREES[0])
    assert load_tree_state(places.tree) == TreeState(AT, HERE)
    save_suspects(places.state, Suspects({(1, OBJECT)}, was_open=True))
    assert json.loads((places.state / "suspects.json").read_bytes()) == json.loads(SUSPECTS)
    (places.state / "activity.json").write_bytes(ACTIVITY)
    assert load_mark(places.state) == Mark(HERE, 5)
    places.vote.write_bytes(VOTE_FILE)
    assert VoteFile(places, "primary", BOOT).begin().state == VOTE
    assert Token.decode(TOKEN.encode()) == TOKEN
    assert parse_server(text_of(SERVER)).name == "a"
    assert parse_group(text_of(GROUP)).group == "shop"
    assert load_tree_state(places.state / "none.json").state != OPEN
