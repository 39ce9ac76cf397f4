"""The stream takes the best address that works, and goes back to it."""

import socket
import time

from everup.replicate.channels import Channels


def listening(address: str, port: int = 0) -> socket.socket:
    listener = socket.create_server((address, port))
    return listener


def wait_for_better(channels: Channels, current: str, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        channels.look_for_better(current)
        if channels.better.wait(0.02):
            return True
    return False


def test_a_silent_address_is_tried_last_until_all_are_forgiven() -> None:
    channels = Channels(["10.0.0.1", "192.0.2.1"], 7570)
    assert channels.order() == ["10.0.0.1", "192.0.2.1"]
    channels.failed("10.0.0.1")
    assert channels.order() == ["192.0.2.1", "10.0.0.1"]
    channels.forgive()
    assert channels.order() == ["10.0.0.1", "192.0.2.1"]


def test_a_better_address_that_answers_again_is_found() -> None:
    with listening("127.0.0.2") as listener:
        channels = Channels(["127.0.0.2", "127.0.0.3"], listener.getsockname()[1])
        assert wait_for_better(channels, "127.0.0.3", 2)


def test_no_move_from_the_best_address_nor_to_a_dead_or_shunned_one() -> None:
    with listening("127.0.0.2") as listener:
        port = listener.getsockname()[1]
        assert not wait_for_better(Channels(["127.0.0.2", "127.0.0.3"], port), "127.0.0.2", 0.2)
        shunned = Channels(["127.0.0.2", "127.0.0.3"], port)
        shunned.failed("127.0.0.2")
        assert not wait_for_better(shunned, "127.0.0.3", 0.2)
    assert not wait_for_better(Channels(["127.0.0.2", "127.0.0.3"], port), "127.0.0.3", 0.2)
