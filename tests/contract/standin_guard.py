"""A stand-in for the guard: does what a script says to a lower tree and journals it.

What enters: operations by path. What leaves: a changed lower tree, a journal with the records that
the guard would write, and guard.sock with the verbs that the replicator uses. Used by the tests of
replication; tests/contract checks it against the same expectations as the real guard.
"""

import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from everup.journal.dirty import DirtyMap, save_map
from everup.journal.history import add_epoch
from everup.journal.operation import (
    Allocate,
    Attributes,
    Create,
    Epoch,
    Gap,
    Link,
    ModifiedTime,
    Orphan,
    RemoveXattr,
    Rename,
    SetXattr,
    Truncate,
    Unlink,
    encode_allocate,
    encode_attributes,
    encode_create,
    encode_link,
    encode_orphan,
    encode_rename,
    encode_truncate,
    encode_unlink,
    encode_write,
    encode_xattr,
)
from everup.journal.record import Operation
from everup.journal.segment import list_segments
from everup.journal.writer import CAUSE_AGE, CAUSE_CLOSE, CAUSE_FSYNC, Closed, JournalWriter
from everup.model.ids import GROUP_XATTR, NO_OBJECT, ORPHANS_NAME, root_object_id
from everup.model.position import ORIGIN, Position
from everup.places import Places
from everup.system.files import save_json
from everup.system.kernelcalls import HandleCalls, allocate, rename
from everup.system.objectid import ensure_id, write_id
from everup.wire.local import LocalServer, Reply, Stream


class StandInGuard:
    """One tree; every method is one application operation and its records."""

    def __init__(self, places: Places, group_id: str, tree: int = 1) -> None:
        self.places = places
        self.root = places.lower(tree)
        self.tree = tree
        self.group_id = group_id
        self.root_id = root_object_id(group_id, tree)
        self.journal = JournalWriter(places.journal)
        self.journal.recover()
        self.acknowledged: dict[str, int] = {}
        self.acknowledged_at: dict[int, float] = {}
        self.closed_at: dict[int, float] = {}
        self._handles = HandleCalls()
        self._touched: dict[bytes, int] = {}
        self._closed = threading.Condition()
        self._last: Closed | None = None
        self._server: LocalServer | None = None
        self._open_orphans: dict[bytes, int] = {}
        self._running = True
        self._failed = False
        self._dirty = DirtyMap(places.state / "dirty-now")
        self.quota_bytes = 0

    # life

    def open(self, epoch: int, server: str, parent: Position | None = None) -> Position:
        os.setxattr(self.root, GROUP_XATTR, self.group_id.encode())
        # As the guard: before anything is recorded, since it changes the time of the root.
        (self.root / os.fsdecode(ORPHANS_NAME)).mkdir(mode=0o700, exist_ok=True)
        parent = parent or self.journal.position
        record = Epoch(epoch, parent, server, "boot", "test")
        add_epoch(self.places.history, record)
        save_json(
            self.places.tree, {"state": "open", "epoch": epoch, "server": server}, operation="test"
        )
        with self.journal.lock:
            self._tell(self.journal.begin_epoch(record))
        return self.journal.position

    def close(self) -> Position:
        """A clean close, as for a switchover."""
        self.end_batch(CAUSE_CLOSE)
        os.sync()
        position = self.journal.position
        save_json(
            self.places.tree, {"state": "at", "position": position.to_json()}, operation="test"
        )
        return position

    @contextmanager
    def journal_failing(self) -> Iterator[None]:
        """What is done inside is not recorded; then the journal goes on behind a gap, as the real
        guard's does."""
        self.end_batch()
        self._failed = True
        yield
        self._failed = False
        last = self.journal.behind_everything()
        gap = Gap(self.journal.position, last, secrets.token_hex(8), "alpha", "test")
        chain = self.journal.prepare(gap)
        with self.journal.lock:
            for descriptor in self._touched.values():
                os.close(descriptor)
            self._touched.clear()
            data = self._dirty.take()
            if data is not None:
                save_map(self.places.state, gap.gap_id, data)
            self._tell(self.journal.enter(chain))

    def lose_dirty_map(self) -> None:
        """As when it is full: anything may have been changed."""
        self._dirty.lose()

    def serve(self) -> None:
        self._server = LocalServer(self.places.guard_socket, self._handle)
        self._server.start()
        threading.Thread(target=self._age, daemon=True).start()

    def stop(self) -> None:
        self._running = False
        if self._server is not None:
            self._server.stop()

    def _age(self) -> None:
        while self._running:
            time.sleep(0.015)
            self.end_batch(CAUSE_AGE)

    def _handle(self, verb: str, arguments: dict[str, Any]) -> Reply | Stream:
        if verb == "status":
            return {"position": self.journal.position.to_json(), "sequence": self.journal.sequence}
        if verb == "follow":
            return Stream(self._lines(), self._line)
        if verb == "release_segments":
            self.quota_bytes = int(arguments.get("quota_bytes", 0))
            return {"removed": self._release(int(arguments["up_to_sequence"]))}
        raise AssertionError(verb)

    def _line(self, line: Reply) -> None:
        assert line["verb"] == "acknowledged"
        self.acknowledged[line["server"]] = line["sequence"]
        self.acknowledged_at[line["sequence"]] = time.monotonic()

    def _lines(self) -> Iterator[Reply]:
        seen: Closed | None = None
        while self._running:
            with self._closed:
                self._closed.wait_for(lambda s=seen: self._last is not s, 1)
                closed = self._last
            if closed is None or closed is seen:
                yield {"idle": True}
                continue
            seen = closed
            position = closed.position.to_json()
            yield {"closed": {**position, "segment": closed.segment.name, "offset": closed.offset}}

    def _release(self, sequence: int) -> int:
        segments = list_segments(self.places.journal)
        removed = 0
        for info, following in pairwise(segments):
            if following.start.sequence > sequence:
                break
            info.path.unlink()
            removed += 1
        return removed

    def _tell(self, closed: Closed) -> None:
        self.closed_at[closed.position.sequence] = time.monotonic()
        with self._closed:
            self._last = closed
            self._closed.notify_all()

    def end_batch(self, cause: int = CAUSE_FSYNC) -> Position:
        with self.journal.lock:
            if self.journal.open_records:
                times = []
                for object_id, descriptor in self._touched.items():
                    status = os.fstat(descriptor)
                    os.close(descriptor)
                    if status.st_nlink:
                        times.append(ModifiedTime(self.tree, object_id, status.st_mtime_ns))
                self._touched.clear()
                self._tell(self.journal.close_batch(cause, times))
            return self.journal.position

    # ids and records

    def id_at(self, path: Path) -> bytes:
        """Id of an object, given when it has none."""
        if path == self.root:
            return self.root_id
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return ensure_id(descriptor, self._handles.of(descriptor), path_only=True)
        finally:
            os.close(descriptor)

    def _hint(self, path: Path) -> bytes:
        return b"" if path == self.root else os.fsencode(path.relative_to(self.root))

    def _append(
        self, operation: int, object_id: bytes, arguments: bytes, payload: bytes = b""
    ) -> None:
        if self._failed:
            self._dirty.note(self.tree, operation, object_id, arguments, len(payload))
        else:
            self.journal.append(operation, self.tree, object_id, arguments, payload)

    def _touch(self, *paths: Path) -> None:
        for path in paths:
            object_id = self.id_at(path)
            if object_id not in self._touched:
                self._touched[object_id] = os.open(path, os.O_PATH | os.O_NOFOLLOW)

    # operations

    def create(self, name: str, mode: int = 0o100644, *, target: str = "", device: int = 0) -> None:
        path = self.root / name
        with self.journal.lock:
            kind = stat.S_IFMT(mode)
            if kind == stat.S_IFREG:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode & 0o7777))
            elif kind == stat.S_IFDIR:
                os.mkdir(path, mode & 0o7777)
            elif kind == stat.S_IFLNK:
                os.symlink(target, path)
            else:
                os.mknod(path, mode, device)
            status = os.lstat(path)
            arguments = Create(
                self.id_at(path.parent), status.st_mode, status.st_uid, status.st_gid,
                status.st_rdev, os.fsencode(path.name), self._hint(path.parent),
            )  # fmt: skip
            object_id = self.id_at(path)
            self._append(Operation.CREATE, object_id, encode_create(arguments), target.encode())
            self._touch(path, path.parent)

    def write(self, name: str, offset: int, data: bytes) -> None:
        path = self.root / name
        with self.journal.lock:
            descriptor = os.open(path, os.O_WRONLY)
            os.pwrite(descriptor, data, offset)
            os.close(descriptor)
            self._append(
                Operation.WRITE, self.id_at(path), encode_write(offset, self._hint(path)), data
            )
            self._touch(path)

    def truncate(self, name: str, size: int) -> None:
        path = self.root / name
        with self.journal.lock:
            os.truncate(path, size)
            value = Truncate(size, self._hint(path))
            self._append(Operation.TRUNCATE, self.id_at(path), encode_truncate(value))
            self._touch(path)

    def allocate(self, name: str, mode: int, offset: int, length: int) -> None:
        path = self.root / name
        with self.journal.lock:
            descriptor = os.open(path, os.O_WRONLY)
            allocate(descriptor, mode, offset, length)
            os.close(descriptor)
            value = Allocate(offset, length, mode, self._hint(path))
            self._append(Operation.ALLOCATE, self.id_at(path), encode_allocate(value))
            self._touch(path)

    def attributes(
        self, name: str, *, mode: int | None = None, owner: tuple[int, int] | None = None,
        mtime_ns: int | None = None,
    ) -> None:  # fmt: skip
        path = self.root / name
        with self.journal.lock:
            mask = 0
            before = os.lstat(path).st_mode
            if owner is not None:
                os.chown(path, *owner, follow_symlinks=False)
                mask |= 7  # as the real guard: owner, group and mode together
            if mode is not None:
                os.chmod(path, mode)
                mask |= 1
            if mtime_ns is not None:
                os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
                mask |= 8
            status = os.lstat(path)
            if status.st_mode != before:
                mask |= 1  # chown clears set-user-id bits, and the record says so
            value = Attributes(
                mask, status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns,
                self._hint(path),
            )  # fmt: skip
            self._append(Operation.ATTRIBUTES, self.id_at(path), encode_attributes(value))
            self._touch(path)

    def set_xattr(self, name: str, key: str, value: bytes) -> None:
        path = self.root / name
        with self.journal.lock:
            os.setxattr(path, key, value, follow_symlinks=False)
            arguments = encode_xattr(SetXattr(key.encode(), self._hint(path)))
            self._append(Operation.SET_XATTR, self.id_at(path), arguments, value)

    def remove_xattr(self, name: str, key: str) -> None:
        path = self.root / name
        with self.journal.lock:
            os.removexattr(path, key, follow_symlinks=False)
            arguments = encode_xattr(RemoveXattr(key.encode(), self._hint(path)))
            self._append(Operation.REMOVE_XATTR, self.id_at(path), arguments)

    def unlink(self, name: str) -> None:
        path = self.root / name
        with self.journal.lock:
            object_id = self.id_at(path)
            value = Unlink(self.id_at(path.parent), os.fsencode(path.name), self._hint(path.parent))
            if path.is_dir() and not path.is_symlink():
                os.rmdir(path)
            else:
                os.unlink(path)
            self._append(Operation.UNLINK, object_id, encode_unlink(value))
            self._touch(path.parent)

    def link(self, old: str, new: str) -> None:
        source, path = self.root / old, self.root / new
        with self.journal.lock:
            os.link(source, path, follow_symlinks=False)
            value = Link(
                self.id_at(path.parent), os.fsencode(path.name), self._hint(path.parent),
                self._hint(source),
            )  # fmt: skip
            self._append(Operation.LINK, self.id_at(path), encode_link(value))
            self._touch(path, path.parent)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        source, path = self.root / old, self.root / new
        with self.journal.lock:
            object_id = self.id_at(source)
            replaced = self.id_at(path) if os.path.lexists(path) else NO_OBJECT
            if replaced == object_id:
                return
            value = Rename(
                self.id_at(source.parent), self.id_at(path.parent), replaced, flags,
                os.fsencode(source.name), self._hint(source.parent),
                os.fsencode(path.name), self._hint(path.parent),
            )  # fmt: skip
            old_directory = os.open(source.parent, os.O_RDONLY)
            new_directory = os.open(path.parent, os.O_RDONLY)
            try:
                rename(
                    old_directory, os.fsencode(source.name), new_directory,
                    os.fsencode(path.name), flags,
                )  # fmt: skip
            finally:
                os.close(old_directory)
                os.close(new_directory)
            self._append(Operation.RENAME, object_id, encode_rename(value))
            self._touch(source.parent, path.parent)

    def orphan(self, data: bytes) -> bytes:
        """O_TMPFILE and a write to it; `adopt` gives it a name, `release` closes it."""
        with self.journal.lock:
            descriptor = os.open(self.root, os.O_TMPFILE | os.O_RDWR, 0o600)
            object_id = secrets.token_bytes(16)
            write_id(descriptor, self._handles.of(descriptor), object_id)
            self._open_orphans[object_id] = descriptor
            self._append(Operation.ORPHAN, object_id, encode_orphan(Orphan(0o600, 0, 0)))
            os.pwrite(descriptor, data, 0)
            self._append(Operation.WRITE, object_id, encode_write(0, b""), data)
            return object_id

    def adopt(self, object_id: bytes, name: str) -> None:
        path = self.root / name
        with self.journal.lock:
            descriptor = self._open_orphans[object_id]
            os.link(f"/proc/self/fd/{descriptor}", path, follow_symlinks=True)
            os.close(self._open_orphans.pop(object_id))
            value = Link(
                self.id_at(path.parent), os.fsencode(path.name), self._hint(path.parent), b""
            )
            self._append(Operation.LINK, object_id, encode_link(value))
            self._touch(path, path.parent)

    def release(self, object_id: bytes) -> None:
        with self.journal.lock:
            os.close(self._open_orphans.pop(object_id))
            self._append(Operation.RELEASED, object_id, b"")


assert ORIGIN.sequence == 0
