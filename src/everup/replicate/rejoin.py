"""What a server that stopped uncleanly as the active one still holds, and what of it is doubtful.

What enters: this server's own journal and its mark, how it stopped, the source's history. What
leaves: positions which its trees hold but for some content, and that content: what the journal has
behind the mark, and every object whose time of change is later than what the journal has. Called by
the target of a sync; when in doubt everything is doubtful.
"""

from dataclasses import dataclass
from struct import Struct

from everup.errors import EverupError
from everup.journal.activity import MARGIN_NS, Activity, load_mark
from everup.journal.record import Operation
from everup.journal.unclean import last_unclean_epoch
from everup.limits import AHEAD_BYTES
from everup.model.position import Position
from everup.places import Places
from everup.replicate.logs import holds, journal_end
from everup.replicate.scope import Run, Scope, add_record
from everup.replicate.suspects import load_suspects
from everup.replicate.treestate import OPEN, SYNCING, load_tree_state
from everup.system.clock import wall_ns

OFFSET = Struct("<Q")


@dataclass
class Doubtful:
    """Content that may differ from what the trees should hold at the base of a narrowed copy."""

    scope: Scope
    changed_after_ns: int
    """Whatever changed later is doubtful as a whole; 0: everything is."""
    sentence: str

    def runs(self, tree: int, object_id: bytes, changed_ns: int) -> list[Run] | None:
        """Blocks of an object; None: all of them."""
        if changed_ns >= self.changed_after_ns:
            return None
        return self.scope.runs(tree, object_id)


def possible_bases(places: Places, parents: list[Position]) -> list[Position]:
    """Newest first; none when only a comparison of everything helps.

    `parents`: positions of the source's history, oldest first. The source knows which of them its
    own logs go on from.
    """
    mark = load_mark(places.state)
    try:
        if mark is None or mark.position.epoch != _left_open_in(places):
            return []
        # What such an epoch began on had lost something already, which its journal does not tell.
        least_epoch = last_unclean_epoch(places.state)
        end = journal_end(places)
        candidates = [end] if end is not None else []
        candidates += [parent for parent in reversed(parents) if holds(places.journal, parent)]
        return [base for base in candidates if base.epoch >= least_epoch]
    except (EverupError, OSError, ValueError):
        return []


def _left_open_in(places: Places) -> int:
    """The epoch in which this server was active last, uncleanly ended; 0: it was not.

    A copy that was broken off has changed the state of the trees, and nothing of the journal.
    """
    state = load_tree_state(places.tree)
    if state.state == OPEN:
        return state.epoch
    return load_suspects(places.state).open_epoch if state.state == SYNCING else 0


def find_doubtful(places: Places, base: Position) -> Doubtful:
    """Read the journal behind the mark, or behind `base` where that is older: what nobody else has
    is doubtful, too. May take seconds."""
    mark = load_mark(places.state)
    if mark is None:
        return _everything("there is no mark of what had reached the disk")
    start = base if base.sequence < mark.position.sequence else mark.position
    scope = Scope()
    ends: dict[tuple[int, bytes], int] = {}
    try:
        activity = Activity(places.journal, start)
        for record in activity.records():
            add_record(scope, record)
            if record.operation == Operation.WRITE:
                (offset,) = OFFSET.unpack_from(record.arguments)
                ends[record.tree, record.object_id] = offset + len(record.payload)
    except (EverupError, OSError) as problem:
        return _everything(f"its activity log cannot be read ({problem})")
    clocks = activity.clocks
    last_ns = max(mark.wall_ns, clocks.last_wall_ns)
    if clocks.went_back or wall_ns() < last_ns:
        return _everything("its clock went back, so times of change tell nothing")
    for (tree, object_id), end in ends.items():
        scope.add(tree, object_id, end, end + AHEAD_BYTES)
    return Doubtful(scope, last_ns - MARGIN_NS, f"{len(scope)} objects were being written")


def _everything(why: str) -> Doubtful:
    return Doubtful(Scope(), 0, f"everything is compared: {why}")
