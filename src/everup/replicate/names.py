"""Make the names of a lower tree so: create, link, unlink, rename.

What enters: records of one tree in order. What leaves: the changed tree. The rules of `operations`
hold. Every directory entry is checked by object id before it is touched. Called by the applier.
"""

import errno
import os
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG

from everup.journal.operation import Create, Link, Orphan, Rename, Unlink, decode_arguments
from everup.journal.record import Record
from everup.model.ids import NO_OBJECT
from everup.replicate.lower import NO_ID, give_id, id_of_name, remove_all
from everup.replicate.objects import (
    DISPLACED_SUFFIX,
    displaced_name,
    is_directory,
    orphan_name,
)
from everup.replicate.operations import ApplyStopped, ContentOperations
from everup.system.kernelcalls import RENAME_EXCHANGE, rename
from everup.system.treecalls import door

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


class TreeOperations(ContentOperations):
    """Everything that a record can ask of one tree. Belongs to one thread."""

    def end_window(self) -> None:
        """The tree is at the end of the window: what was displaced belongs to no state after it."""
        self.window = None
        self.objects.forget_index()
        for entry in os.listdir(self.tree.orphans):
            name = os.fsencode(entry)
            if name.endswith(DISPLACED_SUFFIX):
                remove_all(self.tree.orphans, name)

    # create

    def create(self, record: Record) -> None:
        arguments = decode_arguments(record)
        assert isinstance(arguments, Create)
        object_id = record.object_id
        directory = self._directory(
            arguments.directory_id, arguments.directory_hint, record.sequence
        )
        name = arguments.name
        if directory is None:
            # Its directory goes in this window, but the object may live on elsewhere.
            directory, name = self.tree.orphans, displaced_name(object_id)
        if self.window is not None:
            hint = join(arguments.directory_hint, name)
            if self._is_placed(directory, name, object_id, hint, record.sequence):
                self.objects.note_name(object_id, arguments.directory_id, name)
                self._set_owner_and_mode(object_id, arguments)
                return
            self._clear(directory, name, record.sequence)
        self._make(directory, name, object_id, arguments, record)

    def _make(
        self, directory: int, name: bytes, object_id: bytes, arguments: Create, record: Record
    ) -> None:
        try:
            descriptor = create_object(directory, name, arguments, bytes(record.payload))
        except FileExistsError:
            if id_of_name(directory, name) == object_id:
                return
            raise self._conflict(record, name) from None
        self._adopt(descriptor, object_id, arguments)
        self.objects.note_name(object_id, arguments.directory_id, name)

    def _adopt(self, descriptor: int, object_id: bytes, arguments: Create) -> None:
        try:
            give_id(descriptor, object_id, self.handles)
            settle_new(descriptor, arguments.mode, arguments.uid, arguments.gid)
        except BaseException:
            os.close(descriptor)
            raise
        self.objects.add(object_id, descriptor, S_IFMT(arguments.mode))

    def _is_placed(
        self, directory: int, name: bytes, object_id: bytes, hint: bytes, sequence: int
    ) -> bool:
        """Whether the object exists; if so it stands at this name now, or nearer to it later."""
        if id_of_name(directory, name) == object_id:
            return True
        window = self.window
        walk = window is not None and window.moved_after(self.tree.tree_id, object_id, 0)
        if self.objects.find(object_id, hint, walk=walk) is None:
            return False
        self._place(directory, name, object_id, sequence)
        return True

    def _set_owner_and_mode(self, object_id: bytes, arguments: Create) -> None:
        descriptor = self.objects.find(object_id, join(arguments.directory_hint, arguments.name))
        if descriptor is not None:
            settle_new(descriptor, arguments.mode, arguments.uid, arguments.gid)

    def orphan(self, record: Record) -> None:
        """A file that was made without a name."""
        arguments = decode_arguments(record)
        assert isinstance(arguments, Orphan)
        object_id = record.object_id
        window = self.window
        walk = window is not None and window.moved_after(self.tree.tree_id, object_id, 0)
        if self.objects.find(object_id, b"", walk=walk) is not None:
            return
        create = Create(
            NO_OBJECT,
            S_IFREG | (arguments.mode & 0o7777),
            arguments.uid,
            arguments.gid,
            0,
            orphan_name(object_id),
            b"",
        )
        remove_all(self.tree.orphans, create.name)
        self._adopt(create_object(self.tree.orphans, create.name, create, b""), object_id, create)

    def released(self, record: Record) -> None:
        """Nobody holds the nameless object open any more."""
        object_id = record.object_id
        if id_of_name(self.tree.orphans, orphan_name(object_id)) == object_id:
            remove_all(self.tree.orphans, orphan_name(object_id))
            self.objects.drop(object_id)

    # link and unlink

    def link(self, record: Record) -> None:
        arguments = decode_arguments(record)
        assert isinstance(arguments, Link)
        object_id = record.object_id
        directory = self._directory(
            arguments.directory_id, arguments.directory_hint, record.sequence
        )
        if directory is None or id_of_name(directory, arguments.name) == object_id:
            return
        if self.find(object_id, arguments.hint, record.sequence) is None:
            if self.may_miss(object_id, record.sequence):
                return
            raise self._conflict(record, arguments.name)
        self._clear(directory, arguments.name, record.sequence)
        self._place(directory, arguments.name, object_id, record.sequence)
        self.objects.note_name(object_id, arguments.directory_id, arguments.name)

    def unlink(self, record: Record) -> None:
        arguments = decode_arguments(record)
        assert isinstance(arguments, Unlink)
        directory = self._directory(
            arguments.directory_id, arguments.directory_hint, record.sequence
        )
        if directory is None:
            return
        present = id_of_name(directory, arguments.name)
        if present != record.object_id:
            if self.window is None:
                raise self._conflict(record, arguments.name)
            return
        self._take_name(directory, arguments.name, record.object_id)

    def _take_name(self, directory: int, name: bytes, object_id: bytes) -> None:
        """Remove a name; the last one of an object is only moved aside during a replay."""
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if S_IFMT(status.st_mode) == S_IFDIR:
            self._take_directory(directory, name, object_id)
        elif status.st_nlink > 1:
            os.unlink(name, dir_fd=directory)
            self.objects.forget_name(object_id)
        elif self.window is not None:
            self._displace(directory, name, object_id)
        else:
            os.unlink(name, dir_fd=directory)
            self.note_gone(object_id)

    def _take_directory(self, directory: int, name: bytes, object_id: bytes) -> None:
        if self.window is not None:
            self._displace(directory, name, object_id)
            return
        os.rmdir(name, dir_fd=directory)
        self.note_gone(object_id)

    # rename

    def rename(self, record: Record) -> None:
        arguments = decode_arguments(record)
        assert isinstance(arguments, Rename)
        if self.window is not None:
            self._rename_in_window(record, arguments)
            return
        old, new = self._both(arguments, record.sequence)
        if old is None or new is None:
            raise self._conflict(record, arguments.old_name)
        if id_of_name(old, arguments.old_name) != record.object_id:
            if id_of_name(new, arguments.new_name) == record.object_id:
                return
            raise self._conflict(record, arguments.old_name)
        flags = arguments.flags & RENAME_EXCHANGE
        replaced = arguments.replaced_id
        if flags and id_of_name(new, arguments.new_name) != replaced:
            raise self._conflict(record, arguments.new_name)
        if not flags and (present := id_of_name(new, arguments.new_name)) is not None:
            if present != replaced:
                raise self._conflict(record, arguments.new_name)
            self._take_name(new, arguments.new_name, replaced)
        rename(old, arguments.old_name, new, arguments.new_name, flags)
        self._note_renamed(record.object_id, arguments, exchanged=bool(flags))

    def _note_renamed(self, object_id: bytes, arguments: Rename, *, exchanged: bool) -> None:
        moved = [(object_id, arguments.new_directory_id, arguments.new_name)]
        if exchanged:
            moved.append((arguments.replaced_id, arguments.old_directory_id, arguments.old_name))
        for moved_id, directory_id, name in moved:
            self.objects.forget_name(moved_id)
            self.objects.note_name(moved_id, directory_id, name)

    def _rename_in_window(self, record: Record, arguments: Rename) -> None:
        old, new = self._both(arguments, record.sequence)
        object_id, replaced = record.object_id, arguments.replaced_id
        exchange = bool(arguments.flags & RENAME_EXCHANGE)
        hint = join(arguments.old_directory_hint, arguments.old_name)
        self._bring(object_id, hint, new, arguments.new_name, record.sequence)
        if exchange:
            hint = join(arguments.new_directory_hint, arguments.new_name)
            self._bring(replaced, hint, old, arguments.old_name, record.sequence)
        # A name that still holds what it has just lost: a second link, or no place to move it to.
        self._lose(old, arguments.old_name, object_id)
        self._lose(new, arguments.new_name, replaced)
        self._note_renamed(object_id, arguments, exchanged=exchange)

    def _lose(self, directory: int | None, name: bytes, object_id: bytes) -> None:
        if directory is not None and id_of_name(directory, name) == object_id:
            self._take_name(directory, name, object_id)

    def _bring(
        self, object_id: bytes, hint: bytes, directory: int | None, name: bytes, sequence: int
    ) -> None:
        if directory is None or id_of_name(directory, name) == object_id:
            return
        if self.find(object_id, hint, sequence) is None:
            return
        self._clear(directory, name, sequence)
        self._place(directory, name, object_id, sequence)

    # shared

    def _directory(self, directory_id: bytes, hint: bytes, sequence: int) -> int | None:
        if directory_id == self.tree.root_id:
            return self.tree.root
        found = self.find(directory_id, hint, sequence)
        if found is None and self.window is None:
            raise ApplyStopped(
                f"record {sequence}: directory {os.fsdecode(hint)} is not in tree "
                f"{self.tree.tree_id}",
                remedy="wait: the trees are compared and this one is repaired by itself",
                code="object-missing",
            )
        return found

    def _both(self, arguments: Rename, sequence: int) -> tuple[int | None, int | None]:
        old = self._directory(arguments.old_directory_id, arguments.old_directory_hint, sequence)
        new = self._directory(arguments.new_directory_id, arguments.new_directory_hint, sequence)
        if old is not None and self.objects.cached(arguments.old_directory_id) != old:
            # The second lookup may have closed the first one's descriptor (bounded cache).
            old = self._directory(
                arguments.old_directory_id, arguments.old_directory_hint, sequence
            )
        return old, new

    def _clear(self, directory: int, name: bytes, sequence: int) -> None:
        """Free a name. Outside a window something that should not be there stops the apply."""
        present = id_of_name(directory, name)
        if present is None:
            return
        if self.window is None:
            raise ApplyStopped(
                f"record {sequence}: {os.fsdecode(name)} exists already in tree "
                f"{self.tree.tree_id}",
                remedy="wait: the trees are compared and this one is repaired by itself",
                code="apply-conflict",
            )
        self._displace(directory, name, present)

    def _displace(self, directory: int, name: bytes, object_id: bytes) -> None:
        """Move an entry out of the way; an entry without id was left by a crash in `create`."""
        if object_id == NO_ID:
            remove_all(directory, name)
            return
        aside = displaced_name(object_id)
        if directory == self.tree.orphans and name == aside:
            return
        remove_all(self.tree.orphans, aside)
        self.objects.note_moved_directory()
        os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=self.tree.orphans)
        self.objects.forget_name(object_id)

    def _place(self, directory: int, name: bytes, object_id: bytes, sequence: int) -> None:
        """Put an existing object at a name: out of the orphans, by moving, or as a link."""
        for aside in (orphan_name(object_id), displaced_name(object_id)):
            if id_of_name(self.tree.orphans, aside) == object_id:
                self._clear_for_place(directory, name, object_id)
                # Whatever is below it has another path now, too.
                self.objects.note_moved_directory()
                self._move(self.tree.orphans, aside, directory, name, sequence)
                return
        descriptor = self.objects.find(object_id, b"")
        assert descriptor is not None
        self._clear_for_place(directory, name, object_id)
        if not is_directory(descriptor):
            os.link(door(descriptor), name, dst_dir_fd=directory, follow_symlinks=True)
            return
        path = self._path_of(descriptor)
        if path is not None:
            self.objects.note_moved_directory()
            self._move(self.tree.root, path, directory, name, sequence)

    def _clear_for_place(self, directory: int, name: bytes, object_id: bytes) -> None:
        present = id_of_name(directory, name)
        if present is not None and present != object_id and self.window is not None:
            self._displace(directory, name, present)

    def _path_of(self, descriptor: int) -> bytes | None:
        """Path of an open directory below the root of the tree."""
        root = os.readlink(door(self.tree.root)).rstrip(b"/")
        path = os.readlink(door(descriptor))
        return path[len(root) + 1 :] if path.startswith(root + b"/") else None

    def _move(self, old: int, old_path: bytes, directory: int, name: bytes, sequence: int) -> None:
        try:
            os.rename(old_path, name, src_dir_fd=old, dst_dir_fd=directory)
        except OSError as problem:
            # A directory into itself: a later record has turned the two around already.
            if problem.errno != errno.EINVAL or self.window is None:
                raise
            self._detach_from(old, old_path, directory, sequence)
            os.rename(old_path, name, src_dir_fd=old, dst_dir_fd=directory)

    def _detach_from(self, old: int, old_path: bytes, inner: int, sequence: int) -> None:
        """Move aside what lies between a directory and `inner` below it and is moved again later.

        That record will find it by its id, with everything that is in it.
        """
        window = self.window
        assert window is not None
        outer = os.open(old_path, _DIRECTORY_FLAGS, dir_fd=old)
        try:
            above = os.readlink(door(outer))
            between = os.readlink(door(inner))[len(above) + 1 :].split(b"/")
            for name in between:
                object_id = id_of_name(outer, name) or NO_ID
                if window.moved_after(self.tree.tree_id, object_id, sequence):
                    self._displace(outer, name, object_id)
                    return
                outer, parent = os.open(name, _DIRECTORY_FLAGS, dir_fd=outer), outer
                os.close(parent)
        finally:
            os.close(outer)

    def _conflict(self, record: Record, name: bytes) -> ApplyStopped:
        return ApplyStopped(
            f"record {record.sequence}: {os.fsdecode(name)} in tree {self.tree.tree_id} is not "
            "as the active server left it",
            remedy="wait: the trees are compared and this one is repaired by itself",
            code="apply-conflict",
        )


def create_object(directory: int, name: bytes, arguments: Create, target: bytes) -> int:
    """Make a file, directory, link or special file; returns an open descriptor of it."""
    kind = S_IFMT(arguments.mode)
    mode = arguments.mode & 0o7777
    if kind == S_IFREG:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode, dir_fd=directory)
    if kind == S_IFDIR:
        os.mkdir(name, mode, dir_fd=directory)
        return os.open(name, _DIRECTORY_FLAGS, dir_fd=directory)
    if kind == S_IFLNK:
        os.symlink(target, name, dir_fd=directory)
    else:
        os.mknod(name, arguments.mode, arguments.device, dir_fd=directory)
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def settle_new(descriptor: int, mode: int, uid: int, gid: int) -> None:
    """Owner and mode, exactly: creation alone follows umask, set-group-id and default ACLs."""
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.chown(door(descriptor), uid, gid)
        status = os.fstat(descriptor)
    if S_IFMT(mode) != S_IFLNK and status.st_mode & 0o7777 != mode & 0o7777:
        os.chmod(door(descriptor), mode & 0o7777)
