"""Cookies of people who logged in (pure).

What enters: a key, wall time, random bytes. What leaves: cookie texts, and whether one is good.
They are signed, not stored, so that a restart of the console logs nobody out; the key comes from
the server's private key, so that a cookie is good on this server only.
"""

import hashlib
import hmac

SESSION_S = 12 * 3600
COOKIE = "everup_session"
_PURPOSE = b"everup console session 1"


def key_of(private_key: bytes) -> bytes:
    """The signing key that belongs to a server's private key."""
    return hmac.digest(private_key, _PURPOSE, "sha256")


def make(key: bytes, now_s: float, random: bytes) -> str:
    """A cookie that is good for `SESSION_S` seconds."""
    text = f"{int(now_s) + SESSION_S}.{random.hex()}"
    return f"{text}.{_signature(key, text)}"


def is_good(key: bytes, cookie: str, now_s: float) -> bool:
    """Whether we made it and its time is not over."""
    text, _, signature = cookie.rpartition(".")
    expected = _signature(key, text)
    if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
        return False
    return now_s < int(text.partition(".")[0])


def _signature(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(errors="replace"), hashlib.sha256).hexdigest()
