"""A small replayer of journals that shares no code with the product, and a comparer of trees.

What enters: the segments of a journal (format: docs/formats/journal.md). What leaves: the tree that
they describe, in an empty directory. Called by the tests of capture, which compare it with the
lower tree: at the end, or again and again while the journal grows (`Tail`).
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from crc32c import crc32c

from everup.places import Places

HEADER = struct.Struct("<4sIIBBHQQQQQ16sII")
SEGMENT_HEADER_BYTES = 64
OPEN_BATCH = struct.Struct("<QQQ")
OPEN_BATCH_BYTES = 64
TRIES = 1000
BATCH, CREATE, ORPHAN, UNLINK, LINK, RENAME = 2, 10, 11, 12, 13, 14
WRITE, TRUNCATE, ALLOCATE, ATTRIBUTES, SET_XATTR, REMOVE_XATTR, TIMES = 20, 21, 22, 23, 24, 25, 26
EXCHANGE = 2


class Entry(NamedTuple):
    """One record, decoded."""

    operation: int
    tree: int
    sequence: int
    object_id: bytes
    arguments: bytes
    payload: bytes
    boot_ns: int = 0


class Tail:
    """Follows a journal; check sums and sequences are asserted.

    The records of the batch that is not closed yet lie in shared memory; a batch stands in a
    segment as a whole. What was seen in memory is not told again when it comes there.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._path: Path | None = None
        self._offset = 0
        self.expected: int | None = None

    def new(self) -> Iterator[Entry]:
        """The whole records that came since the last call."""
        for _ in range(TRIES):
            yield from self._from_segments()
            found = self._from_memory()
            if found is not None:
                yield from found
                return
        raise AssertionError("the journal never stands still")

    def _from_segments(self) -> Iterator[Entry]:
        for path in sorted(self._journal.glob("*.segment")):
            if self._path is None or path.name > self._path.name:
                self._path, self._offset = path, SEGMENT_HEADER_BYTES
            if path == self._path:
                with path.open("rb") as file:
                    file.seek(self._offset)
                    data = file.read()
                for entry, length in _decode(data):
                    self._offset += length
                    if self.expected is None or entry.sequence >= self.expected:
                        yield self._expect(entry)

    def _expect(self, entry: Entry) -> Entry:
        assert self.expected in (None, entry.sequence), (entry.sequence, self.expected)
        self.expected = entry.sequence + 1
        return entry

    def _from_memory(self) -> list[Entry] | None:
        """None: the batch was closed meanwhile, its first part is in a segment now."""
        try:
            data = open_batch_of(self._journal).read_bytes()
        except FileNotFoundError:
            return []
        length, _, start = OPEN_BATCH.unpack_from(data)
        held = [entry for entry, _ in _decode(data[OPEN_BATCH_BYTES : OPEN_BATCH_BYTES + length])]
        if [entry.sequence for entry in held] != list(range(start + 1, start + 1 + len(held))):
            return None
        expected = self.expected or 1
        if start >= expected:
            return None
        return [self._expect(entry) for entry in held if entry.sequence >= expected]


def open_batch_of(journal: Path) -> Path:
    """Where a guard with this journal keeps the batch that is not closed yet."""
    memory = Places.below(journal.parents[3]).guard_memory
    name = blake2b(os.fsencode(memory.resolve()), digest_size=8).hexdigest()
    fallen_back = Path("/dev/shm") / f"everup-{name}" / "open-batch"
    return fallen_back if fallen_back.exists() else memory / "open-batch"


def _decode(data: bytes) -> Iterator[tuple[Entry, int]]:
    """Records with their lengths, up to the first one that is not whole."""
    offset = 0
    while offset + HEADER.size <= len(data):
        fields = HEADER.unpack_from(data, offset)
        length, check, operation, tree = fields[1], fields[2], fields[3], fields[5]
        sequence, object_id, arguments_length = fields[7], fields[11], fields[12]
        if offset + length > len(data):
            break
        assert fields[0] == b"EVR1"
        assert crc32c(data[offset + 12 : offset + length]) == check
        body = offset + HEADER.size
        offset += length
        entry = Entry(
            operation, tree, sequence, object_id,
            data[body : body + arguments_length],
            data[body + arguments_length : offset],
            fields[10],
        )  # fmt: skip
        yield entry, length


def entries(journal: Path) -> Iterator[Entry]:
    """All whole records of a journal."""
    return Tail(journal).new()


def _strings(data: bytes) -> list[bytes]:
    found = []
    while data:
        (length,) = struct.unpack_from("<H", data)
        found.append(data[2 : 2 + length])
        data = data[2 + length :]
    return found


class Replayer:
    """Applies records of one tree to an empty directory, checking names and hints on the way."""

    def __init__(self, target: Path, tree: int, root_id: bytes) -> None:
        self.target = target
        self.tree = tree
        self.names: dict[tuple[bytes, bytes], bytes] = {}
        self.directories: dict[bytes, tuple[bytes, bytes]] = {}
        self.root_id = root_id
        self.store = target.with_name(target.name + ".store")
        self.store.mkdir()
        self.hints_right = self.hints_all = 0

    def path(self, object_id: bytes) -> Path:
        """Where an object can be reached now."""
        if object_id == self.root_id:
            return self.target
        if object_id in self.directories:
            above, name = self.directories[object_id]
            return self.path(above) / os.fsdecode(name)
        return self.store / object_id.hex()

    def name(self, directory_id: bytes, name: bytes) -> Path:
        return self.path(directory_id) / os.fsdecode(name)

    def relative(self, directory_id: bytes) -> bytes:
        path = os.fsencode(self.path(directory_id).relative_to(self.target))
        return b"" if path == b"." else path

    def hint(self, directory_id: bytes, hint: bytes) -> None:
        self.hints_all += 1
        self.hints_right += self.relative(directory_id) == hint

    def apply(self, entry: Entry) -> None:
        if entry.operation == TIMES:
            for tree, object_id, modified in struct.iter_unpack("<H16sq", entry.payload):
                if tree == self.tree:
                    self._utime(self.path(object_id), modified)
            return
        if entry.tree != self.tree:
            return
        handler = getattr(self, f"_{NAMES.get(entry.operation, '')}", None)
        assert handler is not None, entry.operation
        handler(entry)

    @staticmethod
    def _utime(path: Path, modified: int) -> None:
        os.utime(path, ns=(modified, modified), follow_symlinks=False)

    def _create(self, e: Entry) -> None:
        above, mode, uid, gid, device = struct.unpack_from("<16sIIIQ", e.arguments)
        name, hint = _strings(e.arguments[36:])
        self.hint(above, hint)
        assert (above, name) not in self.names, name
        path = self.name(above, name)
        if stat.S_ISDIR(mode):
            path.mkdir()
            self.directories[e.object_id] = (above, name)
        elif stat.S_ISLNK(mode):
            os.symlink(e.payload, os.fsencode(path))
        else:
            os.mknod(path, mode, device)
        os.chown(path, uid, gid, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode))
        if not stat.S_ISDIR(mode):
            os.link(path, self.store / e.object_id.hex(), follow_symlinks=False)
        self.names[above, name] = e.object_id

    def _orphan(self, e: Entry) -> None:
        mode, uid, gid = struct.unpack("<III", e.arguments)
        path = self.store / e.object_id.hex()
        # A second time when a worker was killed while it recorded the content.
        path.unlink(missing_ok=True)
        path.touch()
        os.chown(path, uid, gid)
        path.chmod(stat.S_IMODE(mode))

    def _unlink(self, e: Entry) -> None:
        above = e.arguments[:16]
        name, hint = _strings(e.arguments[16:])
        self.hint(above, hint)
        assert self.names.pop((above, name)) == e.object_id
        path = self.name(above, name)
        if e.object_id in self.directories:
            path.rmdir()
            del self.directories[e.object_id]
        else:
            path.unlink()

    def _link(self, e: Entry) -> None:
        above = e.arguments[:16]
        name, hint, _ = _strings(e.arguments[16:])
        self.hint(above, hint)
        os.link(self.path(e.object_id), self.name(above, name), follow_symlinks=False)
        self.names[above, name] = e.object_id

    def _rename(self, e: Entry) -> None:
        old, new, replaced, flags = struct.unpack_from("<16s16s16sI", e.arguments)
        old_name, old_hint, new_name, new_hint = _strings(e.arguments[52:])
        self.hint(old, old_hint)
        self.hint(new, new_hint)
        source, target = self.name(old, old_name), self.name(new, new_name)
        assert self.names.pop((old, old_name)) == e.object_id
        there = self.names.pop((new, new_name), None)
        assert (there or bytes(16)) == replaced
        if flags & EXCHANGE:
            aside = self.store / "aside"
            source.rename(aside)
            target.rename(source)
            aside.rename(target)
            assert there is not None
            self.names[old, old_name] = there
            if there in self.directories:
                self.directories[there] = (old, old_name)
        else:
            source.rename(target)
            self.directories.pop(there or b"", None)
        self.names[new, new_name] = e.object_id
        if e.object_id in self.directories:
            self.directories[e.object_id] = (new, new_name)

    def _write(self, e: Entry) -> None:
        (offset,) = struct.unpack_from("<Q", e.arguments)
        (hint,) = _strings(e.arguments[8:])
        self.hints_all += 1
        self.hints_right += (self.target / os.fsdecode(hint)).exists()
        descriptor = os.open(self.path(e.object_id), os.O_WRONLY)
        assert os.pwrite(descriptor, e.payload, offset) == len(e.payload)
        os.close(descriptor)

    def _truncate(self, e: Entry) -> None:
        (size,) = struct.unpack_from("<Q", e.arguments)
        os.truncate(self.path(e.object_id), size)

    def _allocate(self, e: Entry) -> None:
        import ctypes

        offset, length, mode = struct.unpack_from("<QQI", e.arguments)
        descriptor = os.open(self.path(e.object_id), os.O_WRONLY)
        call = ctypes.CDLL(None).fallocate
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        assert call(descriptor, mode, offset, length) == 0
        os.close(descriptor)

    def _attributes(self, e: Entry) -> None:
        mask, mode, uid, gid, modified = struct.unpack_from("<IIIIq", e.arguments)
        path = self.path(e.object_id)
        if mask & 6:
            os.chown(path, uid if mask & 2 else -1, gid if mask & 4 else -1, follow_symlinks=False)
        if mask & 1 and not path.is_symlink():
            path.chmod(stat.S_IMODE(mode))
        if mask & 8:
            self._utime(path, modified)

    def _set_xattr(self, e: Entry) -> None:
        name, _ = _strings(e.arguments)
        os.setxattr(self.path(e.object_id), name, e.payload, follow_symlinks=False)

    def _remove_xattr(self, e: Entry) -> None:
        name, _ = _strings(e.arguments)
        os.removexattr(self.path(e.object_id), name, follow_symlinks=False)

    def forget(self) -> None:
        """No record that follows is about a file that exists now."""
        for path in self.store.iterdir():
            path.unlink()

    def finish(self) -> None:
        self.forget()
        self.store.rmdir()


NAMES = {
    CREATE: "create", ORPHAN: "orphan", UNLINK: "unlink", LINK: "link", RENAME: "rename",
    WRITE: "write", TRUNCATE: "truncate", ALLOCATE: "allocate", ATTRIBUTES: "attributes",
    SET_XATTR: "set_xattr", REMOVE_XATTR: "remove_xattr",
}  # fmt: skip


def replay(journal: Path, target: Path, tree: int, root_id: bytes) -> Replayer:
    """The tree that a whole journal describes. `target` must be empty."""
    replayer = Replayer(target, tree, root_id)
    for entry in entries(journal):
        if entry.operation >= CREATE:
            replayer.apply(entry)
    replayer.finish()
    return replayer


def describe(root: Path, times: bool = True, stored: int = 0) -> dict[bytes, Any]:
    """Everything that must be equal, by relative path; hard links by the group they are in.

    `stored`: links that a replayer keeps beside the tree.
    """
    found: dict[bytes, Any] = {}
    groups: dict[int, bytes] = {}
    stack = [b"."]
    base = os.fsencode(root)
    while stack:
        name = stack.pop()
        path = os.path.join(base, name)
        status = os.lstat(path)
        content: Any = None
        if stat.S_ISDIR(status.st_mode):
            inside = sorted(n for n in os.listdir(path) if n != b".everup-orphans")
            content = inside
            stack += [os.path.join(name, n) for n in inside]
        elif stat.S_ISREG(status.st_mode):
            data = Path(os.fsdecode(path)).read_bytes()
            content = (len(data), zlib.crc32(data))
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        attributes = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
            if not key.startswith("trusted.everup.")
        }
        group = groups.setdefault(status.st_ino, name)
        links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink - stored
        found[name] = (
            oct(status.st_mode), status.st_uid, status.st_gid, status.st_rdev, links, group,
            status.st_mtime_ns if times else 0, content, attributes,
        )  # fmt: skip
    return found


def differences(one: dict[bytes, Any], other: dict[bytes, Any]) -> list[str]:
    """Sentences, at most ten."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            found.append(f"{name!r}: {one.get(name)} / {other.get(name)}")
    return found[:10]
