"""Three replicators as processes over loopback, each listening on an address of its own.

What enters: an empty directory. What leaves: alpha (with a stand-in guard), beta and gamma, to be
killed, and to change their roles as agents would make them. Used by the tests of the third server.
"""

from pathlib import Path
from typing import Any

from replicating import GROUP_ID, Authority, Server, differences, free_port, wait_for
from standin_guard import StandInGuard

from everup.errors import EverupError
from everup.model.position import Position

NAMES = ("alpha", "beta", "gamma")


class Trio:
    """`active` has the guard; the others receive."""

    def __init__(self, base: Path, feed: str = "star") -> None:
        authority, port = Authority(), free_port()
        self.servers = {
            name: Server(base, name, authority, port, names=NAMES, apart=True) for name in NAMES
        }
        for server in self.servers.values():
            server.make_lower()
        self.active = "alpha"
        self.epoch = 1
        self.feed = "star"
        self.set_feed(feed, reload=False)
        self.guard = StandInGuard(self.servers["alpha"].places, GROUP_ID)

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    def set_feed(self, feed: str, *, reload: bool = True) -> None:
        """The group's setting, on every server."""
        for server in self.servers.values():
            settings = server.places.group_settings
            text = settings.read_text().replace(f'feed = "{self.feed}"\n', "")
            settings.write_text(f'feed = "{feed}"\n{text}')
            if reload and server.process is not None and server.process.poll() is None:
                server.call("reload")
        self.feed = feed

    def start(self) -> None:
        self.guard.open(self.epoch, "alpha")
        self.guard.serve()
        for name, server in self.servers.items():
            server.start()
            if name != self.active:
                server.call("target")
        self.ship()
        self.wait_in_sync(*self.others)

    def ship(self) -> None:
        """The active server's agent names its peers."""
        peers = [
            {"server": name, "addresses": [self.servers[name].address]}
            for name in NAMES
            if name != self.active
        ]
        self.servers[self.active].call("source", epoch=self.epoch, peers=peers)

    @property
    def others(self) -> list[str]:
        return [name for name in NAMES if name != self.active]

    def peer(self, name: str) -> dict[str, Any]:
        peers = self.servers[self.active].call("status")["peers"]
        return next(peer for peer in peers if peer["server"] == name)

    def wait_in_sync(self, *names: str, seconds: float = 20) -> None:
        for name in names:
            wait_for(lambda n=name: self.peer(n)["in_sync"], seconds, f"{name} in sync")

    def wait_supplied(self, name: str, by: str, seconds: float = 40) -> None:
        def supplied() -> bool:
            peer = self.peer(name)
            return peer["supplied_by"] == by and peer["connected"] and peer["in_sync"]

        wait_for(supplied, seconds, f"{name} is supplied by {by}")

    def settle(self, *names: str, seconds: float = 20) -> None:
        """Everything that was done is applied on these servers, and the active one knows it."""
        end = self.guard.end_batch().to_json()
        for name in names or tuple(self.others):
            wait_for(lambda n=name: self.peer(n)["applied"] == end, seconds, f"applied on {name}")
            assert self.servers[name].call("status")["applied"] == end

    def compare(self, *names: str) -> None:
        self.settle(*names)
        for name in names or tuple(self.others):
            assert differences(self.guard.root, self.servers[name].lower()) == []

    def revive(self, name: str) -> None:
        """A passive server's replicator begins anew where it was killed."""
        self.servers[name].start()
        self.servers[name].call("target")

    def write(self, name: str, mebibytes: int) -> None:
        """A new file, in batches that go on their way at once."""
        self.guard.create(name)
        for number in range(mebibytes):
            self.guard.write(name, number << 20, bytes([number % 251]) * (1 << 20))
            self.guard.end_batch()

    # roles

    def hand_over(self, to: str) -> None:
        """A switchover: everything that the other passive servers lack comes from `to` later."""
        final = self.guard.close().to_json()
        wait_for(lambda: self.servers[to].call("status")["received"] == final, 20, "handed over")
        old = self.active
        self.servers[old].call("stop")
        self.guard.stop()
        self.promote(to)
        self.servers[old].call("target")

    def promote(self, to: str, ask: tuple[str, ...] = ()) -> None:
        """What the agent does: seal, fetch and apply, open the gate, ship."""
        self.epoch += 1
        server = self.servers[to]
        server.call("seal", epoch=self.epoch)
        drained = server.call("drain", ask=list(ask))["position"]
        self.active = to
        self.guard = StandInGuard(server.places, GROUP_ID)
        self.guard.open(self.epoch, to, Position.from_json(drained))
        self.guard.serve()
        self.ship()

    def comparisons(self) -> dict[str, int]:
        """How often the trees of each server had to be compared."""
        return {n: s.log.read_text().count("resync-started") for n, s in self.servers.items()}

    def stop(self) -> None:
        for server in self.servers.values():
            server.stop()
        self.guard.stop()


def status_of(server: Server) -> dict[str, Any]:
    """Its status; empty while it is not there."""
    try:
        return server.call("status")
    except EverupError:
        return {}
