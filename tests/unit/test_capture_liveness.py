"""When a worker counts as stuck, and when it is only slow: the decisions, without a worker."""

import threading
from pathlib import Path

import pytest

from everup.capture.liveness import SILENT_S, STUCK_S, TICK_S, Judge, Threads, threads_of
from everup.capture.pulse import StuckFor, waits_for_lock

IDLE = Threads("SSSS", 1.0)


def silence(threads: list[Threads], passed_s: float = TICK_S) -> str:
    """What is said of a worker whose pulse stopped, looked at for 20 s or until it is stuck."""
    judge = Judge()
    assert judge.judge(100.0, 5, 0, threads[0]) == ""
    for number in range(1, int(20 / passed_s)):
        now = threads[min(number, len(threads) - 1)]
        said = judge.judge(100.0 + number * passed_s, 5, 0, now)
        if said:
            assert SILENT_S <= number * passed_s <= SILENT_S + 2
            return said
    return ""


def test_a_stopped_worker_is_stuck() -> None:
    assert "stopped" in silence([Threads("TTTT", 1.0)])


def test_threads_that_all_sleep_without_a_pulse_are_stuck() -> None:
    assert "wait for each other" in silence([IDLE])


def test_one_that_computes_without_a_pulse_is_stuck() -> None:
    assert "without end" in silence([Threads("RSSS", 1.0 + i / 2) for i in range(100)])


def test_one_that_gets_no_processor_is_not() -> None:
    assert silence([Threads("RSSS", 1.0 + i / 100) for i in range(100)]) == ""


def test_one_that_waits_for_the_disk_is_not() -> None:
    assert silence([Threads("SDSS", 1.0)]) == ""


def test_time_in_which_the_holder_itself_stood_still_does_not_count() -> None:
    assert silence([IDLE], passed_s=4.0) == ""


def test_stuck_requests_are_believed_while_the_pulse_beats() -> None:
    judge = Judge()
    assert judge.judge(1.0, 1, int(STUCK_S * 1000) - 1, IDLE) == ""
    assert "lock" in judge.judge(1.5, 2, int(STUCK_S * 1000), IDLE)


def test_requests_are_stuck_when_all_of_them_wait_for_locks() -> None:
    waiting = {1: True, 2: True}
    stuck = StuckFor(lambda thread: waiting[thread])
    works = [(1, 100), (2, 102)]
    assert [stuck.look(TICK_S, works, False) for _ in range(3)] == [0, TICK_S, 2 * TICK_S]
    # Others come and go meanwhile.
    waiting[3] = True
    assert stuck.look(TICK_S, [*works, (3, 104)], False) == 3 * TICK_S
    # Who holds the lock is inside a call.
    waiting[3] = False
    assert stuck.look(TICK_S, [*works, (3, 104)], False) == 0


@pytest.mark.parametrize(
    ("passed_s", "works", "disk"),
    [
        (TICK_S, [(1, 102)], False),
        (TICK_S, [], False),
        (TICK_S, [(1, 100)], True),
        (5.0, [(1, 100)], False),
    ],
    ids=["another request", "none", "the disk is slow", "the machine stood still"],
)
def test_requests_are_not_stuck(passed_s: float, works: list[tuple[int, int]], disk: bool) -> None:
    stuck = StuckFor(lambda thread: True)
    stuck.look(TICK_S, [(1, 100)], False)
    assert stuck.look(TICK_S, [(1, 100)], False) == TICK_S
    assert stuck.look(passed_s, works, disk) == 0


def test_a_thread_that_waits_for_a_lock_is_told_from_one_in_a_call() -> None:
    lock = threading.Lock()
    lock.acquire()
    begun = threading.Semaphore(0)
    threads = [
        threading.Thread(target=lambda: (begun.release(), lock.acquire(), lock.release())),
        threading.Thread(target=lambda: (begun.release(), threading.Event().wait(0.5))),
    ]
    for thread in threads:
        thread.start()
        begun.acquire()
    give_up = 500
    while not waits_for_lock(threads[0].native_id or 0) and give_up:
        give_up -= 1
        threading.Event().wait(0.01)
    assert give_up
    # This very thread reads a file right now.
    assert not waits_for_lock(threading.get_native_id())
    lock.release()
    for thread in threads:
        thread.join()


def test_states_of_threads_are_read(tmp_path: Path) -> None:
    import os

    found = threads_of(os.getpid())
    assert "R" in found.states and found.processor_s > 0
    assert threads_of(4_000_000) == Threads("", 0.0)
