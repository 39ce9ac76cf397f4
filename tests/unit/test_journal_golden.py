"""The bytes of a journal, as docs/formats/journal.md describes them, never change by accident."""

from pathlib import Path

from everup.journal import operation as op
from everup.journal.gap import encode_chain
from everup.journal.record import Operation, encode_head
from everup.journal.segment import encode_header
from everup.model.position import ORIGIN, Position

GOLDEN = Path(__file__).with_name("journal.golden")
ID, OTHER, THIRD = bytes([1]) * 16, bytes([2]) * 16, bytes([3]) * 16


def sample() -> list[tuple[str, bytes]]:
    """A header, one record of each kind, and a chain behind a gap."""
    epoch = op.Epoch(1, ORIGIN, "primary", "boot", "founding")
    bodies: list[tuple[Operation, bytes, bytes]] = [
        (Operation.EPOCH, b"", epoch.to_payload()),
        (Operation.CREATE, op.encode_create(op.Create(ID, 0o100644, 1, 2, 0, b"n", b"d")), b""),
        (Operation.ORPHAN, op.encode_orphan(op.Orphan(0o100600, 1, 2)), b""),
        (Operation.UNLINK, op.encode_unlink(op.Unlink(ID, b"n", b"d")), b""),
        (Operation.LINK, op.encode_link(op.Link(ID, b"n", b"d", b"h")), b""),
        (
            Operation.RENAME,
            op.encode_rename(op.Rename(ID, OTHER, THIRD, 2, b"a", b"da", b"b", b"db")),
            b"",
        ),
        (Operation.WRITE, op.encode_write(4096, b"h"), b"bytes"),
        (Operation.TRUNCATE, op.encode_truncate(op.Truncate(7, b"h")), b""),
        (Operation.ALLOCATE, op.encode_allocate(op.Allocate(1, 2, 3, b"h")), b""),
        (Operation.ATTRIBUTES, op.encode_attributes(op.Attributes(15, 0o644, 1, 2, -5, b"h")), b""),
        (Operation.SET_XATTR, op.encode_xattr(op.SetXattr(b"user.x", b"h")), b"value"),
        (Operation.REMOVE_XATTR, op.encode_xattr(op.RemoveXattr(b"user.x", b"h")), b""),
        (Operation.TIMES, b"", op.encode_times([op.ModifiedTime(1, ID, 123456789)])),
        (Operation.RELEASED, b"", b""),
        (Operation.BATCH, op.encode_batch_end(op.BatchEnd(1, 14, 999, OTHER, 3)), b""),
    ]
    found = [("HEADER", encode_header(1, ORIGIN))]
    for sequence, (operation, arguments, payload) in enumerate(bodies, 1):
        head = encode_head(
            operation, 1, 1, sequence, OTHER, arguments, payload,
            unique=6, wall_ns=1_700_000_000_000_000_000, boot_ns=42, flags=0,
        )  # fmt: skip
        found.append((operation.name, head + payload))
    gap = op.Gap(Position(1, 15, OTHER), 17, "ab" * 8, "primary", "no space left on device")
    data, start, end = encode_chain(gap, 1_700_000_000_000_000_000, 42)
    found.append(("GAP_SEGMENT", data))
    found.append(("GAP_POSITIONS", start.checksum + end.checksum))
    return found


def test_the_bytes_are_those_of_the_golden_file() -> None:
    lines = [f"{name} {data.hex()}" for name, data in sample()]
    assert lines == GOLDEN.read_text().splitlines()
