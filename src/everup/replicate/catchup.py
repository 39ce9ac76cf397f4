"""How a target catches up: by the stream, or by a comparison of the trees (pure).

What enters: where the target says it stands, and whether this journal goes on from exactly there.
What leaves: the choice and one sentence that says why. Called by the source after WELCOME.
A position is compared as a whole; no conclusion is drawn from a number alone.
"""

from typing import NamedTuple

from everup.model.position import Position

STREAM = "stream"
RESYNC = "resync"


class CatchUp(NamedTuple):
    kind: str
    sentence: str
    base: Position | None = None
    """With a resync: the trees hold this position but for some content; the rest is streamed."""
    narrowed: bool = False
    """With a resync: content is compared only where it is known to have been changed."""


def choose_catch_up(
    server: str,
    tree_state: str,
    position: Position | None,
    *,
    known: bool,
    held: bool,
    missing_trees: tuple[int, ...] = (),
    unclean_epoch: int = 0,
    unequal: bool = False,
    unreadable: str = "",
    base: Position | None = None,
    dirty_objects: int | None = None,
    partial: Position | None = None,
) -> CatchUp:
    """`known`: the position is on this server's line of history; `held`: its journal still has
    everything after it; `unclean_epoch`: the newest one that began on a tree which a power cut had
    left without what was not yet on the disk; `unequal`: it was found different; `unreadable`: what
    was wrong with the journal when it was read for this server; `base`: what it says to hold but
    for some content after an unclean stop, and what these logs go on from;
    `dirty_objects`: how many objects were changed since its position, when that is known although
    no stream leads on from there; `partial`: what it held before a narrowed copy broke off."""
    if unequal:
        return CatchUp(RESYNC, f"{server} was found different: its trees are compared")
    if missing_trees and position is not None:
        trees = ", ".join(map(str, missing_trees))
        return CatchUp(RESYNC, f"{server} does not hold tree {trees} yet: its trees are compared")
    if missing_trees or (base is not None and base.epoch < unclean_epoch):
        base = None
    if missing_trees or (partial is not None and partial.epoch < unclean_epoch):
        partial = None
    if position is None:
        return _from_nowhere(server, tree_state, base, partial, dirty_objects)
    where = f"{position.epoch}/{position.sequence}"
    if unreadable:
        return CatchUp(
            RESYNC,
            f"{server} stands at {where}, the journal cannot be read from there on ({unreadable}): "
            "its trees are compared",
        )
    if position.epoch < unclean_epoch:
        return CatchUp(
            RESYNC,
            f"epoch {unclean_epoch} began after an unclean stop, {server} stands before it: "
            "its trees are compared",
        )
    if held:
        return CatchUp(STREAM, f"{server} stands at {where}, the journal goes on from there")
    if dirty_objects is not None:
        return CatchUp(
            RESYNC,
            f"{server} stands at {where}, and no stream leads on from there; what was changed "
            f"since is known: the content of {dirty_objects} objects is compared",
            narrowed=True,
        )
    if known:
        return CatchUp(
            RESYNC,
            f"{server} stands at {where}, which the journal no longer holds: "
            "its trees are compared",
        )
    return CatchUp(
        RESYNC,
        f"{server} stands at {where}, which is not in the history of this server: "
        "its trees are compared",
    )


def _from_nowhere(
    server: str,
    tree_state: str,
    base: Position | None,
    partial: Position | None,
    dirty_objects: int | None,
) -> CatchUp:
    """Its trees are at no position; `base` and `partial` are what they hold in part."""
    if base is not None:
        return CatchUp(
            RESYNC,
            f"{server} was active and did not stop cleanly: what it wrote last is compared, and "
            f"the journal goes on from {base.epoch}/{base.sequence}",
            base,
        )
    if partial is not None and dirty_objects is not None:
        return CatchUp(
            RESYNC,
            f"{server} holds an unfinished copy on top of {partial.epoch}/{partial.sequence}; what "
            f"was changed since is known: the content of {dirty_objects} objects is compared",
            narrowed=True,
        )
    return CatchUp(RESYNC, f"{server} {_why_nowhere(tree_state)}: its trees are compared")


def _why_nowhere(tree_state: str) -> str:
    return {
        "empty": "has no copy yet",
        "open": "was active and did not stop cleanly, so its trees are at no position",
        "syncing": "holds an unfinished copy",
        "at": "has lost the log that leads to its position",
    }.get(tree_state, "is at no position")
