"""The command line against an agent's API: answers, errors, exit codes, deadlines."""

import asyncio
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from everup.agent.membership.foundation import Founding, found
from everup.agent.membership.membership import Membership
from everup.api.memory import MemoryAgent
from everup.api.server import ApiServer
from everup.cli.output import amount_text, bytes_text, duration_text
from everup.places import Places
from everup.wire.local import LocalServer


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Served:
    """An agent in memory behind the real API, on a socket of its own."""

    def __init__(self, root: Path, agent: MemoryAgent) -> None:
        self.root = root
        self.agent = agent
        self.places = Places.below(root)

    async def run(self, *arguments: str, stdin: str = "") -> Result:
        environment = {**os.environ, "EVERUP_ROOT": str(self.root), "NO_COLOR": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "everup.cli.main",
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 30)
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path, MemoryAgent())
    # An address of its own, so that several runs on one machine do not meet on the fixed port.
    address = f"127.99.{os.getpid() % 250}.{1 + time.monotonic_ns() // 1000 % 250}"
    found(served.places, Founding("shop", "primary", (), address, ()))
    membership = Membership(served.places, lambda: served.agent.active)
    server = ApiServer(served.agent, membership, peer_host=address)
    await server.start()
    yield served
    await server.stop()
    await membership.close()


async def test_cli_status_for_people_and_programs(served: Served) -> None:
    people = await served.run("status")
    assert people.code == 0
    assert "primary is active" in people.out
    assert "192.0.2.10/24 at primary" in people.out
    for arguments in (("--json", "status"), ("status", "--json")):
        programs = await served.run(*arguments)
        assert programs.code == 0
        assert [s["role"] for s in programs.json["servers"]] == ["active", "passive"]


def on_terminal(served: Served, width: int) -> str:
    """`everup status` on a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {**os.environ, "EVERUP_ROOT": str(served.root), "NO_COLOR": "1", "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-m", "everup.cli.main", "status"]
    subprocess.run(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, timeout=30, check=True
    )
    os.close(slave)
    text = os.read(master, 65536).decode()
    os.close(master)
    return re.sub(r"\x1b\[[0-9;]*m|\r", "", text)


@pytest.mark.parametrize("width", [60, 80, 200])
async def test_cli_status_fits_its_terminal_and_cuts_no_word(served: Served, width: int) -> None:
    served.agent.reachable["secondary"] = False
    served.agent.sequence = 123_456_789_012
    text = await asyncio.to_thread(on_terminal, served, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    row = next(line for line in lines if "secondary" in line and "○" in line)
    assert "not reachable" in row and "synchronized" in row
    assert ("version" in text) == (width == 200)


async def test_cli_status_into_a_pipe_is_never_folded(served: Served) -> None:
    served.agent.warnings.append({"id": "w", "sentence": "word " * 60, "remedy": ""})
    assert any(len(line) > 200 for line in (await served.run("status")).out.splitlines())


async def test_cli_status_shows_warnings_with_their_remedy(served: Served) -> None:
    served.agent.warnings.append(
        {"id": "w", "sentence": "The disk of secondary is full.", "remedy": "Make [room]."}
    )
    result = await served.run("status")
    assert "The disk of secondary is full." in result.out
    assert "Make [room]." in result.out


async def test_cli_status_waits_until_synchronized(served: Served) -> None:
    served.agent.sync["secondary"] = "syncing"
    wrong = await served.run("status", "--wait", "synchronised", "--deadline", "60")
    assert wrong.code == 2 and "is no state" in wrong.err
    late = await served.run("status", "--wait", "synchronized", "--deadline", "1")
    assert late.code == 3
    assert "not synchronized after 1 s" in late.err
    waiting = asyncio.create_task(served.run("status", "--wait", "synchronized", "--json"))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    served.agent.sync["secondary"] = "synchronized"
    assert (await waiting).json["servers"][1]["sync"] == "synchronized"


async def test_cli_status_shows_how_far_a_copy_is(served: Served) -> None:
    served.agent.sync["secondary"] = "syncing"
    served.agent.copying = {
        "state": "copying",
        "done_bytes": 1 << 30,
        "total_bytes": 4 << 30,
        "rate_bytes_per_s": 100 << 20,
        "left_ms": 31_000,
        "sentence": "secondary: comparing and copying, 25 %",
    }
    shown = (await served.run("status")).out
    assert "1.0 GiB of 4.0 GiB, 100.0 MiB/s, 31 s left" in shown
    waiting = await served.run("status", "--wait", "synchronized", "--deadline", "1")
    assert "secondary: comparing and copying, 25 %" in waiting.err


async def test_cli_switchover_follows_the_job(served: Served) -> None:
    result = await served.run("switchover")
    assert (result.code, result.out) == (0, "secondary is active\n")
    assert served.agent.active == "secondary"
    back = await served.run("--json", "switchover", "--to", "primary")
    assert back.json["job"]["state"] == "done"
    assert served.agent.active == "primary"


async def test_cli_switchover_that_only_asks_changes_nothing(served: Served) -> None:
    result = await served.run("switchover", "--dry-run")
    assert result.code == 0
    assert served.agent.active == "primary"


async def test_cli_switchover_is_followed_over_a_restart_of_the_agent(served: Served) -> None:
    """The new agent does not know the job: the roles say how it ended."""
    served.agent._step_s = 0.3
    asked = asyncio.create_task(served.run("--json", "switchover"))
    while not served.agent.calls:
        await asyncio.sleep(0.05)
    served.agent._jobs.clear()
    result = await asked
    assert (result.code, result.json["job"]["sentence"]) == (0, "secondary is active")
    served.agent._step_s = 30
    asked = asyncio.create_task(served.run("--json", "switchover"))
    while len(served.agent.calls) < 2:
        await asyncio.sleep(0.05)
    served.agent._jobs.clear()
    result = await asked
    assert (result.code, result.json["error"]["code"]) == (1, "not-switched")
    assert "secondary is active" in result.json["error"]["sentence"]


async def test_cli_a_job_without_a_judge_that_was_lost_says_so(served: Served) -> None:
    served.agent._step_s = 30
    asked = asyncio.create_task(served.run("--json", "protect", "/srv/a"))
    while not served.agent.calls:
        await asyncio.sleep(0.05)
    served.agent._jobs.clear()
    error = (await asked).json["error"]
    assert error["code"] == "unknown-job" and "started anew" in error["sentence"]
    assert error["remedy"]


async def test_cli_no_wait_leaves_the_job_running(served: Served) -> None:
    served.agent._step_s = 30
    result = await served.run("--json", "switchover", "--no-wait")
    assert result.json["job"]["state"] == "running"
    late = await served.run("switchover", "--deadline", "1")
    assert late.code == 3
    assert "goes on by itself" in late.err


async def test_cli_refusals_have_a_reason_a_remedy_and_code_1(served: Served) -> None:
    served.agent.sync["secondary"] = "syncing"
    people = await served.run("switchover")
    assert people.code == 1
    assert "cannot become active now" in people.err
    assert "what to do: wait until it is synchronized" in people.err
    programs = await served.run("--json", "switchover")
    assert programs.code == 1
    assert programs.json["error"]["code"] == "not-in-sync"
    assert programs.err == ""


async def test_cli_protect_sends_absolute_paths_and_whole_unit_names(served: Served) -> None:
    command = ("protect", "/srv/a", "b", "--unit", "postgresql@15-main", "--unit", "x.socket")
    result = await served.run(*command, "--mode", "durable")
    assert result.code == 0, result.err
    paths = ["/srv/a", str(Path.cwd() / "b")]
    units = ["postgresql@15-main.service", "x.socket"]
    assert served.agent.calls == [("protect", paths, units, "durable")]
    assert (await served.run("protect", "/")).code == 1
    assert (await served.run("unprotect", "/srv/a")).code == 0


async def test_cli_events_newest_and_after(served: Served) -> None:
    for number in range(5):
        served.agent.tell("test", "warning", f"event {number}")
    newest = await served.run("events", "--last", "2", "--json")
    assert [e["sentence"] for e in newest.json["events"]] == ["event 3", "event 4"]
    after = await served.run("events", "--after", "2", "--json")
    assert [e["id"] for e in after.json["events"]] == [3, 4, 5, 6]
    assert "! event 4" in (await served.run("events")).out
    assert (await served.run("events", "--here", "--last", "1", "--json")).json == {
        "events": newest.json["events"][1:]
    }


async def test_cli_events_name_the_server_that_does_not_answer(served: Served) -> None:
    served.agent.reachable["secondary"] = False
    people = await served.run("events")
    assert people.code == 0
    assert "secondary does not answer" in people.err
    assert (await served.run("--json", "events")).json["unreachable"] == ["secondary"]


async def test_cli_tokens(served: Served) -> None:
    assert (await served.run("token", "server")).out.startswith("everup1-")
    assert "/login/" in (await served.run("--json", "token", "page")).json["link"]
    assert (await served.run("token", "gate")).code == 2


async def test_cli_config_is_shown_changed_and_checked(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    text = (await served.run("config", "show")).out
    assert "version = 1" in text
    file.write_text(text.replace("lease_ms = 1000", "lease_ms = 2000"))
    assert (await served.run("config", "check", str(file))).code == 0
    applied = await served.run("config", "apply", str(file))
    assert (applied.code, applied.out) == (
        0,
        "The group has the settings of version 2 now.\n",
    )
    assert "lease_ms = 2000" in (await served.run("config", "show")).out
    again = await served.run("--json", "config", "apply", str(file))
    assert (again.code, again.json["error"]["code"]) == (1, "settings-older")


async def test_cli_config_of_a_file_that_is_not_there_is_refused(served: Served) -> None:
    for verb in ("check", "apply"):
        result = await served.run("config", verb, "/nope")
        assert result.code == 1
        assert result.err.startswith("everup: /nope cannot be read: No such file or directory\n")
        assert "what to do" in result.err


async def test_cli_config_five_mistakes(served: Served, tmp_path: Path) -> None:
    text = (await served.run("config", "show")).out
    bad = tmp_path / "bad.toml"
    bad.write_text(
        'mood = 1\nversion = "1"\ngroup = "shop"\nmode = "quick"\nmax_loss_bytes = 1.5\n'
        "[timing]\nlease_ms = 300\n"
    )
    for verb in ("check", "apply"):
        result = await served.run("--json", "config", verb, str(bad))
        assert result.code == 1
        sentence = result.json["error"]["sentence"]
        assert "has 6 mistakes" in sentence
        for line in ("line 1: mood", "line 2: version", "line 4: mode", "line 5: max_loss_bytes"):
            assert line in sentence
        assert "line 7: timing.lease_ms (300)" in sentence
        assert "group_id is missing" in sentence
    assert (await served.run("config", "show")).out == text


async def test_cli_members_are_not_changed_by_config(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    text = (await served.run("config", "show")).out
    file.write_text(text.replace('group = "shop"', 'group = "other"'))
    result = await served.run("--json", "config", "apply", str(file))
    assert (result.code, result.json["error"]["code"]) == (1, "config-fixed")


async def test_cli_usage_errors_have_code_2(served: Served) -> None:
    for arguments in (("stat",), ("switchover", "--deadline", "0"), ("protect",), ("--nothing",)):
        assert (await served.run(*arguments)).code == 2, arguments
    programs = await served.run("--json", "protect")
    assert (programs.code, programs.json["error"]["code"]) == (2, "usage")
    both = await served.run("--socket", "/x", "--server", "https://x", "status")
    assert both.code == 2


async def test_cli_nobody_there_has_code_4(served: Served, tmp_path: Path) -> None:
    result = await served.run("--json", "--socket", str(tmp_path / "none"), "status")
    assert (result.code, result.json["error"]["code"]) == (4, "not-connected")
    empty = Served(tmp_path / "empty", served.agent)
    nothing = await empty.run("--json", "status")
    assert (nothing.code, nothing.json["error"]["code"]) == (4, "no-settings")
    assert "everup init" in nothing.json["error"]["remedy"]


async def test_cli_asks_another_member_with_the_certificate(served: Served) -> None:
    membership_address = (await served.run("config", "show")).out.split('management = "')[1]
    url = f"https://{membership_address.split(chr(34))[0]}:7573"
    result = await served.run("--json", "--server", url, "status")
    assert result.code == 0, result.out
    assert result.json["group"] == "shop"
    refused = await served.run("--json", "--server", url, "switchover", "--to", "nobody")
    assert (refused.code, refused.json["error"]["code"]) == (1, "not-in-sync")


async def test_cli_another_member_that_cannot_be_asked_is_a_plain_sentence(
    served: Served, tmp_path: Path
) -> None:
    for url, word in (
        ("https://no-such-host.invalid", "is not known here"),
        ("https://127.0.0.1:9", "nothing listens on its port 9"),
        ("https://255.255.255.255", "no way to 255.255.255.255"),
    ):
        result = await served.run("--json", "--server", url, "status")
        error = result.json["error"]
        assert result.code == 4, error
        assert word in error["sentence"] and error["remedy"], error
        assert "Errno" not in error["sentence"]
    # A member by its name: its address stands in the settings.
    assert (await served.run("--json", "--server", "primary", "status")).code == 0
    foreign = Served(tmp_path / "foreign", served.agent)
    found(foreign.places, Founding("shop", "primary", (), "127.0.0.1", ()))
    address = (await served.run("config", "show")).out.split('management = "')[1].split('"')[0]
    result = await foreign.run("--json", "--server", address, "status")
    assert (result.code, result.json["error"]["code"]) == (4, "foreign-server")


async def test_cli_on_the_witness(served: Served, tmp_path: Path) -> None:
    """Status says what it hears; the other verbs name the hosts on which they work."""
    witness = Served(tmp_path / "witness", served.agent)
    await witness.run("install")
    token = (await served.run("token", "witness")).out
    await witness.run("witness", "-", "--management", "127.0.0.2", "--name", "w", stdin=token)
    other = await witness.run("--json", "switchover")
    assert (other.code, other.json["error"]["code"]) == (4, "witness")
    assert "primary (" in other.json["error"]["remedy"]
    assert (await witness.run("status", "--wait", "active", "--deadline", "60")).code == 4
    silent = await witness.run("--json", "status")
    assert (silent.code, silent.json["error"]["code"]) == (4, "not-connected")
    keeper = {
        "holder": "primary",
        "holder_epoch": 3,
        "record": {"voters": ["primary", "w"], "may_take_over": ["primary"]},
        "granted": {"holder": "primary", "epoch": 3, "left_ms": 500},
        "peers": [{"server": "primary", "reachable": True, "facts": {"gate": "open"}}],
    }
    server = LocalServer(witness.places.keeper_socket, lambda verb, arguments: keeper)
    server.start()
    try:
        people = await witness.run("status")
        assert people.code == 0, people.err
        assert "w is the witness of shop: it votes and holds no data" in people.out
        assert "its vote is with primary" in people.out
        told = (await witness.run("--json", "status")).json
        assert told["servers"][0]["role"] == "active" and told["arbiter"]["holder"] == "primary"
    finally:
        server.stop()


async def test_cli_help_of_every_verb_has_an_example(served: Served) -> None:
    from everup.cli.main import VERBS

    for verb in VERBS:
        result = await served.run(verb, "--help")
        assert result.code == 0, verb
        if verb not in ("lab", "version"):
            assert "Example" in result.out, verb


async def test_cli_init_and_install_below_another_root(tmp_path: Path, served: Served) -> None:
    other = Served(tmp_path / "other", served.agent)
    installed = await other.run("--json", "install")
    assert all(step["changed"] for step in installed.json["steps"])
    command = ("init", "--group", "shop", "--management", "127.0.0.1", "--name", "a")
    made = await other.run("--json", *command)
    assert made.code == 0, made.out
    assert made.json["tokens"]["server"].startswith("everup1-")
    assert made.json["page"].startswith("https://127.0.0.1:7571/login/")
    assert made.json["started"] is False
    again = await other.run("--json", *command)
    assert (again.code, again.json["error"]["code"]) == (1, "already-member")
    away = await Served(tmp_path / "third", served.agent).run(
        "--json", "init", "--group", "g", "--management", "192.0.2.1", "--name", "a"
    )
    assert away.json["error"]["code"] == "address-not-here"


async def test_cli_init_without_install_is_refused_and_changes_nothing(
    served: Served, tmp_path: Path
) -> None:
    bare = Served(tmp_path / "bare", served.agent)
    command = ("--json", "init", "--group", "g", "--management", "127.0.0.1", "--name", "a")
    result = await bare.run(*command)
    assert (result.code, result.json["error"]["code"]) == (1, "not-installed")
    assert "everup install" in result.json["error"]["remedy"]
    assert not Places.below(bare.root).etc.exists()
    await bare.run("install")
    assert (await bare.run(*command)).code == 0


async def test_cli_join_takes_the_token_from_standard_input(served: Served, tmp_path: Path) -> None:
    new = Served(tmp_path / "new", served.agent)
    command = ("--json", "join", "-", "--management", "127.0.0.1", "--name", "secondary")
    for nothing in ("", "\n", "everup1-half"):
        refused = await new.run(*command, stdin=nothing)
        assert (refused.code, refused.json["error"]["code"]) == (2, "token-malformed")
    token = (await served.run("token", "server")).out
    refused = await new.run(*command, stdin=token)
    assert (refused.code, refused.json["error"]["code"]) == (1, "not-installed")
    await new.run("install")
    assert (await new.run(*command, stdin=token)).json["identity"] == "secondary"
    other = Served(tmp_path / "witness", served.agent)
    await other.run("install")
    token = (await served.run("token", "witness")).out
    words = ("--json", "witness", "-", "--management", "127.0.0.2", "--name", "w")
    assert (await other.run(*words, stdin=token)).json["identity"] == "witness"


async def test_cli_what_the_system_refuses_is_a_sentence(served: Served, tmp_path: Path) -> None:
    command = ("--json", "init", "--group", "g", "--management", "127.0.0.1", "--name", "a")
    blocked = Served(tmp_path / "blocked", served.agent)
    await blocked.run("install")
    settings = Places.below(blocked.root).etc
    shutil.rmtree(settings)
    settings.write_text("a file where a directory must be")
    result = await blocked.run(*command)
    assert (result.code, result.json["error"]["code"]) == (1, "system")
    assert "blocked" in result.json["error"]["sentence"]


def test_cli_starts_fast_and_loads_only_its_verb() -> None:
    code = (
        "import sys; sys.argv = ['everup', 'version']\n"
        "from everup.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"aiohttp", "nicegui", "fastapi", "cryptography", "asyncio", "rich", "pyroute2"}
    assert not heavy & loaded


def test_cli_amounts_and_times() -> None:
    assert bytes_text(0) == "0 B"
    assert bytes_text(4096) == "4.0 KiB"
    assert bytes_text(3 << 40) == "3.0 TiB"
    assert duration_text(80) == "80 ms"
    assert duration_text(1500) == "1.5 s"
    assert duration_text(59_700) == "1 min 0 s"
    assert duration_text(90_500) == "1 min 30 s"
    assert duration_text(7_260_000) == "2 h 1 min"
    assert amount_text(3, 5, "steps") == "3 of 5 steps"
    assert amount_text(1024, 2048, "bytes") == "1.0 KiB of 2.0 KiB"
    assert amount_text(3, None, "steps") == "3 steps"
