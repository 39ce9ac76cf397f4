"""The API: who may do what, what is bounded, and how errors look."""

import asyncio
import json
import logging
import os
import pwd
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from everup.agent.membership.foundation import Founding, found
from everup.agent.membership.membership import Membership
from everup.api import access
from everup.api.bodies import BODY_BYTES_MAX
from everup.api.memory import MemoryAgent
from everup.api.routes import Routes
from everup.api.server import ApiServer, listen_unix
from everup.errors import Refused
from everup.places import Places


class Api:
    """A served agent, and a client on its socket."""

    def __init__(self, places: Places, agent: MemoryAgent, session: aiohttp.ClientSession) -> None:
        self.places = places
        self.agent = agent
        self.session = session

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else None
        value = None if isinstance(body, bytes) else body
        async with self.session.request(
            method, f"http://agent{path}", data=data, json=value
        ) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    places = Places.below(tmp_path)
    address = f"127.98.{os.getpid() % 250}.{1 + time.monotonic_ns() // 1000 % 250}"
    found(places, Founding("shop", "primary", (), address, ()))
    agent = MemoryAgent()
    membership = Membership(places, lambda: agent.active)
    server = ApiServer(agent, membership, peer_host=address)
    await server.start()
    connector = aiohttp.UnixConnector(str(places.agent_socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(places, agent, session)
    await server.stop()
    await membership.close()


async def test_api_errors_have_one_shape(api: Api) -> None:
    for method, path, body, status, code in (
        ("GET", "/v1/nothing", None, 404, "no-route"),
        ("GET", "/v1/switchover", None, 405, "no-route"),
        ("POST", "/v1/protect", {"paths": []}, 400, "bad-input"),
        ("POST", "/v1/protect", {"paths": ["/a"], "mood": 1}, 400, "bad-input"),
        ("POST", "/v1/protect", b"{", 400, "bad-input"),
        ("POST", "/v1/protect", b"\xff", 400, "bad-input"),
        ("POST", "/v1/switchover", {"to": 5}, 400, "bad-input"),
        ("POST", "/v1/switchover", {"to": "x"}, 409, "not-in-sync"),
        ("POST", "/v1/config", {"toml": "version = "}, 422, "config-invalid"),
        ("POST", "/v1/tokens", {"kind": "gate"}, 400, "bad-input"),
        ("POST", "/v1/login", {"secret": "zz"}, 409, "token-unknown"),
        ("GET", "/v1/events?after=-1", None, 400, "bad-input"),
        ("GET", "/v1/jobs/none", None, 409, "unknown-job"),
    ):
        found_status, value = await api.ask(method, path, body)
        assert (found_status, value["error"]["code"]) == (status, code), (path, body, value)
        assert set(value["error"]) == {"code", "sentence", "remedy"}
    assert api.agent.calls == [("switchover", "x", False)]


async def test_api_refusals_say_what_to_do_in_words(api: Api) -> None:
    _, value = await api.ask("GET", "/v1/nothing")
    assert "everup version" in value["error"]["remedy"]
    for body, sentence in (
        ({"paths": ["/" + "x" * 5000]}, "paths[0] has more than 4096 characters"),
        ({"paths": [""]}, "paths[0] is empty"),
        ({"paths": ["/a"] * 65}, "paths has more than 64 entries"),
    ):
        _, value = await api.ask("POST", "/v1/protect", body)
        assert value["error"]["sentence"] == sentence
    _, value = await api.ask("GET", "/v1/verify/tree?path=" + "x" * 5000)
    assert value["error"]["sentence"] == "a path has 1 to 4096 characters, not 5000"


async def test_api_requests_are_bounded(api: Api) -> None:
    status, value = await api.ask("POST", "/v1/config", b"x" * (BODY_BYTES_MAX + 1))
    assert (status, value["error"]["code"]) == (413, "too-large")


async def test_api_a_mistake_of_ours_is_a_sentence(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.agent.sync = {}
    status, value = await api.ask("GET", "/v1/status")
    assert (status, value["error"]["code"]) == (500, "internal")
    assert "KeyError" not in value["error"]["sentence"]
    assert "Traceback" in caplog.text


async def test_api_changes_leave_an_audit_line_without_secrets(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "everup.audit")
    await api.ask("POST", "/v1/switchover", {"dry_run": True})
    await api.ask("POST", "/v1/login", {"secret": "5ec2e7"})
    await api.ask("GET", "/v1/status")
    user = pwd.getpwuid(os.getuid()).pw_name
    assert caplog.messages == [
        f'audit: {user} POST /v1/switchover {{"dry_run": true}} -> 202',
        f"audit: {user} POST /v1/login -> 409",
    ]


async def test_api_page_link_works_once(api: Api) -> None:
    _, value = await api.ask("POST", "/v1/tokens", {"kind": "page"})
    secret = value["link"].rpartition("/")[2]
    assert (await api.ask("POST", "/v1/login", {"secret": secret}))[0] == 200
    status, value = await api.ask("POST", "/v1/login", {"secret": secret})
    assert (status, value["error"]["code"]) == (409, "token-used")
    _, value = await api.ask("POST", "/v1/tokens", {"kind": "page"})
    assert value["link"].rpartition("/")[2] != secret


async def test_api_socket_is_for_root_and_the_console_only(api: Api) -> None:
    mode = api.places.agent_socket.stat().st_mode & 0o777
    try:
        group = pwd.getpwnam("everup").pw_gid
    except KeyError:
        assert mode == 0o600
    else:
        assert (mode, api.places.agent_socket.stat().st_gid) == (0o660, group)


@pytest.mark.skipif(os.geteuid() != 0, reason="speaks as another user, which needs root")
async def test_api_console_may_press_the_button_but_not_more(tmp_path: Path) -> None:
    """`nobody` stands for the console's user, which exists only where Everup is installed."""
    other = pwd.getpwnam("nobody")
    app = web.Application(middlewares=[_refusals, access.local_access_of("nobody")])
    places = Places.below(tmp_path)
    found(places, Founding("shop", "primary", (), "127.0.0.1", ()))
    agent = MemoryAgent()
    Routes(agent, Membership(places, lambda: agent.active)).add_to(app)
    runner = web.AppRunner(app)
    await runner.setup()
    # A directory of its own: pytest's are closed to other users, and stay so.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        path = Path(directory) / "agent.sock"
        await web.SockSite(runner, listen_unix(path)).start()
        path.chmod(0o666)
        answers = await _answers_to(other.pw_uid, path)
    await runner.cleanup()
    assert answers == {
        "GET /v1/status": "200",
        "GET /v1/events": "200",
        "GET /v1/config": "409",
        "POST /v1/switchover": "202",
        "POST /v1/protect": "409",
        "POST /v1/tokens": "409",
        "POST /v1/failover": "409",
    }


async def _answers_to(user: int, path: Path) -> dict[str, str]:
    answers = {}
    for route, body in (
        ("GET /v1/status", ""),
        ("GET /v1/events", ""),
        ("GET /v1/config", ""),
        ("POST /v1/switchover", '{"dry_run":true}'),
        ("POST /v1/protect", '{"paths":["/srv"]}'),
        ("POST /v1/tokens", '{"kind":"server"}'),
        ("POST /v1/failover", '{"force":true}'),
    ):
        method, url = route.split()
        process = await asyncio.create_subprocess_exec(
            *("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(path)),
            *("-X", method, *(("-d", body) if body else ()), f"http://agent{url}"),
            stdout=asyncio.subprocess.PIPE,
            user=user,
        )
        answers[route] = (await process.communicate())[0].decode()
    return answers


@web.middleware
async def _refusals(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as error:
        return web.Response(status=409, text=json.dumps(error.to_json()))
