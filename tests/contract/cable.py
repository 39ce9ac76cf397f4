"""A cable between two replicators on loopback, which can be slow, cut, or swallow what is sent.

What enters: connections to an address of loopback. What leaves: the same bytes to another address,
at a limited rate. One thread; used by the tests of interruptions.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable

CHUNK_BYTES = 64 << 10


class Cable:
    """`start` once, `stop` once; the rest may be called from any thread."""

    def __init__(self, here: str, there: str, port: int, bytes_per_second: int) -> None:
        self._here, self._there, self._port = here, there, port
        self._rate = bytes_per_second
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._whole = True

    def start(self) -> None:
        self._thread.start()
        self._do(self._flows.set)

    def stop(self) -> None:
        self._do(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Every connection breaks, and none can be made."""
        self._whole = False
        self._do(self._break)

    def swallow(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self._do(self._flows.clear)

    def mend(self) -> None:
        self._whole = True
        self._do(self._flows.set)

    def _do(self, action: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(action)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._serve, self._here, self._port)
        server = self._loop.run_until_complete(serving)
        self._loop.run_forever()
        server.close()
        self._break()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    def _break(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        self._open.add(writer)
        with contextlib.suppress(OSError):
            back_reader, back_writer = await asyncio.open_connection(self._there, self._port)
            self._open.add(back_writer)
            await asyncio.gather(self._carry(reader, back_writer), self._carry(back_reader, writer))
        writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(len(data) / self._rate)
        finally:
            writer.transport.abort()
