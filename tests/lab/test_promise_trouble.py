"""Promises `no-block`, `nothing-silent`: a full disk, a lost channel, what nobody received."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.lab.ground import Ground, Json, wait

from everup.lab.demo.measure import longest_gap_ms, read_acknowledged

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

FILLER = "/srv/filler"
DIARY = "/var/lib/postgresql/diary.txt"


@contextmanager
def full_disk(ground: Ground, server: str) -> Iterator[None]:
    """Not one block is left on the server's disk."""
    free = ground.run(server, "stat", "--file-system", "--format=%f %S", "/srv").output.split()
    size = int(free[0]) * int(free[1])
    ground.run(server, "fallocate", "--length", str(size - (1 << 20)), FILLER, check=False)
    ground.run(server, "dd", "if=/dev/zero", f"of={FILLER}.rest", "bs=64k", check=False)
    ground.run(server, "dd", "if=/dev/zero", f"of={FILLER}.crumbs", "bs=512", check=False)
    try:
        yield
    finally:
        ground.run(server, "rm", "-f", FILLER, f"{FILLER}.rest", f"{FILLER}.crumbs")


def longest_pause_ms(ground: Ground, begin: float) -> float:
    """The longest time without an acknowledged transaction since `begin`."""
    found = read_acknowledged(ground.stage.load_logs)
    return longest_gap_ms([each.at for each in found], begin, time.monotonic())


def test_a_full_disk_on_the_passive_is_told_and_caught_up(ground: Ground) -> None:
    """The active goes on, status says what is wrong and where, and when there is room again the
    passive catches up by itself."""
    active, passive = ground.active, ground.passive
    with ground.load() as load:
        with full_disk(ground, passive):
            begin = time.monotonic()
            load.wait_for(100)
            status = wait_status(ground, active, lambda s: s["state"] != "synchronized")
            wait(
                lambda: "no room" in json.dumps(ground.group.status(active)["warnings"]),
                20,
                "warning about the room",
                lambda: json.dumps(ground.group.status(active)),
            )
            assert passive in status["sentence"]
            load.wait_for(100)
            assert longest_pause_ms(ground, begin) < 5000
        ground.wait_whole()
        assert load.missing(active) == set()
    assert ground.active == active
    found = ground.compare()
    assert found.differences == []


def wait_status(ground: Ground, server: str, condition) -> Json:  # type: ignore[no-untyped-def]
    wait(lambda: condition(ground.group.status(server)), 30, "such a status")
    return ground.group.status(server)


@pytest.fixture
def in_async_mode(ground: Ground) -> Ground:
    ground.change_settings(mode="async")
    active = ground.active
    wait(lambda: ground.ask(active, "guard")["mode"] == "async", 10, "async mode in the guard")
    ground.wait_whole()
    return ground


def test_no_single_loss_blocks_writes_in_async_mode(in_async_mode: Ground) -> None:
    """The channel is cut, the witness lost, the peer frozen: no pause of a second."""
    ground = in_async_mode
    active, passive = ground.active, ground.passive
    with ground.load() as load:
        for loss, repair in (
            (lambda: ground.lab.cut("channel"), lambda: ground.lab.heal("channel")),
            (lambda: ground.lab.freeze("witness"), lambda: ground.lab.thaw("witness")),
            (lambda: ground.lab.freeze(passive), lambda: ground.lab.thaw(passive)),
        ):
            begin = time.monotonic()
            loss()
            time.sleep(4)
            load.wait_for(50)
            assert longest_pause_ms(ground, begin) < 1000
            repair()
            ground.wait_whole()
        assert load.missing(active) == set()
    assert ground.active == active


# --- divergence ------------------------------------------------------------------------------

WRITER = """\
import os, sys, time
diary = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
number = 0
while True:
    number += 1
    try:
        os.write(diary, b"%d\\n" % number)
        os.fsync(diary)
    except OSError as error:
        print("refused", error.errno, flush=True)
        break
    print(number, flush=True)
    time.sleep(0.01)
"""


def cut_off(ground: Ground, server: str) -> None:
    for network in ("public", "channel", "management"):
        ground.lab.cut(f"{server}:{network}")


def test_what_nobody_received_is_kept_before_it_is_overwritten(in_async_mode: Ground) -> None:
    """The active, cut off from everybody, writes until its lease ends. After its return these
    lines are in a divergence bundle, an event says so, and the trees are identical."""
    ground = in_async_mode
    active, passive = ground.active, ground.passive
    log = ground.lab.directory / "writer.log"
    writer = ground.server(active).start(["python3", "-c", WRITER, DIARY], log)
    wait(lambda: log.read_text().count("\n") > 50, 10, "lines in the diary")
    begin = time.monotonic()
    cut_off(ground, active)
    ground.wait_answer(passive, begin, 10)
    wait(lambda: ground.roles().get(active) == "passive", 30, "the old active out of service")
    writer.terminate()
    written = max(int(line) for line in log.read_text().split("\n")[:-1] if line.isdigit())
    kept = diary_of(ground, passive)
    assert written > len(kept), "something was acknowledged that the other never received"
    last = ground.last_event(active)
    for network in ("public", "channel", "management"):
        ground.lab.heal(f"{active}:{network}")
    ground.wait_whole()
    assert diary_of(ground, active) == kept
    everything = {str(number) for number in range(1, written + 1)}
    assert everything <= {*kept, *bundled_diary(ground, active)}
    told = [e for e in ground.events(active, last) if e["kind"] == "divergence"]
    assert told and all(e["told"] for e in told), "people are sent a message"
    assert ground.compare().differences == []


def diary_of(ground: Ground, server: str) -> list[str]:
    """The diary's lines in the server's lower tree."""
    return ground.server(server).disk.real(DIARY).read_text().split()


def bundled_diary(ground: Ground, server: str) -> list[str]:
    """The lines of the diary that lie in the server's divergence bundles."""
    bundles = ground.server(server).disk.real("/var/lib/everup/divergence")
    manifests = list(bundles.glob("*/manifest.json"))
    assert manifests, "there is a bundle"
    lines: list[str] = []
    for manifest in manifests:
        for kept in json.loads(manifest.read_text())["objects"]:
            before = kept["before"]
            if before is not None and before["path"].endswith("diary.txt"):
                lines += (manifest.parent / before["file"]).read_text().split()
    return lines
