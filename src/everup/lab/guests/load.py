"""The client's transactions, and what the client knows about each of them.

What enters: the server's address, a number of workers, a directory. What leaves, per worker:
`worker-N.log`, a line per acknowledged transaction (its number and the monotonic moment), on disk
before the next transaction begins; and `history-N.log`, a line for every step (`EVENT NUMBER
MOMENT`). Events: `begin`; `commit` (COMMIT was sent: from here on the outcome is open); `done`
(acknowledged); `failed` (broken before COMMIT was sent: it can never happen); `undone` (rolled back
by ourselves, every so often); and, after a broken connection, what became of an open one: `present`
or `absent`. A number is never used again.
"""

import asyncio
import os
import random
import socket
import sys
import time
from pathlib import Path

import psycopg

TRANSACTION_TIMEOUT_S = 1.0
CONNECT_TIMEOUT_S = 0.4
RETRY_S = 0.2
_UNDO_EVERY = 50
_UPDATE = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = %s"
_INSERT = "INSERT INTO ledger (worker, number) VALUES (%s, %s)"
# Waits for a transaction that is still under way with the same key, so the answer is final.
_SETTLE = f"{_INSERT} ON CONFLICT DO NOTHING"


class Worker:
    """One connection's worth of work."""

    def __init__(self, conninfo: str, worker: int, directory: Path, accounts: int) -> None:
        self._conninfo = conninfo
        self._worker = worker
        self._accounts = accounts
        path = directory / f"worker-{worker}.log"
        history = directory / f"history-{worker}.log"
        self._number = _last_number(path, history)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._log = os.open(path, flags, 0o600)
        self._history = os.open(history, flags, 0o600)
        self._open: list[int] = []
        # Any account will do; the seed makes two runs alike.
        self._choose = random.Random(worker)

    async def run(self) -> None:
        """Work until killed, through any number of broken connections."""
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    connection = await psycopg.AsyncConnection.connect(self._conninfo)
            except (psycopg.Error, TimeoutError, OSError):
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await self._settle(connection)
                while True:
                    await self._transaction(connection)
            except (psycopg.Error, TimeoutError, OSError):
                _drop(connection)
                await asyncio.sleep(RETRY_S)

    async def _settle(self, connection: psycopg.AsyncConnection) -> None:
        """Ask what became of transactions whose COMMIT was never answered."""
        while self._open:
            number = self._open[0]
            with _HangUp(connection):
                asked = await connection.execute(_SETTLE, (self._worker, number))
                await connection.rollback()
            self._note("absent" if asked.rowcount else "present", number)
            self._open.pop(0)

    async def _transaction(self, connection: psycopg.AsyncConnection) -> None:
        self._number += 1
        number = self._number
        self._note("begin", number)
        with _HangUp(connection):
            try:
                await connection.execute(_UPDATE, (self._choose.randint(1, self._accounts),))
                await connection.execute(_INSERT, (self._worker, number))
            except (psycopg.Error, TimeoutError, OSError):
                self._note("failed", number)
                raise
            if number % _UNDO_EVERY == 0:
                self._note("undone", number)
                return await connection.rollback()
            self._note("commit", number)
            self._open.append(number)
            await connection.commit()
        os.write(self._log, f"{number} {time.monotonic():.6f}\n".encode())
        os.fdatasync(self._log)
        self._note("done", number)
        self._open.remove(number)

    def _note(self, event: str, number: int) -> None:
        os.write(self._history, f"{event} {number} {time.monotonic():.6f}\n".encode())


class _HangUp:
    """Ends a connection's work when it takes too long.

    Not asyncio.timeout: psycopg answers a cancellation by asking the server to cancel, and waits
    for it; a server without power does not answer.
    """

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        loop = asyncio.get_running_loop()
        self._late = loop.call_later(TRANSACTION_TIMEOUT_S, _hang_up, connection)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._late.cancel()


def _last_number(*logs: Path) -> int:
    """Far above everything that an earlier run may have used."""
    words = [word for log in logs if log.exists() for word in _last_line(log)]
    return max((int(word) for word in words if word.isdigit()), default=-1_000_000) + 1_000_000


def _last_line(log: Path) -> list[str]:
    lines = log.read_text().split("\n")
    return lines[-2].split() if len(lines) > 1 else []


def _hang_up(connection: psycopg.AsyncConnection) -> None:
    """Make the next read end at once."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
        try:
            line.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def _drop(connection: psycopg.AsyncConnection) -> None:
    """Close without a word: the server may be gone, and nobody waits for it."""
    try:
        connection.pgconn.finish()
    except psycopg.Error:
        pass


async def _run_all(conninfo: str, workers: int, directory: Path, accounts: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    tasks = [Worker(conninfo, number, directory, accounts).run() for number in range(workers)]
    await asyncio.gather(*tasks)


def main(address: str, workers: int, directory: Path, accounts: int) -> None:
    """Work until killed."""
    conninfo = f"host={address} dbname=demo user=demo password=demo sslmode=disable"
    asyncio.run(_run_all(conninfo, workers, directory, accounts))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
