"""Where a server stands in the history of the group.

What enters and leaves: `Position` values; they travel in every protocol and every state file.
Called by all layers.
"""

from dataclasses import dataclass
from typing import Any

CHECKSUM_BYTES = 16


@dataclass(frozen=True)
class Position:
    """End of a batch: (epoch, sequence, chain hash), compared as a whole.

    There is no order between positions on purpose: a greater sequence with another checksum is a
    fork, not an advance (DRBD issue 145 came from comparing one number).
    """

    epoch: int
    sequence: int
    checksum: bytes

    def __post_init__(self) -> None:
        assert self.epoch >= 0 and self.sequence >= 0
        assert len(self.checksum) == CHECKSUM_BYTES

    def to_json(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "sequence": self.sequence,
            "checksum": self.checksum.hex(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Position":
        """Raises ValueError or KeyError when `value` is not a position."""
        if not isinstance(value, dict) or not isinstance(value["checksum"], str):
            raise ValueError("this is not a position")
        checksum = bytes.fromhex(value["checksum"])
        if len(checksum) != CHECKSUM_BYTES:
            raise ValueError("a position's checksum has 16 bytes")
        return cls(_count(value["epoch"]), _count(value["sequence"]), checksum)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is not a count")
    return value


ORIGIN = Position(0, 0, bytes(CHECKSUM_BYTES))
"""The position before the first record of a group."""


def position_or_none(value: dict[str, Any] | None) -> Position | None:
    """Read an optional position of a JSON document."""
    return None if value is None else Position.from_json(value)
