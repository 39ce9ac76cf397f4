"""Small durable files: after a failure at any step the old or the new content is there, whole."""

import os
from pathlib import Path

import pytest

from everup.system.files import Door, load_json, save_bytes, save_json


class FailingDoor(Door):
    """Fails at the given call and counts them."""

    def __init__(self, fail_at: int) -> None:
        self.calls = 0
        self.fail_at = fail_at
        self.order: list[str] = []

    def _step(self, name: str) -> None:
        self.calls += 1
        self.order.append(name)
        if self.calls == self.fail_at:
            raise OSError(5, f"{name} failed on purpose")

    def write(self, operation: str, descriptor: int, data: bytes | memoryview) -> int:
        self._step("write")
        return super().write(operation, descriptor, data[:3])

    def fsync(self, operation: str, descriptor: int) -> None:
        self._step("fsync")
        super().fsync(operation, descriptor)

    def replace(self, operation: str, source: Path, target: Path) -> None:
        self._step("replace")
        super().replace(operation, source, target)


@pytest.mark.parametrize("fail_at", range(1, 6))
def test_a_failure_at_any_step_leaves_old_or_new(tmp_path: Path, fail_at: int) -> None:
    path = tmp_path / "state"
    save_bytes(path, b"old", operation="test")
    try:
        save_bytes(path, b"newer", operation="test", door=FailingDoor(fail_at))
    except OSError:
        pass
    assert path.read_bytes() in (b"old", b"newer")


def test_the_name_moves_only_after_the_sync(tmp_path: Path) -> None:
    door = FailingDoor(0)
    save_bytes(tmp_path / "state", b"abcdef", operation="test", door=door)
    assert door.order == ["write", "write", "fsync", "replace", "fsync"]


def test_state_is_private_and_never_guessed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_json(path, {"a": 1}, operation="test")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_json(path) == {"a": 1}
    assert load_json(tmp_path / "missing") is None
    path.write_bytes(b"{half")
    with pytest.raises(ValueError):
        load_json(path)


def test_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        save_bytes(tmp_path / "shared", b"x", operation="test", mode=0o644)
    finally:
        os.umask(old)
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o644
