"""The client's transactions, and its own synced log of every one that the server acknowledged.

What enters: the server's address, a number of workers, a directory. What leaves: one file per
worker with a line per acknowledged transaction: its number and the monotonic moment of the
acknowledgement. A line is on disk before the next transaction begins. A transaction without an
answer is not in the log and its number is never used again: whether it happened is open.
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


class Worker:
    """One connection's worth of work."""

    def __init__(self, conninfo: str, worker: int, path: Path, accounts: int) -> None:
        self._conninfo = conninfo
        self._worker = worker
        self._accounts = accounts
        self._number = _last_number(path)
        self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
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
                while True:
                    await self._transaction(connection)
            except (psycopg.Error, TimeoutError, OSError):
                _drop(connection)
                await asyncio.sleep(RETRY_S)

    async def _transaction(self, connection: psycopg.AsyncConnection) -> None:
        self._number += 1
        # Not asyncio.timeout: psycopg answers a cancellation by asking the server to cancel, and
        # waits for it; a server without power does not answer.
        late = asyncio.get_running_loop().call_later(TRANSACTION_TIMEOUT_S, _hang_up, connection)
        try:
            await connection.execute(
                "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = %s",
                (self._choose.randint(1, self._accounts),),
            )
            await connection.execute(
                "INSERT INTO ledger (worker, number) VALUES (%s, %s)", (self._worker, self._number)
            )
            await connection.commit()
        finally:
            late.cancel()
        os.write(self._log, f"{self._number} {time.monotonic():.6f}\n".encode())
        os.fdatasync(self._log)


def _last_number(path: Path) -> int:
    """Far above everything that an earlier run may have used."""
    if not path.exists():
        return 0
    lines = path.read_text().split("\n")
    return int(lines[-2].split()[0]) + 1_000_000 if len(lines) > 1 else 0


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
    tasks = [
        Worker(conninfo, number, directory / f"worker-{number}.log", accounts).run()
        for number in range(workers)
    ]
    await asyncio.gather(*tasks)


def main(address: str, workers: int, directory: Path, accounts: int) -> None:
    """Work until killed."""
    conninfo = f"host={address} dbname=demo user=demo password=demo sslmode=disable"
    asyncio.run(_run_all(conninfo, workers, directory, accounts))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
