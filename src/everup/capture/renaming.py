"""The handler of renames, with and without flags.

What enters: a request. What leaves: an empty answer. Raises OSError. Called by the session.
The kernel holds both directories and both objects still while it waits, so the names cannot change
between looking at them and renaming.
"""

import errno
import os
import stat
from typing import NamedTuple

from everup.capture import protocol
from everup.capture.descriptors import Hot
from everup.capture.lower import LowerTree
from everup.capture.naming import NOT_ASIDE, named_id
from everup.capture.nodes import pack_handle
from everup.capture.protocol import IN_HEADER_BYTES
from everup.capture.session import Request
from everup.capture.slots import Intent
from everup.journal.operation import Rename, encode_rename
from everup.journal.record import Operation
from everup.model.ids import NO_OBJECT
from everup.system.kernelcalls import RENAME_EXCHANGE, RENAME_NOREPLACE
from everup.system.kernelcalls import rename as lower_rename


class _Named(NamedTuple):
    """A name and what it holds."""

    directory: Hot
    name: bytes
    node: int
    object_id: bytes
    mode: int
    links: int


class _Other(NamedTuple):
    """What the new name held before, if anything."""

    node: int = 0
    object_id: bytes = NO_OBJECT
    directory: bool = False
    orphaned: bool = False


class _Move(NamedTuple):
    """From where to where."""

    above: Hot
    old_name: bytes
    below: Hot
    new_name: bytes
    flags: int


def rename(request: Request) -> bytes:
    (new_directory,) = protocol.RENAME_IN.unpack_from(request.body, IN_HEADER_BYTES)
    return _rename(request, new_directory, 0, protocol.RENAME_IN.size)


def rename2(request: Request) -> bytes:
    new_directory, flags = protocol.RENAME2_IN.unpack_from(request.body, IN_HEADER_BYTES)
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
        # RENAME_WHITEOUT makes sense only for a file system below overlayfs.
        raise OSError(errno.EINVAL, "unknown rename flag")
    return _rename(request, new_directory, flags, protocol.RENAME2_IN.size)


def _rename(request: Request, new_node: int, flags: int, fixed_bytes: int) -> bytes:
    old_name, new_name = request.names(IN_HEADER_BYTES + fixed_bytes, 2)
    tree, order = request.tree, request.order
    order.admit()
    if tree.hidden(request.node, old_name) or tree.hidden(new_node, new_name):
        raise OSError(errno.EPERM, "the name is kept for Everup")
    above, below = tree.hot(request.node), tree.hot(new_node)
    old, new = _look(request, above, old_name), _look(request, below, new_name)
    move = _Move(above, old_name, below, new_name, flags)
    if request.intent and _already_done(request.intent, old, new, flags):
        assert new is not None
        other = _other_of(request.intent, old, tree)
        with tree.hold(request.node, new_node, new.node, other.node):
            _record(request, move, new, other)
    else:
        if old is None or (new is None and flags & RENAME_EXCHANGE):
            raise FileNotFoundError(errno.ENOENT, "no such name")
        replaced_id = new.object_id if new else NO_OBJECT
        with tree.hold(request.node, new_node, old.node, new.node if new else old.node):
            loser = new.node if new else 0
            request.slot.intend(request.unique, loser, old.object_id, replaced_id)
            orphaned = _apply(request, move, new)
            directory = new is not None and stat.S_ISDIR(new.mode)
            _record(request, move, old, _Other(loser, replaced_id, directory, orphaned))
    order.confirm()
    return b""


def _already_done(intent: Intent, old: _Named | None, new: _Named | None, flags: int) -> bool:
    """Whether a killed worker had renamed in the lower tree, but not recorded it."""
    if new is None or new.object_id != intent.first_id:
        return False
    if flags & RENAME_EXCHANGE:
        return old is not None and old.object_id == intent.second_id
    return old is None


def _other_of(intent: Intent, old: _Named | None, tree: LowerTree) -> _Other:
    """The object that the killed worker's rename exchanged or replaced."""
    if old is not None:
        return _Other(old.node, intent.second_id, stat.S_ISDIR(old.mode))
    return _Other(intent.loser, intent.second_id, orphaned=intent.loser in tree.orphans)


def _apply(request: Request, move: _Move, new: _Named | None) -> bool:
    """Rename in the lower tree; True when what it replaced has no name any more."""
    tree = request.tree
    aside, last = False, False
    if new is not None and not move.flags & RENAME_EXCHANGE:
        if stat.S_ISDIR(new.mode):
            tree.hot(new.node)
            last = True
        elif not move.flags & RENAME_NOREPLACE and (new.links == 1 or new.node in tree.orphans):
            last = True
            aside = _link_aside(tree, move, new)
    try:
        lower_rename(
            move.above.descriptor, move.old_name, move.below.descriptor, move.new_name, move.flags
        )
    except OSError:
        if aside and new is not None:
            tree.remove_orphan(new.node)
        raise
    return last


def _link_aside(tree: LowerTree, move: _Move, new: _Named) -> bool:
    """Give what will be replaced a name in the orphan directory; False when that is full."""
    aside = new.object_id.hex().encode()
    try:
        os.link(
            move.new_name, aside, src_dir_fd=move.below.descriptor,
            dst_dir_fd=tree.orphans_directory, follow_symlinks=False,
        )  # fmt: skip
    except FileExistsError:
        # A killed worker came this far with the same request.
        pass
    except OSError as error:
        if error.errno not in NOT_ASIDE:
            raise
        tree.hot(new.node).pinned = True
        return False
    tree.set_aside(new.node, aside)
    return True


def _record(request: Request, move: _Move, moved: _Named, other: _Other) -> None:
    tree, order = request.tree, request.order
    above_id, below_id = tree.identity(move.above), tree.identity(move.below)
    with order.lock:
        order.touch(tree, move.above)
        order.touch(tree, move.below)
        value = Rename(
            above_id, below_id, other.object_id, move.flags, move.old_name, tree.hint(move.above),
            move.new_name, tree.hint(move.below),
        )  # fmt: skip
        # Before the record: a request whose record is there is only answered again.
        if move.flags & RENAME_EXCHANGE:
            tree.moved(other.node, move.above.node, move.old_name, other.directory)
        elif other.node:
            tree.lost_name(other.node, move.below.node, move.new_name, other.orphaned)
        tree.moved(moved.node, move.below.node, move.new_name, stat.S_ISDIR(moved.mode))
        order.record(tree, Operation.RENAME, moved.object_id, encode_rename(value), b"", request)


def _look(request: Request, directory: Hot, name: bytes) -> _Named | None:
    """What a name holds; the object has an id afterwards."""
    tree = request.tree
    try:
        handle = request.calls.of(directory.descriptor, name)
    except FileNotFoundError:
        return None
    node = pack_handle(handle)
    status = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
    hot = tree.descriptors.by_node.get(node)
    object_id = named_id(directory, name, handle) if hot is None else None
    if object_id is None:
        hot = hot or tree.hot(node)
        with tree.lock(node):
            object_id = tree.identity(hot)
    return _Named(directory, name, node, object_id, status.st_mode, status.st_nlink)
