"""Nobody sees anything of the page without a session; and how one gets it.

What enters: every HTTP request and web socket of the console. What leaves: those with a good
session cookie, and the pages of the login. Outermost, in plain ASGI, so that no route of a library
below can be forgotten.
"""

import html
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from everup.console import session
from everup.console.ask import AgentClient
from everup.errors import EverupError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ATTEMPTS_MAX = 10
ATTEMPTS_WINDOW_S = 10.0
_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
]


class Gate:
    """ASGI application around the console's own."""

    def __init__(self, inner: App, agent: AgentClient, key: bytes) -> None:
        self._inner = inner
        self._agent = agent
        self._key = key
        self._attempts: deque[float] = deque(maxlen=ATTEMPTS_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
        elif scope["type"] == "websocket":
            if self._is_in(scope) and _same_origin(scope):
                await self._inner(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 4403})
        elif scope["path"].startswith("/login/"):
            await self._login(scope, send)
        elif scope["path"] == "/logout":
            await self._leave(send)
        elif self._is_in(scope):
            await self._inner(scope, receive, _with_headers(send))
        else:
            await _page(send, 401, "Please log in", _HOW_TO_LOG_IN)

    async def _login(self, scope: Scope, send: Send) -> None:
        if scope["method"] != "GET" or not self._may_try():
            await _page(send, 429, "Too many attempts", "Wait ten seconds, then try again.")
            return
        secret = scope["path"].removeprefix("/login/")
        try:
            await self._agent.post("/v1/login", {"secret": secret})
        except EverupError as error:
            text = f"{error.sentence}. {_HOW_TO_LOG_IN}"
            await _page(send, 403, "This link does not work", text)
            return
        cookie = session.make(self._key, time.time(), secrets.token_bytes(16))
        # Not a redirect: a strict cookie is not sent along with one that began on another site.
        await _page(send, 200, "Welcome", "", cookie=_cookie(cookie, session.SESSION_S), go="/")

    async def _leave(self, send: Send) -> None:
        await _page(send, 200, "Logged out", _HOW_TO_LOG_IN, cookie=_cookie("", 0))

    def _may_try(self) -> bool:
        now = time.monotonic()
        full = len(self._attempts) == ATTEMPTS_MAX
        if full and now - self._attempts[0] < ATTEMPTS_WINDOW_S:
            return False
        self._attempts.append(now)
        return True

    def _is_in(self, scope: Scope) -> bool:
        cookie = _read_cookie(_header(scope, b"cookie"))
        return bool(cookie) and session.is_good(self._key, cookie, time.time())


_HOW_TO_LOG_IN = "On the server, everup token page prints a link that logs you in once."


def _header(scope: Scope, name: bytes) -> str:
    return next((v.decode("latin-1") for k, v in scope["headers"] if k == name), "")


def _read_cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(session.COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def _cookie(value: str, life_s: int) -> str:
    options = f"Path=/; Max-Age={life_s}; HttpOnly; Secure; SameSite=Strict"
    return f"{session.COOKIE}={value}; {options}"


def _same_origin(scope: Scope) -> bool:
    """A web socket is not bound by the browser's same-origin rule; so it is checked here."""
    origin = _header(scope, b"origin")
    return not origin or origin == f"https://{_header(scope, b'host')}"


def _with_headers(send: Send) -> Send:
    added = [h for h in _HEADERS if h[0] in (b"x-frame-options", b"x-content-type-options")]
    added.append((b"referrer-policy", b"same-origin"))

    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *added]
        await send(message)

    return wrapped


async def _page(
    send: Send, status: int, title: str, text: str, *, cookie: str = "", go: str = ""
) -> None:
    headers = list(_HEADERS)
    if cookie:
        headers.append((b"set-cookie", cookie.encode()))
    refresh = f'<meta http-equiv="refresh" content="0; url={go}">' if go else ""
    body = _TEMPLATE.format(title=html.escape(title), text=html.escape(text), refresh=refresh)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


_TEMPLATE = """<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Everup</title><style>
:root {{ color-scheme: light dark; --back: #f6f7f5; --ink: #1f2a2e; --soft: #66757b; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --back: #12181b; --ink: #e6eced; --soft: #93a3a9; }} }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--back);
  color: var(--ink); font: 16px/1.6 system-ui, sans-serif; }}
main {{ max-width: 30rem; padding: 2rem; }} h1 {{ font-weight: 600; font-size: 1.6rem; margin: 0; }}
p {{ color: var(--soft); }}
</style></head><body><main><h1>{title}</h1><p>{text}</p></main></body></html>
"""
