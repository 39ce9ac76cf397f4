"""Apply one record to the trees it belongs to.

What enters: decoded records. What leaves: changed trees, or an error after which nothing later may
be applied. Called by the applier's loop and by tests.
"""

from collections.abc import Callable

from everup.journal.operation import decode_times
from everup.journal.reader import Batch
from everup.journal.record import Operation, Record, decode
from everup.replicate.names import TreeOperations
from everup.replicate.operations import ApplyStopped
from everup.replicate.window import Window

OpenTree = Callable[[int], TreeOperations]
RecordHandler = Callable[[TreeOperations, Record], None]

_HANDLERS: dict[int, RecordHandler] = {
    Operation.WRITE: TreeOperations.write,
    Operation.CREATE: TreeOperations.create,
    Operation.ORPHAN: TreeOperations.orphan,
    Operation.UNLINK: TreeOperations.unlink,
    Operation.LINK: TreeOperations.link,
    Operation.RENAME: TreeOperations.rename,
    Operation.TRUNCATE: TreeOperations.truncate,
    Operation.ALLOCATE: TreeOperations.allocate,
    Operation.ATTRIBUTES: TreeOperations.attributes,
    Operation.SET_XATTR: TreeOperations.set_xattr,
    Operation.REMOVE_XATTR: TreeOperations.remove_xattr,
    Operation.RELEASED: TreeOperations.released,
}
_NOTHING_TO_DO = frozenset((Operation.EPOCH, Operation.ADOPT, Operation.BATCH))


class TreeSet:
    """The protected trees by id, opened when the first record of each comes."""

    def __init__(self, opener: OpenTree) -> None:
        self._opener = opener
        self._trees: dict[int, TreeOperations] = {}
        self._window: Window | None = None

    def get(self, tree_id: int) -> TreeOperations:
        tree = self._trees.get(tree_id)
        if tree is None:
            tree = self._trees[tree_id] = self._opener(tree_id)
            tree.window = self._window
        return tree

    @property
    def opened(self) -> list[TreeOperations]:
        return list(self._trees.values())

    def set_window(self, window: Window) -> None:
        """From here on the trees may be ahead of the records that come."""
        self._window = window
        for tree in self.opened:
            tree.window = window

    def end_window(self) -> None:
        self._window = None
        for tree in self.opened:
            tree.end_window()

    def sync(self) -> None:
        for tree in self.opened:
            tree.tree.sync()

    def close(self) -> None:
        for tree in self.opened:
            tree.close()
            tree.tree.close()
        self._trees.clear()


def apply_record(trees: TreeSet, record: Record) -> None:
    """Make one record so. Raises OSError or ApplyStopped; then nothing after it may be applied."""
    handler = _HANDLERS.get(record.operation)
    if handler is not None:
        handler(trees.get(record.tree), record)
    elif record.operation == Operation.TIMES:
        for tree_id, object_id, mtime_ns in decode_times(record.payload):
            trees.get(tree_id).set_time(object_id, mtime_ns, record.sequence)
    elif record.operation not in _NOTHING_TO_DO:
        raise ApplyStopped(
            f"record {record.sequence} has the unknown operation {record.operation}",
            remedy="upgrade Everup on this server",
            code="unknown-operation",
        )


def records_of(batch: Batch) -> list[Record]:
    view = memoryview(batch.data)
    records, offset = [], 0
    while (record := decode(view, offset)) is not None:
        records.append(record)
        offset += record.length
    return records
