"""Settings: every mistake is reported at once, with its line."""

import subprocess
import sys

import pytest

from everup.agent.membership.stored import save_group, save_server
from everup.config.lines import key_lines
from everup.config.load import ConfigInvalid, load_group, load_server, parse_group, parse_server
from everup.config.schema import GroupSettings, Mail, Member, PublicAddress, ServerSettings
from everup.config.text import group_text
from everup.errors import NotConnected

GOOD = """\
version = 3
group = "shop"
group_id = "00112233445566778899aabbccddeeff"
mode = "durable"

[timing]
lease_ms = 1000

[[members]]
name = "primary"
identity = "primary"
management = "192.0.2.11"
channels = ["10.0.0.1"]

[[public]]
address = "192.0.2.10/24"
interface = "eth0"
"""


def mistakes_of(text: str) -> list[tuple[int, str]]:
    with pytest.raises(ConfigInvalid) as caught:
        parse_group(text)
    assert caught.value.code == "config-invalid"
    return [(mistake.line, mistake.sentence) for mistake in caught.value.mistakes]


def test_config_good_text_is_taken() -> None:
    group = parse_group(GOOD)
    assert group.version == 3
    assert group.servers[0].addresses == ("10.0.0.1", "192.0.2.11")


def test_config_five_mistakes_are_listed_with_lines() -> None:
    text = (
        GOOD.replace("version = 3", 'version = "three"')
        .replace("lease_ms = 1000", "lease_ms = 800\nheart_ms = 3")
        .replace('name = "primary"\n', "")
        .replace('"192.0.2.10/24"', '"192.0.2.999/24"')
    )
    found = mistakes_of(text)
    assert [line for line, _ in found] == [1, 7, 8, 10, 16]
    sentences = [sentence for _, sentence in found]
    assert sentences[0] == "version: must be a whole number, not text"
    assert sentences[1].startswith("timing.lease_ms (800) must be at least three renewals")
    assert sentences[2].startswith("timing.heart_ms: unknown key")
    assert sentences[3] == "members[0].name is missing"
    assert "192.0.2.999/24" in sentences[4]


def test_config_the_error_text_names_every_line() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_group('version = 1\ngroup = "Shop!"\nmode = "quick"\n', "/etc/x.toml")
    text = caught.value.sentence
    assert text.startswith("/etc/x.toml has 3 mistakes:")
    assert "line 2: group: 'Shop!' is not a name" in text
    assert 'line 3: mode: must be one of "async", "durable"' in text
    assert "group_id is missing" in text


def test_config_a_misspelt_key_is_recognised() -> None:
    found = mistakes_of(GOOD + '\n[aplication]\nunits = ["x.service"]\n')
    assert found == [(19, 'aplication: unknown key (did you mean "application"?)')]


def test_config_second_of_two_equal_names_is_the_mistake() -> None:
    twice = (
        GOOD + '[[members]]\nname = "primary"\nidentity = "secondary"\nmanagement = "192.0.2.12"\n'
    )
    assert mistakes_of(twice) == [(19, "members: the name 'primary' is used twice")]


def test_config_broken_toml_names_its_line() -> None:
    assert mistakes_of('version = 1\ngroup = "shop\n')[0][0] == 2


def test_config_server_addresses_are_checked() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_server(
            'name = "a"\nidentity = "primary"\ngroup = "shop"\n'
            'management = "nowhere"\nchannels = [\n  "10.0.0.1",\n  "10.0.0.1/8",\n]\n'
        )
    assert [mistake.line for mistake in caught.value.mistakes] == [4, 7]


def test_config_wrong_types_inside_lists() -> None:
    text = GOOD.replace('channels = ["10.0.0.1"]', 'channels = [\n  "10.0.0.1",\n  7,\n]')
    assert mistakes_of(text) == [(15, "members[0].channels[1]: must be text, not a whole number")]


def test_config_missing_file_says_what_to_do(tmp_path) -> None:
    for load in (load_server, load_group):
        with pytest.raises(NotConnected) as caught:
            load(tmp_path / "server.toml")
        assert caught.value.code == "no-settings"
        assert "everup join" in caught.value.remedy


def test_config_what_is_saved_is_read_again(tmp_path) -> None:
    group = GroupSettings(
        version=1,
        group="shop",
        group_id="0" * 32,
        members=(Member(name="a", identity="primary", management="::1"),),
        public=(PublicAddress(address="2001:db8::10/64", interface="eth0"),),
    )
    save_group(tmp_path / "group.toml", group)
    assert load_group(tmp_path / "group.toml") == group
    assert (tmp_path / "group.toml").stat().st_mode & 0o777 == 0o600
    server = ServerSettings(name="a", identity="primary", group="shop", management="::1")
    save_server(tmp_path / "server.toml", server)
    assert load_server(tmp_path / "server.toml") == server


def test_config_optional_tables_survive_the_text() -> None:
    group = parse_group(GOOD + '[alerts.mail]\nhost = "192.0.2.1"\nrecipients = ["a@b.example"]\n')
    assert group.alerts.mail == Mail(host="192.0.2.1", recipients=("a@b.example",))
    assert parse_group(group_text(group)) == group


def test_config_lines_of_awkward_toml() -> None:
    text = (
        '# comment\na.b = """x\n[no]\ny""" # c\n"q.r" = \'\'\'z\n\'\'\'\n'
        "list = [ # first\n  [1, 2],\n  { k = 'v', m = [3] },\n]\n"
        "[t . u]\nk = 1\n[[w]]\n[w.s]\nz = 1\n[[w]]\nz=2"
    )
    lines = key_lines(text)
    assert lines[("a", "b")] == 2
    assert lines[("q.r",)] == 5
    assert lines[("list", 1, "m", 0)] == 9
    assert lines[("t", "u", "k")] == 12
    assert lines[("w", 0, "s", "z")] == 15
    assert lines[("w", 1, "z")] == 17


def test_config_reading_stays_light_for_the_keeper() -> None:
    code = "import sys, everup.config.load; print(*sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split())
    assert not loaded & {"asyncio", "ssl", "tomli_w", "difflib", "aiohttp", "typer"}
