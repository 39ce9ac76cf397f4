"""What a joining server says and what it gets, as checked values.

What enters and leaves: JSON. Called by `joining` (one side) and by `admission` (the other).
"""

from typing import Annotated, TypeVar

import msgspec

from everup.errors import ProtocolError
from everup.wire.messages import PROTOCOL_VERSIONS

M = TypeVar("M", bound=msgspec.Struct)

Text = Annotated[str, msgspec.Meta(max_length=16_384)]
Short = Annotated[str, msgspec.Meta(max_length=255)]


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to the first, unauthenticated question: nothing here is secret."""

    ca: Text
    group: Short
    protocols: tuple[int, ...]
    version: Short


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Sent only after the authority of the other side was proven."""

    secret: Short
    """Hexadecimal."""
    group: Short
    name: Short
    management: Short
    channels: Annotated[tuple[Short, ...], msgspec.Meta(max_length=8)] = ()
    request: Text
    """Certificate request, PEM."""
    protocols: Annotated[tuple[int, ...], msgspec.Meta(max_length=32)] = PROTOCOL_VERSIONS
    version: Short = ""


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that makes a server a member."""

    certificate: Text
    ca: Text
    ca_key: Text = ""
    """Only for servers that hold data: they may admit others. Never for a witness."""
    heartbeat_key: Text
    identity: Short
    settings: Annotated[str, msgspec.Meta(max_length=1 << 20)]
    """The group's settings, TOML."""


def decode(data: bytes, kind: type[M]) -> M:
    """Raises ProtocolError (code `malformed`) when `data` is not that message."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a {kind.__name__}: {error}", code="malformed") from error
