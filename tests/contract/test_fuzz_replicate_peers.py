"""A peer with a right certificate that talks nonsense: its connection ends, and nothing else."""

import os
import random
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import GROUP_ID, wait_for
from test_replicate_pair import Pair

from everup.errors import EverupError
from everup.model.position import ORIGIN
from everup.places import Places
from everup.wire.frames import HEADER, Frame, Kind, Packer, encode, encode_batch
from everup.wire.messages import CHANNEL_STREAM, CHANNEL_SYNC, Hello, Start, WirePosition, pack
from everup.wire.transport import (
    Connection,
    accept,
    client_context,
    dial,
    listen,
    server_context,
)

pytestmark = pytest.mark.fuse  # trusted extended attributes need root
SECONDS_MAX = 10.0


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        made.start()
        made.guard.create("file")
        made.guard.write("file", 0, os.urandom(5000))
        made.wait_in_sync()
        made.settle()
        yield made
    finally:
        made.stop()


def joined(pieces: list[bytes | memoryview]) -> bytes:
    return b"".join(pieces)


def hello(channel: str = CHANNEL_STREAM, epoch: int = 1) -> bytes:
    message = Hello(
        versions=(1,), group_id=GROUP_ID, server="alpha", channel=channel, epoch=epoch,
        position=WirePosition.of(ORIGIN), sync_id="ff" * 8,
    )  # fmt: skip
    return joined(encode(Kind.HELLO, pack(message)))


def start() -> bytes:
    message = Start(catch_up="stream", position=WirePosition.of(ORIGIN), sentence="nonsense")
    return joined(encode(Kind.START, pack(message)))


def nonsense(chooser: random.Random) -> list[tuple[str, bytes]]:
    """By name; what a broken peer might send instead of a conversation."""
    batch = joined(encode_batch(chooser.randbytes(3000), 113, Packer()))
    flipped = bytearray(hello())
    flipped[chooser.randrange(len(flipped))] ^= 4
    return [
        ("random bytes", chooser.randbytes(4000)),
        ("a flipped bit", bytes(flipped)),
        ("half a frame", hello()[: chooser.randrange(5, 60)]),
        ("an unknown kind", HEADER.pack(77, 0, 0, 4, 0) + b"four"),
        ("a length beyond all bounds", HEADER.pack(Kind.BATCH, 0, 0, 0xFFFFFFFF, 0)),
        ("a batch instead of a greeting", batch),
        ("a batch of nothing", hello() + start() + batch),
        (
            "a message that is another one",
            hello() + joined(encode(Kind.START, b"\x93\x01\x02\x03")),
        ),
        ("a sync that nobody announced", hello(CHANNEL_SYNC)),
        ("blocks on the stream", hello() + joined(encode(Kind.BLOCKS, bytes(40)))),
        ("two greetings", hello() + hello()),
    ]


def is_over(connection: Connection) -> bool:
    """Whether the other side has ended the conversation, said why or not."""
    try:
        connection.wait(50)
        frames: list[Frame] = connection.receive()
    except EverupError:
        return True
    return any(frame.kind is Kind.REFUSE for frame in frames)


def test_nonsense_to_the_target_costs_one_connection(pair: Pair) -> None:
    """Nothing is taken, the log and the tree stay, and the true source goes on afterwards."""
    places = Places.below(pair.alpha.base)
    process = pair.beta.process
    assert process is not None
    chooser = random.Random(5)
    for name, data in nonsense(chooser):
        before = pair.beta.call("status")["received"]
        connection = dial(["127.0.0.1"], pair.port, client_context(places), "beta")
        try:
            connection.send([data])
            connection.drain(2000)
            if name != "half a frame":
                wait_for(lambda link=connection: is_over(link), SECONDS_MAX, name)
        except EverupError:
            # The other side was faster.
            pass
        finally:
            connection.close()
        assert process.poll() is None, pair.beta.log.read_text()
        assert pair.beta.call("status")["received"]["sequence"] >= before["sequence"]
    pair.wait_in_sync()
    pair.guard.write("file", 100, b"afterwards")
    pair.compare()
    assert "Traceback" not in pair.beta.log.read_text(), pair.beta.log.read_text()
    assert not list(pair.beta.places.divergence.iterdir())


def test_a_batch_that_is_damaged_below_the_frame_is_sent_again(pair: Pair) -> None:
    """The frame is whole, its content is not what was journaled: refused, streamed anew."""
    places = Places.below(pair.alpha.base)
    pair.alpha.kill()
    received = pair.beta.call("status")["received"]
    position = WirePosition(
        received["epoch"], received["sequence"], bytes.fromhex(received["checksum"])
    )
    connection = dial(["127.0.0.1"], pair.port, client_context(places), "beta")
    connection.send([hello()])
    message = Start(catch_up="stream", position=position, sentence="goes on")
    connection.send(encode(Kind.START, pack(message)))
    pair.guard.write("file", 0, b"the true content" * 10)
    end = pair.guard.end_batch()
    segment = sorted(pair.alpha.places.journal.glob("*.segment"))[-1].read_bytes()
    at = segment.rfind(b"the true content" * 10)
    head = segment.rfind(b"EVR1", 0, at)
    damaged = bytearray(segment[head:])
    damaged[at - head] ^= 1
    (last,) = struct.unpack_from("<I", damaged, damaged.rfind(b"EVR1") + 4)
    connection.send(encode_batch(bytes(damaged), last, Packer()))
    connection.drain(2000)
    wait_for(lambda: is_over(connection), SECONDS_MAX, "the damaged batch is refused")
    connection.close()
    assert pair.beta.call("status")["received"] == received
    pair.alpha.start()
    pair.source()
    wait_for(
        lambda: pair.beta.call("status")["received"] == end.to_json(), SECONDS_MAX, "sent again"
    )
    pair.wait_in_sync()
    assert pair.peer()["code"] == "stream"
    pair.compare()


def test_the_source_outlives_a_target_that_talks_nonsense(pair: Pair, tmp_path: Path) -> None:
    """Every answer of the target is rubbish for a while; then the true one is there again."""
    pair.beta.stop()
    context = server_context(Places.below(pair.beta.base))
    listener = listen("127.0.0.1", pair.port)
    chooser = random.Random(6)
    served: list[str] = []
    answers = [
        ("random bytes", chooser.randbytes(2000)),
        ("a refusal that is none", joined(encode(Kind.REFUSE, b"\xff" * 20))),
        ("a welcome that is none", joined(encode(Kind.WELCOME, b"\x80"))),
        ("a batch", joined(encode_batch(bytes(3000), 113, Packer()))),
    ]

    def serve() -> None:
        for name, data in answers:
            try:
                raw, address = listener.accept()
                connection = accept(raw, context, address[0])
                connection.send([data])
                connection.drain(2000)
                give_up = time.monotonic() + SECONDS_MAX
                while not is_over(connection) and time.monotonic() < give_up:
                    continue
                connection.close()
            except (EverupError, OSError):
                pass
            served.append(name)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(60)
    listener.close()
    assert served == [name for name, _ in answers]
    assert pair.alpha.process is not None and pair.alpha.process.poll() is None
    pair.beta.start()
    pair.beta.call("target")
    pair.guard.write("file", 0, b"afterwards")
    pair.wait_in_sync()
    pair.compare()
    assert "Traceback" not in pair.alpha.log.read_text(), pair.alpha.log.read_text()
