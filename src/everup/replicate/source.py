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

from everup.errors import Corrupt, EverupError
from everup.journal.segment import SegmentInfo, list_segments
from everup.replicate.chain import Chain, passing_pair
from everup.replicate.context import Context
from everup.replicate.dropped import note_dropped
from everup.replicate.guardlink import release_segments
from everup.replicate.link import PeerLink
from everup.replicate.quota import QuotaWatch
from everup.replicate.receivelog import ReceiveLog
from everup.wire.messages import NUMBER_MAX

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
        self._chain = Chain()
        self._chain.on_change = self._wake_links
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
                    link = PeerLink(
                        self._context, self.epoch, server, addresses, self._port, self._chain
                    )
                    self._links[server], self._addresses[server] = link, addresses
                    if len(wanted) > 1:
                        # Until the others have said it.
                        link.others_have = 0
                    link.start()
        self.arrange()

    def arrange(self) -> None:
        """Who passes the stream on to whom, as the settings say now."""
        group = self._context.group
        by, to = passing_pair(group.servers, self._context.server)
        self._chain.arrange(by, to, group.feed == "chain")

    def _wake_links(self) -> None:
        # A copy, not the lock: a link that is being stopped under it may be the one that asks.
        for link in list(self._links.copy().values()):
            link.wake()

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
        self.arrange()
        self._tell_links()
        context = self._context
        quota = context.group.journal_quota_bytes
        segments = list_segments(context.places.journal)
        used = sum(info.byte_count for info in segments)
        everybody, over = self._everybody_has(), _over_quota(segments, used, quota)
        if over > everybody:
            self._drop(segments, over, quota)
        # Of this server's passive time: somebody may stand in there still.
        ReceiveLog(context.places.receive).release(everybody)
        # Also when there is nothing to delete: the guard keeps to the quota if this process dies.
        release_segments(context.places.guard_socket, max(everybody, over, 0), quota)
        news = self._watch.news(used, quota)
        if news is not None:
            level, sentence = news
            context.events.emit("journal-quota", sentence, level=level, used_bytes=used)

    def _tell_links(self) -> None:
        """Every peer keeps what the others lack: it may have to supply them one day."""
        links = self.links
        for link in links:
            others = [other.durable_sequence for other in links if other is not link]
            link.others_have = max(0, min(others, default=NUMBER_MAX))

    def _drop(self, segments: list[SegmentInfo], sequence: int, quota: int) -> None:
        """What goes although a peer lacks it is looked through before, so that the peer need not
        be compared whole."""
        left = [info.start for info in segments[1:] if info.start.sequence <= sequence]
        stand = [link.mark for link in self.links if link.needed_after < sequence]
        try:
            if left:
                known = [mark for mark in stand if mark is not None]
                note_dropped(self._context.places, segments[0].start, left[-1], known)
        except (Corrupt, OSError) as problem:
            # It goes all the same: a journal over its quota would fill the disk.
            why = problem.sentence if isinstance(problem, Corrupt) else str(problem)
            self._context.events.emit("queue-unknown", why)
        self._say_dropped(sequence, quota)

    def _say_dropped(self, sequence: int, quota: int) -> None:
        """Whoever lacks it cannot be streamed any more, which nobody should find out by chance."""
        for link in self.links:
            if link.needed_after < sequence and self._dropped.get(link.server, 0) < sequence:
                self._dropped[link.server] = sequence
                self._context.events.emit(
                    "queue-dropped",
                    f"the journal's quota of {quota >> 20} MiB is used up: what {link.server} "
                    f"lacks before {sequence} was dropped, what was changed will be compared",
                    server=link.server,
                    sequence=sequence,
                )

    def _everybody_has(self) -> int:
        links = self.links
        return min((link.needed_after for link in links), default=0)


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
