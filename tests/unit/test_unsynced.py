"""A file is clean only when everything that could be lost of it has been synced."""

import threading

from everup.capture.unsynced import Unsynced

ONE, OTHER = b"1" * 16, b"2" * 16


def test_a_change_is_known_until_a_sync_that_began_after_it() -> None:
    unsynced = Unsynced()
    assert unsynced.change_of(ONE) is None
    assert unsynced.change_of(None) is None
    unsynced.changed(ONE)
    first = unsynced.change_of(ONE)
    assert first is not None
    unsynced.changed(ONE)  # while the sync was under way
    unsynced.synced(ONE, first)
    second = unsynced.change_of(ONE)
    assert second is not None
    unsynced.synced(ONE, second)
    assert unsynced.change_of(ONE) is None
    unsynced.synced(OTHER, None)


def test_a_tree_is_synced_as_a_whole_once_and_by_one_thread() -> None:
    unsynced = Unsynced()
    syncs: list[int] = []
    threads = [
        threading.Thread(target=unsynced.make_whole, args=(1, lambda: syncs.append(1)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    unsynced.make_whole(2, lambda: syncs.append(2))
    assert syncs == [1, 2]


def test_a_whole_sync_that_failed_does_not_count() -> None:
    unsynced = Unsynced()

    def fail() -> None:
        raise OSError(5, "the disk is broken")

    for _ in range(2):
        try:
            unsynced.make_whole(1, fail)
        except OSError:
            continue
        raise AssertionError("the error was swallowed")
    syncs: list[int] = []
    unsynced.make_whole(1, lambda: syncs.append(1))
    assert syncs == [1]


def test_what_was_forgotten_for_room_asks_for_another_whole_sync() -> None:
    unsynced = Unsynced(objects_max=2)
    syncs: list[int] = []
    unsynced.make_whole(1, lambda: syncs.append(1))
    for number in range(3):
        unsynced.changed(bytes([number]) * 16)
    assert unsynced.change_of(bytes([0]) * 16) is None
    unsynced.make_whole(1, lambda: syncs.append(2))
    assert syncs == [1, 2]

    def overtaken() -> None:
        syncs.append(3)
        for number in range(3):
            unsynced.changed(bytes([number]) * 16)

    unsynced.make_whole(2, overtaken)
    unsynced.make_whole(2, lambda: syncs.append(4))
    assert syncs == [1, 2, 3, 4]
