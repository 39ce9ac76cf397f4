"""Single-use invitations: what is printed for a person, and what the inviting server remembers.

What enters: a kind, and later the secret that somebody brings back. What leaves: a token text that
carries everything the joining server needs, and a yes or a reasoned no. The store keeps only
digests of secrets, in `state/tokens.json`. Called by `foundation`, `admission` and the API.
"""

import base64
import binascii
import hashlib
import secrets
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from everup.errors import BadInput, Refused
from everup.system.files import load_json, save_json

Kind = Literal["server", "witness", "page"]

TOKEN_LIFE_S = 3600
TOKENS_MAX = 64
SECRET_BYTES = 16
_PREFIX = "everup1-"
_HEAD = struct.Struct(">BHB16s32s")
_VERSION = 1


@dataclass(frozen=True)
class Token:
    """What a token text says: where to go, whom to believe, and the secret to show."""

    kind: Kind
    group: str
    addresses: tuple[str, ...]
    port: int
    fingerprint: bytes
    secret: bytes

    def encode(self) -> str:
        """Text for a person to copy: letters, digits, `-` and `_`, with a check sum."""
        kind = get_args(Kind).index(self.kind)
        head = _HEAD.pack(_VERSION, self.port, kind, self.secret, self.fingerprint)
        data = head + "\0".join((self.group, *self.addresses)).encode()
        data += zlib.crc32(data).to_bytes(4, "big")
        return _PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Token":
        """Raises BadInput (code `token-malformed`) for anything that was not copied whole."""
        text = "".join(text.split())
        body = text.removeprefix(_PREFIX)
        try:
            data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise _malformed() from error
        if body == text or len(data) < _HEAD.size + 4:
            raise _malformed()
        data, check = data[:-4], data[-4:]
        if zlib.crc32(data).to_bytes(4, "big") != check:
            raise _malformed()
        version, port, kind, secret, fingerprint = _HEAD.unpack_from(data)
        if version != _VERSION or kind >= len(get_args(Kind)):
            raise _malformed()
        try:
            group, *addresses = data[_HEAD.size :].decode().split("\0")
        except UnicodeDecodeError as error:
            raise _malformed() from error
        return cls(get_args(Kind)[kind], group, tuple(addresses), port, fingerprint, secret)


def _malformed() -> BadInput:
    return BadInput(
        "this is not a whole token",
        remedy="copy it again, from its first to its last character",
        code="token-malformed",
    )


class TokenStore:
    """The tokens that this server has given out. `now_s` is wall time, since tokens outlive boots.

    Thread-safe; a token that was redeemed stays remembered until its hour is over, so that a
    second use is told from a mistyped one.
    """

    def __init__(self, path: Path, now_s: Callable[[], float]) -> None:
        self._path = path
        self._now_s = now_s
        self._lock = threading.Lock()

    def mint(self, kind: Kind) -> bytes:
        """A new secret, remembered durably."""
        secret = secrets.token_bytes(SECRET_BYTES)
        with self._lock:
            entries = self._load()
            if len(entries) >= TOKENS_MAX:
                raise Refused(
                    f"{TOKENS_MAX} tokens are open already",
                    remedy="wait an hour: tokens expire",
                    code="too-many-tokens",
                )
            entries[_digest(secret)] = {"kind": kind, "expires_s": self._now_s() + TOKEN_LIFE_S}
            self._save(entries)
        return secret

    def check(self, kinds: Sequence[Kind], secret: bytes, holder: str) -> None:
        """Whether `holder` (its key's fingerprint) may redeem this secret now.

        A holder may redeem the same secret again: its first answer may have been lost on the way.
        Raises Refused with the reason.
        """
        with self._lock:
            _check_entry(self._load().get(_digest(secret)), kinds, holder, self._now_s())

    def redeem(self, kinds: Sequence[Kind], secret: bytes, holder: str, name: str = "") -> None:
        """`check`, and remember durably that it is used, and by which name."""
        with self._lock:
            entries = self._load()
            entry = entries.get(_digest(secret))
            _check_entry(entry, kinds, holder, self._now_s())
            assert entry is not None
            entry |= {"holder": holder, "name": name}
            self._save(entries)

    def name_of(self, secret: bytes) -> str:
        """The name under which a token was redeemed, also when it was given back; "" for none."""
        with self._lock:
            return str(self._load().get(_digest(secret), {}).get("name", ""))

    def give_back(self, secret: bytes) -> None:
        """The work for which the token was redeemed failed; it may be used again."""
        with self._lock:
            entries = self._load()
            entries.get(_digest(secret), {}).pop("holder", None)
            self._save(entries)

    def _load(self) -> dict[str, dict[str, Any]]:
        """Entries whose hour ended less than an hour ago; so "expired" can still be said."""
        entries = load_json(self._path) or {}
        limit = self._now_s() - TOKEN_LIFE_S
        return {key: entry for key, entry in entries.items() if entry["expires_s"] > limit}

    def _save(self, entries: dict[str, dict[str, Any]]) -> None:
        save_json(self._path, entries, operation="save-tokens")


def _digest(secret: bytes) -> str:
    return hashlib.sha256(b"everup token" + secret).hexdigest()


def _check_entry(
    entry: dict[str, Any] | None, kinds: Sequence[Kind], holder: str, now_s: float
) -> None:
    again = "make a new one on a server of the group: everup token"
    if entry is None:
        raise Refused("the server does not know this token", remedy=again, code="token-unknown")
    if entry["kind"] not in kinds:
        raise Refused(
            f"this token invites a {entry['kind']}, not a {' or '.join(kinds)}",
            remedy=f"use the token for a {kinds[0]}, or {again}",
            code="token-kind",
        )
    if entry.get("holder", holder) != holder:
        raise Refused("this token has been used", remedy=again, code="token-used")
    if entry["expires_s"] <= now_s:
        raise Refused("this token has expired", remedy=again, code="token-expired")
