"""Errors as HTTP: one shape for all of them, and no request that takes the server down.

What enters: whatever a handler raises. What leaves: {error: {code, sentence, remedy}} with a status
that the command line turns back into an exit code.
"""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from everup.api.bodies import BODY_BYTES_MAX
from everup.config.load import ConfigInvalid
from everup.errors import (
    BadInput,
    Corrupt,
    DeadlinePassed,
    EverupError,
    NotConnected,
    ProtocolError,
)

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS: tuple[tuple[type[EverupError], int], ...] = (
    (BadInput, 400),
    (ConfigInvalid, 422),
    (ProtocolError, 400),
    (NotConnected, 503),
    (DeadlinePassed, 504),
    (Corrupt, 500),
)
REFUSED_STATUS = 409


def error_response(error: EverupError, status: int | None = None) -> web.Response:
    """The answer for an error."""
    if status is None:
        status = next((s for kind, s in _STATUS if isinstance(error, kind)), REFUSED_STATUS)
    return web.json_response({"error": error.to_json()}, status=status)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost middleware of every application here."""
    try:
        return await handler(request)
    except EverupError as error:
        return error_response(error)
    except web.HTTPRequestEntityTooLarge:
        sentence = f"the request is larger than {BODY_BYTES_MAX} bytes"
        return error_response(BadInput(sentence, code="too-large"), 413)
    except web.HTTPException as error:
        sentence = f"{request.method} {request.path}: {error.reason.lower()}"
        remedy = "command line and agent may be of different versions: everup version"
        return error_response(EverupError(sentence, remedy=remedy, code="no-route"), error.status)
    except Exception:
        # A mistake of ours: it is logged with its trace, the caller gets a sentence.
        log.exception("%s %s failed", request.method, request.path)
        sentence = f"internal error in {request.method} {request.path}; the journal has the details"
        internal = EverupError(sentence, remedy="journalctl -u everup-agent", code="internal")
        return error_response(internal, 500)
