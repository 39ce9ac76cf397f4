"""Every bound of the data path in one place; relations are asserted at import.

What leaves: sizes in bytes, times in milliseconds. Settings that a person may change are in
`config.schema`; these here are part of the formats and protocols.
"""

PAYLOAD_BYTES_MAX = 1 << 20
"""Largest payload of one record: the largest FUSE write (256 pages)."""

RECORD_BYTES_MAX = PAYLOAD_BYTES_MAX + (256 << 10)
"""Header, arguments (names and path hints of at most 64 KiB each) and payload."""

BATCH_BYTES = 1 << 20
"""A batch is closed when it has grown to this size."""

BATCH_BYTES_MAX = BATCH_BYTES + 2 * RECORD_BYTES_MAX
"""No reader accepts a longer batch: full size, one last record, and the record of times."""

BATCH_AGE_MS = 15
"""An open batch is closed after this time, so that the passive trails by little."""

COMPARED_BLOCK_BYTES = 128 << 10
"""Content of files is compared and copied in such blocks."""

AHEAD_BYTES = 4 << 20
"""After a power cut this much is compared behind the last known write of each object: a log that
only grows may be ahead of the journal by so much."""

SEGMENT_BYTES = 64 << 20
"""A segment is followed by a new one when it has grown to this size."""

STATE_FREE_BYTES_MIN = 32 << 20
"""Journal and receive log leave this much of their disk to votes, seals and settings."""

RESERVE_BYTES = 4 << 20
"""Kept beside the votes and seals for the moment when somebody else has filled the disk."""

DIVERGENCE_BYTES_MAX = 8 << 30
"""All divergence bundles together; then a rejoin waits until a person has looked at them."""

QUARANTINE_BYTES_MAX = 8 << 30
"""All quarantined files together; then a sync that would remove more waits for a person."""

FRAME_BYTES_MAX = BATCH_BYTES_MAX + (64 << 10)
"""Largest frame on the wire: one batch and its header."""

assert BATCH_BYTES_MAX < SEGMENT_BYTES // 4
assert RECORD_BYTES_MAX < BATCH_BYTES_MAX < FRAME_BYTES_MAX
