"""Write settings so that they survive a power cut whole, and never write what cannot be read.

What enters: settings. What leaves: TOML, in the file or as text for the wire. Called by membership
and by the agent; apart from `load`, so that the keeper does not pay for the writer.
"""

from pathlib import Path

import msgspec
import tomli_w

from everup.config.load import parse_group, parse_server
from everup.config.schema import GroupSettings, ServerSettings, Settings
from everup.system.files import save_bytes


def group_text(group: GroupSettings) -> str:
    """The group's settings as TOML; raises ConfigInvalid when a relation does not hold."""
    text = _text(group)
    assert parse_group(text) == group
    return text


def save_group(path: Path, group: GroupSettings) -> None:
    """Replace the group's settings durably."""
    save_bytes(path, group_text(group).encode(), operation="save-group-settings")


def save_server(path: Path, server: ServerSettings) -> None:
    """Replace this server's own settings durably; anybody on the server may read them."""
    text = _text(server)
    assert parse_server(text) == server
    save_bytes(path, text.encode(), operation="save-server-settings", mode=0o644)


def _text(settings: Settings) -> str:
    return tomli_w.dumps(_without_none(msgspec.to_builtins(settings)))


def _without_none(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return {
        key: _without_none(item) if isinstance(item, dict) else item
        for key, item in value.items()
        if item is not None
    }
