"""Removing the control groups of a server while programs in it end and remove their own."""

import threading
from pathlib import Path

import pytest

from everup.lab.cgroups import remove_directories

ROUNDS = 60


def make(base: Path) -> None:
    for i in range(12):
        (base / "server" / f"exec-{i}" / "inner").mkdir(parents=True)


def test_two_may_remove_the_same_directories_at_once(tmp_path: Path) -> None:
    errors: list[OSError] = []

    def remove(begin: threading.Barrier) -> None:
        begin.wait()
        try:
            remove_directories(tmp_path / "server")
        except OSError as error:
            errors.append(error)

    for _ in range(ROUNDS):
        make(tmp_path)
        begin = threading.Barrier(3)
        threads = [threading.Thread(target=remove, args=(begin,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert not (tmp_path / "server").exists()


def test_what_is_in_use_stays_and_is_said(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "server" / "exec-3" / "in-use").touch()
    with pytest.raises(OSError, match="not empty"):
        remove_directories(tmp_path / "server")
    assert (tmp_path / "server" / "exec-3" / "in-use").exists()


def test_what_is_not_there_is_removed(tmp_path: Path) -> None:
    remove_directories(tmp_path / "nothing")
