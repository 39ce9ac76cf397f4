"""Control sockets: requests, errors, streams, and callers that misbehave."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everup.errors import DeadlinePassed, NotConnected, Refused
from everup.wire.local import LINE_BYTES_MAX, LocalServer, Reply, Stream, call, subscribe


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    import threading

    never = threading.Event()
    lines: list[Reply] = []

    def handle(verb: str, arguments: dict[str, Any]) -> Reply | Stream:
        if verb == "echo":
            return {"said": arguments["text"]}
        if verb == "refuse":
            raise Refused("not now", remedy="later", code="busy")
        if verb == "count":
            return Stream(iter([{"n": n} for n in range(3)]), lines.append)
        if verb == "hang":
            never.wait(20)
        raise KeyError(verb)

    server = LocalServer(tmp_path / "test.sock", handle)
    server.start()
    yield tmp_path / "test.sock"
    never.set()
    server.stop()


def test_answers_and_errors_cross_whole(path: Path) -> None:
    assert call(path, "echo", text="ä\n")["said"] == "ä\n"
    with pytest.raises(Exception) as caught:
        call(path, "refuse")
    assert getattr(caught.value, "code", "") == "busy"
    assert getattr(caught.value, "remedy", "") == "later"


def test_a_mistake_inside_is_answered_too(path: Path) -> None:
    with pytest.raises(Exception, match="KeyError"):
        call(path, "unknown")


def test_a_stream_ends_with_its_lines(path: Path) -> None:
    channel = subscribe(path, "count")
    assert [channel.receive() for _ in range(4)] == [{"n": 0}, {"n": 1}, {"n": 2}, None]


def test_nobody_there_and_nobody_answers(path: Path) -> None:
    with pytest.raises(NotConnected):
        call(path.with_name("nobody.sock"), "echo")
    with pytest.raises(DeadlinePassed):
        call(path, "hang", deadline_ms=100)


def test_an_endless_line_ends_the_connection_only(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(path))
        rude.settimeout(5)
        try:
            for _ in range(LINE_BYTES_MAX // 65536 + 2):
                rude.sendall(b"x" * 65536)
            assert rude.recv(1) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert call(path, "echo", text="still here")["said"] == "still here"


def test_the_socket_is_private(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
