"""What a replay must know before it begins (pure).

What enters: all records of the window. What leaves: for every object the last sequence at which
the window takes a name away from it. A record that comes before that may find its object missing;
after it, a missing object is an error. Called by the applier.
"""

from collections.abc import Iterable

from everup.journal.operation import Rename, decode_arguments
from everup.journal.record import Operation, Record
from everup.model.ids import NO_OBJECT
from everup.system.kernelcalls import RENAME_EXCHANGE


class Window:
    """Objects that lose a name somewhere in a replayed range of the journal."""

    def __init__(self) -> None:
        self._removed: dict[tuple[int, bytes], int] = {}
        self._moved: dict[tuple[int, bytes], int] = {}

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.operation in (Operation.LINK, Operation.RENAME):
                self._moved[record.tree, record.object_id] = record.sequence
            if record.operation == Operation.UNLINK:
                self._removed[record.tree, record.object_id] = record.sequence
            elif record.operation == Operation.RENAME:
                arguments = decode_arguments(record)
                assert isinstance(arguments, Rename)
                replaced = arguments.replaced_id
                if replaced == NO_OBJECT:
                    continue
                if arguments.flags & RENAME_EXCHANGE:
                    self._moved[record.tree, replaced] = record.sequence
                else:
                    self._removed[record.tree, replaced] = record.sequence

    def removed_later(self, tree: int, object_id: bytes, sequence: int) -> bool:
        """Whether a record at or after `sequence` takes a name of the object away."""
        return self._removed.get((tree, object_id), -1) >= sequence

    def moved_after(self, tree: int, object_id: bytes, sequence: int) -> bool:
        """Whether a record after `sequence` gives the object another name or place."""
        return self._moved.get((tree, object_id), -1) > sequence
