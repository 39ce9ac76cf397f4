"""Sessions, the gate and the texts of the page, without a browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everup.api.memory import MemoryAgent
from everup.console import render, session
from everup.console.ask import AgentClient
from everup.console.gate import ATTEMPTS_MAX, Gate

KEY = session.key_of(b"a private key")


def test_console_cookie_is_ours_and_ends() -> None:
    cookie = session.make(KEY, 1000.0, b"0123456789abcdef")
    assert session.is_good(KEY, cookie, 1000.0 + session.SESSION_S - 1)
    assert not session.is_good(KEY, cookie, 1000.0 + session.SESSION_S)
    assert not session.is_good(session.key_of(b"another server"), cookie, 1000.0)


@pytest.mark.parametrize("forged", ["", ".", "..", "9999999999.00.00", "x.y.z", "9" * 5000, "é.é"])
def test_console_forged_cookies_are_not_good(forged: str) -> None:
    assert not session.is_good(KEY, forged, 0.0)


def test_console_a_changed_cookie_is_not_good() -> None:
    cookie = session.make(KEY, 1000.0, b"0123456789abcdef")
    expires, random, signature = cookie.split(".")
    assert not session.is_good(KEY, f"{int(expires) + 1}.{random}.{signature}", 1000.0)


class Inner:
    """Remembers what came through."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope.get("path", scope["type"]))


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(Inner(), AgentClient(tmp_path / "nobody.sock"), KEY)


async def ask(gate: Gate, path: str, cookie: str = "", kind: str = "http", **more: str) -> int:
    """Status of the answer; 0 when the request came through."""
    headers = [(b"host", b"here:7571")]
    headers += [(name.encode(), value.encode()) for name, value in more.items()]
    if cookie:
        headers.append((b"cookie", f"other=1; {session.COOKIE}={cookie}".encode("latin-1")))
    scope = {"type": kind, "path": path, "method": "GET", "headers": headers}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gate(scope, receive, send)
    return int(sent[0].get("status") or sent[0]["code"]) if sent else 0


def good() -> str:
    return session.make(KEY, 4e9, b"r")


async def test_console_gate_lets_only_sessions_through(gate: Gate) -> None:
    for path in ("/", "/_nicegui/auto", "/openapi.json", "/Login/x", "/loginx"):
        assert await ask(gate, path) == 401, path
        assert await ask(gate, path, cookie="forged") == 401, path
        assert await ask(gate, path, cookie=good()) == 0, path


async def test_console_gate_web_sockets_must_come_from_our_own_page(gate: Gate) -> None:
    socket: Callable[..., Any] = lambda **more: ask(gate, "/ws", kind="websocket", **more)  # noqa: E731
    assert await socket() == 4403
    assert await socket(cookie=good(), origin="https://elsewhere") == 4403
    assert await socket(cookie=good(), origin="http://here:7571") == 4403
    assert await socket(cookie=good(), origin="https://here:7571") == 0


async def test_console_gate_logins_are_slowed_down(gate: Gate) -> None:
    codes = [await ask(gate, "/login/guess") for _ in range(ATTEMPTS_MAX + 2)]
    assert codes == [403] * ATTEMPTS_MAX + [429, 429]


async def test_console_page_escapes_what_comes_from_outside() -> None:
    agent = MemoryAgent()
    evil = "<script>alert(1)</script>"
    agent.warnings.append({"id": "w", "sentence": evil, "remedy": evil})
    agent.tell("x", "info", evil)
    status = await agent.status()
    status.update(sentence=evil, group=evil, mode=evil, protected=[evil], units=[evil])
    for server in status["servers"]:
        server.update(name=evil, sync=evil, version=evil, identity=evil, role=evil)
    status["public_addresses"] = [{"address": evil, "holder": evil}]
    status["arbiter"].update(may_take_over=[evil], risk=evil, automatic_failover=False)
    events = tuple(await agent.events(0, 10))
    parts = [
        render.headline(status, ""),
        render.headline(None, evil),
        render.servers(status),
        render.facts(status),
        render.warnings(status),
        render.events(events, status),
    ]
    assert all("<script" not in part for part in parts)
    assert all("&lt;script" in part for part in parts)


async def test_console_tone_follows_the_state() -> None:
    agent = MemoryAgent()
    status = await agent.status()
    assert render.tone(None) == "unknown"
    assert render.tone(status, "the agent does not answer") == "unknown"
    assert render.tone({**status, "state": "synchronized"}) == "good"
    assert render.tone({**status, "state": "syncing"}) == "busy"
    assert render.tone({**status, "state": "degraded"}) == "poor"
    assert render.tone({**status, "state": "synchronized", "warnings": [{}]}) == "busy"


async def test_console_names_of_servers_keep_their_first_letter() -> None:
    status = await MemoryAgent().status()
    assert "<h1>primary is active." in render.headline(status, "")
    assert "<h1>No server is active" in render.headline(
        {**status, "sentence": "no server is active"}, ""
    )


async def test_console_shows_how_far_a_copy_is() -> None:
    agent = MemoryAgent()
    assert render.synchronizing(await agent.status()) == ""
    agent.copying = {
        "state": "copying",
        "done_bytes": 1 << 30,
        "total_bytes": 4 << 30,
        "rate_bytes_per_s": 100 << 20,
        "left_ms": 31_000,
        "sentence": "secondary: copying",
    }
    shown = render.synchronizing(await agent.status())
    assert "width:25.0%" in shown
    assert "1.0 GiB of 4.0 GiB, 100.0 MiB/s, 31.0 s left" in shown
    agent.copying["state"] = "done"
    assert render.synchronizing(await agent.status()) == ""
