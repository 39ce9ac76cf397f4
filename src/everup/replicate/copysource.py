"""The source's side of a copy: walk, list, and send the blocks that differ.

What enters: the lower trees of the active server while applications write to them. What leaves: a
copy on the target that, together with the records since the copy began, is consistent. Objects that
moved while the walk was going on are found in the journal and looked at again. Called by `resync`.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from stat import S_ISDIR, S_ISLNK, S_ISREG

from everup.errors import DeadlinePassed, NotConnected, ProtocolError
from everup.journal.operation import Link, Rename, decode_arguments
from everup.journal.record import Operation, Record
from everup.model.position import Position
from everup.replicate.apply import records_of
from everup.replicate.blocks import (
    BLOCK_BYTES,
    HASH_BYTES,
    HOLE,
    Range,
    block_count,
    data_ranges,
    hash_block,
    read_range,
)
from everup.replicate.context import Context
from everup.replicate.logs import LogCursor
from everup.replicate.lower import LowerTree
from everup.replicate.objects import displaced_name
from everup.replicate.syncchannel import SyncChannel
from everup.replicate.treecopy import join
from everup.replicate.walk import (
    IdGiver,
    InodeSet,
    Seen,
    Visited,
    attributes_of,
    look,
    measure,
    open_file,
    walk,
)
from everup.system.kernelcalls import RENAME_EXCHANGE
from everup.wire.frames import BlocksFrame
from everup.wire.messages import WirePosition
from everup.wire.syncmessages import (
    AnySync,
    Begin,
    CopyEnd,
    CopyEnded,
    Entry,
    FileEnd,
    Have,
    Hole,
    Listing,
)

INLINE_BYTES_FRESH = 16 << 10
INLINE_BYTES = 512
"""Content up to this size travels in the listing, also when the target has it already."""
LISTED_AT_ONCE = 256
LISTED_BYTES = 128 << 10
FILES_OPEN_MAX = 128
SEND_BYTES = 1 << 20
SETTLE_SECONDS = 0.1
"""Longer than any change takes from the lower tree into a closed batch of the journal."""
ENDING_SECONDS_MAX = 3600.0
ROUNDS_MAX = 100


@dataclass
class Progress:
    """What the status shows; written by the sync's thread only."""

    state: str = "walking"
    done_bytes: int = 0
    total_bytes: int = 0
    objects: int = 0
    sentence: str = ""


@dataclass
class _Open:
    """A file whose blocks the target may still ask for."""

    descriptor: int
    size: int
    mtime_ns: int


@dataclass
class _Marks:
    """What has been sent of one tree, by inode."""

    sent: InodeSet
    linked: InodeSet
    listed: InodeSet


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
    ) -> None:
        self._context = context
        self._channel = channel
        self._trees = {tree.tree_id: tree for tree in trees}
        self._begin = begin
        self._progress = progress
        self._stopped = stopped
        self._inline = INLINE_BYTES_FRESH if fresh else INLINE_BYTES
        self._ids = IdGiver()
        self._marks = {tree.tree_id: _Marks(InodeSet(), InodeSet(), InodeSet()) for tree in trees}
        self._files: dict[int, _Open] = {}
        self._haves: deque[Have] = deque()
        self._next_handle = 1
        self._ended = False

    def run(self, position_now: Callable[[], Position]) -> Position:
        """Copy everything; returns the position at which the target is consistent."""
        try:
            return self._run(position_now)
        finally:
            for file in self._files.values():
                os.close(file.descriptor)

    def _run(self, position_now: Callable[[], Position]) -> Position:
        progress = self._progress
        for tree in self._trees.values():
            objects, content = measure(tree)
            progress.objects += objects
            progress.total_bytes += content
        self._channel.send(Begin(tuple(self._trees), progress.objects, progress.total_bytes))
        progress.state = "copying"
        for tree in self._trees.values():
            for visited in walk(tree, self._ids):
                self._send_directory(tree, visited)
        self._finish_files()
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

    def _entry(self, tree: LowerTree, seen: Seen, name: bytes) -> Entry | None:
        """None for an object that moved here after it was sent from elsewhere."""
        try:
            return self._entry_of(self._marks[tree.tree_id], seen, name)
        finally:
            os.close(seen.descriptor)

    def _entry_of(self, marks: _Marks, seen: Seen, name: bytes) -> Entry | None:
        status = seen.status
        mode = status.st_mode
        is_new = marks.sent.add(status.st_ino)
        if not is_new and (S_ISDIR(mode) or status.st_ino not in marks.linked):
            return None
        if status.st_nlink > 1 and not S_ISDIR(mode):
            marks.linked.add(status.st_ino)
        handle, content = 0, None
        if is_new and S_ISLNK(mode):
            content = os.readlink(b"", dir_fd=seen.descriptor)
        elif is_new and S_ISREG(mode):
            handle, content = self._content(seen)
        return Entry(
            name,
            seen.object_id,
            attributes_of(seen.descriptor, status),
            1 if S_ISDIR(mode) else status.st_nlink,
            status.st_size,
            handle,
            content,
        )

    def _content(self, seen: Seen) -> tuple[int, bytes | None]:
        descriptor = open_file(seen.descriptor)
        status = os.fstat(descriptor)
        if status.st_size <= self._inline:
            content = read_range(descriptor, 0, seen.status.st_size)
            os.close(descriptor)
            if len(content) == seen.status.st_size:
                self._progress.done_bytes += len(content)
                return 0, content
            descriptor = open_file(seen.descriptor)
        handle = self._next_handle
        self._next_handle += 1
        self._files[handle] = _Open(descriptor, status.st_size, status.st_mtime_ns)
        return handle, None

    # content

    def _pump(self) -> None:
        """Serve what the target asks for, until there is room for more."""
        self._absorb(0)
        while self._haves or self._channel.clogged or len(self._files) > FILES_OPEN_MAX:
            if self._haves:
                self._serve(self._haves.popleft())
            else:
                self._absorb(200)

    def _finish_files(self) -> None:
        while self._files:
            self._pump()
            if self._files and not self._haves:
                self._absorb(200)

    def _absorb(self, timeout_ms: int) -> None:
        if self._stopped():
            raise NotConnected("the sync was stopped")
        for message in self._channel.poll(timeout_ms):
            self._note(message)

    def _note(self, message: AnySync | BlocksFrame) -> None:
        if isinstance(message, Have):
            self._haves.append(message)
        elif isinstance(message, CopyEnded):
            self._ended = True
        else:
            raise ProtocolError("a message of the source came from the target", code="sync-order")

    def _serve(self, have: Have) -> None:
        file = self._files.get(have.handle)
        if file is None:
            raise ProtocolError(f"file {have.handle} is not open", code="sync-order")
        blocks = block_count(file.size)
        count = len(have.hashes) // HASH_BYTES
        for index in range(min(count, blocks - have.first_block)):
            theirs = have.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
            block = have.first_block + index
            mine = hash_block(file.descriptor, block, file.size)
            if mine != theirs:
                self._send_block(have.handle, file, block, mine, theirs)
        if have.last:
            start = (have.first_block + count) * BLOCK_BYTES
            self._send_data(have.handle, file, Range(start, file.size))
            self._end_file(have.handle, file)

    def _send_block(self, handle: int, file: _Open, block: int, mine: bytes, theirs: bytes) -> None:
        start = block * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, file.size)
        ranges = [] if mine == HOLE else list(data_ranges(file.descriptor, start, end))
        whole = ranges == [Range(start, end)]
        if theirs != HOLE and not whole:
            self._channel.send(Hole(handle, start, end - start))
        for data in ranges:
            self._send_data(handle, file, data)

    def _send_data(self, handle: int, file: _Open, wanted: Range) -> None:
        if wanted.start >= wanted.end:
            return
        for data in data_ranges(file.descriptor, wanted.start, wanted.end):
            at = data.start
            while at < data.end:
                part = read_range(file.descriptor, at, min(at + SEND_BYTES, data.end))
                if not part:
                    break
                self._channel.send_blocks(handle, at, part)
                at += len(part)
                while self._channel.clogged:
                    self._absorb(200)

    def _end_file(self, handle: int, file: _Open) -> None:
        self._channel.send(FileEnd(handle, file.size, file.mtime_ns, False))
        os.close(file.descriptor)
        del self._files[handle]
        self._progress.done_bytes += file.size

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
        if seen.status.st_ino in marks.sent:
            os.close(seen.descriptor)
            return False
        entry = self._entry(tree, seen, displaced_name(seen.object_id))
        assert entry is not None
        self._channel.send(
            Listing(tree.tree_id, b"", tree.root_id, entry.attributes, [entry], True, True)
        )
        self._pump()
        return True
