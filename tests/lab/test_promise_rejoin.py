"""Promise `equal-proof` at a price that does not grow with the tree: an active server that loses
power under load rejoins, and of more than a gigabyte only what was being written is compared."""

import json
from pathlib import Path

import pytest
from tests.lab.ground import PROTECTED, Ground, wait
from tests.lab.rewriting import rewriting

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

LARGE = f"{PROTECTED[0]}/large"
LARGE_BYTES = 1200 << 20
COMPARED_BYTES_MAX = 300 << 20
"""Everything that the load writes (the whole database has a tenth of it) and the last seconds."""
MARKED_S = 60
REWRITTEN = f"{PROTECTED[0]}/rewritten"
FORCED = 400


def make_large(ground: Ground, active: str) -> None:
    """Random bytes, so that no hole and no compression helps anybody."""
    words = (
        "import os, sys\n"
        f"with open({LARGE!r}, 'wb') as file:\n"
        f"    for _ in range({LARGE_BYTES >> 20}):\n"
        "        file.write(os.urandom(1 << 20))\n"
    )
    ground.server(active).run(["python3", "-c", words], timeout_s=240)


def wait_marked(ground: Ground, active: str) -> None:
    """Until the guard has said that all of it is on the disk."""
    written = int(ground.ask(active, "guard")["sequence"])
    leader = ground.server(active).leader
    path = Path(f"/proc/{leader}/root/var/lib/everup/state/activity.json")

    def marked() -> bool:
        value = json.loads(path.read_text()) if path.exists() else {}
        return bool(value) and value["position"]["sequence"] >= written

    wait(marked, MARKED_S, "the mark of the activity log")


def test_of_a_large_tree_only_what_was_being_written_is_compared(ground: Ground) -> None:
    active, passive = ground.active, ground.passive
    make_large(ground, active)
    try:
        ground.wait_whole(240)
        wait_marked(ground, active)
        with ground.load() as load:
            load.wait_for(300)
            ground.lab.power_cut(active)
            load.wait_for(300)
            ground.lab.power_on(active)
            ground.wait_whole()
            assert load.missing(passive) == set()
        sync = ground.ask(active, "replicator")["sync"]
        assert sync["narrow"], sync
        assert 0 < sync["compared_bytes"] < COMPARED_BYTES_MAX, sync
        found = ground.compare(120)
        assert found.differences == []
        assert found.bytes > LARGE_BYTES
    finally:
        ground.run(ground.active, "rm", "-f", LARGE)


def test_what_was_forced_to_the_disk_without_a_time_is_found(ground: Ground) -> None:
    """Blocks of files that lay whole on the disk are rewritten and forced there (`fdatasync`), when
    the power goes: some of them are ahead of what the other server has, and no file says so."""
    active, passive = ground.active, ground.passive
    try:
        with rewriting(ground, active, REWRITTEN) as work:
            wait(lambda: work.ready, 60, "files")
            wait(lambda: len(work.lines) > FORCED, 60, "blocks that were forced to the disk")
            ground.lab.power_cut(active)
        wait(lambda: ground.roles().get(passive) == "active", 30, f"promotion of {passive}")
        assert work.missing(ground.server(passive).disk.real(REWRITTEN)) == []
        ground.lab.power_on(active)
        ground.wait_whole()
        assert ground.compare().differences == []
    finally:
        ground.run(ground.active, "rm", "-rf", REWRITTEN)
