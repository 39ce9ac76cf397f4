"""Any steps of an application, alone or in threads: the mount is like any directory, and the
journal gives the same tree, from its beginning and from any batch end on any later tree."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from following import LONGER, Example, Renewed
from hypothesis import given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from replaying import describe, differences
from stepping import THREADS, Act, Step, User, resolve, steps

from everup.limits import BATCH_AGE_MS

pytestmark = pytest.mark.fuse
MOMENTS_MAX = 3
LIKE_ALL = settings(deadline=None, print_blob=True)


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Renewed]:
    made = Renewed(tmp_path_factory.mktemp("followed"))
    try:
        yield made
    finally:
        made.stop()


class Machine(RuleBasedStateMachine):
    """One thread does the same on the mount and on a plain directory, and sees the same."""

    def __init__(self, renewed: Renewed, plain: Path) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.example = self.stack.enter_context(renewed.example())
        plain.mkdir(mode=0o755)
        self.plain = plain
        self.users = [User(bytes(root)) for root in (self.example.root, plain)]
        self.choice = 0

    @rule(step=steps())
    def do(self, step: Step) -> None:
        act = resolve(step, bytes(self.plain))
        seen, expected = (user.do(act) for user in self.users)
        assert seen == expected

    @precondition(lambda self: len(self.example.moments) < MOMENTS_MAX)
    @rule()
    def moment(self) -> None:
        self.example.take_moment()

    @precondition(lambda self: not self.choice)
    @rule(choice=st.integers(1, 20))
    def batch_ends(self, choice: int) -> None:
        self.choice = choice
        self.example.followed.settle()

    def teardown(self) -> None:
        with self.stack:
            try:
                native = describe(self.plain, times=False)
                assert differences(describe(self.example.root, times=False), native) == []
                assert differences(describe(self.example.root), describe(self.example.lower)) == []
                self.example.check(self.choice)
            finally:
                for user in self.users:
                    user.close()


def test_one_thread_sees_a_plain_directory(renewed: Renewed, tmp_path: Path) -> None:
    numbers = count()
    run_state_machine_as_test(
        lambda: Machine(renewed, tmp_path / f"plain{next(numbers)}"),
        settings=settings(LIKE_ALL, max_examples=40 * LONGER, stateful_step_count=30),
    )


DIRECTED = {
    "a directory moves and its file is written again": (
        Act("mkdir", b"a", b"", 0), Act("create", b"a/f", b"", 1), Act("write", b"a/f", b"", 2),
        Act("rename", b"a", b"b", 0), Act("write", b"b/f", b"", 3), Act("mode", b"b/f", b"", 1),
    ),
    "a default access list comes after the first file": (
        Act("mkdir", b"a", b"", 0), Act("create", b"a/f", b"", 0), Act("inherit", b"a", b"", 0),
        Act("create", b"a/g", b"", 3), Act("mkdir", b"a/d", b"", 3),
    ),
    "a file is replaced, moved over itself and linked back": (
        Act("create", b"a", b"", 0), Act("create", b"b", b"", 5), Act("link", b"a", b"c", 0),
        Act("rename", b"b", b"a", 0), Act("rename", b"c", b"a", 3), Act("write", b"a", b"", 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIRECTED)
def test_steps_that_meet_something_remembered(renewed: Renewed, name: str, tmp_path: Path) -> None:
    """What the guard keeps in memory of an object is right after it has changed."""
    with renewed.example() as example:
        user, plain = User(bytes(example.root)), User(bytes(tmp_path))
        for number, act in enumerate(DIRECTED[name]):
            seen = user.do(act)
            assert seen == plain.do(act)
            assert not str(seen).startswith("error"), act
            if number % 3 == 1:
                example.take_moment()
        tmp_path.chmod(0o755)
        native = describe(tmp_path, times=False)
        assert differences(describe(example.root, times=False), native) == []
        example.check()


def test_an_unlinked_file_that_is_open_outlives_the_worker(renewed: Renewed) -> None:
    """Its data must not die with the process that has it open below."""
    with renewed.example() as example:
        guard = example.followed.guard
        user = User(bytes(example.root))
        for operation in ("create", "hold", "unlink"):
            user.do(Act(operation, b"a", b"", 4))
        before = os.pread(user.held[0], 80_000, 0)
        guard.kill_worker()
        guard.wait_served()
        assert len(before) == 70_000
        os.posix_fadvise(user.held[0], 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(user.held[0], 80_000, 0) == before
        assert os.pwrite(user.held[0], b"and on", 0) == 6
        user.close()
        example.check()


class Threads:
    """Every thread does its own steps in their order; how they interleave is left to chance."""

    def __init__(self, example: Example, listed: list[Step]) -> None:
        self.locks = [threading.Lock() for _ in range(THREADS)]
        self.users = [User(bytes(example.root)) for _ in range(THREADS)]
        self.lower = bytes(example.lower)
        self.done = threading.Semaphore(0)
        self.seen: list[tuple[Act, object]] = []
        self.threads = [
            threading.Thread(target=self._run, args=(i, [s for s in listed if s.thread == i]))
            for i in range(THREADS)
        ]

    def _run(self, number: int, listed: list[Step]) -> None:
        for step in listed:
            with self.locks[number]:
                act = resolve(step, self.lower)
                self.seen.append((act, self.users[number].do(act)))
            self.done.release()

    def pause(self) -> ExitStack:
        """Context in which no thread is inside a step."""
        stack = ExitStack()
        for lock in self.locks:
            stack.enter_context(lock)
        return stack

    def run(self, example: Example, moments: list[int], total: int) -> None:
        for thread in self.threads:
            thread.start()
        for number in range(1, total + 1):
            assert self.done.acquire(timeout=30)
            if number in moments:
                with self.pause():
                    example.take_moment()
        for thread in self.threads:
            thread.join()

    def close(self) -> None:
        for user in self.users:
            user.close()


@settings(LIKE_ALL, max_examples=50 * LONGER)
@given(
    listed=st.lists(steps(THREADS), min_size=20, max_size=80),
    moments=st.lists(st.integers(1, 80), max_size=MOMENTS_MAX),
    choice=st.integers(0, 20),
)
def test_threads_leave_a_journal_that_gives_the_same_tree(
    renewed: Renewed, listed: list[Step], moments: list[int], choice: int
) -> None:
    with renewed.example() as example:
        running = Threads(example, listed)
        try:
            running.run(example, moments, len(listed))
            note(f"seen in this order: {running.seen}")
            assert not [seen for _, seen in running.seen if seen in FORBIDDEN]
            example.check(choice)
        finally:
            running.close()


FORBIDDEN = ("error 5", "error 107", "error 116")
"""EIO, ENOTCONN, ESTALE: the guard's own, of no application's making."""
assert BATCH_AGE_MS < 100, "examples wait for the end of a batch"
