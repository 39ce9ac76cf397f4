"""The target's side of a copy: make directories and their entries like the source's.

What enters: listings and blocks of the source. What leaves: a changed tree and, for files whose
content may differ, hashes of what is here. Nothing is deleted before the copy is complete: what is
not on the source, or stands in the way, is moved aside into the orphan directory and used again
when its id turns up elsewhere. Called by `synctarget`; one per tree.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISDIR, S_ISREG

from everup.errors import ProtocolError
from everup.journal.operation import Create
from everup.model.ids import NO_OBJECT, OBJECT_ID_XATTR, ORPHANS_NAME
from everup.replicate.blocks import read_range, write_all
from everup.replicate.filecopy import FileCopy
from everup.replicate.keeping import Keeping
from everup.replicate.lower import (
    NO_ID,
    LowerTree,
    give_id,
    id_of_descriptor,
    id_of_name,
    remove_all,
    visible_xattrs,
)
from everup.replicate.names import create_object, settle_new
from everup.replicate.objects import DISPLACED_SUFFIX, displaced_name
from everup.replicate.scan import scan
from everup.replicate.scope import Run
from everup.replicate.smallcopy import make_small
from everup.system.kernelcalls import HandleCalls
from everup.system.objectid import encode_id, read_id
from everup.system.treecalls import door, open_beneath
from everup.wire.syncmessages import Attributes, Content, Entry, Listing, Want

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Suspected = Callable[[int, bytes, int], list[Run] | None]
"""(tree, object id, time of change): blocks that may differ from the source's; None: all."""


@dataclass
class _Here:
    """The directory that is being made right now; `changed_ns` is from before that."""

    descriptor: int
    object_id: bytes
    path: bytes
    names: set[bytes]
    changed_ns: int = 0
    fresh: bool = False
    """This copy has made it, so nothing is in it yet."""


class TreeCopy:
    """Raises OSError, and ProtocolError for a listing of a directory that was never placed."""

    def __init__(
        self, tree: LowerTree, keeping: Keeping, suspected: Suspected | None = None
    ) -> None:
        """`suspected`: asked for files whose content the source does not send by itself."""
        self.tree = tree
        self._keeping = keeping
        self._suspected = suspected
        self.wants: list[Want] = []
        self._handles = HandleCalls()
        self._directories: dict[bytes, bytes] = {tree.root_id: b""}
        self._directory_times: dict[bytes, int] = {}
        self._links: dict[bytes, bytes] = {}
        self._aside: dict[bytes, bytes] = {}
        self._kept_aside: set[bytes] = set()
        self._nameless = 0
        self._partial: dict[bytes, set[bytes]] = {}
        self._fresh: set[bytes] = set()
        self.changed_objects = 0
        self._collect_old_orphans()

    def _collect_old_orphans(self) -> None:
        """What an unfinished copy left aside may be used again."""
        for text in os.listdir(self.tree.orphans):
            name = os.fsencode(text)
            object_id = id_of_name(self.tree.orphans, name)
            if object_id and object_id not in self._aside:
                self._aside[object_id] = name
            else:
                remove_all(self.tree.orphans, name)

    # listings

    def listing(self, listing: Listing) -> list[tuple[Entry, FileCopy]]:
        """Make a directory (or a part of it) so; returns the files whose content must follow."""
        if listing.aside:
            here = _Here(os.dup(self.tree.orphans), NO_OBJECT, ORPHANS_NAME, set())
        else:
            here = self._open_directory(listing)
        try:
            here.names |= {entry.name for entry in listing.entries}
            if not here.fresh:
                for entry in listing.entries:
                    self._free_name(here, entry)
                if listing.last and not listing.aside:
                    self._displace_extras(here)
            made = [(entry, self._make(here, entry)) for entry in listing.entries]
        finally:
            os.close(here.descriptor)
        return [(entry, copy) for entry, copy in made if copy is not None]

    def content(self, content: Content) -> FileCopy:
        """Make one entry of a directory that was listed before, this time with its content."""
        path = self._place_of(content.directory_id)
        descriptor = open_beneath(self.tree.root, path, _DIRECTORY)
        here = _Here(descriptor, content.directory_id, path, {content.entry.name})
        try:
            self._free_name(here, content.entry)
            return self._make(here, content.entry) or self._linked(here, content.entry)
        finally:
            os.close(descriptor)

    def _linked(self, here: _Here, entry: Entry) -> FileCopy:
        """A file that had to be made only as another name: its content comes all the same."""
        descriptor = os.open(entry.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=here.descriptor)
        try:
            file = self._fill_file(entry, descriptor, join(here.path, entry.name), created=True)
        finally:
            os.close(descriptor)
        if file is None:
            raise ProtocolError("a file came without a handle", code="sync-order")
        return file

    def _place_of(self, object_id: bytes) -> bytes:
        path = self._directories.get(object_id)
        if path is None:
            raise ProtocolError("a directory is listed that was never placed", code="sync-order")
        return path

    def _open_directory(self, listing: Listing) -> _Here:
        object_id = listing.object_id
        path = self._place_of(object_id)
        descriptor = open_beneath(self.tree.root, path, _DIRECTORY)
        changed_ns = os.fstat(descriptor).st_ctime_ns
        names = self._partial.pop(object_id, set())
        if not listing.last:
            self._partial[object_id] = names
        self._settle(descriptor, object_id, path, listing.attributes)
        self._directory_times[object_id] = listing.attributes.mtime_ns
        fresh = object_id in self._fresh
        if listing.last:
            self._fresh.discard(object_id)
        return _Here(descriptor, object_id, path, names, changed_ns, fresh)

    def _free_name(self, here: _Here, entry: Entry) -> None:
        """Move away what has this name and is another object, so that it can be used elsewhere."""
        present = id_of_name(here.descriptor, entry.name)
        if present is None or present == entry.object_id:
            return
        if present == NO_ID and self._adoptable(here, entry):
            return
        self._displace(here, entry.name, present)

    def _adoptable(self, here: _Here, entry: Entry) -> bool:
        """An object that was put here by other means (a copy of the data beforehand)."""
        status = os.stat(entry.name, dir_fd=here.descriptor, follow_symlinks=False)
        if S_IFMT(status.st_mode) != S_IFMT(entry.attributes.mode):
            return False
        if entry.object_id in self._aside or entry.object_id in self._links:
            return False
        return S_ISDIR(status.st_mode) or (S_ISREG(status.st_mode) and status.st_nlink == 1)

    def _displace_extras(self, here: _Here) -> None:
        for text in os.listdir(here.descriptor):
            name = os.fsencode(text)
            if name in here.names or (not here.path and name == ORPHANS_NAME):
                continue
            present = id_of_name(here.descriptor, name)
            if present is not None:
                self._displace(here, name, present)

    def _displace(self, here: _Here, name: bytes, object_id: bytes) -> None:
        path = join(here.path, name)
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=here.descriptor)
        try:
            self._leaves(path, object_id, descriptor)
            if S_ISDIR(os.fstat(descriptor).st_mode):
                self._leave_below(path)
        finally:
            os.close(descriptor)
        if object_id == NO_ID or object_id in self._aside:
            self._nameless += 1
            aside = b"x%d%s" % (self._nameless, DISPLACED_SUFFIX)
        else:
            aside = self._aside[object_id] = displaced_name(object_id)
        remove_all(self.tree.orphans, aside)
        os.rename(name, aside, src_dir_fd=here.descriptor, dst_dir_fd=self.tree.orphans)

    def _leave_below(self, top: bytes) -> None:
        """Everything in a directory that goes away may exist only here."""
        for found in scan(self.tree, top):
            descriptor = os.open(found.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=found.directory)
            try:
                self._leaves(found.path, id_of_descriptor(descriptor), descriptor)
            finally:
                os.close(descriptor)

    def _leaves(self, path: bytes, object_id: bytes, descriptor: int) -> None:
        """An object may be about to go; without an id of its own it never came from a source."""
        self._keeping.keep(self.tree.tree_id, object_id, path, descriptor)
        if read_id(descriptor, self._handles.of(descriptor), path_only=True) is None:
            self._keeping.orphan(self.tree.tree_id, path, descriptor)

    # entries

    def _make(self, here: _Here, entry: Entry) -> FileCopy | None:
        object_id = entry.object_id
        first = self._links.get(object_id)
        present = None if here.fresh else id_of_name(here.descriptor, entry.name)
        if first is not None and first != join(here.path, entry.name):
            self._link(here, entry, first, present)
            return None
        if here.path == ORPHANS_NAME:
            self._kept_aside.add(entry.name)
        aside = self._aside.pop(object_id, None)
        if present is None and aside is not None:
            os.rename(aside, entry.name, src_dir_fd=self.tree.orphans, dst_dir_fd=here.descriptor)
            present = object_id
        if present is None and _comes_on_demand(entry):
            self._want(here, entry, None)
            return None
        if present is None and entry.content is not None and S_ISREG(entry.attributes.mode):
            self._make_small(here, entry)
            return None
        descriptor = self._open_or_create(here, entry, present)
        try:
            self._placed(here, entry, made=present is None)
            return self._fill(here, entry, descriptor, created=present is None)
        finally:
            os.close(descriptor)

    def _make_small(self, here: _Here, entry: Entry) -> None:
        path = join(here.path, entry.name)

        def settle(descriptor: int) -> None:
            self._settle(descriptor, entry.object_id, path, entry.attributes, made=True)

        self.changed_objects += 1
        self._placed(here, entry, made=True)
        make_small(here.descriptor, entry, self._handles, settle)
        if entry.links > 1:
            self._links[entry.object_id] = path

    def _placed(self, here: _Here, entry: Entry, *, made: bool) -> None:
        if here.path != ORPHANS_NAME:
            path, changed_ns = join(here.path, entry.name), here.changed_ns
            self._keeping.placed(
                self.tree.tree_id,
                entry.object_id,
                path,
                made=made,
                directory_changed_ns=changed_ns,
            )

    def _link(self, here: _Here, entry: Entry, first: bytes, present: bytes | None) -> None:
        """A further name of an object that was placed before."""
        placed = open_beneath(self.tree.root, first, os.O_PATH)
        try:
            if present is not None:
                status = os.stat(entry.name, dir_fd=here.descriptor, follow_symlinks=False)
                if status.st_ino == os.fstat(placed).st_ino:
                    return
                self._displace(here, entry.name, NO_ID)
            os.link(door(placed), entry.name, dst_dir_fd=here.descriptor, follow_symlinks=True)
        finally:
            os.close(placed)

    def _open_or_create(self, here: _Here, entry: Entry, present: bytes | None) -> int:
        if present is not None:
            descriptor = os.open(
                entry.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here.descriptor
            )
            if self._same_kind(descriptor, entry):
                return descriptor
            os.close(descriptor)
            self._displace(here, entry.name, NO_ID)
        self.changed_objects += 1
        attributes = entry.attributes
        create = Create(
            NO_OBJECT,
            attributes.mode,
            attributes.uid,
            attributes.gid,
            attributes.device,
            entry.name,
            b"",
        )
        target = entry.content or b""
        return create_object(here.descriptor, entry.name, create, target)

    @staticmethod
    def _same_kind(descriptor: int, entry: Entry) -> bool:
        status = os.fstat(descriptor)
        kind = S_IFMT(status.st_mode)
        if kind != S_IFMT(entry.attributes.mode) or status.st_rdev != entry.attributes.device:
            return False
        return kind != S_IFLNK or os.readlink(b"", dir_fd=descriptor) == entry.content

    def _fill(
        self, here: _Here, entry: Entry, descriptor: int, *, created: bool
    ) -> FileCopy | None:
        path = join(here.path, entry.name)
        status = os.fstat(descriptor)
        self._give_id(descriptor, entry.object_id, path, made=created)
        self._settle(descriptor, entry.object_id, path, entry.attributes, made=created)
        kind = S_IFMT(entry.attributes.mode)
        if kind == S_IFDIR:
            if created:
                self._fresh.add(entry.object_id)
            self._directories[entry.object_id] = path
            self._directory_times[entry.object_id] = entry.attributes.mtime_ns
            return None
        if not created and status.st_mtime_ns != entry.attributes.mtime_ns:
            self._keeping.keep(self.tree.tree_id, entry.object_id, path, descriptor)
        if entry.links > 1:
            self._links[entry.object_id] = path
        if _comes_on_demand(entry):
            runs = self._doubtful(entry, status)
            if runs is None or runs:
                # Its time comes with its end: until then it tells the next copy that this one
                # has broken off.
                self._want(here, entry, runs)
                return None
        elif kind == S_IFREG:
            return self._fill_file(entry, descriptor, path, created=created)
        _set_time(descriptor, entry.attributes.mtime_ns)
        return None

    def _doubtful(self, entry: Entry, status: os.stat_result) -> list[Run] | None:
        """Blocks of a file here that may differ; None: all."""
        if self._suspected is not None:
            return self._suspected(self.tree.tree_id, entry.object_id, status.st_ctime_ns)
        # The source knows what it has changed, but not what a copy that broke off has only begun.
        same = (entry.size, entry.attributes.mtime_ns) == (status.st_size, status.st_mtime_ns)
        return [] if same else None

    def _want(self, here: _Here, entry: Entry, runs: list[Run] | None) -> None:
        want = Want(self.tree.tree_id, here.object_id, here.path, entry.name, entry.object_id, runs)
        self.wants.append(want)

    def _fill_file(
        self, entry: Entry, descriptor: int, path: bytes, *, created: bool
    ) -> FileCopy | None:
        file = os.open(door(descriptor), os.O_RDWR | os.O_NOATIME | os.O_CLOEXEC)

        def changing() -> None:
            self.changed_objects += 1
            if not created:
                self._keeping.keep(self.tree.tree_id, entry.object_id, path, file)

        if entry.content is None:
            return FileCopy(file, changing, entry.runs)
        try:
            size = os.fstat(file).st_size
            if size != entry.size or read_range(file, 0, size) != entry.content:
                changing()
                os.ftruncate(file, 0)
                write_all(file, entry.content, 0)
            os.utime(file, ns=(entry.attributes.mtime_ns,) * 2)
        finally:
            os.close(file)
        return None

    def _give_id(self, descriptor: int, object_id: bytes, path: bytes, *, made: bool) -> None:
        wanted = encode_id(object_id, self._handles.of(descriptor))
        try:
            if os.getxattr(door(descriptor), OBJECT_ID_XATTR) == wanted:
                return
        except OSError:
            pass
        if not made:
            # The id moves the time of change, which tells whether there is anything to keep.
            self._keeping.keep(self.tree.tree_id, object_id, path, descriptor)
        give_id(descriptor, object_id, self._handles)

    def _settle(
        self,
        descriptor: int,
        object_id: bytes,
        path: bytes,
        wanted: Attributes,
        *,
        made: bool = False,
    ) -> None:
        """Owner, mode and extended attributes, exactly; times come last."""
        status = os.fstat(descriptor)
        present = visible_xattrs(descriptor)
        same = (status.st_mode, status.st_uid, status.st_gid) == (
            wanted.mode,
            wanted.uid,
            wanted.gid,
        )
        if same and present == wanted.xattrs:
            return
        if not made:
            self._keeping.keep(self.tree.tree_id, object_id, path, descriptor)
        door_path = door(descriptor)
        for name in present.keys() - wanted.xattrs.keys():
            os.removexattr(door_path, name)
        settle_new(descriptor, wanted.mode, wanted.uid, wanted.gid)
        for name, value in wanted.xattrs.items():
            if present.get(name) != value or not same:
                os.setxattr(door_path, name, value)

    # the end

    def count_aside(self) -> int:
        """Objects that are about to be removed."""
        names = self._names_to_remove()
        return len(names) + sum(
            sum(1 for _ in scan(self.tree, ORPHANS_NAME + b"/" + name)) for name in names
        )

    def _names_to_remove(self) -> list[bytes]:
        names = map(os.fsencode, os.listdir(self.tree.orphans))
        return [name for name in names if name not in self._kept_aside]

    def finish(self) -> int:
        """Remove what the source does not have, set the times of directories; durable after."""
        names = self._names_to_remove()
        for name in names:
            remove_all(self.tree.orphans, name)
        for object_id, mtime_ns in self._directory_times.items():
            path = self._directories[object_id]
            directory = open_beneath(self.tree.root, path, os.O_PATH)
            try:
                _set_time(directory, mtime_ns)
            finally:
                os.close(directory)
        self.tree.sync()
        return len(names)


def _comes_on_demand(entry: Entry) -> bool:
    """A file whose content the source sends only when it is asked for it."""
    return S_ISREG(entry.attributes.mode) and entry.content is None and not entry.handle


def _set_time(descriptor: int, mtime_ns: int) -> None:
    """Only where it differs: the time of change tells later what was touched."""
    if os.fstat(descriptor).st_mtime_ns != mtime_ns:
        os.utime(door(descriptor), ns=(mtime_ns, mtime_ns))


def join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
