"""Whom this server hears: the last heartbeat of every member, and who fell silent.

What enters: heartbeats and time. What leaves: events "peer-silent" and "peer-back", and what is
known about the holder. Called by the protocol. Pure.
"""

from dataclasses import dataclass

from everup.keeper.desk import Desk
from everup.keeper.messages import Beat

SILENT_BEATS = 4


@dataclass(slots=True)
class Peer:
    heard_ns: int
    """When the last heartbeat came, or when the watch began."""
    beat: Beat | None = None
    silent: bool = False


class Peers:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.peers: dict[str, Peer] = {}
        self.configure()

    def configure(self) -> None:
        """Watch exactly the members; whoever is new has time to say something."""
        others = self.desk.members - {self.desk.server}
        for name in set(self.peers) - others:
            del self.peers[name]
        for name in sorted(others - set(self.peers)):
            self.peers[name] = Peer(self.desk.now_ns)

    @property
    def silence_ns(self) -> int:
        return SILENT_BEATS * self.desk.timing.heartbeat_ns

    def heard(self, server: str, beat: Beat) -> None:
        peer = self.peers.get(server)
        if peer is None:
            return
        peer.heard_ns, peer.beat = self.desk.now_ns, beat
        if peer.silent:
            peer.silent = False
            self.desk.event("peer-back", server=server)

    def wake_at_ns(self) -> int | None:
        times = [p.heard_ns + self.silence_ns for p in self.peers.values() if not p.silent]
        return min(times, default=None)

    def tick(self) -> None:
        for name, peer in self.peers.items():
            if not peer.silent and self.desk.now_ns >= peer.heard_ns + self.silence_ns:
                peer.silent = True
                holder = peer.beat is not None and peer.beat.holding > 0
                self.desk.event("peer-silent", server=name, holder=holder)

    def reachable(self) -> set[str]:
        """Members that were heard lately."""
        limit_ns = self.desk.now_ns - self.silence_ns
        return {n for n, p in self.peers.items() if p.beat is not None and p.heard_ns > limit_ns}

    def holder(self) -> tuple[str, int]:
        """(server, epoch) of the newest lease that anybody claims in a heartbeat; ("", 0)."""
        reachable = self.reachable()
        claims = [
            (peer.beat.holding, name)
            for name, peer in self.peers.items()
            if name in reachable and peer.beat is not None and peer.beat.holding
        ]
        epoch, name = max(claims, default=(0, ""))
        return name, epoch
