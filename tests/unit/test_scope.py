"""Which content may differ: every kind of record names at least what it changed."""

from everup.journal import operation as op
from everup.journal.record import Operation, Record
from everup.replicate.blocks import BLOCK_BYTES
from everup.replicate.filecopy import PART_BLOCKS, _parts
from everup.replicate.scope import Scope, add_record, to_runs

ID = b"o" * 16


def scope_of(operation: Operation, arguments: bytes, payload: bytes = b"") -> Scope:
    scope = Scope()
    record = Record(
        operation, 0, 1, 1, 1, 0, 0, 0, ID, memoryview(arguments), memoryview(payload), 0
    )
    add_record(scope, record)
    return scope


def test_a_write_names_its_blocks_only() -> None:
    scope = scope_of(Operation.WRITE, op.encode_write(BLOCK_BYTES - 1, b"h"), b"xy")
    assert scope.blocks(1, ID, 10) == [0, 1]
    assert scope.runs(1, ID) == [(0, 2)]
    assert (1, ID) in scope and (2, ID) not in scope
    assert scope.blocks(2, ID, 10) == [] == scope.runs(2, ID)


def test_what_moves_the_rest_of_a_file_names_all_of_it() -> None:
    cut = op.encode_truncate(op.Truncate(3 * BLOCK_BYTES + 5, b"h"))
    assert scope_of(Operation.TRUNCATE, cut).blocks(1, ID, 6) == [3, 4, 5]
    assert scope_of(Operation.TRUNCATE, cut).runs(1, ID) is None
    collapse = op.encode_allocate(op.Allocate(BLOCK_BYTES, BLOCK_BYTES, 0x08, b"h"))
    assert scope_of(Operation.ALLOCATE, collapse).blocks(1, ID, 4) == [1, 2, 3]
    punch = op.encode_allocate(op.Allocate(BLOCK_BYTES, BLOCK_BYTES, 0x03, b"h"))
    assert scope_of(Operation.ALLOCATE, punch).blocks(1, ID, 4) == [1]
    reserve = op.encode_allocate(op.Allocate(0, BLOCK_BYTES, 0x01, b"h"))
    assert len(scope_of(Operation.ALLOCATE, reserve)) == 0


def test_a_new_file_counts_whole_and_a_new_directory_not() -> None:
    file = op.encode_create(op.Create(ID, 0o100644, 0, 0, 0, b"n", b""))
    assert scope_of(Operation.CREATE, file).blocks(1, ID, 3) == [0, 1, 2]
    directory = op.encode_create(op.Create(ID, 0o040755, 0, 0, 0, b"n", b""))
    assert len(scope_of(Operation.CREATE, directory)) == 0


def test_scopes_are_merged() -> None:
    one, other = Scope(), Scope()
    one.add(1, ID, 0, 10)
    other.add(1, ID, 5 * BLOCK_BYTES, None)
    other.add_runs(2, ID, [(3, 2)])
    one.merge(other)
    assert one.blocks(1, ID, 7) == [0, 5, 6]
    assert one.runs(2, ID) == [(3, 2)]
    one.add_runs(2, ID, None)
    assert one.runs(2, ID) is None


def test_runs_join_neighbours() -> None:
    assert to_runs([0, 1, 2, 5, 7, 8]) == [(0, 3), (5, 1), (7, 2)]


def test_the_parts_of_a_file_always_end_with_its_end() -> None:
    """What the source has behind the last part is missing here."""
    assert list(_parts(None, 0)) == [(0, 0)] == list(_parts([(3, 2)], 0))
    assert list(_parts(None, 3)) == [(0, 3)]
    assert list(_parts([], 10)) == [(9, 1)]
    assert list(_parts([(2, 2), (9, 5)], 10)) == [(2, 2), (9, 1)]
    assert list(_parts([(50, 2)], 10)) == [(9, 1)]
    large = PART_BLOCKS + 7
    assert list(_parts(None, large)) == [(0, PART_BLOCKS), (PART_BLOCKS, 7)]
