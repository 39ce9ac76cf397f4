"""Who changed what: one line in the journal for every request that may change something.

What enters: requests. What leaves: log lines `audit: WHO METHOD PATH BODY -> STATUS`. Secrets are
never in them: bodies that carry one, or a whole document, are left out.
"""

import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web

from everup.api.access import WITHOUT_CERTIFICATE
from everup.api.errors import Handler

log = logging.getLogger("everup.audit")

BODY_SHOWN_MAX = 500
_NOT_SHOWN = frozenset(
    {"/v1/login", "/v1/tokens", "/v1/config", "/peer/settings"} | WITHOUT_CERTIFICATE
)


def audited(who: Callable[[web.Request], str]) -> Any:
    """Middleware; inside `errors_as_json` the status would not be known, so it stands outside."""

    @web.middleware
    async def write(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if request.method != "GET":
            body = "" if request.path in _NOT_SHOWN else await _shown(request)
            asked = f"{who(request)} {request.method} {request.path} {body}"
            log.info("audit: %s-> %s", asked, answer.status)
        return answer

    return write


async def _shown(request: web.Request) -> str:
    try:
        data = await request.read()
    except web.HTTPException:
        return "(too large) "
    text = data[:BODY_SHOWN_MAX].decode(errors="replace").replace("\n", " ")
    return f"{text} " if text else ""
