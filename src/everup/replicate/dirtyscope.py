"""What a peer may lack that cannot be streamed: from the journal where it has it, from the dirty
maps where the journal has gaps, from the note of what the quota has dropped.

What enters: the position at which a peer stands. What leaves: a scope, to which a comparison of
content is limited, or nothing when only the whole trees can be compared. Called by `greeting`.
"""

from pathlib import Path

from everup.errors import Corrupt
from everup.journal.dirty import load_map
from everup.journal.operation import Gap
from everup.journal.reader import NEW_CHAIN, Batch, Cursor
from everup.journal.record import Operation
from everup.journal.segment import list_segments
from everup.model.position import Position
from everup.places import Places
from everup.replicate.apply import records_of
from everup.replicate.dropped import load_dropped
from everup.replicate.scope import Scope, add_record

CHAINS_MAX = 64


def scope_since(places: Places, position: Position) -> Scope | None:
    """Everything that was changed after `position`; None when that is not known."""
    try:
        return _scope_since(places, position)
    except (Corrupt, OSError):
        return None


def _scope_since(places: Places, position: Position) -> Scope:
    scope = Scope()
    dropped = load_dropped(places.state)
    if dropped is not None and position in dropped.anchors:
        scope, position = dropped.scope, dropped.until
    for _ in range(CHAINS_MAX):
        end = _add_chain(scope, places.journal, position)
        if end is None:
            return scope
        gap, position = _gap_behind(places.journal, end)
        for tree, object_id, first, behind in load_map(places.state, gap.gap_id):
            scope.add(tree, object_id, first, behind)
    raise Corrupt("the journal has too many gaps", code="journal-gap")


def _add_chain(scope: Scope, journal: Path, position: Position) -> Position | None:
    """Records up to the end of the chain: None, or where a gap ends it."""
    cursor = Cursor(journal, position, over_gaps=True)
    try:
        while (batch := cursor.next()) is not None:
            _add_batch(scope, batch)
    except Corrupt as problem:
        if problem.code != NEW_CHAIN:
            raise
        return cursor.position
    finally:
        cursor.close()
    return None


def _add_batch(scope: Scope, batch: Batch) -> None:
    for record in records_of(batch):
        add_record(scope, record)


def _gap_behind(journal: Path, end: Position) -> tuple[Gap, Position]:
    """The gap behind the chain that ends at `end`, and where the next chain begins."""
    for info in list_segments(journal):
        if not info.after_gap or info.start.sequence < end.sequence:
            continue
        cursor = Cursor(journal, info.start, over_gaps=True)
        try:
            batch = cursor.next()
        finally:
            cursor.close()
        if batch is None:
            break
        first = records_of(batch)[0]
        if first.operation != Operation.GAP:
            break
        gap = Gap.from_payload(first.payload)
        if gap.since == end:
            return gap, info.start
        break
    raise Corrupt(f"no chain goes on behind {end.epoch}/{end.sequence}", code="journal-gap")
