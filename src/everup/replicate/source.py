"""The active side: one link per peer, and the journal's retention.

What enters: the epoch and the peers with their addresses. What leaves: batches to every peer, each
over a link of its own (`link`), and the guard's permission to delete segments that every peer has.
Owned by the process while this server is active.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from everup.errors import EverupError
from everup.journal.segment import SegmentInfo, list_segments
from everup.replicate.context import Context
from everup.replicate.guardlink import release_segments
from everup.replicate.link import PeerLink
from everup.replicate.quota import QuotaWatch

RETAIN_EVERY_SECONDS = 2.0


@dataclass(frozen=True)
class Peer:
    server: str
    addresses: tuple[str, ...]


class Source:
    """`start` once; `set_peers` may be called again with other addresses; `stop` once."""

    def __init__(self, context: Context, epoch: int, port: int) -> None:
        self._context = context
        self._port = port
        self.epoch = epoch
        self._links: dict[str, PeerLink] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._retain, name="retain", daemon=True)
        self._lock = threading.Lock()
        self._watch = QuotaWatch("the journal")
        self._dropped: dict[str, int] = {}

    def start(self, peers: Sequence[Peer]) -> None:
        self.set_peers(peers)
        self._thread.start()

    def set_peers(self, peers: Sequence[Peer]) -> None:
        """Links whose addresses are unchanged go on without a break."""
        wanted = {peer.server: peer.addresses for peer in peers}
        with self._lock:
            for server in list(self._links):
                if wanted.get(server) != self._addresses[server]:
                    self._links.pop(server).stop()
                    del self._addresses[server]
            for server, addresses in wanted.items():
                if server not in self._links:
                    link = PeerLink(self._context, self.epoch, server, addresses, self._port)
                    self._links[server], self._addresses[server] = link, addresses
                    link.start()

    def stop(self) -> None:
        self._stopped.set()
        with self._lock:
            links = list(self._links.values())
        for link in links:
            link.stop()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def links(self) -> list[PeerLink]:
        with self._lock:
            return list(self._links.values())

    def status(self) -> list[dict[str, Any]]:
        return [link.status() for link in self.links]

    def _retain(self) -> None:
        """A segment may go when every peer has it durably, or when the quota says so."""
        while not self._stopped.wait(RETAIN_EVERY_SECONDS):
            try:
                self._retain_now()
            except (EverupError, OSError):
                continue

    def _retain_now(self) -> None:
        context = self._context
        quota = context.group.journal_quota_bytes
        segments = list_segments(context.places.journal)
        used = sum(info.byte_count for info in segments)
        everybody, over = self._everybody_has(), _over_quota(segments, used, quota)
        if over > everybody:
            self._say_dropped(over, quota)
        # Also when there is nothing to delete: the guard keeps to the quota if this process dies.
        release_segments(context.places.guard_socket, max(everybody, over, 0), quota)
        news = self._watch.news(used, quota)
        if news is not None:
            level, sentence = news
            context.events.emit("journal-quota", sentence, level=level, used_bytes=used)

    def _say_dropped(self, sequence: int, quota: int) -> None:
        """Whoever lacks it cannot be streamed any more, which nobody should find out by chance."""
        for link in self.links:
            if link.durable_sequence < sequence and self._dropped.get(link.server, 0) < sequence:
                self._dropped[link.server] = sequence
                self._context.events.emit(
                    "queue-dropped",
                    f"the journal's quota of {quota >> 20} MiB is used up: what {link.server} "
                    f"lacks before {sequence} was dropped, its trees will be compared",
                    server=link.server,
                    sequence=sequence,
                )

    def _everybody_has(self) -> int:
        links = self.links
        return min((link.durable_sequence for link in links), default=0)


def _over_quota(segments: list[SegmentInfo], used_bytes: int, quota_bytes: int) -> int:
    """Last sequence that must go for the journal to keep within its quota."""
    left = used_bytes
    release = 0
    for info, following in pairwise(segments):
        if left <= quota_bytes:
            break
        left -= info.byte_count
        release = following.start.sequence
    return release
