"""Ask another server before there is an agent here: plain HTTPS, one request at a time.

What enters: addresses, and the authority to believe (or none, for the very first question). What
leaves: status and body. Called by `joining`, in the process of the command line; standard library
only, so that `everup join` needs no event loop.
"""

import http.client
import json
import ssl
from collections.abc import Sequence
from typing import Any

from everup.errors import EverupError, NotConnected, ProtocolError, error_from_json

ANSWER_BYTES_MAX = 2 << 20


def unproven_context() -> ssl.SSLContext:
    """Believes anybody; only for fetching an authority whose fingerprint is then compared."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def proven_context(authority: str) -> ssl.SSLContext:
    """Believes only servers certified by this authority (PEM) for the address that is dialled."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority)
    return context


def request(
    addresses: Sequence[str],
    port: int,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    deadline_ms: int = 10_000,
) -> bytes:
    """Body of a good answer from the first address that answers.

    Raises the error that the other side named, or NotConnected when no address answers.
    """
    reasons = []
    for address in addresses:
        try:
            return _request_one(address, port, context, method, path, body, deadline_ms)
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{address}: {_reason(error)}")
    raise NotConnected(
        f"no answer on port {port} from " + "; ".join(reasons),
        remedy="check that the server runs and that no firewall stands between",
    )


def _request_one(
    address: str,
    port: int,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None,
    deadline_ms: int,
) -> bytes:
    connection = http.client.HTTPSConnection(
        address, port, context=context, timeout=deadline_ms / 1000
    )
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read(ANSWER_BYTES_MAX + 1)
    finally:
        connection.close()
    if len(data) > ANSWER_BYTES_MAX:
        raise ProtocolError(f"{address} sent an answer of more than 2 MiB")
    if answer.status >= 400:
        raise _error_of(data, answer.status)
    return data


def _error_of(data: bytes, status: int) -> EverupError:
    try:
        value: Any = json.loads(data)
        return error_from_json(value["error"])
    except (ValueError, KeyError, TypeError):
        return EverupError(f"the other server answered with HTTP status {status}")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not of this group ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
