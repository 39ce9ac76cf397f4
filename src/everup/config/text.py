"""Settings as TOML text; never a text that cannot be read again.

What enters: settings. What leaves: text for a file or for the wire. Called by membership and by the
agent; apart from `load`, so that the early processes do not pay for the writer.
"""

import msgspec
import tomli_w

from everup.config.load import parse_group, parse_server
from everup.config.schema import GroupSettings, ServerSettings, Settings


def group_text(group: GroupSettings) -> str:
    """The group's settings as TOML; raises ConfigInvalid when a relation does not hold."""
    text = _text(group)
    assert parse_group(text) == group
    return text


def server_text(server: ServerSettings) -> str:
    """A server's own settings as TOML; raises ConfigInvalid for a wrong address or name."""
    text = _text(server)
    assert parse_server(text) == server
    return text


def _text(settings: Settings) -> str:
    return tomli_w.dumps(_without_none(msgspec.to_builtins(settings)))


def _without_none(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return {
        key: _without_none(item) if isinstance(item, dict) else item
        for key, item in value.items()
        if item is not None
    }
