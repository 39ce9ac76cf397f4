"""The source's side of a copy: walk, list, and send the blocks that differ.

What enters: the lower trees of the active server while applications write to them. What leaves: a
copy on the target that, together with the records since the copy began, is consistent. Objects that
moved while the walk was going on are found in the journal and looked at again. Called by `resync`.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from stat import S_ISDIR, S_ISLNK, S_ISREG

from everup.errors import DeadlinePassed, NotConnected, ProtocolError
from everup.journal.operation import Link, Rename, decode_arguments
from everup.journal.record import Operation, Record
from everup.model.position import Position
from everup.replicate.apply import records_of
from everup.replicate.blocks import read_range
from everup.replicate.contentsource import ContentSource
from everup.replicate.context import Context
from everup.replicate.logs import LogCursor
from everup.replicate.lower import LowerTree
from everup.replicate.objects import displaced_name
from everup.replicate.progress import Progress
from everup.replicate.scan import measure
from everup.replicate.scope import Run, Scope
from everup.replicate.syncchannel import SyncChannel
from everup.replicate.treecopy import join
from everup.replicate.walk import (
    IdGiver,
    InodeSet,
    Seen,
    Visited,
    attributes_of,
    look,
    open_file,
    walk,
)
from everup.system.kernelcalls import RENAME_EXCHANGE
from everup.wire.frames import BlocksFrame
from everup.wire.messages import WirePosition
from everup.wire.syncmessages import (
    AnySync,
    Begin,
    Content,
    CopyEnd,
    CopyEnded,
    Entry,
    Fine,
    Have,
    Listing,
    ListingsEnd,
    ListingsTaken,
    Want,
)

INLINE_BYTES_FRESH = 16 << 10
INLINE_BYTES = 512
"""Content up to this size travels in the listing, also when the target has it already."""
LISTED_AT_ONCE = 256
LISTED_BYTES = 128 << 10
SETTLE_SECONDS = 0.1
"""Longer than any change takes from the lower tree into a closed batch of the journal."""
ENDING_SECONDS_MAX = 3600.0
ROUNDS_MAX = 100


@dataclass
class _Marks:
    """What has been sent of one tree, by inode."""

    sent: InodeSet
    linked: InodeSet
    listed: InodeSet
    directories: set[bytes] = field(default_factory=set)
    """Their ids: one that is made meanwhile may have the inode of one that was sent and removed,
    and is listed, so its own entry must not be left out."""

    def has(self, seen: Seen) -> bool:
        if S_ISDIR(seen.status.st_mode):
            return seen.object_id in self.directories
        return seen.status.st_ino in self.sent

    def add(self, seen: Seen) -> bool:
        """False when it was sent before."""
        is_new = not self.has(seen)
        self.sent.add(seen.status.st_ino)
        if S_ISDIR(seen.status.st_mode):
            self.directories.add(seen.object_id)
        return is_new


class CopySource:
    """`run` once. Raises what the channel raises, OSError, and NotConnected when told to stop."""

    def __init__(
        self,
        context: Context,
        channel: SyncChannel,
        trees: list[LowerTree],
        begin: Position,
        progress: Progress,
        stopped: Callable[[], bool],
        *,
        fresh: bool,
        scope: Scope | None = None,
    ) -> None:
        """`scope`: content is compared of these objects, and of those that the target wants; None:
        of all. It grows by what is wanted."""
        self._context = context
        self._channel = channel
        self._trees = {tree.tree_id: tree for tree in trees}
        self._begin = begin
        self._progress = progress
        self._stopped = stopped
        self._inline = INLINE_BYTES_FRESH if fresh else INLINE_BYTES
        self._ids = IdGiver()
        self._marks = {tree.tree_id: _Marks(InodeSet(), InodeSet(), InodeSet()) for tree in trees}
        self.scope = scope
        self._content = ContentSource(channel, self._absorb)
        self._inline_bytes = 0
        self._wants: deque[Want] = deque()
        self._unsent: dict[tuple[int, bytes], Want] = {}
        self._taken = self._ended = False

    def run(self, position_now: Callable[[], Position]) -> Position:
        """Copy everything; returns the position at which the target is consistent."""
        try:
            return self._run(position_now)
        finally:
            self._content.close()

    def _run(self, position_now: Callable[[], Position]) -> Position:
        progress = self._progress
        for tree in self._trees.values():
            objects, content = measure(tree)
            progress.objects += objects
            progress.total_bytes += content if self.scope is None else 0
        self._channel.send(Begin(tuple(self._trees), progress.objects, progress.total_bytes))
        progress.state = "copying"
        for tree in self._trees.values():
            for visited in walk(tree, self._ids):
                self._send_directory(tree, visited)
        self._finish_listings()
        until = self._send_moved(position_now)
        self._channel.send(CopyEnd(WirePosition.of(self._begin), WirePosition.of(until)))
        progress.state = "replaying"
        deadline = time.monotonic() + ENDING_SECONDS_MAX
        while not self._ended:
            if time.monotonic() > deadline:
                raise DeadlinePassed("the target did not end the copy")
            self._absorb(200)
        return until

    # listings

    def _send_directory(self, tree: LowerTree, visited: Visited) -> None:
        self._marks[tree.tree_id].listed.add(visited.status.st_ino)
        attributes = attributes_of(visited.descriptor, visited.status)

        def send(entries: list[Entry], last: bool) -> None:
            self._channel.send(
                Listing(
                    tree.tree_id,
                    visited.path,
                    visited.object_id,
                    attributes,
                    entries,
                    last,
                    False,
                )
            )
            self._pump()

        entries: list[Entry] = []
        size = 0
        for seen in visited.entries:
            entry = self._entry(tree, seen, seen.name)
            if entry is None:
                continue
            entries.append(entry)
            size += len(entry.content or b"") + 200
            if len(entries) >= LISTED_AT_ONCE or size >= LISTED_BYTES:
                send(entries, False)
                entries, size = [], 0
        send(entries, True)

    def _entry(
        self, tree: LowerTree, seen: Seen, name: bytes, *, aside: bool = False
    ) -> Entry | None:
        """None for an object that moved here after it was sent from elsewhere."""
        try:
            if aside and self.scope is not None:
                self.scope.add_whole(tree.tree_id, seen.object_id)
            return self._entry_of(tree.tree_id, seen, name)
        finally:
            os.close(seen.descriptor)

    def _entry_of(self, tree: int, seen: Seen, name: bytes) -> Entry | None:
        marks = self._marks[tree]
        status = seen.status
        mode = status.st_mode
        is_new = marks.add(seen)
        if not is_new and (S_ISDIR(mode) or status.st_ino not in marks.linked):
            return None
        if status.st_nlink > 1 and not S_ISDIR(mode):
            marks.linked.add(status.st_ino)
        handle, content, runs = 0, None, None
        if is_new and S_ISLNK(mode):
            content = os.readlink(b"", dir_fd=seen.descriptor)
        elif is_new and S_ISREG(mode):
            handle, content, runs = self._content_of(tree, seen)
        return Entry(
            name,
            seen.object_id,
            attributes_of(seen.descriptor, status),
            1 if S_ISDIR(mode) else status.st_nlink,
            status.st_size,
            handle,
            content,
            runs,
        )

    def _content_of(self, tree: int, seen: Seen) -> tuple[int, bytes | None, list[Run] | None]:
        """(handle, content, blocks to compare); no handle and no content: when it is wanted."""
        runs = None
        if self.scope is not None:
            if (tree, seen.object_id) not in self.scope:
                return 0, None, None
            runs = self.scope.runs(tree, seen.object_id)
        descriptor = open_file(seen.descriptor)
        if os.fstat(descriptor).st_size <= self._inline:
            content = read_range(descriptor, 0, seen.status.st_size)
            os.close(descriptor)
            if len(content) == seen.status.st_size:
                self._inline_bytes += len(content)
                return 0, content, None
            descriptor = open_file(seen.descriptor)
        return self._content.open(descriptor), None, runs

    # what comes from the target

    def _pump(self) -> None:
        """Serve what the target asks for, until there is room for more."""
        self._content.pump()
        while self._wants:
            self._answer(self._wants.popleft())
            self._content.pump()
        self._progress.done_bytes = self._inline_bytes + self._content.done_bytes

    def _finish_files(self) -> None:
        self._content.finish()
        self._progress.done_bytes = self._inline_bytes + self._content.done_bytes

    def _finish_listings(self) -> None:
        """Until the target has taken every listing and has what it wanted of them."""
        self._channel.send(ListingsEnd())
        deadline = time.monotonic() + ENDING_SECONDS_MAX
        while not self._taken:
            if time.monotonic() > deadline:
                raise DeadlinePassed("the target did not take the listings")
            self._absorb(200)
            self._pump()
        self._pump()
        self._finish_files()

    def _absorb(self, timeout_ms: int) -> None:
        if self._stopped():
            raise NotConnected("the sync was stopped")
        for message in self._channel.poll(timeout_ms):
            self._note(message)

    def _note(self, message: AnySync | BlocksFrame) -> None:
        if isinstance(message, Have | Fine):
            self._content.note(message)
        elif isinstance(message, Want) and self.scope is not None:
            self._wants.append(message)
        elif isinstance(message, ListingsTaken):
            self._taken = True
        elif isinstance(message, CopyEnded):
            self._ended = True
        else:
            raise ProtocolError("a message of the source came from the target", code="sync-order")

    def _answer(self, want: Want) -> None:
        """Send a file that the target asked for, as it is now."""
        tree = self._trees.get(want.tree)
        if tree is None or self.scope is None:
            raise ProtocolError(f"tree {want.tree} is not being copied", code="sync-order")
        self.scope.add_runs(want.tree, want.object_id, want.runs)
        seen = look(self._ids, tree.root, join(want.directory, want.name))
        if seen is None or seen.object_id != want.object_id:
            # Renamed since it was listed: the journal says where to.
            self._unsent[want.tree, want.object_id] = want
            if seen is not None:
                os.close(seen.descriptor)
            return
        self._send_wanted(want, seen)

    def _send_wanted(self, want: Want, seen: Seen) -> None:
        try:
            handle = self._content.open(open_file(seen.descriptor))
            attributes = attributes_of(seen.descriptor, seen.status)
        finally:
            os.close(seen.descriptor)
        status = seen.status
        self._progress.total_bytes += status.st_size
        entry = Entry(
            want.name, want.object_id, attributes, status.st_nlink, status.st_size, handle, None,
            want.runs,
        )  # fmt: skip
        self._channel.send(Content(want.tree, want.directory_id, entry))

    # what moved meanwhile

    def _send_moved(self, position_now: Callable[[], Position]) -> Position:
        """Look again at everything that was renamed or linked since the copy began."""
        cursor = LogCursor(self._context.places, self._begin)
        try:
            for _ in range(ROUNDS_MAX):
                time.sleep(SETTLE_SECONDS)
                until = position_now()
                found = self._moved_records(cursor, until)
                looked_again = [self._look_again(record) for record in found]
                self._finish_files()
                if not any(looked_again):
                    return until
        finally:
            cursor.close()
        raise DeadlinePassed("objects are moved faster than they can be copied")

    @staticmethod
    def _moved_records(cursor: LogCursor, until: Position) -> list[Record]:
        found = []
        while cursor.position.sequence < until.sequence:
            batch = cursor.next()
            if batch is None:
                break
            found += [
                record
                for record in records_of(batch)
                if record.operation in (Operation.RENAME, Operation.LINK)
            ]
        return found

    def _look_again(self, record: Record) -> bool:
        """True when something was sent that the walk had missed."""
        tree = self._trees.get(record.tree)
        if tree is None:
            return False
        arguments = decode_arguments(record)
        if isinstance(arguments, Link):
            place = join(arguments.directory_hint, arguments.name)
            return self._send_missing(tree, place, record.object_id)
        assert isinstance(arguments, Rename)
        new = join(arguments.new_directory_hint, arguments.new_name)
        sent = self._send_missing(tree, new, record.object_id)
        if arguments.flags & RENAME_EXCHANGE:
            old = join(arguments.old_directory_hint, arguments.old_name)
            sent |= self._send_missing(tree, old, arguments.replaced_id)
        return sent

    def _send_missing(self, tree: LowerTree, path: bytes, object_id: bytes) -> bool:
        seen = look(self._ids, tree.root, path)
        if seen is None:
            return False
        if seen.object_id != object_id:
            os.close(seen.descriptor)
            return False
        is_directory = S_ISDIR(seen.status.st_mode)
        sent = self._send_aside(tree, seen)
        if is_directory:
            for visited in walk(tree, self._ids, path, object_id):
                sent |= self._send_missing_below(tree, visited)
        return sent

    def _send_missing_below(self, tree: LowerTree, visited: Visited) -> bool:
        if visited.status.st_ino not in self._marks[tree.tree_id].listed:
            self._send_directory(tree, visited)
            return True
        return any([self._send_aside(tree, seen) for seen in visited.entries])

    def _send_aside(self, tree: LowerTree, seen: Seen) -> bool:
        """Send one object for the replay to find, unless it was sent before."""
        marks = self._marks[tree.tree_id]
        if marks.has(seen):
            want = self._unsent.pop((tree.tree_id, seen.object_id), None)
            if want is None:
                os.close(seen.descriptor)
                return False
            # Where the target has it, or would have made it; the replay moves it.
            self._send_wanted(want, seen)
            self._pump()
            return True
        entry = self._entry(tree, seen, displaced_name(seen.object_id), aside=True)
        assert entry is not None
        self._channel.send(
            Listing(tree.tree_id, b"", tree.root_id, entry.attributes, [entry], True, True)
        )
        self._pump()
        return True
