"""Fixtures of the tests that mount: guards over temporary directories."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from guarding import GuardProcess


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[GuardProcess]:
    """A guard with two armed trees and a closed gate."""
    process = GuardProcess(tmp_path, trees=2)
    try:
        process.start()
        process.arm()
        yield process
    finally:
        process.stop()


@pytest.fixture
def guard(closed: GuardProcess) -> GuardProcess:
    """The same with an open gate, asynchronous."""
    closed.open()
    return closed


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardProcess]:
    """One open guard for a whole module; each test uses a directory of its own in the tree."""
    process = GuardProcess(tmp_path_factory.mktemp("shared"))
    try:
        process.start()
        process.arm()
        process.open()
        yield process
    finally:
        process.stop()


@pytest.fixture
def place(shared: GuardProcess, request: pytest.FixtureRequest) -> Path:
    """A directory in the mounted tree of `shared`."""
    path = shared.tree / request.node.name.replace("/", "-")[:100]
    path.mkdir()
    return path
