"""The gate: closed, open, without a lease, durable; and what a start finds after a crash."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from guarding import GROUP_ID, GuardProcess

from everup.capture import gate
from everup.capture.gate import ArmedTree
from everup.errors import EverupError, Refused
from everup.journal.activity import Mark, load_mark, save_mark
from everup.model.ids import GROUP_XATTR
from everup.model.position import ORIGIN
from everup.system.files import load_json
from everup.system.mounts import MNT_FORCE, mounts_at, unmount
from everup.wire.local import subscribe

pytestmark = pytest.mark.fuse


def errno_of(call: object, *arguments: object) -> int:
    try:
        call(*arguments)  # type: ignore[operator]
    except OSError as error:
        return error.errno or 0
    return 0


def wait_for_syncs(guard: GuardProcess, count: int) -> None:
    for _ in range(300):
        if guard.call("status")["waiting_fsyncs"] == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"there are not {count} waiting syncs")


def write_and_sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.write(descriptor, b"data")
        os.fsync(descriptor)
    finally:
        # On a connection that has ended meanwhile close has an error of its own.
        with suppress(OSError):
            os.close(descriptor)


def test_closed_gate_is_read_only_and_coherent(closed: GuardProcess) -> None:
    (closed.lower() / "below").write_bytes(b"1")
    assert (closed.tree / "below").read_bytes() == b"1"
    assert errno_of((closed.tree / "x").touch) == errno.EROFS
    assert errno_of((closed.tree / "below").unlink) == errno.EROFS
    assert errno_of(os.chmod, closed.tree / "below", 0o600) == errno.EROFS
    (closed.lower() / "below").write_bytes(b"22")
    assert (closed.tree / "below").read_bytes() == b"22"
    closed.arm()
    assert len(mounts_at(closed.tree)) == 1


def test_open_and_close(closed: GuardProcess) -> None:
    closed.open()
    (closed.tree / "f").write_bytes(b"1")
    state = load_json(closed.places.tree)
    assert state == {"state": "open", "epoch": 1, "server": "primary"}
    assert closed.call("status")["gate"] == "open"
    assert os.getxattr(closed.lower(), GROUP_XATTR) == GROUP_ID.encode()
    answer = closed.call("close", grace_ms=1000)
    assert answer["clean"]
    assert load_json(closed.places.tree) == {"state": "at", "position": answer["position"]}
    assert errno_of((closed.tree / "g").touch) == errno.EROFS
    assert (closed.tree / "f").read_bytes() == b"1"
    closed.open(epoch=2)
    (closed.tree / "g").touch()
    assert closed.call("status")["epoch"] == 2
    assert load_json(closed.places.history)[1]["parent"] == answer["position"]
    closed.compare()


def test_open_again_is_no_change(guard: GuardProcess) -> None:
    before = guard.call("status")["position"]
    guard.open()
    assert guard.call("status")["position"] == before
    with pytest.raises(EverupError) as refused:
        guard.open(epoch=2)
    assert refused.value.code == "gate-open"


def test_open_without_a_lease_is_refused(closed: GuardProcess) -> None:
    closed.lend(epoch=4)
    for epoch, lease_ms in ((5, 1000), (4, 0)):
        closed.lend(lease_ms, epoch=4)
        with pytest.raises(EverupError) as refused:
            closed.call(
                "open", epoch=epoch, parent=None, server="p", boot_id="b", reason="r",
                mode="async", must_acknowledge=[], group_id=GROUP_ID,
            )  # fmt: skip
        assert refused.value.code == "no-lease"
    assert closed.call("status")["gate"] == "closed"


def test_tree_of_another_group_is_refused(closed: GuardProcess) -> None:
    os.setxattr(closed.lower(), GROUP_XATTR, b"cd" * 16)
    with pytest.raises(EverupError) as refused:
        closed.open()
    assert refused.value.code == "foreign-group"


def test_one_journal_for_all_trees_in_order(guard: GuardProcess) -> None:
    for i in range(50):
        (guard.paths[i % 2] / f"f{i}").write_bytes(b"%d" % i)
    guard.compare(1)
    guard.compare(2)


def test_nothing_is_acknowledged_after_the_deadline(guard: GuardProcess) -> None:
    path = guard.tree / "f"
    path.write_bytes(b"before")
    guard.lend(150)
    results: list[int] = []
    begin = time.monotonic()
    last_success = 0.0
    while time.monotonic() < begin + 0.5 and not results:
        # A held write must not block this test: it is done by a thread.
        thread = threading.Thread(target=lambda: results.append(errno_of(path.write_bytes, b"x")))
        thread.start()
        thread.join(0.3)
        if thread.is_alive():
            break
        if results[-1] == errno.EIO:
            # Begun in time, and done too late for a success.
            break
        assert results.pop() == 0
        last_success = time.monotonic() - begin
    assert last_success <= 0.16
    guard.call("close", grace_ms=0)
    thread.join(5)
    assert results == [errno.EIO]
    assert errno_of(path.write_bytes, b"y") == errno.EROFS


def test_held_requests_go_on_when_the_lease_comes_back(guard: GuardProcess) -> None:
    guard.lend(0)
    thread = threading.Thread(target=(guard.tree / "f").write_bytes, args=(b"late but right",))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    guard.lend()
    thread.join(2)
    assert (guard.tree / "f").read_bytes() == b"late but right"


def test_another_epochs_lease_counts_for_nothing(guard: GuardProcess) -> None:
    guard.lend(epoch=2)
    thread = threading.Thread(target=lambda: errno_of((guard.tree / "f").touch))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    guard.call("close", grace_ms=0)
    thread.join(2)


def test_durable_fsync_waits_for_every_named_server(closed: GuardProcess) -> None:
    closed.open(mode="durable", needs=("secondary", "tertiary"))
    channel = subscribe(closed.places.guard_socket, "follow")
    thread = threading.Thread(target=write_and_sync, args=(closed.tree / "f",), daemon=True)
    thread.start()
    wait_for_syncs(closed, 1)
    sequence = closed.call("status")["position"]["sequence"]
    while (line := channel.receive()) is not None:
        if line.get("closed", {}).get("sequence") == sequence:
            break
    assert line is not None
    assert (closed.places.journal / line["closed"]["segment"]).exists()
    channel.send({"verb": "acknowledged", "server": "secondary", "sequence": sequence})
    thread.join(0.1)
    assert thread.is_alive()
    channel.send({"verb": "acknowledged", "server": "tertiary", "sequence": sequence - 1})
    thread.join(0.1)
    assert thread.is_alive()
    channel.send({"verb": "acknowledged", "server": "tertiary", "sequence": sequence})
    thread.join(2)
    assert not thread.is_alive()
    channel.close()


def test_policy_lets_waiting_syncs_go(closed: GuardProcess) -> None:
    closed.open(mode="durable", needs=("secondary",))
    threads = [
        threading.Thread(target=write_and_sync, args=(closed.tree / f"f{i}",)) for i in range(12)
    ]
    for thread in threads:
        thread.start()
    wait_for_syncs(closed, 12)
    (closed.tree / "not-blocked").write_bytes(b"1")
    closed.call("policy", mode="durable", must_acknowledge=[])
    for thread in threads:
        thread.join(2)
        assert not thread.is_alive()


def test_killed_process_does_not_wait_for_ever(closed: GuardProcess) -> None:
    closed.open(mode="durable", needs=("secondary",))
    program = "import os,sys; f=os.open(sys.argv[1],os.O_CREAT|os.O_RDWR); os.fsync(f)"
    process = subprocess.Popen([sys.executable, "-c", program, closed.tree / "f"])
    wait_for_syncs(closed, 1)
    process.kill()
    process.wait(3)


def test_closing_answers_waiting_syncs_with_an_error(closed: GuardProcess) -> None:
    closed.open(mode="durable", needs=("secondary",))
    results: list[int] = []
    thread = threading.Thread(
        target=lambda: results.append(errno_of(write_and_sync, closed.tree / "f"))
    )
    thread.start()
    wait_for_syncs(closed, 1)
    assert closed.call("close", grace_ms=100)["clean"]
    thread.join(3)
    assert results == [errno.EIO]
    closed.compare()


def test_death_of_the_whole_guard_ends_with_closed_gates(guard: GuardProcess) -> None:
    (guard.tree / "f").write_bytes(b"kept")
    assert guard.process is not None
    worker = guard.worker()
    guard.process.kill()
    guard.process.wait()
    for _ in range(200):
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.01)
    assert errno_of((guard.tree / "g").touch) == errno.ENOTCONN
    guard.start()
    assert errno_of((guard.tree / "g").touch) == errno.EROFS
    assert (guard.tree / "f").read_bytes() == b"kept"
    status = guard.call("status")
    assert status["gate"] == "closed"
    assert load_json(guard.places.tree) == {"state": "at", "position": status["position"]}
    guard.open(epoch=2)
    (guard.tree / "g").write_bytes(b"again")
    guard.compare()


def test_terminating_the_guard_closes_the_gate(guard: GuardProcess) -> None:
    (guard.tree / "f").write_bytes(b"1")
    assert guard.process is not None
    guard.process.send_signal(signal.SIGTERM)
    assert guard.process.wait(20) == 0
    assert errno_of((guard.tree / "f").touch) == errno.EROFS
    assert (load_json(guard.places.tree) or {})["state"] == "at"


def test_disarm_gives_the_plain_directory_back(guard: GuardProcess) -> None:
    (guard.tree / "f").write_bytes(b"1")
    guard.call("close", grace_ms=1000)
    guard.call("disarm", trees=[1, 2])
    assert mounts_at(guard.tree) == []
    (guard.tree / "g").write_bytes(b"plain")
    assert gate.load_armed(guard.places) == []


def test_disarming_one_tree_leaves_the_other_open(guard: GuardProcess) -> None:
    (guard.tree / "f").write_bytes(b"1")
    guard.call("disarm", trees=[1])
    assert mounts_at(guard.tree) == []
    (guard.tree / "f").write_bytes(b"plain")
    (guard.paths[1] / "f").write_bytes(b"2")
    assert [tree["id"] for tree in guard.call("status")["trees"]] == [2]
    guard.compare(2)


def test_an_aborted_connection_ends_with_closed_gates(guard: GuardProcess) -> None:
    # In use, so that it is only aborted, and the dead mount would stay.
    held = os.open(guard.tree, os.O_RDONLY)
    with pytest.raises(OSError, match="busy"):
        unmount(guard.tree, MNT_FORCE)
    for _ in range(300):
        if guard.call("status")["gate"] == "closed":
            break
        time.sleep(0.01)
    assert errno_of((guard.tree / "f").touch) == errno.EROFS
    assert errno_of((guard.paths[1] / "f").touch) == errno.EROFS
    os.close(held)
    guard.open(epoch=2)
    (guard.tree / "f").touch()


def test_orphans_of_an_applier_are_removed_at_opening(closed: GuardProcess) -> None:
    displaced = closed.lower() / ".everup-orphans" / "displaced"
    displaced.mkdir(parents=True)
    (displaced / "inside").write_bytes(b"x")
    closed.open()
    assert not displaced.exists()


def test_arming_while_open_joins_the_epoch(guard: GuardProcess) -> None:
    third = guard.base / "tree3"
    third.mkdir()
    guard.paths.append(third)
    guard.arm()
    (third / "f").write_bytes(b"3")
    guard.compare(3)


def wait_marked(guard: GuardProcess, sequence: int) -> None:
    for _ in range(200):
        mark = load_mark(guard.places.state)
        if mark is not None and mark.position.sequence >= sequence:
            return
        time.sleep(0.05)
    raise AssertionError("no mark")


def test_segments_are_released_up_to_a_sequence(guard: GuardProcess) -> None:
    for i in range(70):
        (guard.tree / "f").write_bytes(os.urandom(1 << 20) + b"%d" % i)
    time.sleep(0.1)
    before = guard.call("status")["journal"]
    assert before["segments"] == 2
    assert guard.call("release_segments", up_to_sequence=5)["removed"] == 0
    last = guard.call("status")["position"]["sequence"]
    # What lies behind the mark of the activity log is kept: the disk may not have it yet.
    save_mark(guard.places.state, Mark(ORIGIN, 0))
    guard.kill_worker()
    guard.wait_served()
    assert guard.call("release_segments", up_to_sequence=last)["removed"] == 0
    wait_marked(guard, last)
    assert guard.call("release_segments", up_to_sequence=last)["removed"] == 1
    assert guard.call("status")["journal"]["first_sequence"] > before["first_sequence"]


def test_wrong_requests_are_refused(closed: GuardProcess) -> None:
    for verb, arguments in (("dance", {}), ("open", {"epoch": 1}), ("arm", {"trees": [{}]})):
        with pytest.raises(EverupError):
            closed.call(verb, **arguments)


@pytest.fixture
def boot(closed: GuardProcess) -> Iterator[GuardProcess]:
    """As after a reboot: the armed list is there, no process and no mount."""
    assert closed.process is not None
    closed.process.kill()
    closed.process.wait()
    for number, path in enumerate(closed.paths, 1):
        gate.disarm_tree(closed.places, ArmedTree(number, path))
    yield closed


def test_gates_are_closed_at_boot_without_any_process(boot: GuardProcess) -> None:
    (boot.tree / "plain").touch()
    assert gate.close_at_boot(boot.places) == []
    assert errno_of((boot.tree / "x").touch) == errno.EROFS
    (boot.lower() / "y").touch()
    assert gate.close_at_boot(boot.places) == []
    assert len(mounts_at(boot.tree)) == 1


def test_a_missing_path_at_boot_is_named_and_the_others_are_closed(boot: GuardProcess) -> None:
    boot.tree.rmdir()
    problems = gate.close_at_boot(boot.places)
    assert len(problems) == 1 and str(boot.tree) in problems[0]
    assert errno_of((boot.paths[1] / "x").touch) == errno.EROFS
    with pytest.raises(Refused):
        gate.arm_tree(boot.places, ArmedTree(1, boot.tree))
