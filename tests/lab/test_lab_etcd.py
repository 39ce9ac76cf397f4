"""The lab's etcd cluster: real members with TLS and users, which outlives the loss of one."""

import os
import time
from collections.abc import Iterator

import pytest

from everup.lab import Lab
from everup.lab.etcd import DIRECTORY, MEMBERS, USER, Cluster, etcdctl
from everup.lab.server import Outcome

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"etcd{os.getpid()}")
    lab.down()
    lab.up(["primary", *MEMBERS])
    Cluster(lab).build()
    yield lab
    lab.down()


def as_user(lab: Lab, *words: str) -> Outcome:
    """etcdctl on the primary, with the password of Everup's user."""
    password = lab.server("primary").run(["cat", f"{DIRECTORY}/password"]).output.strip()
    command = etcdctl(f"--user={USER}:{password}", *words)
    return lab.server("primary").run(command, check=False)


def test_it_answers_a_client_with_a_certificate_and_a_password_and_nobody_else(lab: Lab) -> None:
    assert as_user(lab, "put", "/everup/lab/holder", "primary").exit_code == 0
    got = as_user(lab, "get", "/everup/lab/holder", "--print-value-only")
    assert got.output == "primary\n"
    elsewhere = as_user(lab, "put", "/other", "x")
    assert "permission denied" in elsewhere.errors, elsewhere
    nobody = lab.server("primary").run(etcdctl("get", "/everup/lab/holder"), check=False)
    assert nobody.exit_code != 0
    words = [word for word in etcdctl("get", "/everup/x") if not word.startswith("--cert=")]
    naked = lab.server("primary").run([w for w in words if not w.startswith("--key=")], check=False)
    assert naked.exit_code != 0


def test_it_survives_the_power_cut_of_any_member_and_takes_it_back(lab: Lab) -> None:
    for number, member in enumerate(MEMBERS):
        lab.power_cut(member)
        put = as_user_soon(lab, "put", "/everup/lab/turn", str(number))
        assert put.exit_code == 0, put
        got = as_user_soon(lab, "get", "/everup/lab/turn", "--print-value-only")
        assert got.output == f"{number}\n"
        lab.power_on(member)
        until_member_serves(lab, member)


def test_with_two_members_gone_nothing_is_written(lab: Lab) -> None:
    assert as_user_soon(lab, "put", "/everup/lab/turn", "before").exit_code == 0
    lab.power_cut(*MEMBERS[:2])
    assert as_user(lab, "put", "/everup/lab/turn", "after").exit_code != 0
    for member in MEMBERS[:2]:
        lab.power_on(member, wait=False)
    for member in MEMBERS[:2]:
        lab.server(member).wait_until_up()
        until_member_serves(lab, member)


def as_user_soon(lab: Lab, *words: str, deadline_s: float = 20.0) -> Outcome:
    """The first success; members elect a leader in a second or two."""
    end = time.monotonic() + deadline_s
    while True:
        done = as_user(lab, *words)
        if done.exit_code == 0 or time.monotonic() > end:
            return done


def until_member_serves(lab: Lab, member: str, deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    words = ["systemctl", "is-active", "lab-etcd"]
    while lab.server(member).run(words, check=False).output.strip() != "active":
        assert time.monotonic() < end, f"etcd on {member} does not serve"
        time.sleep(0.1)
