"""Real applications on a protected path: their own checks pass, and the journal, replayed, gives
the same tree (so that a passive server would hold it)."""

import os
import pwd
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guarding import GuardProcess

pytestmark = pytest.mark.fuse
POSTGRES = Path("/usr/lib/postgresql/15/bin")


def run(*command: str | Path, **options: object) -> str:
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, check=False,
        **options,  # type: ignore[call-overload]
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return str(result.stdout)


@pytest.mark.parametrize("journal_mode", ["wal", "delete", "truncate"])
def test_sqlite(guard: GuardProcess, journal_mode: str) -> None:
    path = guard.tree / "test.db"
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute(f"pragma journal_mode={journal_mode}").fetchone() == (journal_mode,)
    connection.execute("create table t(n integer primary key, text)")
    for i in range(50):
        connection.execute("insert into t values(?, ?)", (i, "x" * (i * 50)))
    connection.execute("begin")
    connection.executemany("insert into t values(?, 'many')", [(i,) for i in range(100, 3000)])
    connection.execute("commit")
    connection.execute("delete from t where n % 3 = 0")
    connection.execute("vacuum")
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    other = sqlite3.connect(path)
    assert other.execute("select count(*) from t").fetchone()[0] > 1000
    connection.close()
    other.close()
    guard.compare()


def test_git(guard: GuardProcess) -> None:
    source = guard.base / "source"
    source.mkdir()
    for i in range(40):
        (source / f"file{i}").write_text(f"{i}\n" * 100)
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run("git", "init", "-q", source)
    run("git", "-C", source, "add", ".")
    run("git", "-C", source, *identity, "commit", "-qm", "one")
    clone = guard.tree / "clone"
    run("git", "clone", "-q", "--no-local", source, clone)
    for i in range(5):
        (clone / f"file{i}").write_text(f"changed {i}")
        run("git", "-C", clone, *identity, "commit", "-qam", f"change {i}")
    run("git", "-C", clone, "mv", "file9", "renamed")
    run("git", "-C", clone, "checkout", "-qf", "HEAD~3")
    run("git", "-C", clone, "gc", "-q")
    run("git", "-C", clone, "fsck", "--full", "--strict")
    assert run("git", "-C", clone, "status", "--porcelain") == ""
    guard.compare()


def test_copying_trees(guard: GuardProcess) -> None:
    run("cp", "-a", "/usr/share/zoneinfo/Europe", guard.tree / "a")
    run("tar", "-C", guard.tree, "-cf", guard.tree / "a.tar", "a")
    (guard.tree / "b").mkdir()
    run("tar", "-C", guard.tree / "b", "-xpf", guard.tree / "a.tar")
    run("diff", "-r", "--no-dereference", guard.tree / "a", guard.tree / "b/a")
    run("mv", guard.tree / "b", guard.paths[1] / "b")
    shutil.rmtree(guard.tree / "a")
    guard.compare(1)
    guard.compare(2)


@pytest.fixture
def postgres(guard: GuardProcess) -> Iterator[GuardProcess]:
    if not POSTGRES.exists():
        pytest.skip("PostgreSQL 15 is not installed")
    # pytest's directories are private to root; PostgreSQL refuses to run as root.
    for directory in (guard.base, *guard.base.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    user = pwd.getpwnam("postgres")
    os.chown(guard.tree, user.pw_uid, user.pw_gid)
    guard.tree.chmod(0o700)
    yield guard


def test_postgresql(postgres: GuardProcess) -> None:
    data, port = postgres.tree / "data", "6199"
    sockets = postgres.base / "sockets"
    sockets.mkdir()
    sockets.chmod(0o777)

    def as_postgres(program: str, *arguments: str | Path) -> str:
        return run(
            POSTGRES / program, *arguments, user="postgres", group="postgres", cwd="/",
            env={"PGHOST": str(sockets), "PGPORT": port, "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )  # fmt: skip

    as_postgres("initdb", "-D", data, "-A", "trust", "-k")
    options = f"-p {port} -k {sockets} -c listen_addresses= -c shared_buffers=16MB"
    control = ("pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options)
    as_postgres(*control, "start")
    try:
        as_postgres("pgbench", "-i", "-q", "-s", "1", "postgres")
        as_postgres("pgbench", "-c", "4", "-j", "2", "-T", "3", "postgres")
        postgres.kill_worker()
        as_postgres("pgbench", "-c", "4", "-j", "2", "-T", "2", "postgres")
        as_postgres("psql", "-c", "create extension amcheck", "postgres")
        as_postgres("pg_amcheck", "--heapallindexed", "postgres")
        before = as_postgres("psql", "-Atc", "select count(*) from pgbench_history", "postgres")
        as_postgres(*control, "-m", "immediate", "stop")
        as_postgres(*control, "start")
        after = as_postgres("psql", "-Atc", "select count(*) from pgbench_history", "postgres")
        assert before == after != "0\n"
    finally:
        as_postgres(*control, "-m", "fast", "stop")
    as_postgres("pg_checksums", "--check", "-D", data)
    postgres.compare()
