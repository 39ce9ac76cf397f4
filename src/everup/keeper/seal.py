"""The envelope of a datagram: who sent it to whom, which one it is, and proof of the group's key.

What enters: a body and names. What leaves: a sealed datagram, or an opened one; a wrong seal, a
foreign recipient and anything that was seen before is refused. Called by the keeper's process.
Pure.

Layout: magic "EVK1", incarnation u64, counter u64 (big endian), sender and recipient each as
length u8 + UTF-8, body, HMAC-SHA256 over the group's id and everything before it.
"""

import hmac
import struct
from dataclasses import dataclass

from everup.errors import ProtocolError

MAGIC = b"EVK1"
SEAL_BYTES = 32
_HEAD = struct.Struct(">4sQQ")
DATAGRAM_BYTES_MAX = 8192


@dataclass(frozen=True, slots=True)
class Opened:
    sender: str
    recipient: str
    incarnation: int
    counter: int
    body: bytes


class Sealer:
    """Seals and opens with one key; `group_id` keeps two groups with one key apart."""

    def __init__(self, key: bytes, group_id: str) -> None:
        if len(key) < 16:
            raise ProtocolError("the heartbeat key is shorter than 16 bytes", code="short-key")
        self._key = key
        self._group = group_id.encode()

    def _proof(self, data: bytes) -> bytes:
        return hmac.digest(self._key, self._group + b"\0" + data, "sha256")

    def seal(
        self, sender: str, recipient: str, incarnation: int, counter: int, body: bytes
    ) -> bytes:
        names = b"".join(
            bytes([len(name)]) + name for name in (sender.encode(), recipient.encode())
        )
        data = _HEAD.pack(MAGIC, incarnation, counter) + names + body
        return data + self._proof(data)

    def open(self, datagram: bytes) -> Opened:
        """Raises ProtocolError when it was not sealed with our key or is too short or too long."""
        if not _HEAD.size + 2 + SEAL_BYTES <= len(datagram) <= DATAGRAM_BYTES_MAX:
            raise ProtocolError("a datagram of impossible length")
        data, proof = datagram[:-SEAL_BYTES], datagram[-SEAL_BYTES:]
        if not hmac.compare_digest(self._proof(data), proof):
            raise ProtocolError("a datagram without the group's seal", code="bad-seal")
        magic, incarnation, counter = _HEAD.unpack_from(data)
        if magic != MAGIC:
            raise ProtocolError("a datagram of an unknown version", code="unknown-version")
        sender, rest = _name(data[_HEAD.size :])
        recipient, body = _name(rest)
        return Opened(sender, recipient, incarnation, counter, body)


def _name(data: bytes) -> tuple[str, bytes]:
    length = data[0] if data else 0
    if length == 0 or len(data) < 1 + length:
        raise ProtocolError("a datagram without names")
    return data[1 : 1 + length].decode(errors="replace"), data[1 + length :]


class Freshness:
    """Refuses what goes backwards: (incarnation, counter) of each sender only grows.

    The same datagram arrives over several channels; the first wins, the others are "seen".
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}

    def accept(self, sender: str, incarnation: int, counter: int) -> bool:
        if (incarnation, counter) <= self._last.get(sender, (0, -1)):
            return False
        self._last[sender] = (incarnation, counter)
        return True
