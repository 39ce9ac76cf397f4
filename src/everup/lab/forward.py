"""The browser's way into a lab: ports of 127.0.0.1 that lead to servers' pages.

Run as a module of its own: `python -m everup.lab.forward GROUP_FILE HOLDER_PID PORT=ADDRESS:PORT
...`. The listening sockets stay in the host's network, then the process moves into the lab's and
connects from there. Ends with the lab, whose control group it is in.
"""

import asyncio
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

from everup.lab.base import Base
from everup.lab.cgroups import Group
from everup.lab.commands import LabError
from everup.lab.namespaces import join_network

_CHUNK = 1 << 16


def free_port(wanted: int) -> int:
    """`wanted`, or any free port of 127.0.0.1 when somebody has it."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise LabError("No port of 127.0.0.1 is free.")


def start(base: Base, routes: dict[int, tuple[str, int]]) -> None:
    """Forward each local port to an address inside the lab, until the lab goes down."""
    group = Group(base.name, "forward")
    group.make()
    words = [f"{port}={address}:{target}" for port, (address, target) in routes.items()]
    program = [sys.executable, "-m", "everup.lab.forward", str(group.directory / "cgroup.procs")]
    process = subprocess.Popen(
        [*program, str(base.holder_id), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(base.directory / "forward.log").open("wb"),
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as told:
        if told.readline() != b"ready\n":
            raise LabError("The ports of 127.0.0.1 could not be forwarded into the lab.")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # one side went away; the other is told by the close
    finally:
        writer.close()


async def _connect(
    address: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        there, back = await asyncio.wait_for(asyncio.open_connection(address, port), 5)
    except (OSError, TimeoutError):
        writer.close()
        return
    await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _serve(listening: list[tuple[socket.socket, str, int]]) -> None:
    servers = [
        await asyncio.start_server(partial(_connect, address, port), sock=opened)
        for opened, address, port in listening
    ]
    os.write(1, b"ready\n")
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main(group_file: Path, holder: int, routes: list[str]) -> None:
    """Forward until killed."""
    group_file.write_text(str(os.getpid()))
    listening = []
    for route in routes:
        port, _, target = route.partition("=")
        address, _, target_port = target.rpartition(":")
        opened = socket.create_server(("127.0.0.1", int(port)))
        listening.append((opened, address, int(target_port)))
    join_network(holder)
    asyncio.run(_serve(listening))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
