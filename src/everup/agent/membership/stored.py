"""Settings on disk, written so that they survive a power cut whole.

What enters: settings. What leaves: files. Called by `foundation`, `joining` and `settings`.
"""

from pathlib import Path

from everup.config.schema import GroupSettings, ServerSettings
from everup.config.text import group_text, server_text
from everup.system.files import save_bytes


def save_group(path: Path, group: GroupSettings) -> None:
    """Replace the group's settings durably."""
    save_bytes(path, group_text(group).encode(), operation="save-group-settings")


def save_server(path: Path, server: ServerSettings) -> None:
    """Replace this server's own settings durably; anybody on the server may read them."""
    text = server_text(server)
    save_bytes(path, text.encode(), operation="save-server-settings", mode=0o644)
