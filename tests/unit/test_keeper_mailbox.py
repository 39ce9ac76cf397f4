"""Work handed to the loop, and subscribers that do not read."""

import threading

import pytest

from everup.errors import DeadlinePassed, Refused
from everup.keeper.control import cut_to_fit
from everup.keeper.mailbox import LINES_MAX, SUBSCRIBERS_MAX, Answer, Mailbox, Subscribers


def test_work_is_done_in_order_by_the_loop() -> None:
    mailbox, done = Mailbox(), []
    threads = [
        threading.Thread(target=mailbox.put, args=(lambda n=n: done.append(n),)) for n in range(5)
    ]
    for thread in threads:
        thread.start()
        thread.join()
    assert done == []
    mailbox.run()
    assert done == [0, 1, 2, 3, 4]
    mailbox.run()


def test_an_answer_is_a_value_an_error_or_too_late() -> None:
    answer = Answer()
    with pytest.raises(DeadlinePassed):
        answer.wait(0.01)
    answer.give({"x": 1})
    assert answer.wait(0) == {"x": 1}
    failed = Answer()
    failed.fail(Refused("no"))
    with pytest.raises(Refused):
        failed.wait(0)


def test_a_subscriber_that_does_not_read_is_left_behind() -> None:
    subscribers = Subscribers()
    lines = subscribers.add()
    for number in range(LINES_MAX + 5):
        subscribers.tell({"event": "x", "number": number})
    read = list(lines)
    assert len(read) < LINES_MAX + 5
    assert [line["number"] for line in read] == sorted(line["number"] for line in read)


def test_the_oldest_subscriber_makes_room() -> None:
    subscribers = Subscribers()
    first = subscribers.add()
    others = [subscribers.add() for _ in range(SUBSCRIBERS_MAX)]
    subscribers.tell({"event": "x"})
    assert list(first) == []
    assert next(others[-1]) == {"event": "x"}


def test_facts_are_cut_and_the_short_ones_stay() -> None:
    facts = {"role": "active", "sentence": "x" * 2000, "applied": {"epoch": 1}}
    assert cut_to_fit(facts) == ["sentence"]
    assert facts == {"role": "active", "applied": {"epoch": 1}}
