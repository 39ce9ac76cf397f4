"""Promises `durable`, `ordered`, `bounded`: what power cuts may not take away."""

import json
import random
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.lab.ground import Ground, Load, wait

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

PROMOTION_S = 5.0
MESSAGE_S = 5.0


def arrived(directory: Path) -> list[dict[str, Any]]:
    """What the services machine has received, each with its moment."""
    return [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]


def failover_message(directory: Path, after: float) -> dict[str, Any] | None:
    found = (each for each in arrived(directory) if each["at_monotonic"] > after)
    return next((each for each in found if "failover" in json.dumps(each).lower()), None)


def test_power_cut_of_the_active_loses_nothing_and_the_pair_heals_itself(ground: Ground) -> None:
    """The other answers within 5 s with every acknowledged row and tells people; the old active
    rejoins by itself under load; both trees are identical, before and after a switchover back."""
    active, passive = ground.active, ground.passive
    epoch = ground.group.status(active)["epoch"]
    with ground.load() as load, ground.churn(active):
        load.wait_for(300)
        cut = time.monotonic()
        ground.lab.power_cut(active)
        took_s = ground.wait_answer(passive, cut, PROMOTION_S)
        load.wait_for(100, after=cut + took_s)
        assert load.missing(passive) == set()
        assert not ground.answers(cut + 0.5, active), "the server without power answered"
        assert_people_are_told(ground, cut, passive)
        ground.lab.power_on(active)
        ground.wait_whole()
    assert ground.active == passive
    assert ground.group.status(passive)["epoch"] > epoch
    found = ground.compare()
    assert found.differences == []

    with ground.load() as load:
        load.wait_for(100)
        done = ground.everup(passive, "switchover")
        assert done.exit_code == 0, done.output + done.errors
        load.wait_for(100)
        assert ground.active == active
        assert load.missing(active) == set()
    ground.wait_whole()
    found = ground.compare()
    assert found.differences == []
    assert ground.database.amcheck(ground.server(active)) == ""


def assert_people_are_told(ground: Ground, cut: float, server: str) -> None:
    """Mail and webhook about the failover, each within 5 s of it."""
    wait(lambda: failover_moment(ground, server, cut), 30, "event of the failover")
    moment = failover_moment(ground, server, cut) or 0.0
    for way, directory in (("mail", ground.stage.mails), ("webhook", ground.stage.webhooks)):
        wait(
            lambda directory=directory: failover_message(directory, cut),
            2 * MESSAGE_S,
            f"{way} about the failover",
            lambda directory=directory: json.dumps(arrived(directory)[-3:]),
        )
        message = failover_message(directory, cut)
        assert message is not None
        assert message["at_monotonic"] - moment < MESSAGE_S, way


def failover_moment(ground: Ground, server: str, cut: float) -> float | None:
    """When the server said, after the cut, that it is active; monotonic seconds."""
    offset = time.time() - time.monotonic()
    for event in ground.events(server):
        moment = datetime.fromisoformat(event["at"]).timestamp() - offset
        if event["kind"] == "active-after-failover" and moment > cut:
            return moment
    return None


# --- both servers lose power --------------------------------------------------------------------


def both_lose_power(ground: Ground, load: Load, *, witness_too: bool) -> str:
    """Cut under load; only the passive comes back. Returns its name once it is active."""
    active, passive = ground.active, ground.passive
    load.wait_for(200)
    time.sleep(random.uniform(0, 0.3))
    lost = (active, passive, "witness") if witness_too else (active, passive)
    cut = ground.cut_power_together(*lost)
    assert len(load.acknowledged()) >= 200
    ground.lab.power_on(passive)
    if witness_too:
        force_failover(ground, passive)
    wait(lambda: ground.roles().get(passive) == "active", 60, f"promotion of {passive}")
    load.wait_for(1, after=cut + 1)
    return passive


def force_failover(ground: Ground, server: str) -> None:
    """As a person does, who repeats it while the server is still starting."""
    said: list[str] = []

    def forced() -> bool:
        done = ground.everup(server, "failover", "--force")
        said.append(done.output + done.errors)
        return done.exit_code == 0

    wait(forced, 90, "forced failover", lambda: said[-1])


@pytest.mark.parametrize("witness_too", [False, True], ids=["witness-up", "forced"])
def test_both_lose_power_and_only_the_passive_returns_with_every_acknowledged_row(
    ground: Ground, witness_too: bool
) -> None:
    """With the witness it takes over by itself; without anybody else, by `failover --force`."""
    with ground.load() as load:
        server = both_lose_power(ground, load, witness_too=witness_too)
        assert load.missing(server) == set()


RECEIVE_LOG = "everup/replicate/receivelog.py"
SYNCED = "        self._file.sync()\n        self._note_durable()\n        return self.end\n"
UNSYNCED = "        self._note_durable()\n        return self.end\n"


@pytest.fixture
def passive_without_fdatasync(ground: Ground) -> Iterator[Ground]:
    """The installed replicator of the passive acknowledges what is not on its disk."""
    server = ground.server(ground.passive)
    find = ["find", "/opt/everup/lib", "-path", f"*/{RECEIVE_LOG}"]
    path = server.run(find).output.strip()
    text = server.run(["cat", path]).output
    assert text.count(SYNCED) == 1, "the mutant fits the code"

    def install(changed: str) -> None:
        server.run(["tee", path], stdin=changed)
        server.disk.sync()
        server.run(["systemctl", "restart", "everup-replicator"])

    install(text.replace(SYNCED, UNSYNCED))
    try:
        ground.wait_whole()
        yield ground
    finally:
        if not server.powered:
            ground.lab.power_on(server.name)
        install(text)


def test_without_the_passives_fdatasync_the_same_power_cut_loses_rows(
    passive_without_fdatasync: Ground,
) -> None:
    """Shows that the test above can fail: the lab's disks forget, and the audit sees it."""
    ground = passive_without_fdatasync
    with ground.load() as load:
        server = both_lose_power(ground, load, witness_too=False)
        assert load.missing(server)
