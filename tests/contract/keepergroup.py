"""A group of real keepers in network namespaces of their own, for tests.

What enters: a directory and a prefix for names. What leaves: running processes, their control
sockets, and cables that can be cut. Nothing of it is left when the test ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everup.errors import EverupError
from everup.places import Places
from everup.wire.local import call, connect

PUBLIC4 = "192.0.2.10/24"
PUBLIC6 = "2001:db8::10/64"
PROBE = Path(__file__).with_name("netprobe.py")
HOSTS = {"a": 11, "b": 12, "witness": 13, "client": 50}


def run(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


@dataclass
class Group:
    """Namespaces a, b, witness and client on one bridge."""

    root: Path
    prefix: str
    servers: tuple[str, ...] = ("a", "b", "witness")
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def ns(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def inside(self, name: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.ns(name), *words]

    def build(self) -> None:
        run("ip", "netns", "add", self.ns("net"))
        run(*self.inside("net", "ip", "link", "add", "br0", "type", "bridge"))
        run(*self.inside("net", "ip", "link", "set", "br0", "up"))
        for name, host in HOSTS.items():
            here, there = self.ns(name), self.ns("net")
            run("ip", "netns", "add", here)
            run("ip", "link", "add", "eth0", "netns", here, "type", "veth",
                "peer", "name", name, "netns", there)  # fmt: skip
            run(*self.inside("net", "ip", "link", "set", "dev", name, "master", "br0", "up"))
            for words in (
                ("link", "set", "lo", "up"),
                ("address", "add", f"192.0.2.{host}/24", "dev", "eth0"),
                ("address", "add", f"2001:db8::{host}/64", "dev", "eth0", "nodad"),
                ("link", "set", "eth0", "up"),
            ):
                run(*self.inside(name, "ip", *words))

    def destroy(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(timeout=10)
        for name in (*HOSTS, "net"):
            run("ip", "netns", "delete", self.ns(name), check=False)

    # settings and processes

    def places(self, name: str) -> Places:
        return Places.below(self.root / name)

    def write_settings(self, members: Iterable[str], only: str | None = None) -> None:
        members = list(members)
        text = 'version = 1\ngroup = "shop"\ngroup_id = "00ff"\nmode = "durable"\n'
        for member in members:
            identity = {"a": "primary", "b": "secondary"}.get(member, member)
            text += f'[[members]]\nname = "{member}"\nidentity = "{identity}"\n'
            text += f'management = "192.0.2.{HOSTS[member]}"\n'
        for address in (PUBLIC4, PUBLIC6):
            text += f'[[public]]\naddress = "{address}"\ninterface = "eth0"\n'
        for member in members if only is None else (only,):
            places = self.places(member)
            places.make()
            places.group_settings.write_text(text)
            places.server_settings.write_text(
                f'name = "{member}"\nidentity = "primary"\ngroup = "shop"\n'
                f'management = "192.0.2.{HOSTS[member]}"\n'
            )
            places.heartbeat_key.write_bytes(b"k" * 32)

    def start(self, name: str) -> None:
        module = "everup.keeper.witness" if name == "witness" else "everup.keeper"
        environment = {**os.environ, "EVERUP_ROOT": str(self.root / name)}
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["nice", "-n", "-15", *self.inside(name, sys.executable, "-m", module)],
                env=environment,
                stderr=log,
            )
        self.until(name, lambda status: True)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes[name]
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait(timeout=10)

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()

    # talking to them

    def call(self, name: str, verb: str, **arguments: Any) -> dict[str, Any]:
        wait_ms = int(arguments.get("deadline_ms", 2000)) + 3000
        channel = self.places(name).keeper_socket
        line = connect(channel, wait_ms)
        try:
            line.send({"verb": verb, **arguments})
            answer = line.receive()
        finally:
            line.close()
        assert answer is not None
        return answer

    def status(self, name: str) -> dict[str, Any]:
        return call(self.places(name).keeper_socket, "status")

    def until(self, name: str, what: Any, seconds: float = 5) -> dict[str, Any]:
        end = time.monotonic() + seconds
        status: dict[str, Any] = {}
        while time.monotonic() < end:
            try:
                status = self.status(name)
                if what(status):
                    return status
            except EverupError:
                pass
            time.sleep(0.01)
        raise AssertionError(f"{name} did not get there: {status}\n{self.log(name)}")

    def form(self) -> None:
        """`a` founds the group, the others join, all vote, both servers are listed."""
        self.write_settings(("a",))
        self.start("a")
        assert self.call("a", "stand", deadline_ms=3000)["granted"]
        self.write_settings(self.servers)
        for name in self.servers[1:]:
            self.start(name)
        self.call("a", "reload")
        self.until("a", lambda s: all(p["reachable"] for p in s["peers"]))
        answer = self.call(
            "a", "propose", record={"voters": list(self.servers), "may_take_over": ["a", "b"]}
        )
        assert answer["committed"], answer

    # the network as others see it

    def ask(self, address: str, name: str = "client") -> str:
        """What answers at `address`: words out of icmp and tcp."""
        return run(*self.inside(name, sys.executable, str(PROBE), "ask", address)).strip()

    def watch(self, address: str, seconds: float, name: str = "client") -> subprocess.Popen[str]:
        words = (sys.executable, str(PROBE), "watch", "eth0", address, str(seconds))
        process = subprocess.Popen(self.inside(name, *words), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        return process

    def hardware(self, name: str) -> str:
        text = run(*self.inside(name, "cat", "/sys/class/net/eth0/address"))
        return text.strip()

    def cut(self, name: str) -> None:
        run(*self.inside("net", "ip", "link", "set", "dev", name, "down"))

    def heal(self, name: str) -> None:
        run(*self.inside("net", "ip", "link", "set", "dev", name, "up"))
