"""SQLite, PostgreSQL and MariaDB as clients of the prefix proof.

What enters: a directory. What leaves: a database in it whose rows are written one transaction after
the other, and looks at copies of it. Called by test_fuse_prefix.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

from prefix import Recording, Row, crc_of, text_of

POSTGRES = Path("/usr/lib/postgresql/15/bin")
MARIADB = Path("/usr/sbin/mariadbd")
PORT = "6198"
START_SECONDS = 60


class Sqlite:
    """One connection; every row is a transaction that changes several pages."""

    def __init__(self, journal_mode: str) -> None:
        self.name = f"SQLite {journal_mode}"
        self._mode = journal_mode
        self._connection: sqlite3.Connection | None = None

    def create(self, directory: Path) -> None:
        connection = sqlite3.connect(directory / "things.db", isolation_level=None)
        connection.execute(f"pragma journal_mode={self._mode}")
        connection.execute("pragma synchronous=full")
        connection.execute("pragma wal_autocheckpoint=16")
        connection.execute("create table things(n integer primary key, crc int, text)")
        connection.execute("create index by_crc on things(crc)")
        connection.execute("create table noise(n integer primary key, text)")
        self._connection = connection

    def insert(self, recording: Recording, rows: int) -> None:
        assert self._connection is not None
        execute = self._connection.execute
        for row in range(recording.attempted + 1, recording.attempted + rows + 1):
            recording.attempted = row
            text = text_of(row)
            execute("begin")
            execute("insert into things values(?, ?, ?)", (row, crc_of(text), text))
            execute("replace into noise values(?, ?)", (row % 7, text * (row % 5)))
            execute("commit")
            recording.acknowledge(row)

    def stop(self) -> None:
        assert self._connection is not None
        self._connection.close()

    def rows(self, directory: Path) -> list[Row]:
        connection = sqlite3.connect(directory / "things.db")
        try:
            (whole,) = connection.execute("pragma integrity_check").fetchone()
            assert whole == "ok", whole
            return list(connection.execute("select n, crc, text from things order by n"))
        except sqlite3.Error as problem:
            raise AssertionError(str(problem)) from problem
        finally:
            connection.close()


class _Shell:
    """A client program that answers every line with a line."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, line: str) -> str:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        answer = self._process.stdout.readline()
        assert answer, "the database does not answer any more"
        return answer.strip()

    def close(self) -> None:
        self._process.communicate(timeout=20)


def _insert(shell: _Shell, recording: Recording, rows: int, statement: str) -> None:
    for row in range(recording.attempted + 1, recording.attempted + rows + 1):
        recording.attempted = row
        text = text_of(row)
        answer = shell.ask(statement.format(row, crc_of(text), text))
        assert answer == str(row), answer
        recording.acknowledge(row)


def _run(*command: str | Path, user: str = "", **options: object) -> str:
    if user:
        options |= {"user": user, "group": user, "extra_groups": []}
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=START_SECONDS, cwd="/",
        check=False, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    assert result.returncode == 0, f"{command[0]}: {result.stdout}{result.stderr}"
    return str(result.stdout)


def _parse(output: str) -> list[Row]:
    found = []
    for line in output.splitlines():
        number, crc, text = line.split("|")
        found.append((int(number), int(crc), text))
    return found


class Postgres:
    """Few buffers and small WAL segments, so that much is written back, recycled and recovered."""

    name = "PostgreSQL"
    _OPTIONS = (
        "-c shared_buffers=512kB -c max_wal_size=4MB -c min_wal_size=2MB -c max_wal_senders=0 "
        "-c wal_level=minimal -c listen_addresses= -c bgwriter_delay=20ms "
        "-c autovacuum_naptime=1s -c max_connections=12"
    )

    def __init__(self, sockets: Path) -> None:
        self._sockets = sockets
        self._environment = {
            "PGHOST": str(sockets), "PGPORT": PORT, "PATH": "/usr/bin:/bin", "LC_ALL": "C",
        }  # fmt: skip
        self._data = Path()
        self._noise: subprocess.Popen[bytes] | None = None

    def _call(self, program: str, *arguments: str | Path) -> str:
        return _run(
            POSTGRES / program, *arguments, user="postgres", env=self._environment
        )  # fmt: skip

    def _start(self, data: Path, more: str) -> None:
        options = f"-p {PORT} -k {self._sockets} {self._OPTIONS} {more}"
        log = self._sockets / "log"
        self._call("pg_ctl", "-D", data, "-w", "-s", "-l", log, "-o", options, "start")

    def create(self, directory: Path) -> None:
        shutil.chown(directory, "postgres", "postgres")
        self._data = directory / "data"
        self._call("initdb", "-D", self._data, "-A", "trust", "-k", "-N", "--wal-segsize=1")
        self._start(self._data, "-c fsync=on")
        self._call("pgbench", "-i", "-q", "-s", "1", "-I", "dtg", "postgres")
        words = (
            "create extension amcheck; create table things(n int primary key, crc int, text text)"
        )
        self._call("psql", "-q", "-c", words, "postgres")
        self._call("psql", "-q", "-c", "checkpoint", "postgres")

    def insert(self, recording: Recording, rows: int) -> None:
        """While other transactions go on, with checkpoints in between."""
        noise = subprocess.Popen(
            [POSTGRES / "pgbench", "-n", "-c", "2", "-R", "200", "-T", "60", "postgres"], cwd="/",
            env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            user="postgres", group="postgres", extra_groups=[],
        )  # fmt: skip
        shell = _Shell(
            ["psql", "-qAt", "-h", str(self._sockets), "-p", PORT, "-U", "postgres", "postgres"]
        )
        try:
            for _ in range(4):
                _insert(
                    shell,
                    recording,
                    rows // 4,
                    "insert into things values({}, {}, '{}') returning n;",
                )
                self._call("psql", "-q", "-c", "checkpoint", "postgres")
        finally:
            noise.terminate()
            noise.wait(20)
            shell.close()

    def stop(self) -> None:
        self._call("pg_ctl", "-D", self._data, "-m", "immediate", "-s", "stop")

    def rows(self, directory: Path) -> list[Row]:
        data = directory / "data"
        # On another server; here its process number may belong to somebody else by now.
        (data / "postmaster.pid").unlink(missing_ok=True)
        log = self._sockets / "log"
        log.unlink(missing_ok=True)
        try:
            self._start(data, "-c fsync=off")
        except AssertionError as problem:
            raise AssertionError(f"{problem}{log.read_text()}") from problem
        try:
            self._call("psql", "-qc", "select bt_index_check('things_pkey', true)", "postgres")
            output = self._call(
                "psql", "-qAtc", "select n, crc, text from things order by n", "postgres"
            )
            self._call("psql", "-qAtc", "select count(*) from pgbench_accounts", "postgres")
        finally:
            self._call("pg_ctl", "-D", data, "-m", "immediate", "-s", "stop")
        assert "PANIC" not in log.read_text(), log.read_text()
        return _parse(output)


class MariaDb:
    """InnoDB with a small buffer pool and a small redo log."""

    name = "MariaDB"
    _OPTIONS = (
        "--no-defaults", "--skip-networking", "--user=mysql", "--innodb-buffer-pool-size=6M",
        "--innodb-log-file-size=4M", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=1",
        "--skip-grant-tables", "--performance-schema=off",
    )  # fmt: skip

    def __init__(self, sockets: Path) -> None:
        self._socket = sockets / "mariadb.sock"
        self._log = sockets / "mariadb.log"
        self._process: subprocess.Popen[bytes] | None = None

    def _ask(self, words: str) -> str:
        return _run(
            "mariadb", "--no-defaults", "-S", self._socket, "-N", "-B", "-e", words, "client"
        )

    def _start(self, data: Path, *more: str) -> None:
        self._log.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [MARIADB, *self._OPTIONS, f"--datadir={data}", f"--socket={self._socket}", *more],
                stdout=log, stderr=log, cwd="/", start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while "ready for connections" not in self._log.read_text():
            ended = self._process.poll() is not None
            assert not ended and time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def create(self, directory: Path) -> None:
        data = directory / "data"
        data.mkdir()
        shutil.chown(data, "mysql", "mysql")
        _run(
            "mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=mysql",
            "--auth-root-authentication-method=normal", "--skip-test-db",
            "--innodb-log-file-size=4M", "--innodb-flush-method=nosync",
        )  # fmt: skip
        self._start(data)
        _run("mariadb", "--no-defaults", "-S", self._socket, "-e", "create database client")
        self._ask("create table things(n int primary key, crc int, text text, key(crc))")
        self._ask("create table noise(n int primary key, text longtext)")

    def insert(self, recording: Recording, rows: int) -> None:
        shell = _Shell(
            ["mariadb", "--no-defaults", "-S", str(self._socket), "-N", "-B", "-n", "client"]
        )
        statement = (
            "begin; insert into things values({0}, {1}, '{2}'); "
            "replace into noise values({0} % 50, repeat('{2}', 60)); commit; select {0};"
        )
        try:
            _insert(shell, recording, rows, statement)
        finally:
            shell.close()

    def stop(self) -> None:
        """As hard as it gets without pulling the plug."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(20)

    def rows(self, directory: Path) -> list[Row]:
        self._start(directory / "data", "--innodb-flush-method=nosync")
        try:
            checked = self._ask("check table things, noise extended")
            assert [line.split("\t")[3] for line in checked.splitlines()] == ["OK", "OK"], checked
            output = self._ask("select concat(n, '|', crc, '|', text) from things order by n")
        finally:
            self.stop()
        said = self._log.read_text()
        assert "[ERROR]" not in said and "corrupt" not in said, said
        return _parse(output)
