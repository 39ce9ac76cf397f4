"""The demo's arithmetic, and the names that the lab derives."""

import json
from pathlib import Path

import pytest

from everup.cli.lab_command import parse_delay, parse_rate
from everup.errors import BadInput
from everup.lab.demo.measure import (
    first_answer_of,
    longest_gap_ms,
    parse_acknowledged,
    parse_answers,
    read_acknowledged,
)
from everup.lab.demo.report import Report, Round, broken_promises
from everup.lab.demo.watch import degraded
from everup.lab.layout import (
    NETWORKS,
    SERVERS,
    Link,
    check_lab_name,
    machine_id,
    server_plan,
)
from everup.lab.root import addresses_batch, hosts_file
from everup.lab.wheels import Wheels

GOOD = Round(
    mode="durable",
    acknowledged=3000,
    acknowledged_before_cut=2500,
    lost=0,
    outage_ms=4000,
    promotion_ms=1500,
    switchover_ms=2000,
    mail_ms=2000,
    resync_bytes=100,
    changed_bytes=100,
    identical=True,
    amcheck=True,
    epoch_before=1,
    epoch_after=4,
)


def test_a_good_round_breaks_no_promise() -> None:
    assert broken_promises(1, GOOD) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"lost": 1}, "missing"),
        ({"lost": -1}, "missing"),
        ({"degraded_ms": 1}, "degraded"),
        ({"mode": "async"}, "durable"),
        ({"identical": False}, "identical"),
        ({"amcheck": False}, "amcheck"),
        ({"acknowledged_before_cut": 1999}, "1999"),
        ({"promotion_ms": -1}, "public address"),
        ({"outage_ms": -1}, "after the cut"),
        ({"switchover_ms": -1}, "switchover"),
        ({"mail_ms": -1}, "mail"),
        ({"mail_ms": 5001}, "mail"),
        ({"resync_bytes": 151 + (64 << 20)}, "resync"),
        ({"epoch_after": 1}, "epoch"),
    ],
)
def test_each_broken_promise_is_told(change: dict[str, object], word: str) -> None:
    broken = broken_promises(3, Round(**{**vars(GOOD), **change}))
    assert len(broken) == 1 and word in broken[0] and broken[0].startswith("Round 3:")


def test_the_report_has_the_fields_that_outside_checks_read(tmp_path: Path) -> None:
    report = Report(rounds=[GOOD, Round(**{**vars(GOOD), "promotion_ms": 1700})])
    report.save(tmp_path / "build/demo.json")
    value = json.loads((tmp_path / "build/demo.json").read_text())
    assert value["ok"] is True
    assert value["medians"]["promotion_ms"] == 1600
    fields = (
        "mode degraded_ms acknowledged lost outage_ms promotion_ms switchover_ms mail_ms"
        " resync_bytes changed_bytes tree_bytes compared identical amcheck epoch_before epoch_after"
    )
    assert set(fields.split()) <= set(value["rounds"][0])
    assert set(value["rounds"][0]["compared"]) == {"entries", "bytes"}
    assert not Report(findings=["x"], rounds=[GOOD]).ok
    assert not Report().ok


def test_logs_are_read_up_to_the_last_whole_line(tmp_path: Path) -> None:
    answers = parse_answers("1.5 1.4 primary\n2.5 2.4 secondary\n3.5 3.")
    assert [each.server for each in answers] == ["primary", "secondary"]
    assert first_answer_of(answers, "secondary", 2.4) is None
    assert first_answer_of(answers, "secondary", 2.3) == answers[1]
    assert parse_acknowledged("7 1.25\n8 1.5", 3)[0].key == (3, 7)
    (tmp_path / "worker-0.log").write_text("1 10.0\n2 12.0\n")
    (tmp_path / "worker-1.log").write_text("1 11.0\n2 13.0\n")
    everything = read_acknowledged(tmp_path)
    assert [each.key for each in everything] == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert [each.key for each in read_acknowledged(tmp_path, 10)] == [(0, 2), (1, 2)]


def test_the_longest_gap_counts_the_neighbours_outside() -> None:
    moments = [1.0, 2.0, 2.1, 5.0, 5.1, 9.0]
    assert longest_gap_ms(moments, 2.05, 5.05) == pytest.approx(2900)
    assert longest_gap_ms(moments, 5.05, 5.5) == pytest.approx(3900)
    assert longest_gap_ms([], 1.0, 3.0) == pytest.approx(2000)


def test_durable_means_that_every_server_is_waited_for() -> None:
    def status(mode: str, *listed: str) -> dict[str, object]:
        return {"mode": mode, "arbiter": {"may_take_over": list(listed)}}

    both = {"primary", "secondary"}
    assert not degraded(status("durable", "primary", "secondary"), both)
    assert degraded(status("durable", "primary"), both)
    assert degraded(status("async", "primary", "secondary"), both)


def test_every_name_and_number_of_the_lab_is_its_own() -> None:
    addresses = [plan.address(net) for plan in SERVERS.values() for net in plan.hosts]
    cables = [plan.cable(net) for plan in SERVERS.values() for net in plan.hosts]
    cards = [plan.hardware_address(net) for plan in SERVERS.values() for net in plan.hosts]
    for names in (addresses, cables, cards):
        assert len(set(names)) == len(names)
    assert all(len(f"r.{cable}") <= 15 for cable in cables)
    assert not {net.lab_address for net in NETWORKS.values()} & set(addresses)
    assert machine_id("a", "primary") != machine_id("b", "primary")
    assert "10.0.0.1/24 dev eth1" in addresses_batch(server_plan("primary"))
    assert "198.51.100.11 primary primary.management" in hosts_file()


@pytest.mark.parametrize(
    "text", ["", "nowhere", "primary:", ":public", "witness:public", "x:public"]
)
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        Link.parse(text)


def test_a_link_names_one_cable_or_all_of_a_network() -> None:
    servers = ["primary", "secondary", "witness"]
    one = Link.parse("primary:channel").cables(servers)
    assert [(plan.name, net) for plan, net in one] == [("primary", "channel")]
    assert len(Link.parse("channel").cables(servers)) == 2
    assert len(Link.parse("management").cables(servers)) == 3


def test_rates_delays_and_names() -> None:
    assert parse_rate("10mbit") == 10_000_000
    assert parse_rate("1.5 kbit") == 1500
    assert (parse_rate(""), parse_delay("")) == (0, 0.0)
    assert (parse_delay("50ms"), parse_delay("1s")) == (50.0, 1000.0)
    for bad in ("fast", "10", "10mb"):
        with pytest.raises(BadInput):
            parse_rate(bad)
    for bad_name in ("", "A", "../x", "a" * 21, "-a"):
        with pytest.raises(BadInput):
            check_lab_name(bad_name)


def test_a_change_of_the_wheel_or_of_a_dependency_makes_another_layer(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    wheel = tmp_path / "everup-1-py3-none-any.whl"
    wheel.write_bytes(b"one")
    wheels = Wheels(wheel, tmp_path / "house")
    before = wheels.wheel_digest, wheels.dependencies_digest
    wheel.write_bytes(b"two")
    (tmp_path / "house/other-1.whl").touch()
    assert wheels.wheel_digest != before[0]
    assert wheels.dependencies_digest != before[1]
