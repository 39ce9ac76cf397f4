"""Read settings, and report every mistake in them at once, each with its line.

What enters: TOML text. What leaves: `ServerSettings` or `GroupSettings`, or one `ConfigInvalid`
that lists all mistakes. Every process calls this at its start, the keeper too, so nothing here may
import more than the standard library and msgspec.
"""

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from everup.config.lines import KeyPath, key_lines, line_of
from everup.config.schema import GroupSettings, ServerSettings, Settings, group_problems
from everup.errors import EverupError, NotConnected

S = TypeVar("S", bound=Settings)

SETTINGS_BYTES_MAX = 1 << 20
LINE_DOTS_MAX = 200
NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong in a settings text."""

    line: int
    sentence: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.sentence}"


class ConfigInvalid(EverupError):
    """Settings that were not taken; `mistakes` lists everything that is wrong with them."""

    code = "config-invalid"

    def __init__(self, name: str, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = "one mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        listing = "\n".join(f"  {mistake}" for mistake in mistakes)
        super().__init__(
            f"{name} has {count}:\n{listing}",
            remedy="correct every line named above; nothing was changed",
        )


def load_server(path: Path) -> ServerSettings:
    """Settings of this server. Raises ConfigInvalid, or NotConnected when it is in no group."""
    return parse_server(_read(path), str(path))


def load_group(path: Path) -> GroupSettings:
    """Settings of the group. Raises ConfigInvalid, or NotConnected when there are none yet."""
    return parse_group(_read(path), str(path))


def parse_server(text: str, name: str = "server.toml") -> ServerSettings:
    """Typed settings of one server; raises ConfigInvalid."""
    return _parse(text, name, ServerSettings, server_problems)


def parse_group(text: str, name: str = "group.toml") -> GroupSettings:
    """Typed settings of a group; raises ConfigInvalid."""
    return _parse(text, name, GroupSettings, all_group_problems)


def server_problems(server: ServerSettings) -> list[str]:
    """Mistakes in a server's settings that types cannot express."""
    found = [f"{key}: {why}" for key in ("name", "group") for why in _name(getattr(server, key))]
    for key, address in [("management", server.management)] + [
        (f"channels.{i}", a) for i, a in enumerate(server.channels)
    ]:
        if not _is_address(address):
            found.append(f"{key}: {address!r} is not an IP address")
    return found


def all_group_problems(group: GroupSettings) -> list[str]:
    """Mistakes in a group's settings that types cannot express, names included."""
    found = [f"group: {why}" for why in _name(group.group)]
    for member in group.members:
        found += [f"members.{member.name}: {why}" for why in _name(member.name)]
    return found + group_problems(group)


def _name(name: str) -> list[str]:
    if name.startswith(_STAND_IN) or NAME_PATTERN.fullmatch(name):
        return []
    return [f"{name!r} is not a name: small letters, digits and hyphens, at most 63"]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotConnected(
            f"{path} does not exist: this server belongs to no group",
            remedy="everup init (first server) or everup join TOKEN",
            code="no-settings",
        ) from error
    if len(data) > SETTINGS_BYTES_MAX:
        raise ConfigInvalid(str(path), [Mistake(1, "the file is larger than 1 MiB")])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigInvalid(str(path), [Mistake(line, "the text is not UTF-8")]) from error


def _parse(text: str, name: str, kind: type[S], problems: Callable[[S], list[str]]) -> S:
    _refuse_depth(text, name)
    try:
        data = tomllib.loads(text)
    except ValueError as error:
        raise ConfigInvalid(name, [_syntax_mistake(str(error), text)]) from error
    except RecursionError as error:
        raise ConfigInvalid(name, [Mistake(1, "lists or tables are nested too deep")]) from error
    checker = _Checker()
    repaired = checker.table(data, kind, ())
    settings = msgspec.convert(repaired, kind)
    sentences = problems(settings)
    if not checker.found and not sentences:
        return settings
    lines = key_lines(text)
    mistakes = [Mistake(line_of(lines, path), sentence) for path, sentence in checker.found]
    mistakes += [Mistake(_line_of_problem(s, lines, data), s) for s in sentences]
    raise ConfigInvalid(name, sorted(mistakes, key=lambda mistake: mistake.line))


def _refuse_depth(text: str, name: str) -> None:
    """Reading a key takes time with the square of its depth."""
    for line, content in enumerate(text.splitlines(), 1):
        if content.count(".") > LINE_DOTS_MAX:
            raise ConfigInvalid(name, [Mistake(line, f"more than {LINE_DOTS_MAX} dots")])


def _syntax_mistake(message: str, text: str) -> Mistake:
    at = re.search(r"\(at (?:line (\d+), column \d+|end of document)\)", message)
    line = int(at[1]) if at and at[1] else text.rstrip().count("\n") + 1
    plain = re.sub(r"\s*\(at .*\)$", "", message)
    return Mistake(line, f"not TOML: {plain}")


def _line_of_problem(sentence: str, lines: dict[KeyPath, int], data: dict[str, Any]) -> int:
    """Line of the key or value that a sentence of `schema` begins with or quotes."""
    quoted = re.search(r"'([^']*)'", sentence)
    head = re.match(r"[\w-]+", sentence)
    top = head[0] if head else ""
    if quoted:
        # The last one: of two equal names it is the second that is the mistake.
        places = [p for p in _paths_of(data.get(top), quoted[1], (top,)) if p in lines]
        if places:
            return max(lines[place] for place in places)
    key = re.match(r"[\w-]+(?:\.[\w-]+)*", sentence)
    return line_of(lines, tuple(key[0].split("."))) if key else 1


def _paths_of(value: Any, wanted: str, path: KeyPath) -> list[KeyPath]:
    if value == wanted:
        return [path]
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in _paths_of(v, wanted, (*path, k))]
    if isinstance(value, list):
        return [p for i, v in enumerate(value) for p in _paths_of(v, wanted, (*path, i))]
    return []


_STAND_IN = "?"
_STAND_INS: dict[str, Any] = {
    "management": "0.0.0.0",
    "address": "0.0.0.0/0",
    "path": "/",
    "identity": "witness",
}
"""Values put in for missing ones, so that the relations of all other keys can still be checked."""


class _Checker:
    """Walks parsed TOML along the schema; collects mistakes and builds a value without them."""

    def __init__(self) -> None:
        self.found: list[tuple[KeyPath, str]] = []

    def table(self, value: dict[str, Any], kind: type[Settings], path: KeyPath) -> dict[str, Any]:
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        self.found += [
            ((*path, key), f"{_dotted((*path, key))}: unknown key{_suggestion(key, list(fields))}")
            for key in value
            if key not in fields
        ]
        repaired = {}
        for name, field in fields.items():
            if name not in value:
                if field.required:
                    self.found.append((path, f"{_dotted((*path, name))} is missing"))
                    repaired[name] = self._stand_in(name, field.type)
                continue
            kept = self._value(value[name], field.type, (*path, name))
            if kept is not None:
                repaired[name] = kept
            elif field.required:
                repaired[name] = self._stand_in(name, field.type)
        return repaired

    def _value(self, value: Any, kind: Any, path: KeyPath) -> Any:
        """The value without its mistakes; None when nothing of it can be kept."""
        struct = _struct_of(kind)
        if struct is not None and isinstance(value, dict):
            return self.table(value, struct, path)
        if get_origin(kind) is tuple and isinstance(value, list):
            element = get_args(kind)[0]
            kept = (self._value(v, element, (*path, i)) for i, v in enumerate(value))
            return [v for v in kept if v is not None]
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self.found.append((path, f"{_dotted(path)}: {_expectation(kind, str(error))}"))
            return None
        return value

    def _stand_in(self, name: str, kind: Any) -> Any:
        if name in _STAND_INS:
            return _STAND_INS[name]
        # Each stand-in differs, so that two missing names are not also "used twice".
        return f"{_STAND_IN}{len(self.found)}" if kind is str else -len(self.found)


def _struct_of(kind: Any) -> type[Settings] | None:
    for candidate in (kind, *get_args(kind)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return None if get_origin(kind) is tuple else candidate
    return None


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _expectation(kind: Any, message: str) -> str:
    if get_origin(kind) is Literal:
        return "must be one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    types = re.match(r"Expected `([^`]*)`, got `([^`]*)`", message)
    if not types:
        return message
    expected = types[1].removesuffix(" | null")
    return f"must be {_WORDS.get(expected, expected)}, not {_WORDS.get(types[2], types[2])}"


def _suggestion(key: str, known: list[str]) -> str:
    from difflib import get_close_matches  # only when there is a mistake: costs the keeper 5 ms

    near = get_close_matches(key, known, n=1)
    return f' (did you mean "{near[0]}"?)' if near else ""
