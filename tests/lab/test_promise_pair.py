"""Two servers without an arbiter: roles are swapped on request, and nobody takes over alone."""

import os
from collections.abc import Iterator

import pytest
from tests.lab.ground import EVERUP, PROJECT, Json, wait

from everup.errors import EXIT_REFUSED, EverupError
from everup.lab import Lab
from everup.lab.group import Group
from everup.lab.stage import Stage
from everup.lab.wheels import find_wheels

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600)]

SERVERS = ("primary", "secondary")
PATH = "/srv/data"


@pytest.fixture(scope="module")
def pair() -> Iterator[Group]:
    """A protected, synchronized pair; nothing writes."""
    lab = Lab(f"pair{os.getpid()}")
    lab.down()
    try:
        stage = Stage(lab)
        stage.build(find_wheels(PROJECT), servers=SERVERS)
        stage.form()
        for verb in ("verify", "sync", "switchover", "failover"):
            done = lab.server("primary").run([EVERUP, "--json", verb], check=False)
            assert done.exit_code == EXIT_REFUSED and "nothing-protected" in done.output, done
        lab.server("primary").run(["mkdir", "-p", PATH])
        stage.group.everup("primary", "protect", PATH, "--mode", "durable", timeout_s=120)
        stage.group.wait("primary", "synchronized", 60)
        yield stage.group
    finally:
        lab.down()


def whole(group: Group, server: str) -> Json:
    """Wait until `server` is active and the other one holds everything."""
    told: Json = {}

    def ready() -> bool:
        try:
            told.update(group.status(server))
        except EverupError:
            return False
        return told["arbiter"]["holder"] == server and told["state"] == "synchronized"

    wait(ready, 60, f"synchronized pair with {server} active", lambda: str(told))
    return told


def test_an_idle_pair_swaps_roles_there_and_back(pair: Group) -> None:
    for number, (active, passive) in enumerate((SERVERS, SERVERS[::-1])):
        whole(pair, active)
        job = pair.everup(active, "switchover")["job"]
        assert (job["state"], job["result"]["to"]) == ("done", passive)
        told = whole(pair, passive)
        assert told["arbiter"]["voters"] == [passive], "the other one may fail at any time"
        assert not told["arbiter"]["automatic_failover"]
        assert "arbiter" in told["arbiter"]["risk"]
        pair.lab.server(passive).run(["touch", f"{PATH}/{number}"])
    found = pair.lab.server("primary").run(["ls", PATH]).output.split()
    assert found == ["0", "1"]


def test_protecting_the_same_again_changes_nothing(pair: Group) -> None:
    before = whole(pair, "primary")
    job = pair.everup("primary", "protect", PATH)["job"]
    assert job["sentence"] == "protected already; nothing was changed"
    after = pair.status("primary")
    for key in ("epoch", "mode", "units", "protected", "state"):
        assert after[key] == before[key], key


def test_the_tree_of_states_and_the_last_proof(pair: Group) -> None:
    """A verification of everything is in `status`, and each entry has its counts."""
    whole(pair, "primary")
    active = pair.lab.server("primary")
    active.run(["mkdir", "-p", f"{PATH}/orders"])
    active.run(["touch", f"{PATH}/orders/one", f"{PATH}/orders/two"])
    done = active.run([EVERUP, "--json", "verify", f"{PATH}/nothing"], check=False)
    assert done.exit_code == EXIT_REFUSED and '"path-missing"' in done.output, done.output
    pair.everup("primary", "verify")
    for server in SERVERS:
        (tree,) = pair.everup(server, "verify", "--tree", f"{PATH}/orders")["trees"]
        assert (tree["path"], tree["objects"]) == (f"{PATH}/orders", 3)
        all_three = {"synchronized": 3, "out_of_sync": 0, "unchecked": 0}
        assert tree["servers"] == {"secondary": all_three}
        assert [entry["path"] for entry in tree["entries"]] == [
            f"{PATH}/orders/one",
            f"{PATH}/orders/two",
        ]

    def proven() -> Json:
        servers = {each["name"]: each for each in pair.status("primary")["servers"]}
        return servers["secondary"]["proven"] or {}

    position = pair.status("primary")["servers"][0]["position"]
    wait(lambda: proven().get("sequence") == position["sequence"], 30, "the proof in status")
    assert proven()["epoch"] == position["epoch"] and proven()["at"]


def test_what_differs_on_the_passive_is_found_named_and_repaired(pair: Group) -> None:
    """`everup verify` and `everup sync`, asked on the passive server too; `everup queue` beside."""
    whole(pair, "primary")
    active, passive = (pair.lab.server(name) for name in SERVERS)
    active.run(["dd", "if=/dev/urandom", f"of={PATH}/big", "bs=64k", "count=8", "conv=fsync"])
    job = pair.everup("secondary", "verify")["job"]
    assert job["result"]["servers"]["secondary"]["trees"]["1"]["out_of_sync"] == 0
    lower = passive.disk.real(PATH) / "big"
    before = lower.stat()
    with lower.open("r+b") as file:
        file.seek(100_000)
        file.write(b"rotten")
    os.utime(lower, ns=(before.st_atime_ns, before.st_mtime_ns))
    passive.run(["sysctl", "-w", "vm.drop_caches=3"], check=False)
    done = active.run([EVERUP, "--json", "verify"], check=False)
    assert done.exit_code == EXIT_REFUSED and '"different"' in done.output, done.output
    assert f"{PATH}/big on secondary" in done.output
    job = pair.everup("primary", "sync")["job"]
    assert "proven equal" in job["sentence"]
    assert lower.read_bytes() == (active.disk.real(PATH) / "big").read_bytes()
    queues = {each["server"]: each for each in pair.everup("primary", "queue")["servers"]}
    assert queues["primary"]["send"][0]["in_sync"]
    assert queues["secondary"]["proven"]["objects"] >= 1
    # This server was active before: what a repair overwrites on it is kept, and may be taken away.
    for bundle in pair.everup("primary", "divergence", "list")["bundles"]:
        name, server = bundle["id"], bundle["server"]
        kept = pair.everup("primary", "divergence", "show", name)["bundle"]["objects_kept"]
        sides = [each["before"] or each["after"] for each in kept]
        assert sides and all(each["path"].startswith(PATH) for each in sides)
        pair.everup(server, "divergence", "export", name, f"/root/{name}.tar")
        listed = pair.lab.server(server).run(["tar", "tf", f"/root/{name}.tar"]).output
        assert f"{name}/list.txt" in listed
        pair.everup("primary", "divergence", "delete", name)
    assert pair.everup("primary", "divergence", "list")["bundles"] == []


def test_a_passive_server_alone_waits_for_a_person(pair: Group) -> None:
    whole(pair, "primary")
    server = pair.lab.server("secondary")
    pair.lab.server("primary").power_cut()
    wait(
        lambda: any(w["id"] == "server-unreachable" for w in pair.status("secondary")["warnings"]),
        20,
        "word of the silence",
    )
    told = pair.status("secondary")
    assert (told["state"], told["arbiter"]["holder"]) == ("no-active", None)
    assert "not heard: primary" in told["sentence"]
    done = server.run([EVERUP, "--json", "failover"], check=False)
    assert done.exit_code == EXIT_REFUSED, done.output
    assert "--force" in done.output and "primary" in done.output
    pair.everup("secondary", "failover", "--force", timeout_s=60)
    wait(lambda: pair.status("secondary")["arbiter"]["holder"] == "secondary", 20, "a new active")
    pair.lab.power_on("primary")
    assert whole(pair, "secondary")["arbiter"]["voters"] == ["secondary"]
