"""Rows that need a long line: bytes over it against rsync, copies against its daemon.

Called by `rows`. In rows of bytes less is better.
"""

from tests.bench.experiment import Group, Row
from tests.bench.far import (
    InitialSync,
    NarrowAppend,
    NarrowAppendLines,
    NarrowPgbench,
    NarrowRecopy,
    Outage,
    Table,
)

RAW = "{raw_ratio:.3f} of the raw stream (asked 0.5); rsync -z every 10 s"

FAR = (
    Group("far", 1, NarrowPgbench, (
        Row("wan_pgbench_bytes", "bytes", asked=1.0, smaller=True, note=RAW),
    )),
    Group("far", 1, NarrowAppend, (
        Row("wan_append_bytes", "bytes", asked=1.0, smaller=True, note=RAW),
    )),
    Group("far", 1, NarrowAppendLines, (
        Row("wan_append_lines_bytes", "bytes", smaller=True, note=f"each line by itself; {RAW}"),
    )),
    Group("far", 1, NarrowRecopy, (
        Row("wan_recopy_bytes", "bytes", asked=1.0, smaller=True, note=RAW),
    )),
    Group("far", 3, Table, (
        Row("resync_1pct_bytes", "bytes", asked=1.0, smaller=True,
            note="512 MiB, pages of 8 KiB; the baseline is rsync"),
    )),
    Group("far", 1, Outage, (
        Row("outage60_bytes_ratio", "bytes", asked=1.2, smaller=True,
            note="1 MiB/s of bytes that do not shrink"),
    )),
    Group("far-large", 1, InitialSync, (
        Row("initial_sync_large", "rate", asked=1.0, note="5 GiB; {seconds:.1f} s, proven equal"),
    )),
    Group("far-small", 1, InitialSync, (
        Row("initial_sync_small", "rate", asked=0.5, aim=1.0,
            note="100 000 files of 4 KiB; {seconds:.1f} s, proven equal"),
    )),
)  # fmt: skip
