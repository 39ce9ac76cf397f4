"""Which objects may hold changes that exist only here, when a server's trees are compared.

What enters: this server's own logs, how it stopped, and the source's history. What leaves: object
ids and a time of change. Called by the target of a sync; what only the first attempt can see is
stored, since a copy that is broken off begins again on logs and states that it has changed itself.
"""

from dataclasses import dataclass, field
from pathlib import Path

from everup.errors import EverupError
from everup.journal.activity import MARGIN_NS
from everup.journal.operation import Rename, decode_arguments
from everup.journal.reader import Cursor
from everup.journal.record import Operation
from everup.journal.segment import list_segments
from everup.model.position import ORIGIN, Position, position_or_none
from everup.places import Places
from everup.replicate.apply import records_of
from everup.replicate.logs import holds
from everup.system.files import REAL_DOOR, Door, load_json, save_json

NAME = "suspects.json"


@dataclass
class Suspects:
    """Objects that may hold changes which exist only here."""

    objects: set[tuple[int, bytes]] = field(default_factory=set)
    changed_after_ns: int | None = None
    """After an unclean stop: everything whose ctime is later may have changed unrecorded."""
    fork: Position | None = None
    was_open: bool = False
    """This server stopped as the active one, uncleanly."""
    open_epoch: int = 0
    """The epoch in which it did."""
    bundle: str = ""
    """The divergence bundle that was begun for them."""
    settled: bool = False
    """A copy was complete: what was written here is kept, and what is here now came with it."""
    copy_began_ns: int | None = None
    """When the first attempt began (wall clock)."""
    copied_after_ns: int | None = None
    """What has a later ctime was changed by an attempt, and by nobody else; None: not known."""

    def includes(self, tree: int, object_id: bytes, ctime_ns: int, *, linked: bool = False) -> bool:
        """`linked`: a file with several names; a copy that only adds one moves its ctime, too."""
        if (tree, object_id) in self.objects:
            return True
        return self.changed_here(ctime_ns, linked=linked)

    def changed_here(self, ctime_ns: int, *, linked: bool = False) -> bool:
        """Whether a change that nothing has recorded may have been made then."""
        if self.changed_after_ns is None or ctime_ns < self.changed_after_ns:
            return False
        return linked or self.copied_after_ns is None or ctime_ns < self.copied_after_ns


def begin_attempt(suspects: Suspects, open_epoch: int | None, now_ns: int) -> None:
    """A copy begins, or begins again; `open_epoch`: in which applications wrote here until an
    unclean stop, with no copy since."""
    if open_epoch is not None:
        suspects.was_open, suspects.open_epoch = True, open_epoch
        suspects.bundle, suspects.settled, suspects.copy_began_ns = "", False, None
    if suspects.copy_began_ns is None:
        suspects.copy_began_ns = now_ns


def add_received(suspects: Suspects, places: Places, parents: list[Position]) -> None:
    """What this server received and the source never had; before the receive log begins anew.

    `parents`: positions of the source's history, oldest first.
    """
    _add_quietly(suspects, places.receive, parents)


def add_written(suspects: Suspects, places: Places, parents: list[Position]) -> None:
    """What this server wrote after the newest position that the source shares; may take seconds.

    Where the journal cannot tell (damaged, or cut behind that position by its quota) everything
    that differs may exist only here. Nothing more is found once that has been settled.
    """
    if suspects.settled:
        return
    whole = _add_quietly(suspects, places.journal, parents)
    if not whole:
        suspects.changed_after_ns = 0
    elif not suspects.was_open or suspects.changed_after_ns is not None:
        return
    last_ns = _last_entry_ns(places.journal)
    if whole:
        suspects.changed_after_ns = max(0, last_ns - MARGIN_NS)
    began_ns = suspects.copy_began_ns
    if began_ns is not None and 0 < last_ns <= began_ns - MARGIN_NS:
        # Otherwise the clock went back, and what was changed here looks like a copy's work.
        suspects.copied_after_ns = began_ns


def _add_quietly(suspects: Suspects, directory: Path, parents: list[Position]) -> bool:
    """False when the log does not name everything."""
    try:
        return _add_after_fork(suspects, directory, parents)
    except (EverupError, OSError):
        return False


def _add_after_fork(suspects: Suspects, directory: Path, parents: list[Position]) -> bool:
    segments = list_segments(directory)
    if not segments:
        return True
    start = segments[0].start
    shared = next((parent for parent in reversed(parents) if holds(directory, parent)), None)
    if shared is not None:
        start = suspects.fork = shared
    cursor = Cursor(directory, start)
    try:
        while (batch := cursor.next()) is not None:
            for record in records_of(batch):
                if record.operation not in (Operation.BATCH, Operation.TIMES, Operation.EPOCH):
                    suspects.objects.add((record.tree, record.object_id))
                if record.operation == Operation.RENAME:
                    move = decode_arguments(record)
                    assert isinstance(move, Rename)
                    suspects.objects.add((record.tree, move.replaced_id))
    finally:
        cursor.close()
    return shared is not None or start == ORIGIN


def _last_entry_ns(directory: Path) -> int:
    """Wall clock of the last batch in a log; 0 when there is none."""
    last_ns = 0
    try:
        segments = list_segments(directory)
        if not segments:
            return 0
        cursor = Cursor(directory, segments[-1].start)
        while (batch := cursor.next()) is not None:
            last_ns = max(last_ns, *(record.wall_ns for record in records_of(batch)))
        cursor.close()
    except (EverupError, OSError):
        return last_ns
    return last_ns


def settle(suspects: Suspects) -> None:
    """Everything that was only here has been kept, and taken from the source."""
    suspects.objects.clear()
    suspects.changed_after_ns = None
    suspects.bundle, suspects.settled = "", True


def save_suspects(state: Path, suspects: Suspects, door: Door = REAL_DOOR) -> None:
    """Durably keep what the next attempt cannot see any more. Raises OSError."""
    value = {
        "was_open": suspects.was_open,
        "open_epoch": suspects.open_epoch,
        "fork": suspects.fork.to_json() if suspects.fork else None,
        "bundle": suspects.bundle,
        "settled": suspects.settled,
        "copy_began_ns": suspects.copy_began_ns,
        "objects": [[tree, object_id.hex()] for tree, object_id in sorted(suspects.objects)],
    }
    save_json(state / NAME, value, operation="save-suspects", door=door)


def load_suspects(state: Path) -> Suspects:
    """Those of an attempt that was broken off; nobody when there was none.

    Damaged content means that everything is suspect.
    """
    try:
        value = load_json(state / NAME)
        if value is None:
            return Suspects()
        objects = {(int(tree), bytes.fromhex(name)) for tree, name in value["objects"]}
        fork = position_or_none(value["fork"])
        open_epoch = int(value.get("open_epoch", 0))
        began_ns = value.get("copy_began_ns")
        return Suspects(
            objects,
            None,
            fork,
            bool(value["was_open"]),
            open_epoch,
            bundle=_bundle_name(value.get("bundle", "")),
            settled=value.get("settled") is True,
            copy_began_ns=None if began_ns is None else int(began_ns),
        )
    except (ValueError, KeyError, TypeError):
        return Suspects(changed_after_ns=0, was_open=True)


def _bundle_name(value: object) -> str:
    """Raises ValueError for what would lead elsewhere."""
    if not isinstance(value, str) or "/" in value or value.startswith("."):
        raise ValueError("not the name of a bundle")
    return value


def forget_suspects(state: Path) -> None:
    """The trees are proven equal: nothing is suspect any more."""
    (state / NAME).unlink(missing_ok=True)
