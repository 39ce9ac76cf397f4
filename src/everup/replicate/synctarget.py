"""The target's side of a sync: copy, replay, proof.

What enters: the source's messages on a sync channel. What leaves: trees that hold what the source
held, proven by hash at common positions. A sync that breaks off leaves the trees marked as being
synchronized; the next one uses what is there. Owned by the process while this server is passive.
"""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from everup.errors import EverupError, NotConnected, ProtocolError, Refused
from everup.model.position import Position
from everup.replicate.blocks import BLOCK_BYTES, HASH_BYTES
from everup.replicate.catchup import RESYNC
from everup.replicate.context import Context
from everup.replicate.filecopy import FileCopy
from everup.replicate.kept import Kept
from everup.replicate.progress import Progress
from everup.replicate.prooftarget import ProofTarget
from everup.replicate.receiving import Receiver, Stream
from everup.replicate.rejoin import find_doubtful
from everup.replicate.suspects import (
    Suspects,
    add_received,
    add_written,
    begin_attempt,
    load_suspects,
    save_suspects,
)
from everup.replicate.syncchannel import SyncChannel
from everup.replicate.treecopy import TreeCopy
from everup.replicate.treestate import OPEN, load_tree_state
from everup.replicate.writebehind import WriteBehind
from everup.system.clock import wall_ns
from everup.wire.frames import BlocksFrame, Frame
from everup.wire.messages import Hello, Start
from everup.wire.session import TargetSession
from everup.wire.syncmessages import (
    AnySync,
    Begin,
    Content,
    CopyEnd,
    CopyEnded,
    FileEnd,
    Fine,
    Finer,
    Have,
    Hold,
    Hole,
    Listing,
    ListingsEnd,
    ListingsTaken,
    ProofEnd,
    Prove,
)
from everup.wire.transport import Connection

JOB_WAIT_SECONDS = 5.0
GUARDED_OBJECTS = 100
"""A copy that would remove less asks nobody."""


@dataclass
class Job:
    """The sync that the current stream has begun."""

    sync_id: str
    begin: Position
    sentence: str
    suspects: Suspects
    parents: list[Position]
    narrow: bool = False
    progress: Progress = field(default_factory=Progress)
    compared_bytes: int = 0
    copied_bytes: int = 0


class SyncTarget:
    """Lives as long as the receiver; one job at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._receiver: Receiver | None = None
        self._changed = threading.Condition()
        self._job: Job | None = None
        self._removals_allowed = False

    def attach(self, receiver: Receiver) -> None:
        self._receiver = receiver
        receiver.on_start = self.begin

    def allow_removals(self) -> None:
        """The next copy may remove as much as it wants."""
        self._removals_allowed = True

    def begin(self, start: Start, stream: Stream) -> None:
        """The source has decided that the trees are compared (called on the stream's thread)."""
        assert self._receiver is not None
        context = self._context
        copies = start.catch_up == RESYNC
        parents = [past.parent.position() for past in stream.hello.history]
        if start.shared is not None:
            parents.append(start.shared.position())
        suspects = load_suspects(context.places.state)
        begin = start.position.position()
        if copies:
            state = load_tree_state(context.places.tree)
            begin_attempt(suspects, state.epoch if state.state == OPEN else None, wall_ns())
            add_received(suspects, context.places, parents)
            save_suspects(context.places.state, suspects, context.door)
            shared = start.shared.position() if start.shared is not None else None
            epoch = stream.hello.epoch if shared is not None else 0
            self._receiver.target.begin_sync(stream, begin, shared, epoch)
        with self._changed:
            self._job = Job(start.sync_id, begin, start.sentence, suspects, parents, start.narrow)
            self._job.progress.state = "walking" if copies else "proving"
            self._changed.notify_all()
        if copies:
            context.events.emit("resync-started", start.sentence)

    def serve(
        self, connection: Connection, session: TargetSession, hello: Hello, rest: list[Frame]
    ) -> None:
        """Run one sync channel to its end. Raises EverupError when it breaks off."""
        del session
        job = self._wait_for(hello.sync_id)
        channel = SyncChannel(connection, rest, frozenset(hello.features))
        assert self._receiver is not None
        run = _Run(self._context, self._receiver, job, channel, self._removals_allowed)
        try:
            run.run(lambda: self._job is job)
        except OSError as problem:
            error = EverupError(
                f"the copy cannot be written: {problem.strerror} {problem.filename or ''}",
                remedy="free space or repair the disk; the sync begins again by itself",
                code="sync-no-space" if problem.errno == 28 else "sync-disk-error",
            )
            self._fail(channel, error)
            raise error from problem
        except EverupError as problem:
            self._fail(channel, problem)
            raise
        finally:
            run.close()
        if job.progress.state == "done":
            self._removals_allowed = False

    def _fail(self, channel: SyncChannel, error: EverupError) -> None:
        if not isinstance(error, NotConnected):
            channel.stop(error)
            self._context.events.emit("resync-failed", error.sentence, code=error.code)

    def _wait_for(self, sync_id: str) -> Job:
        """The stream's START and this channel travel apart; either may be first."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._job is not None and self._job.sync_id == sync_id, JOB_WAIT_SECONDS
            )
            if self._job is None or self._job.sync_id != sync_id:
                raise Refused("this sync was not announced", code="unknown-sync")
            return self._job

    def status(self) -> dict[str, Any]:
        job = self._job
        if job is None:
            return {"state": "none", "sentence": ""}
        return {
            **job.progress.status(job.sentence),
            "narrow": job.narrow,
            "compared_bytes": job.compared_bytes,
            "copied_bytes": job.copied_bytes,
        }


class _Run:
    """One sync channel being served."""

    def __init__(
        self,
        context: Context,
        receiver: Receiver,
        job: Job,
        channel: SyncChannel,
        removals_allowed: bool,
    ) -> None:
        self._context = context
        self._receiver = receiver
        self._job = job
        self._channel = channel
        self._removals_allowed = removals_allowed
        self._trees: dict[int, TreeCopy] = {}
        self._files: dict[int, FileCopy] = {}
        self._hashing: list[int] = []
        self._objects_before = 0
        self._kept = Kept(context, job.suspects, asked=removals_allowed)
        self._proof = ProofTarget(channel, lambda: receiver.target.applier)
        self._behind = WriteBehind()

    def run(self, wanted: Any) -> None:
        while not self._receiver.stopped and wanted():
            if self._job.progress.state == "done":
                return
            busy = bool(self._hashing) and not self._channel.clogged
            for message in self._channel.poll(0 if busy else 200, self._proof.wake):
                self._take(message)
            if busy and self._hashing:
                self._hash_next()
            self._proof.step()
        raise NotConnected("this sync is over")

    def close(self) -> None:
        self._behind.close()
        for file in self._files.values():
            file.close()
        for copy in self._trees.values():
            copy.tree.close()
        self._proof.close()
        self._kept.close()

    def _take(self, message: AnySync | BlocksFrame) -> None:
        if isinstance(message, BlocksFrame):
            self._job.copied_bytes += len(message.data)
            self._file(message.handle).write(message.offset, message.data, self._behind)
        elif isinstance(message, Listing):
            self._listing(message)
        elif isinstance(message, Content):
            self._content(message)
        elif isinstance(message, ListingsEnd):
            self._channel.send(ListingsTaken())
        elif isinstance(message, Hole):
            self._file(message.handle).punch(message.offset, message.length)
        elif isinstance(message, Finer):
            hashes = self._file(message.handle).fine_hashes(message.blocks)
            self._channel.send(Fine(message.handle, message.blocks, hashes))
        elif isinstance(message, FileEnd):
            self._end_file(message)
        elif isinstance(message, Begin):
            self._begin(message)
        elif isinstance(message, CopyEnd):
            self._end_copy(message)
        elif isinstance(message, Hold):
            self._job.progress.state = "proving"
            self._proof.hold(message.held)
        elif isinstance(message, Prove):
            self._proof.prove(message.items)
        elif isinstance(message, ProofEnd):
            self._end(message)
        else:
            raise ProtocolError("a message of the target came from the source", code="sync-order")

    def _begin(self, begin: Begin) -> None:
        self._job.progress.total_bytes = begin.total_bytes
        self._job.progress.state = "copying"
        job = self._job
        add_written(job.suspects, self._context.places, job.parents)
        doubtful = find_doubtful(self._context.places, job.begin) if job.narrow else None
        if doubtful is not None:
            job.sentence = f"{job.sentence}; {doubtful.sentence}"
        suspected = doubtful.runs if doubtful is not None else None
        held = self._context.held_trees()
        for tree_id in begin.trees:
            # A tree that was here once and has no marker now is an unmounted disk, not a new tree.
            tree = self._context.open_lower(tree_id, adopt=tree_id not in held)
            self._trees[tree_id] = TreeCopy(tree, self._kept, suspected)
            self._objects_before += self._kept.look(tree)

    def _listing(self, listing: Listing) -> None:
        copy = self._tree(listing.tree)
        for entry, file in copy.listing(listing):
            self._add_file(entry.handle, file)
        for want in copy.wants:
            self._channel.send(want)
        copy.wants.clear()
        inline = sum(len(e.content) for e in listing.entries if e.content)
        self._job.progress.done_bytes += inline
        self._job.compared_bytes += inline

    def _content(self, content: Content) -> None:
        self._job.progress.total_bytes += content.entry.size
        self._add_file(content.entry.handle, self._tree(content.tree).content(content))

    def _tree(self, tree_id: int) -> TreeCopy:
        copy = self._trees.get(tree_id)
        if copy is None:
            raise ProtocolError(f"tree {tree_id} was not announced", code="sync-order")
        return copy

    def _add_file(self, handle: int, file: FileCopy) -> None:
        self._files[handle] = file
        self._hashing.append(handle)

    def _hash_next(self) -> None:
        handle = self._hashing[0]
        file = self._files[handle]
        first, hashes, last = file.next_part()
        if last:
            self._hashing.pop(0)
        self._job.compared_bytes += len(hashes) // HASH_BYTES * BLOCK_BYTES
        self._channel.send(Have(handle, first, hashes, last))

    def _file(self, handle: int) -> FileCopy:
        file = self._files.get(handle)
        if file is None:
            raise ProtocolError(f"file {handle} is not open", code="sync-order")
        return file

    def _end_file(self, message: FileEnd) -> None:
        file = self._file(message.handle)
        if message.vanished:
            file.close()
        else:
            file.end(message.size, message.mtime_ns)
        del self._files[message.handle]
        self._job.progress.done_bytes += message.size

    def _end_copy(self, message: CopyEnd) -> None:
        self._guard_against_emptiness()
        self._context.add_held_trees(self._trees)
        removed = sum(copy.finish() for copy in self._trees.values())
        self._kept.finish({tree_id: copy.tree for tree_id, copy in self._trees.items()})
        self._job.progress.state = "replaying"
        self._receiver.target.end_copy(message.begin.position(), message.until.position())
        self._channel.send(CopyEnded(removed))

    def _guard_against_emptiness(self) -> None:
        removing = sum(copy.count_aside() for copy in self._trees.values())
        percent_max = self._context.group.removals_percent_max
        if self._removals_allowed:
            return
        if asks_first(removing, self._objects_before, percent_max):
            raise Refused(
                f"the sync would remove {removing} of {self._objects_before} objects here",
                remedy="check the active server's data; if this is right: "
                "everup sync --allow-removals",
                code="mass-delete",
            )

    def _end(self, message: ProofEnd) -> None:
        job = self._job
        job.progress.state = "done"
        job.progress.done_bytes = job.progress.total_bytes
        value = {
            "position": message.position.position().to_json(),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "objects": message.objects,
            "bytes": message.proven_bytes,
        }
        self._receiver.target.note_proven(value, whole=message.whole)
        self._context.events.emit(
            "resync-finished",
            "the trees are proven equal"
            if message.whole
            else "the trees are proven equal in everything that was doubtful",
            **value,
            whole=message.whole,
            compared_bytes=job.compared_bytes,
            copied_bytes=job.copied_bytes,
            reason=job.sentence,
        )


def asks_first(removing: int, objects: int, percent_max: int) -> bool:
    """Whether a copy that would remove so many of so many objects stops until a person has looked:
    the source's disk may not be mounted."""
    return removing > GUARDED_OBJECTS and removing * 100 > objects * percent_max
