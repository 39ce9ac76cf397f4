"""What a peer lacks that the journal's quota has dropped: which content was changed in there.

What enters: segments that are about to go, and where the peers that still need them stand. What
leaves: a file from which a later comparison knows where to look. Filled by `source` before it lets
segments go, read by `dirtyscope`.

A peer's position is known again by its whole, so the batch ends behind each peer's last word are
kept too: it may have received a little more than it could say.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from everup.errors import Corrupt
from everup.journal.reader import Cursor
from everup.model.position import Position
from everup.places import Places
from everup.replicate.apply import records_of
from everup.replicate.scope import Scope, add_record
from everup.system.files import load_json, save_json

NAME = "dropped.json"
OBJECTS_MAX = 1 << 16
ANCHORS_MAX = 1 << 17
ANCHORED_BYTES = 32 << 20
"""More than a link has under way without an acknowledgement."""


class Dropped(NamedTuple):
    """`scope` holds every content that was changed between any of `anchors` and `until`."""

    until: Position
    anchors: frozenset[Position]
    scope: Scope


def note_dropped(
    places: Places, begin: Position, until: Position, stand: Sequence[Position]
) -> None:
    """Remember what the journal holds between `begin`, where it begins, and `until`; `stand`:
    where the peers stand that lack some of it. Raises Corrupt, OSError; then nothing is known of
    it, and a comparison looks at everything."""
    known = load_dropped(places.state)
    if known is None or not begin.sequence <= known.until.sequence <= until.sequence:
        # What is known of something else leads nowhere any more.
        known = Dropped(begin, frozenset(), Scope())
    # The last word of a peer may lie shortly before that.
    still_open = known.until in known.anchors
    marks = [m for m in stand if m.sequence >= known.until.sequence or still_open]
    anchors = set(known.anchors)
    try:
        _read(places.journal, known.until, until, marks, anchors, known.scope)
        _save(places.state / NAME, Dropped(until, frozenset(anchors), known.scope))
    except (Corrupt, OSError):
        (places.state / NAME).unlink(missing_ok=True)
        raise


def _save(path: Path, dropped: Dropped) -> None:
    until, anchors, scope = dropped
    if not anchors or len(scope) > OBJECTS_MAX or len(anchors) > ANCHORS_MAX:
        path.unlink(missing_ok=True)
        return
    value = {
        "until": until.to_json(),
        "anchors": [anchor.to_json() for anchor in sorted(anchors, key=lambda a: a.sequence)],
        "objects": [
            [tree, object_id.hex(), scope.runs(tree, object_id)]
            for tree, object_id in scope.objects()
        ],
    }
    save_json(path, value, operation="save-dropped")


def _read(
    journal: Path,
    begin: Position,
    until: Position,
    marks: Sequence[Position],
    anchors: set[Position],
    scope: Scope,
) -> None:
    left_bytes = dict.fromkeys(marks, ANCHORED_BYTES)
    cursor = Cursor(journal, begin, over_gaps=True)
    try:
        anchors.update(position for position in marks if position == begin)
        while cursor.position != until:
            batch = cursor.next()
            if batch is None:
                raise Corrupt("the journal ends in what is to be dropped")
            for record in records_of(batch):
                add_record(scope, record)
            for position, left in left_bytes.items():
                if batch.end == position:
                    anchors.add(position)
                elif batch.end.sequence > position.sequence and left > 0:
                    anchors.add(batch.end)
                    left_bytes[position] = left - len(batch.data)
    finally:
        cursor.close()


def load_dropped(state: Path) -> Dropped | None:
    """None when nothing is known: never dropped, too much, or not readable."""
    try:
        value = load_json(state / NAME)
        return None if value is None else _parsed(value)
    except (ValueError, KeyError, TypeError, OSError):
        return None


def _parsed(value: dict[str, Any]) -> Dropped:
    scope = Scope()
    for tree, name, runs in value["objects"]:
        whole = None if runs is None else [(int(first), int(count)) for first, count in runs]
        scope.add_runs(int(tree), bytes.fromhex(name), whole)
    anchors = frozenset(Position.from_json(anchor) for anchor in value["anchors"])
    return Dropped(Position.from_json(value["until"]), anchors, scope)
