"""The real guard, two real replicators: what an application does through the mount arrives."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "contract"))

from guarding import GROUP_ID, GuardProcess
from replicating import Authority, Server, differences, free_port, wait_for
from standin_guard import StandInGuard

from everup.system.clock import boot_id
from everup.system.leasepage import LeasePageWriter
from everup.wire.local import call, subscribe

pytestmark = pytest.mark.fuse


class GuardedServer(GuardProcess):
    """A guard that shares its places with a replicator."""

    def __init__(self, server: Server, tree: Path) -> None:
        self.base = server.base
        self.places = server.places
        self.paths = [tree]
        tree.mkdir()
        self.lease = LeasePageWriter(self.places.lease_page, boot_id())
        self.log = server.base / "guard.log"
        self.process = None

    def start(self) -> None:
        environment = {**os.environ, "EVERUP_ROOT": str(self.base)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "everup.capture"], env=environment, stderr=log
            )
        self.wait_served()


class Protected:
    """alpha with guard and replicator, beta with a replicator."""

    def __init__(self, base: Path) -> None:
        authority, port = Authority(), free_port()
        self.alpha = Server(base, "alpha", authority, port, group_id=GROUP_ID)
        self.beta = Server(base, "beta", authority, port, group_id=GROUP_ID)
        self.beta.make_lower()
        self.guard = GuardedServer(self.alpha, base / "protected")
        self.tree = base / "protected"

    def start(self) -> None:
        self.guard.start()
        self.guard.arm()
        self.guard.open()
        self.alpha.start()
        self.beta.start()
        self.beta.call("target")
        peers = [{"server": "beta", "addresses": ["127.0.0.1"]}]
        self.alpha.call("source", epoch=1, peers=peers)

    def in_sync(self) -> bool:
        return bool(self.alpha.call("status")["peers"][0]["in_sync"])

    def settle(self) -> None:
        def applied() -> bool:
            end = self.guard.call("status")
            return (
                end["sequence"] == end["position"]["sequence"]
                and self.beta.call("status")["applied"] == end["position"]
            )

        wait_for(applied, 30, "applied")

    def stop(self) -> None:
        self.alpha.stop()
        self.beta.stop()
        self.guard.stop()


@pytest.fixture
def protected(tmp_path: Path) -> Iterator[Protected]:
    made = Protected(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def use(tree: Path) -> None:
    """A day of a file server and of a developer, in a second."""
    commands = f"""
    cd {tree} && mkdir -p day && cd day
    git init -q repository && cd repository
    for n in 1 2 3 4 5 6 7 8; do echo $n > file$n; done
    git add . && git -c user.email=a@b -c user.name=n commit -qm one && git gc -q
    git checkout -q -b other && git rm -q file1
    git -c user.email=a@b -c user.name=n commit -qm two
    cd .. && ln -s nowhere link && mkfifo fifo && ln repository/file2 hard
    mv repository moved && truncate -s 10M sparse && fallocate -p -o 0 -l 65536 sparse
    dd if=/dev/urandom of=data bs=64k count=20 status=none conv=fsync
    setfattr -n user.note -v hello data && setfacl -m u:daemon:rw data
    mkdir shared && setfacl -d -m g:daemon:rwx shared && touch shared/inherits && mkdir shared/inner
    chown daemon:daemon data && chmod 4755 data && rm hard && cp -a moved copy && rm -rf moved
    """
    subprocess.run(["bash", "-ec", commands], check=True)
    database = sqlite3.connect(tree / "day/database")
    database.execute("pragma journal_mode=wal")
    database.execute("create table t (n integer, x blob)")
    for number in range(50):
        with database:
            database.execute("insert into t values (?, ?)", (number, os.urandom(500)))
    database.close()


def test_everything_through_the_mount_arrives(protected: Protected) -> None:
    (protected.tree / "before").mkdir()
    (protected.tree / "before/file").write_bytes(os.urandom(1 << 20))
    protected.start()
    use(protected.tree)
    wait_for(protected.in_sync, 30, "in sync")
    subprocess.run(["mv", str(protected.tree / "day"), str(protected.tree / "first")], check=True)
    use(protected.tree)
    protected.settle()
    assert differences(protected.alpha.lower(), protected.beta.lower()) == []
    assert "apply-stopped" not in protected.beta.log.read_text()


def test_a_durable_fsync_waits_for_the_peer(protected: Protected) -> None:
    protected.start()
    wait_for(protected.in_sync, 30, "in sync")
    protected.guard.call("policy", mode="durable", must_acknowledge=["beta"])
    descriptor = os.open(protected.tree / "file", os.O_CREAT | os.O_WRONLY)
    took = []
    for number in range(50):
        os.pwrite(descriptor, b"x" * 8192, number * 8192)
        started = time.monotonic()
        os.fsync(descriptor)
        took.append(time.monotonic() - started)
        end = protected.alpha.call("status")["peers"][0]["acknowledged"]["sequence"]
        assert protected.beta.call("status")["received"]["sequence"] >= end > 2
    os.close(descriptor)
    protected.beta.kill()
    done = threading.Event()

    def write() -> None:
        with (protected.tree / "late").open("wb") as file:
            file.write(b"late")
            file.flush()
            os.fsync(file.fileno())
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert not done.wait(0.5), "an fsync was answered although the peer has nothing"
    protected.beta.start()
    protected.beta.call("target")
    assert done.wait(20)
    writer.join()
    protected.settle()
    assert (protected.beta.lower() / "late").read_bytes() == b"late"
    took.sort()
    print(f"durable fsync: median {took[25] * 1000:.2f} ms")


@pytest.mark.parametrize("kind", ["real", "stand-in"])
def test_the_guard_is_to_the_replicator_what_the_stand_in_is(tmp_path: Path, kind: str) -> None:
    """Both answer the verbs that the replicator uses in the same shape."""
    server = Server(tmp_path, "alpha", Authority(), free_port(), group_id=GROUP_ID)
    guard: GuardedServer | StandInGuard
    if kind == "real":
        guard = GuardedServer(server, tmp_path / "protected")
        guard.start()
        guard.arm()
        guard.open()
    else:
        server.make_lower()
        guard = StandInGuard(server.places, GROUP_ID)
        guard.open(1, "alpha")
        guard.serve()
    path = server.places.guard_socket
    try:
        status = call(path, "status")
        assert status["position"].keys() == {"epoch", "sequence", "checksum"}
        assert status["position"]["sequence"] == status["sequence"] == 2
        channel = subscribe(path, "follow")
        if isinstance(guard, StandInGuard):
            guard.create("file")
        else:
            (tmp_path / "protected/file").touch()
        line = channel.receive()
        while line is not None and line.get("closed", {}).get("sequence", 0) <= 2:
            line = channel.receive()
        assert line is not None
        assert line["closed"].keys() >= {"epoch", "sequence", "checksum", "segment", "offset"}
        channel.send({"verb": "acknowledged", "server": "beta", "sequence": 4})
        channel.close()
        assert call(path, "release_segments", up_to_sequence=2)["removed"] == 0
    finally:
        guard.stop()
