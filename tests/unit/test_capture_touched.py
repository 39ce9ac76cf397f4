"""The list of touched objects, read again by the next worker."""

from pathlib import Path

from everup.capture.touched import ENTRIES_MAX, MARGIN, Touched


def test_next_worker_finds_what_the_open_batch_touched(tmp_path: Path) -> None:
    touched = Touched(tmp_path / "touched")
    touched.add(1, 2**63 + 5)
    touched.add(2, 7)
    assert Touched(tmp_path / "touched").entries() == [(1, 2**63 + 5), (2, 7)]
    touched.clear()
    assert Touched(tmp_path / "touched").entries() == []


def test_list_is_bounded(tmp_path: Path) -> None:
    touched = Touched(tmp_path / "touched")
    for i in range(ENTRIES_MAX + 10):
        touched.add(1, i)
    assert len(touched.entries()) == ENTRIES_MAX


def test_the_batch_has_to_end_before_the_list_overflows(tmp_path: Path) -> None:
    touched = Touched(tmp_path / "touched")
    for i in range(ENTRIES_MAX - MARGIN):
        assert not touched.full
        touched.add(1, i)
    assert touched.full and Touched(tmp_path / "touched").full
    touched.clear()
    assert not touched.full


def test_next_worker_touches_the_same_objects_without_a_second_entry(tmp_path: Path) -> None:
    for _ in range(3):
        touched = Touched(tmp_path / "touched")
        touched.add(1, 7)
        touched.add(2, 7)
    assert Touched(tmp_path / "touched").entries() == [(1, 7), (2, 7)]
    touched.clear()
    touched.add(1, 7)
    assert touched.entries() == [(1, 7)]
