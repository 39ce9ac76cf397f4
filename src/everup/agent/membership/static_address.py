"""Take a public address out of the operating system's own network settings.

A public address must never come up by itself at boot. What enters: the texts of the files in which
Debian and Ubuntu keep addresses. What leaves: edited texts when a line can go without changing
anything else, or a refusal with the exact lines. Every changed file is kept under
/var/lib/everup/backup first. Called by `foundation`; the planning part is pure.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from everup.errors import Refused
from everup.places import Places
from everup.system.files import save_bytes
from everup.system.installation import root_of

_PATTERNS = (
    "etc/network/interfaces",
    "etc/network/interfaces.d/*",
    "etc/systemd/network/*.network",
    "etc/systemd/network/*.network.d/*.conf",
    "etc/netplan/*.yaml",
    "etc/NetworkManager/system-connections/*",
)
_COMMENT = "# moved to everup: "
_STANZAS = ("iface", "auto", "mapping", "source", "source-directory", "no-auto-down")


@dataclass(frozen=True)
class Line:
    """One line of a file, numbered from 1."""

    number: int
    text: str


@dataclass(frozen=True)
class Plan:
    """What can be done about one file: lines to comment out, or lines a person must change."""

    path: Path
    comment_out: tuple[int, ...] = ()
    ask_person: tuple[Line, ...] = ()


def move_out(places: Places, addresses: Iterable[str]) -> list[Path]:
    """Files that were changed. Raises Refused, before any change, when a person must do it."""
    texts = _read_files(root_of(places))
    plans = [plan(path, text, tuple(addresses)) for path, text in texts.items()]
    asked = [
        f"  {p.path}:{line.number}: {line.text.strip()}" for p in plans for line in p.ask_person
    ]
    if asked:
        raise Refused(
            "the public address is this server's own static address in:\n" + "\n".join(asked),
            remedy="give these lines an address that is only this server's "
            "(the --management address), bring the network up again, then repeat everup init",
            code="static-address",
        )
    changed = [p for p in plans if p.comment_out]
    for one in changed:
        _backup(places, one.path)
        text = _commented(texts[one.path], one.comment_out)
        mode = one.path.stat().st_mode & 0o777
        save_bytes(one.path, text.encode(), operation="move-address", mode=mode)
    return [one.path for one in changed]


def plan(path: Path, text: str, addresses: tuple[str, ...]) -> Plan:
    """What to do about one file; pure."""
    lines = [Line(i, line) for i, line in enumerate(text.split("\n"), 1)]
    wanted = {str(ip_interface(address).ip) for address in addresses}
    hits = [line for line in lines if _mentions(line.text, wanted)]
    if not hits:
        return Plan(path)
    if "network/interfaces" in str(path):
        return _plan_ifupdown(path, lines, hits)
    if "systemd/network" in str(path):
        return _plan_networkd(path, lines, hits)
    return Plan(path, ask_person=tuple(hits))


def _mentions(line: str, wanted: set[str]) -> bool:
    if line.lstrip().startswith(("#", ";")):
        return False
    return any(_is_one_of(word, wanted) for word in re.split(r"[\s=,;\"'\[\]]+", line))


def _is_one_of(word: str, wanted: set[str]) -> bool:
    try:
        return str(ip_interface(word).ip) in wanted
    except ValueError:
        return False


def _plan_ifupdown(path: Path, lines: list[Line], hits: list[Line]) -> Plan:
    """`up ip address add` lines go; a stanza goes when its interface has another one."""
    out: set[int] = set()
    asked = []
    stanzas = _stanzas(lines)
    for hit in hits:
        words = hit.text.split()
        stanza = next((s for s in stanzas if hit in s), [])
        if re.match(r"(pre-|post-)?(up|down)$", words[0]) and {"ip", "ifconfig"} & set(words):
            out.add(hit.number)
        elif words[0] == "address" and _can_go(stanza, stanzas):
            out |= {line.number for line in stanza if line.text.strip()}
            out |= _auto_lines(lines, stanza[0].text.split()[1])
        else:
            asked.append(hit)
    return Plan(path, tuple(sorted(out)), tuple(asked))


def _stanzas(lines: list[Line]) -> list[list[Line]]:
    """Every `iface` line with the lines that belong to it."""
    found: list[list[Line]] = []
    inside = False
    for line in lines:
        word = line.text.split()[0] if line.text.split() else ""
        if word in _STANZAS or word.startswith("allow-"):
            inside = word == "iface"
            if inside:
                found.append([])
        if inside and word and not word.startswith("#"):
            found[-1].append(line)
    return found


def _can_go(stanza: list[Line], stanzas: list[list[Line]]) -> bool:
    """Whether the server keeps an address on this interface, and its routes, without the stanza."""
    if not stanza or any(line.text.split()[0] == "gateway" for line in stanza):
        return False
    name = stanza[0].text.split()[1]
    others = [s[0].text.split()[1] for s in stanzas if s is not stanza]
    return ":" in name or name in others


def _auto_lines(lines: list[Line], name: str) -> set[int]:
    """`auto eth0:0` goes with its stanza; the line of a real interface stays."""
    if ":" not in name:
        return set()
    return {
        line.number
        for line in lines
        if re.match(r"\s*(auto|allow-\S+)\s", line.text) and line.text.split()[1:] == [name]
    }


def _plan_networkd(path: Path, lines: list[Line], hits: list[Line]) -> Plan:
    """A line `Address=` goes when the file gives the interface another address."""
    section = ""
    kept = False
    sections: dict[int, str] = {}
    for line in lines:
        text = line.text.strip()
        if text.startswith("["):
            section = text
        sections[line.number] = section
        other = text.startswith("Address=") and line not in hits
        kept = kept or other or bool(re.match(r"DHCP=(yes|true|ipv4|ipv6|both)", text))
    simple = all(
        sections[h.number] == "[Network]" and h.text.strip().startswith("Address=") for h in hits
    )
    if kept and simple:
        return Plan(path, comment_out=tuple(hit.number for hit in hits))
    return Plan(path, ask_person=tuple(hits))


def _commented(text: str, numbers: tuple[int, ...]) -> str:
    lines = text.split("\n")
    for number in numbers:
        lines[number - 1] = _COMMENT + lines[number - 1]
    return "\n".join(lines)


def _read_files(root: Path) -> dict[Path, str]:
    texts = {}
    for pattern in _PATTERNS:
        for path in sorted(root.glob(pattern)):
            if path.is_file():
                texts[path] = path.read_text(errors="surrogateescape")
    return texts


def _backup(places: Places, path: Path) -> None:
    """The first version stays: a second run must not replace it by our own edit."""
    target = places.var / "backup" / path.relative_to(root_of(places))
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not target.exists():
        save_bytes(target, path.read_bytes(), operation="backup-network-settings")
