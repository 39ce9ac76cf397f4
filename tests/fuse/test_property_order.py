"""The journal's order is an order in which everything could have happened: nothing is answered
before its record, threads keep their own order, and what one saw comes before what it then did."""

import os
import struct
import threading
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from following import LONGER, Example, Renewed
from hypothesis import given, settings
from hypothesis import strategies as st
from replaying import BATCH, CREATE, RENAME, UNLINK, WRITE, Entry, Tail

pytestmark = pytest.mark.fuse
NUMBER = struct.Struct("<Q")
THREADS = 3
NAMES = (b"a", b"b", b"c")
SECONDS_MAX = 60


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Renewed]:
    made = Renewed(tmp_path_factory.mktemp("ordered"))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def example(renewed: Renewed) -> Iterator[Example]:
    with renewed.example() as made:
        yield made


def tail_of(example: Example) -> Tail:
    """Whatever comes from now on."""
    tail = Tail(example.followed.guard.places.journal)
    assert list(tail.new())[-1].operation == BATCH
    return tail


def together(*works: Callable[[], None]) -> None:
    """Run all of them at the same time; the first error is raised."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_MAX)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def numbers_of(entries: list[Entry]) -> list[int]:
    return [NUMBER.unpack(entry.payload)[0] for entry in entries if entry.operation == WRITE]


def test_nothing_is_answered_before_its_record(example: Example) -> None:
    tail = tail_of(example)
    root = bytes(example.root)
    file = os.open(root + b"/file", os.O_RDWR | os.O_CREAT)
    for number in range(300):
        os.pwrite(file, NUMBER.pack(number), 0)
        assert numbers_of(list(tail.new())) == [number]
        if number % 10 == 0:
            for work, operation in (
                (lambda: os.mkdir(root + b"/one"), CREATE),
                (lambda: os.rename(root + b"/one", root + b"/two"), RENAME),
                (lambda: os.rmdir(root + b"/two"), UNLINK),
            ):
                work()
                assert operation in [entry.operation for entry in tail.new()]
    os.close(file)
    example.check()


def test_writers_of_one_file(example: Example) -> None:
    """Its last number is the last one in the journal, and a reader saw them in that order."""
    tail = tail_of(example)
    path = example.root / "file"
    path.write_bytes(NUMBER.pack(0))
    next_number = count(1)
    left = threading.Semaphore(600)
    seen: list[int] = []
    writing = threading.Event()

    def write() -> None:
        with path.open("r+b", buffering=0) as file:
            while left.acquire(blocking=False):
                os.pwrite(file.fileno(), NUMBER.pack(next(next_number)), 0)
        writing.set()

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            while not writing.is_set():
                seen.append(NUMBER.unpack(os.pread(file.fileno(), 8, 0))[0])

    together(write, write, write, read)
    written = numbers_of(list(tail.new()))
    assert sorted(written) == list(range(601))
    assert NUMBER.unpack(path.read_bytes())[0] == written[-1]
    place = {number: at for at, number in enumerate(written)}
    places = [place[number] for number in seen]
    assert places == sorted(places)
    example.check()


def test_writers_of_different_files(example: Example) -> None:
    """No two records take the same place, and each file's numbers stand in its order."""
    tail = tail_of(example)

    def write(mine: int) -> Callable[[], None]:
        def run() -> None:
            with (example.root / f"file{mine}").open("wb", buffering=0) as file:
                for number in range(200):
                    os.pwrite(file.fileno(), NUMBER.pack(mine * 1000 + number), 0)

        return run

    together(*(write(i) for i in range(4)))
    written = numbers_of(list(tail.new()))
    for mine in range(4):
        assert [n % 1000 for n in written if n // 1000 == mine] == list(range(200))
    example.check()


def test_what_was_answered_comes_before_what_is_asked_then(example: Example) -> None:
    """Two threads take turns on two files: the numbers in the journal only grow."""
    tail = tail_of(example)
    turns = [threading.Semaphore(1), threading.Semaphore(0)]

    def write(mine: int) -> Callable[[], None]:
        def run() -> None:
            with (example.root / f"file{mine}").open("wb", buffering=0) as file:
                for number in range(mine, 400, 2):
                    assert turns[mine].acquire(timeout=SECONDS_MAX)
                    os.pwrite(file.fileno(), NUMBER.pack(number), 0)
                    turns[1 - mine].release()

        return run

    together(write(0), write(1))
    assert numbers_of(list(tail.new())) == list(range(400))
    example.check()


Done = tuple[int, bytes, bytes]


def change(root: bytes, kind: int, one: bytes, two: bytes) -> Done | None:
    """What was done, as its record will say; None when the file system refused."""
    path = root + b"/" + one
    try:
        if kind == CREATE:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        elif kind == UNLINK:
            os.unlink(path)
        elif one != two:
            os.rename(path, root + b"/" + two)
        else:
            return None
    except OSError as error:
        assert error.errno in (2, 17), error
        return None
    return (kind, one, two if kind == RENAME else b"")


def recorded(entries: list[Entry]) -> list[Done]:
    """The same, out of the journal."""
    fixed = {CREATE: 36, UNLINK: 16, RENAME: 52}
    found = []
    for entry in entries:
        if entry.operation in fixed:
            names = _strings(entry.arguments[fixed[entry.operation] :])
            found.append((entry.operation, names[0], names[2] if len(names) > 2 else b""))
    return found


def _strings(data: bytes) -> list[bytes]:
    found = []
    while data:
        length = int.from_bytes(data[:2], "little")
        found.append(data[2 : 2 + length])
        data = data[2 + length :]
    return found


def is_interleaving(whole: list[Done], parts: list[list[Done]]) -> bool:
    """Whether `whole` is all of `parts`, each in its own order."""
    reached = {tuple(0 for _ in parts)}
    for done in whole:
        reached = {
            (*at[:i], at[i] + 1, *at[i + 1 :])
            for at in reached
            for i, part in enumerate(parts)
            if at[i] < len(part) and part[at[i]] == done
        }
    return tuple(len(part) for part in parts) in reached


@settings(max_examples=25 * LONGER, deadline=None, print_blob=True)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from((CREATE, CREATE, UNLINK, RENAME)),
                st.sampled_from(NAMES),
                st.sampled_from(NAMES),
            ),
            min_size=5,
            max_size=25,
        ),
        min_size=THREADS,
        max_size=THREADS,
    )
)
def test_names_change_in_an_order_that_every_thread_agrees_with(
    renewed: Renewed, wanted: list[list[tuple[int, bytes, bytes]]]
) -> None:
    with renewed.example() as example:
        tail = tail_of(example)
        root = bytes(example.root)
        parts: list[list[Done]] = [[] for _ in wanted]

        def run(number: int) -> Callable[[], None]:
            def work() -> None:
                for kind, one, two in wanted[number]:
                    done = change(root, kind, one, two)
                    if done is not None:
                        parts[number].append(done)

            return work

        together(*(run(i) for i in range(len(wanted))))
        whole = recorded(list(tail.new()))
        assert is_interleaving(whole, parts), (whole, parts)
        example.check()


def test_the_check_of_orders_can_fail() -> None:
    one, two, three = (CREATE, b"a", b""), (UNLINK, b"a", b""), (RENAME, b"a", b"b")
    assert is_interleaving([one, three, two], [[one, two], [three]])
    assert not is_interleaving([two, three, one], [[one, two], [three]])
    assert not is_interleaving([one, two], [[one, two], [three]])
    assert not is_interleaving([one, two, three, one], [[one, two], [three]])
