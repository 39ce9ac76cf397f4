"""What Everup refuses, with the reason and the exit code, and without having changed anything."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.lab.ground import EVERUP, Ground

from everup.agent.membership.tokens import Token
from everup.errors import EXIT_REFUSED, EXIT_USAGE
from everup.lab.layout import server_plan
from everup.lab.server import Outcome

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

NEWCOMER = "services"
FIVE_MISTAKES = """\
version = "first"
group = "lab"
group_id = "00112233445566778899aabbccddeeff"
mode = "fast"
colour = "green"

[timing]
heartbeat_ms = "often"

[[public]]
address = 7
interface = "eth0"
"""


def refusal(done: Outcome) -> dict[str, str]:
    """The error of `everup --json`."""
    assert done.exit_code != 0, done.output
    error: dict[str, str] = json.loads(done.output)["error"]
    assert error["sentence"]
    return error


def picture(ground: Ground) -> object:
    """What no refused request may change: settings, roles, gates, mounts, on both servers."""
    active = ground.active
    found = []
    for name in ("primary", "secondary"):
        mounts = ground.run(name, "findmnt", "-rno", "TARGET,FSTYPE,SOURCE").output.splitlines()
        config = json.loads(ground.everup(name, "config", "show").output)
        trees = [(t["id"], t["path"]) for t in ground.ask(name, "guard")["trees"]]
        found.append((sorted(mounts), config, trees))
    status = ground.group.status(active)
    return active, status["epoch"], status["protected"], status["units"], found


@pytest.fixture
def mounted_below(ground: Ground) -> Iterator[str]:
    """A directory with another file system mounted below it."""
    active = ground.active
    ground.run(active, "mkdir", "-p", "/srv/outer/inner")
    ground.run(active, "mount", "-t", "tmpfs", "tmpfs", "/srv/outer/inner")
    yield "/srv/outer"
    ground.run(active, "umount", "/srv/outer/inner")


def test_paths_that_cannot_be_protected_are_refused_and_nothing_changes(
    ground: Ground, mounted_below: str
) -> None:
    active = ground.active
    before = picture(ground)
    inside = f"/var/lib/postgresql/{ground.database.version}"
    for path, code in (
        ("/srv/no-such-directory", "path-missing"),
        (mounted_below, "path-mount-below"),
        ("/", "path-system"),
        ("/proc", "path-system"),
        ("/proc/sys", "path-system"),
        ("/var/lib/everup", "path-own"),
        ("/var/lib/everup/journal", "path-own"),
        (inside, "path-inside"),
    ):
        done = ground.everup(active, "protect", path)
        error = refusal(done)
        assert (error["code"], done.exit_code) == (code, EXIT_REFUSED), error
        assert path in error["sentence"] and error["remedy"], error
    assert picture(ground) == before


def test_a_config_with_five_mistakes_lists_all_five_with_their_lines(ground: Ground) -> None:
    active = ground.active
    before = picture(ground)
    ground.server(active).run(["tee", "/root/wrong.toml"], stdin=FIVE_MISTAKES)
    done = ground.everup(active, "config", "apply", "/root/wrong.toml")
    assert done.exit_code == EXIT_REFUSED
    sentence = refusal(done)["sentence"]
    for line, word in ((1, "version"), (4, "mode"), (5, "colour"), (8, "heartbeat"), (11, "addr")):
        told = [
            text for text in sentence.splitlines() if f"{line}:" in text or f"line {line}" in text
        ]
        assert any(word in text for text in told), (line, word, sentence)
    assert picture(ground) == before


def newcomer_is_untouched(ground: Ground) -> bool:
    """No settings, no keys, no running process of Everup."""
    listed = ground.run(NEWCOMER, "find", "/etc/everup", "/var/lib/everup", "-type", "f").output
    units = ground.run(NEWCOMER, "systemctl", "list-units", "--plain", "--no-legend", "everup-*")
    return listed.strip() == "" and "running" not in units.output


def test_tokens_that_are_wrong_used_or_foreign_are_refused_and_nothing_changes(
    ground: Ground,
) -> None:
    active = ground.active
    before = picture(ground)
    good = Token.decode(ground.group.token(active))
    witness = str(ground.group.everup(active, "token", "witness")["token"])
    for text, code, exit_code in (
        (good.encode()[:-3], "token-malformed", EXIT_USAGE),
        (ground.used_token, "token-used", EXIT_REFUSED),
        (witness, "token-kind", EXIT_REFUSED),
        (replace(good, secret=bytes(16)).encode(), "token-unknown", EXIT_REFUSED),
        (replace(good, group="other").encode(), "foreign-group", EXIT_REFUSED),
        (replace(good, fingerprint=bytes(32)).encode(), "wrong-authority", EXIT_REFUSED),
    ):
        done = ground.everup(NEWCOMER, "join", text)
        assert (refusal(done)["code"], done.exit_code) == (code, exit_code), done.output
        assert newcomer_is_untouched(ground), code
    # Two tries with a good one: the first has not used it up.
    for _ in range(2):
        done = ground.everup(NEWCOMER, "join", good.encode())
        assert (refusal(done)["code"], done.exit_code) == ("not-installed", EXIT_REFUSED)
        assert newcomer_is_untouched(ground)
    assert picture(ground) == before


@pytest.fixture
def another_protocol(ground: Ground) -> Iterator[None]:
    """The newcomer's installed Everup speaks a version that nobody else speaks."""
    server = ground.server(NEWCOMER)
    find = ["find", "/opt/everup/lib", "-path", "*/everup/wire/messages.py"]
    path = server.run(find).output.strip()
    text = server.run(["cat", path]).output
    assert text.count("PROTOCOL_VERSIONS = (1,)") == 1
    server.run(
        ["tee", path], stdin=text.replace("PROTOCOL_VERSIONS = (1,)", "PROTOCOL_VERSIONS = (9,)")
    )
    yield
    server.run(["tee", path], stdin=text)


@pytest.mark.usefixtures("another_protocol")
def test_a_server_without_a_common_protocol_version_is_refused(ground: Ground) -> None:
    """Both sides' versions are named."""
    before = picture(ground)
    token = ground.group.token(ground.active)
    done = ground.everup(NEWCOMER, "join", token)
    error = refusal(done)
    assert (error["code"], done.exit_code) == ("no-common-protocol", EXIT_REFUSED)
    assert "[9]" in error["sentence"] and "[1]" in error["sentence"]
    assert newcomer_is_untouched(ground)
    assert picture(ground) == before


@pytest.fixture
def foreign_group(ground: Ground) -> Iterator[None]:
    """The newcomer has a group of its own, with its own authority."""
    address = server_plan(NEWCOMER).address("management")
    ground.run(NEWCOMER, EVERUP, "install")
    ground.group.everup(NEWCOMER, "init", "--group", "other", "--management", address)
    yield
    ground.run(NEWCOMER, "systemctl", "stop", "everup-*")
    ground.run(NEWCOMER, "systemctl", "disable", *("everup-" + w for w in ("agent", "console")))
    ground.run(NEWCOMER, "find", "/etc/everup", "/var/lib/everup", "-mindepth", "1", "-delete")


@pytest.mark.usefixtures("foreign_group")
def test_a_member_of_another_group_gets_nothing(ground: Ground) -> None:
    """Neither an answer, nor a place; its own certificate counts for nothing here."""
    before = picture(ground)
    active = ground.active
    url = f"https://{server_plan(active).address('management')}:7573"
    done = ground.everup(NEWCOMER, "--server", url, "status")
    assert done.exit_code in (EXIT_REFUSED, 4), done.output
    assert "servers" not in done.output
    joined = ground.everup(NEWCOMER, "join", ground.group.token(active))
    assert refusal(joined)["code"] == "already-member"
    assert picture(ground) == before
