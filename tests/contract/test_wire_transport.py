"""Connections of two replicators: mutual TLS 1.3, addresses that fail, peers that lie."""

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import Authority, free_port, wait_for

from everup.errors import EverupError, NotConnected, ProtocolError
from everup.places import Places
from everup.wire.frames import Frame, Kind, encode
from everup.wire.transport import (
    Connection,
    accept,
    client_context,
    dial,
    listen,
    server_context,
)


def equipped(base: Path, authority: Authority, name: str) -> Places:
    places = Places.below(base / name)
    places.make()
    authority.equip(places, name)
    return places


class Listener:
    """Accepts one connection after the other and keeps what came of each."""

    def __init__(self, places: Places) -> None:
        self.port = free_port()
        self.connections: list[Connection] = []
        self.errors: list[EverupError] = []
        self._context = server_context(places)
        self._socket = listen("127.0.0.1", self.port)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                raw, address = self._socket.accept()
            except OSError:
                return
            try:
                self.connections.append(accept(raw, self._context, address[0]))
            except EverupError as error:
                self.errors.append(error)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self.connections:
            connection.close()


@contextmanager
def listening(places: Places) -> Iterator[Listener]:
    listener = Listener(places)
    try:
        yield listener
    finally:
        listener.close()


def collect(connection: Connection, count: int) -> list[Frame]:
    frames: list[Frame] = []
    while len(frames) < count:
        connection.wait(2000)
        connection.flush()
        frames += connection.receive()
    return frames


def test_frames_of_every_size_cross_in_both_directions(tmp_path: Path) -> None:
    authority = Authority()
    alpha, beta = (equipped(tmp_path, authority, name) for name in ("alpha", "beta"))
    with listening(beta) as listener:
        here = dial(["127.0.0.1"], listener.port, client_context(alpha), "beta")
        there = wait_for(lambda: listener.connections, 5)[0]
        assert (here.peer_name, there.peer_name) == ("beta", "alpha")
        bodies = [b"", b"x", bytes(70_000), bytes(range(256)) * 12_000]
        answers: list[Frame] = []
        reader = threading.Thread(target=lambda: answers.extend(collect(there, len(bodies))))
        reader.start()
        for body in bodies:
            here.send(encode(Kind.BATCH, b"head", body))
        while here.queued_bytes:
            here.wait(1000)
            here.flush()
        reader.join()
        assert [frame.payload for frame in answers] == [b"head" + body for body in bodies]
        there.send(encode(Kind.IDLE))
        assert collect(here, 1) == [Frame(Kind.IDLE, b"")]
        there.close()
        with pytest.raises(NotConnected):
            for _ in range(3):
                here.wait(1000)
                here.receive()
        here.close()


def test_the_next_address_is_taken_when_one_fails(tmp_path: Path) -> None:
    authority = Authority()
    alpha, beta = (equipped(tmp_path, authority, name) for name in ("alpha", "beta"))
    with listening(beta) as listener:
        addresses = ["127.0.0.9", "127.0.0.1"]
        connection = dial(addresses, listener.port, client_context(alpha), "beta")
        assert connection.address == "127.0.0.1"
        connection.close()
        with pytest.raises(NotConnected, match=r"127\.0\.0\.9"):
            dial(["127.0.0.9"], listener.port, client_context(alpha), "beta")
        with pytest.raises(NotConnected, match="it is 'beta'"):
            dial(["127.0.0.1"], listener.port, client_context(alpha), "gamma")
        with pytest.raises(NotConnected, match="no address"):
            dial([], listener.port, client_context(alpha), "beta")


def test_strangers_and_old_protocols_do_not_get_in(tmp_path: Path) -> None:
    beta = equipped(tmp_path, Authority(), "beta")
    stranger = equipped(tmp_path, Authority("another"), "alpha")
    with listening(beta) as listener:
        # The stranger does not trust us either, so it takes a client that trusts everybody.
        for minimum, equip in ((ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_3, False)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.minimum_version = minimum
            if equip:
                context.load_cert_chain(stranger.certificate, stranger.private_key)
            before = len(listener.errors)
            with socket.create_connection(("127.0.0.1", listener.port)) as raw:
                raw.settimeout(5)
                with pytest.raises(OSError), context.wrap_socket(raw) as channel:
                    channel.recv(1)
                    raise OSError("closed by the peer")
            wait_for(lambda b=before: len(listener.errors) > b, 5)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname = False
        old.verify_mode = ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", listener.port)) as raw,
            pytest.raises(ssl.SSLError),
        ):
            old.wrap_socket(raw)
        with pytest.raises(NotConnected):
            dial(["127.0.0.1"], listener.port, client_context(stranger), "beta")
        assert listener.connections == []
        assert all(error.code == "tls" for error in listener.errors)


def test_rubbish_inside_the_channel_is_a_protocol_error(tmp_path: Path) -> None:
    authority = Authority()
    alpha, beta = (equipped(tmp_path, authority, name) for name in ("alpha", "beta"))
    with listening(beta) as listener:
        here = dial(["127.0.0.1"], listener.port, client_context(alpha), "beta")
        there = wait_for(lambda: listener.connections, 5)[0]
        here._channel.send(b"\xff" * 64)
        with pytest.raises(ProtocolError):
            for _ in range(5):
                there.wait(1000)
                there.receive()
        here.close()
