"""The deadline page: what the keeper writes is what the guard reads, or nothing."""

from pathlib import Path

from everup.system.leasepage import LeasePageReader, LeasePageWriter

BOOT = bytes(range(16))


def test_no_page_means_no_lease(tmp_path: Path) -> None:
    assert LeasePageReader(tmp_path / "page", BOOT).read() == (0, 0)


def test_reader_sees_each_write(tmp_path: Path) -> None:
    reader = LeasePageReader(tmp_path / "page", BOOT)
    writer = LeasePageWriter(tmp_path / "page", BOOT)
    assert reader.read() == (0, 0)
    for deadline in (10, 20, 0):
        writer.write(7, deadline)
        assert reader.read() == (7, deadline)


def test_a_restarted_keeper_keeps_the_lease(tmp_path: Path) -> None:
    LeasePageWriter(tmp_path / "page", BOOT).write(7, 99)
    again = LeasePageWriter(tmp_path / "page", BOOT)
    assert (again.epoch, again.deadline_ns) == (7, 99)
    assert LeasePageReader(tmp_path / "page", BOOT).read() == (7, 99)


def test_a_page_of_another_boot_is_no_lease(tmp_path: Path) -> None:
    LeasePageWriter(tmp_path / "page", BOOT).write(7, 99)
    other = bytes(16)
    assert LeasePageReader(tmp_path / "page", other).read() == (0, 0)
    LeasePageWriter(tmp_path / "page", other)
    assert LeasePageReader(tmp_path / "page", other).read() == (0, 0)


def test_a_page_that_is_being_written_is_no_lease(tmp_path: Path) -> None:
    LeasePageWriter(tmp_path / "page", BOOT).write(7, 99)
    with (tmp_path / "page").open("r+b") as file:
        file.seek(8)
        counter = int.from_bytes(file.read(8), "little")
        file.seek(8)
        file.write((counter + 1).to_bytes(8, "little"))
    assert LeasePageReader(tmp_path / "page", BOOT).read() == (0, 0)
