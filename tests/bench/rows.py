"""The table of `make bench`: every row with what was asked for, and where its figure comes from.

Called by the run. A group is one experiment; rows of a group are measured together.
"""

from tests.bench.benchfiles import (
    cached_read,
    checkout,
    random_write,
    sequential_read,
    sequential_write,
    small_files,
    sqlite_inserts,
    write_and_sync,
)
from tests.bench.benchscale import SIZES, Scale
from tests.bench.experiment import Group, Row, in_directories
from tests.bench.farrows import FAR
from tests.bench.mariadb import Oltp
from tests.bench.postgres import PG, Lag, pgbench

GIB = 1 << 30

CAPTURE = (
    Group(
        "capture", 3, in_directories(sequential_write),
        (Row("seqwrite_capture", "rate", asked=0.45),),
    ),
    Group(
        "capture", 3, in_directories(sequential_read),
        (Row("seqread_cold", "rate", note="dropped from both page caches"),),
    ),
    Group(
        "capture", 3, in_directories(cached_read),
        (
            Row("seqread_cached", "rate", asked=0.9, note="1 MiB blocks"),
            Row("seqread_cached_16k", "rate_16k", asked=0.9, note="16 KiB blocks"),
            Row("seqread_cached_4k", "rate_4k", asked=0.9, note="4 KiB blocks"),
        ),
    ),
    Group(
        "capture", 5, in_directories(random_write),
        (Row("randwrite4k_capture", "rate", asked=0.08, aim=0.15),),
    ),
    Group(
        "capture", 5, in_directories(write_and_sync),
        (Row("fdatasync4k_capture", "rate", asked=0.6),),
    ),
    Group("capture", 3, pgbench(), (Row("pgbench_tpcb_capture", "tps", asked=0.85),)),
    Group("capture", 3, pgbench("-S"), (Row("pgbench_select", "tps", asked=0.9),)),
)  # fmt: skip

SCALE = (
    Group(
        "scale", 1, Scale,
        (
            Row("guard_rss_1e6", "rss", "bytes", asked=300 << 20, note="largest allowed"),
            *(Row(f"know_{size:.0e}".replace("+0", ""), f"know_{size}", "us") for size in SIZES),
            *(Row(f"change_{size:.0e}".replace("+0", ""), f"change_{size}", "us")
              for size in SIZES),
        ),
    ),
)  # fmt: skip

ASYNC = (
    Group(
        "async", 3, in_directories(sequential_write),
        (Row("seqwrite_async", "rate", asked=0.25),),
    ),
    Group(
        "async", 3, in_directories(random_write),
        (Row("randwrite4k_async", "rate"),),
    ),
    Group(
        "async", 5, in_directories(write_and_sync),
        (Row("fdatasync4k_async", "rate", asked=0.5),),
    ),
    Group(
        "async", 3, in_directories(small_files),
        (
            Row("smallfiles_create", "create", asked=0.12, aim=0.25),
            Row("smallfiles_stat_first", "stat_first", asked=0.10),
            Row("smallfiles_stat_again", "stat_again", asked=0.90),
            Row("smallfiles_unlink", "unlink", asked=0.08, aim=0.20),
        ),
    ),
    Group("async", 3, in_directories(checkout), (Row("git_checkout", "rate"),)),
    Group(
        "async", 3, pgbench(standby="async"),
        (
            Row("pgbench_tpcb_async", "tps", asked=0.60, aim=0.75),
            Row("pgbench_tpcb_pg_async", "tps", side=PG, note="PostgreSQL's own replication"),
        ),
    ),
    Group("async", 1, Lag, (
        Row("lag_p50", "p50", "ms", asked=20, note="under pgbench; largest allowed"),
        Row("lag_p99", "p99", "ms", asked=100, note="under pgbench; largest allowed"),
    )),
    Group("async", 3, Oltp, (Row("mariadb_oltp_async", "tps"),)),
    Group("async", 3, in_directories(sqlite_inserts), (Row("sqlite_insert_async", "rate"),)),
)  # fmt: skip

DURABLE = (
    Group("durable", 5, in_directories(write_and_sync), (Row("fdatasync4k_durable", "rate"),)),
    Group(
        "durable", 3, pgbench(standby="sync"),
        (
            Row("pgbench_tpcb_durable", "tps", asked=0.45, aim=0.65),
            Row("pgbench_tpcb_pg_sync", "tps", side=PG, note="PostgreSQL's own replication"),
        ),
    ),
)  # fmt: skip

GROUPS = CAPTURE + ASYNC + DURABLE + SCALE + FAR
