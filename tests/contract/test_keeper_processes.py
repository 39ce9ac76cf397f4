"""Real keepers, real kernel: who answers for the public address, as a third machine sees it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from keepergroup import PUBLIC4, PUBLIC6, Group, run

from everup.places import KEEPER_PORT

pytestmark = pytest.mark.netns

ADDRESS4, ADDRESS6 = (text.partition("/")[0] for text in (PUBLIC4, PUBLIC6))
BOTH = [PUBLIC4, PUBLIC6]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path, f"kpr{os.getpid() % 10000}")
    try:
        made.build()
        yield made
    finally:
        made.destroy()


def up(group: Group, name: str) -> None:
    answer = group.call(name, "public", addresses=BOTH, interface="eth0", up=True)
    assert "error" not in answer, answer


def frames(process: "subprocess.Popen[str]") -> list[tuple[float, str]]:
    """(time, hardware address) of everybody who claimed the address."""
    out, _ = process.communicate(timeout=30)
    return [(float(line.split()[0]), line.split()[1]) for line in out.splitlines()]


def test_the_address_follows_the_lease(group: Group) -> None:
    group.form()
    assert group.ask(ADDRESS4) == ""
    up(group, "a")
    assert group.ask(ADDRESS4) == "icmp tcp"
    assert group.ask(ADDRESS6) == "icmp tcp"
    began = time.monotonic()
    group.cut("a")
    answer = group.call("b", "stand", deadline_ms=4000)
    assert answer["granted"], answer
    assert time.monotonic() - began < 1.6, "one lease and what a busy machine needs"
    up(group, "b")
    assert group.ask(ADDRESS4) == "icmp tcp"
    assert group.ask(ADDRESS6) == "icmp tcp"
    watchers = [group.watch(address, 3) for address in (ADDRESS4, ADDRESS6)]
    group.heal("a")
    for address in (ADDRESS4, ADDRESS6):
        assert group.ask(address) == "icmp tcp"
    old = group.hardware("a")
    for watcher in watchers:
        seen = {hardware for _, hardware in frames(watcher)}
        assert seen == {group.hardware("b")}, f"a is {old}"
    status = group.status("a")
    assert (status["holder"], status["lease"]["held"]) == ("b", False)


def test_a_stopped_keeper_leaves_the_address_mute_within_a_lease(group: Group) -> None:
    group.form()
    up(group, "a")
    assert group.ask(ADDRESS6) == "icmp tcp"
    watchers = [group.watch(address, 3.5) for address in (ADDRESS4, ADDRESS6)]
    stopped = time.monotonic()
    group.kill("a", signal.SIGSTOP)
    while time.monotonic() - stopped < 2.5:
        for address in (ADDRESS4, ADDRESS6):
            group.ask(address)
    last_words = [max(at for at, _ in frames(watcher)) - stopped for watcher in watchers]
    assert all(0 < last <= 1.0 for last in last_words), last_words
    assert ADDRESS4 in run(*group.inside("a", "ip", "address")), "present, and mute all the same"
    deadline = time.monotonic() + 8
    while ADDRESS4 in run(*group.inside("a", "ip", "address")):
        assert time.monotonic() < deadline, "the lifetime has to end it too"
        time.sleep(0.2)
    group.kill("a", signal.SIGCONT)
    status = group.until("a", lambda s: not s["lease"]["held"])
    assert status["address"]["present"] == []


def test_a_static_address_is_mute_until_it_is_leased(group: Group) -> None:
    """Whoever configures it: here the operating system has, on both servers."""
    group.form()
    up(group, "a")
    watchers = [group.watch(address, 3) for address in (ADDRESS4, ADDRESS6)]
    for text in BOTH:
        run(*group.inside("b", "ip", "address", "add", text, "dev", "eth0"))
    time.sleep(1.2)
    listing = run(*group.inside("b", "ip", "address", "show", "dev", "eth0"))
    assert ADDRESS4 in listing and ADDRESS6 in listing
    assert "dadfailed" not in listing, "a mute server must not lose it to the other one"
    for address in (ADDRESS4, ADDRESS6):
        assert group.ask(address) == "icmp tcp"
    run(*group.inside("client", "arping", "-c", "2", "-I", "eth0", ADDRESS4))
    for watcher in watchers:
        assert {hardware for _, hardware in frames(watcher)} == {group.hardware("a")}
    group.kill("a")
    group.cut("a")
    assert group.ask(ADDRESS4) == "", "the static address of b answers nobody"
    assert group.call("b", "stand", deadline_ms=4000)["granted"]
    up(group, "b")
    assert group.ask(ADDRESS4) == "icmp tcp"
    assert group.ask(ADDRESS6) == "icmp tcp"


def test_not_even_a_packet_socket_speaks_without_a_lease(group: Group) -> None:
    group.form()
    up(group, "a")
    speak = (
        "from ipaddress import ip_address; from everup.network.announce import ArpSpeaker\n"
        f"ArpSpeaker(ip_address('{ADDRESS4}'), 'eth0').announce()"
    )
    words = group.inside("a", sys.executable, "-c", speak)
    watcher = group.watch(ADDRESS4, 1.5)
    run(*words)
    assert frames(watcher), "with the lease it is heard"
    group.call("a", "release")
    watcher = group.watch(ADDRESS4, 1.5)
    run(*words, check=False)
    assert frames(watcher) == []


def test_flushed_rules_come_back(group: Group) -> None:
    group.form()
    up(group, "a")
    run(*group.inside("b", "ip", "address", "add", PUBLIC4, "dev", "eth0"))
    for name in ("a", "b"):
        run(*group.inside(name, "nft", "flush", "ruleset"))
    time.sleep(1.5)
    for name in ("a", "b"):
        assert "leased4" in run(*group.inside(name, "nft", "list", "ruleset"))
    assert group.ask(ADDRESS4) == "icmp tcp"
    assert group.status("a")["lease"]["held"]


def test_a_killed_keeper_is_back_before_anybody_notices(group: Group) -> None:
    """Rounds in which this machine was too busy to start a process in time do not count."""
    group.form()
    up(group, "a")
    good = 0
    for _ in range(12):
        epoch = group.status("a")["lease"]["epoch"]
        group.kill("a")
        began = time.monotonic()
        group.start("a")
        took = time.monotonic() - began
        if took > 0.5:
            assert group.call("a", "stand", deadline_ms=4000)["granted"]
            up(group, "a")
            continue
        lease = group.status("a")["lease"]
        assert (lease["held"], lease["epoch"]) == (True, epoch), f"back after {took:.3f} s"
        assert group.ask(ADDRESS4) == "icmp tcp"
        good += 1
        if good == 3:
            return
    raise AssertionError(f"only {good} restarts were quick enough to tell")


def test_release_hands_over_at_once(group: Group) -> None:
    group.form()
    up(group, "a")
    assert group.call("a", "release")["released"] is True
    assert group.ask(ADDRESS4) == ""
    began = time.monotonic()
    assert group.call("b", "stand", deadline_ms=3000)["granted"]
    assert time.monotonic() - began < 0.5
    answer = group.call("a", "public", addresses=BOTH, interface="eth0", up=True)
    assert answer["error"]["code"] == "not-the-holder"


def test_a_used_address_is_not_taken(group: Group) -> None:
    group.form()
    run(*group.inside("client", "ip", "address", "add", PUBLIC4, "dev", "eth0"))
    answer = group.call("a", "public", addresses=[PUBLIC4], interface="eth0", up=True)
    assert answer["error"]["code"] == "address-in-use"
    assert group.hardware("client") in answer["error"]["sentence"]
    assert ADDRESS4 not in run(*group.inside("a", "ip", "address"))
    run(*group.inside("client", "ip", "address", "delete", PUBLIC4, "dev", "eth0"))
    run(*group.inside("client", "ip", "address", "add", PUBLIC6, "dev", "eth0", "nodad"))
    answer = group.call("a", "public", addresses=[PUBLIC6], interface="eth0", up=True)
    assert answer["error"]["code"] == "address-in-use"
    answer = group.call("a", "public", addresses=[PUBLIC4], interface="eth7", up=True)
    assert answer["error"]["code"] == "no-interface"


def test_foreign_and_broken_datagrams_are_refused(group: Group) -> None:
    group.form()
    before = group.status("a")["datagrams"]["refused"]
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for data in (b'', b'EVK1' + bytes(200), bytes(9000)):\n"
        f"    s.sendto(data, ('192.0.2.11', {KEEPER_PORT}))"
    )
    run(*group.inside("client", sys.executable, "-c", script))
    status = group.until("a", lambda s: s["datagrams"]["refused"] >= before + 3)
    assert status["lease"]["held"]


def test_a_second_loss_after_shrinking_does_not_stop_the_active(group: Group) -> None:
    group.form()
    group.cut("b")
    group.until("a", lambda s: not s["peers"][0]["reachable"])
    answer = group.call("a", "propose", record={"voters": ["a"], "may_take_over": ["a"]})
    assert answer["committed"] is True
    group.cut("witness")
    time.sleep(2)
    status = group.status("a")
    assert status["lease"]["held"]
    assert status["record"]["voters"] == ["a"]
    group.heal("witness")
    group.heal("b")
    group.until("b", lambda s: s["record"]["voters"] == ["a"])
    assert group.call("b", "stand", deadline_ms=2000)["reason"] == "not-a-voter"


def test_events_reach_a_subscriber(group: Group) -> None:
    group.form()
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(group.places("b").keeper_socket))
    connection.sendall(b'{"verb":"subscribe"}\n')
    group.status("b")
    group.cut("a")
    text = b""
    while b"lease-free" not in text:
        text += connection.recv(4096)
    assert b'"event": "peer-silent"' in text or b'"event":"peer-silent"' in text
    connection.close()
