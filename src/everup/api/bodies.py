"""What requests may contain, checked field by field; an unknown field is a mistake.

What enters: the body of a request, at most `BODY_BYTES_MAX`. What leaves: a typed value, or
BadInput with the field's name.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from aiohttp import web

from everup.errors import BadInput

BODY_BYTES_MAX = 1 << 20

B = TypeVar("B", bound="Body")

PATH_MAX = 4096
Path = Annotated[str, msgspec.Meta(min_length=1, max_length=PATH_MAX)]
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


def path_of(text: str | None) -> str | None:
    """A path of a query. Raises BadInput when no path can be so long."""
    if text is None or 0 < len(text) <= PATH_MAX:
        return text
    raise BadInput(f"a path has 1 to {PATH_MAX} characters, not {len(text)}")


async def read(request: web.Request, kind: type[B]) -> B:
    """The request's body as `kind`. Raises BadInput; an absent body counts as an empty one."""
    data = await request.read()
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(_plain(str(error))) from error


def _plain(message: str) -> str:
    """What a person can do something about, in words; anything else as the reader says it."""
    found = re.fullmatch(r"Expected `(str|array)` of length (>=|<=) (\d+) - at `\$\.(.*)`", message)
    if found is None:
        return f"the request cannot be read: {message}"
    kind, relation, number, field = found.groups()
    if relation == ">=" and number == "1":
        return f"{field} is empty"
    unit = "characters" if kind == "str" else "entries"
    bound = "more than" if relation == "<=" else "less than"
    return f"{field} has {bound} {number} {unit}"
