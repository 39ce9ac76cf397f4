"""Who is asking: on the Unix socket by the kernel's word, over TLS by the certificate.

What enters: a request. What leaves: a name, or a refusal. The console's user may look and
press the button; it may not invite, protect or configure, so a page that was broken into cannot
either.
"""

import os
import pwd
import re
import socket
import struct
from collections.abc import Callable

from aiohttp import web

from everup.api.errors import Handler
from everup.config.schema import GroupSettings
from everup.errors import Refused
from everup.system.installation import USER

_CREDENTIALS = struct.Struct("3i")
CONSOLE_MAY_READ = re.compile(
    r"/v1/(status|events|group/events|verify|(group/)?(queues|divergence)|jobs/[^/]+)"
)
CONSOLE_MAY_ASK = frozenset({"/v1/switchover", "/v1/login"})
WITNESS_MAY_READ = frozenset({"/peer/status", "/peer/settings"})
WITHOUT_CERTIFICATE = frozenset(
    {"/ca", "/join", "/join/check", "/join-witness", "/join-witness/check"}
)


def local_access_of(console_user: str) -> Callable[..., object]:
    """Root (and the user that the agent itself runs as, in tests) may everything."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        who = who_is_local(request)
        may_all = _peer_user(request) in (0, os.getuid())
        if not (may_all or (who == console_user and _console_may(request))):
            raise Refused(f"{who} may not do this", remedy="run it as root", code="not-permitted")
        return await handler(request)

    return check


local_access = local_access_of(USER)


def member_access(group: Callable[[], GroupSettings]) -> Callable[..., object]:
    """Only members of the group, except on the routes of those who want to become one."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = _certified_name(request)
        if request.path not in WITHOUT_CERTIFICATE:
            if not name:
                raise Refused("a certificate of the group is needed", code="not-permitted")
            member = group().member(name)
            if member is None:
                raise Refused(f"{name} is no member of this group", code="not-permitted")
            reads = request.method == "GET" and request.path in WITNESS_MAY_READ
            if member.identity == "witness" and not reads:
                raise Refused("a witness has a vote and nothing else", code="not-permitted")
        return await handler(request)

    return check


def _console_may(request: web.Request) -> bool:
    if request.method == "GET":
        return CONSOLE_MAY_READ.fullmatch(request.path) is not None
    return request.path in CONSOLE_MAY_ASK


def who_is_local(request: web.Request) -> str:
    """Name of the user at the other end of the Unix socket."""
    user = _peer_user(request)
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"


def who_is_remote(request: web.Request) -> str:
    """The member, or the address of somebody who is none yet."""
    name = _certified_name(request)
    return f"member {name}" if name else f"somebody at {request.remote}"


def _peer_user(request: web.Request) -> int:
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None or connection.family != socket.AF_UNIX:
        raise Refused("the caller cannot be known", code="not-permitted")
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])


def _certified_name(request: web.Request) -> str:
    """Common name of the caller's certificate, which TLS has checked; "" without one."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""
