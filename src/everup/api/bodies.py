"""What requests may contain, checked field by field; an unknown field is a mistake.

What enters: the body of a request, at most `BODY_BYTES_MAX`. What leaves: a typed value, or
BadInput with the field's name.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from aiohttp import web

from everup.errors import BadInput

BODY_BYTES_MAX = 1 << 20

B = TypeVar("B", bound="Body")

Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all request bodies."""


class Protect(Body, frozen=True):
    paths: Annotated[tuple[Path, ...], msgspec.Meta(min_length=1, max_length=64)]
    units: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)] = ()
    mode: Literal["async", "durable"] | None = None


class Unprotect(Body, frozen=True):
    paths: Annotated[tuple[Path, ...], msgspec.Meta(min_length=1, max_length=64)]


class Verify(Body, frozen=True):
    path: Path | None = None
    gentle: bool = False


class Sync(Body, frozen=True):
    path: Path | None = None
    allow_removals: bool = False


class Switchover(Body, frozen=True):
    to: Name | None = None
    dry_run: bool = False


class Failover(Body, frozen=True):
    force: bool = False


class Config(Body, frozen=True):
    toml: Annotated[str, msgspec.Meta(max_length=BODY_BYTES_MAX)]


class NewToken(Body, frozen=True):
    kind: Literal["server", "witness", "page"]


class Login(Body, frozen=True):
    secret: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Forward(Body, frozen=True):
    method: Literal["GET", "POST"]
    path: Annotated[str, msgspec.Meta(pattern=r"^/v1/", max_length=4096)]
    body: dict[str, Any] | None = None


async def read(request: web.Request, kind: type[B]) -> B:
    """The request's body as `kind`. Raises BadInput; an absent body counts as an empty one."""
    data = await request.read()
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"the request cannot be read: {error}") from error
