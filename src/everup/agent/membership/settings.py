"""The group's one settings document on this server: read, change, take from a peer.

What enters: a change asked for here, or a newer document from a member. What leaves: the document
on disk, then word to everybody who must read it again. A change counts once the active server has
stored it: `change` asks that one first. Called by admission, the API and the agent.
"""

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable

import msgspec

from everup.agent.membership.stored import save_group
from everup.config.load import load_group, parse_group
from everup.config.schema import GroupSettings
from everup.config.text import group_text
from everup.errors import EverupError, Refused
from everup.places import Places

Edit = Callable[[GroupSettings], GroupSettings]
Changed = Callable[[GroupSettings], None]
StoreFirst = Callable[[str], Awaitable[None]]
Spread = Callable[[str], Awaitable[None]]


class SettingsStore:
    """One per agent (and one in the witness's API); `on_change` callbacks run after the write."""

    def __init__(self, places: Places) -> None:
        self._path = places.group_settings
        self._current = load_group(self._path)
        self._changing = asyncio.Lock()
        self._writing = threading.Lock()
        self.on_change: list[Changed] = []

    @property
    def current(self) -> GroupSettings:
        return self._current

    def text(self) -> str:
        return group_text(self._current)

    def digest(self) -> str:
        """Tells two documents of one version apart."""
        return hashlib.blake2b(self.text().encode(), digest_size=16).hexdigest()

    def accept(self, text: str, *, of_active: bool = False) -> bool:
        """Take a document that a member sent. False when we have that one already.

        Two servers may have made the same version without each other; the active one's counts
        (`of_active`). Raises ConfigInvalid, or Refused for another group's, an older or a
        conflicting one.
        """
        new = parse_group(text, "the settings that were sent")
        with self._writing:
            old = self._current
            if new == old:
                return False
            _refuse_backward(old, new, of_active)
            self._store(new)
        return True

    async def change(self, edit: Edit, store_first: StoreFirst, spread: Spread) -> GroupSettings:
        """Make the next version and store it: on the active server first, then here, then anywhere.

        `store_first` raises when the active server (if it is another one) does not take it; then
        nothing has changed. `spread` never raises: who is away now gets it later.
        """
        async with self._changing:
            edited = edit(self._current)
            new = msgspec.structs.replace(edited, version=self._current.version + 1)
            text = group_text(new)
            await store_first(text)
            await asyncio.to_thread(self.accept, text)
        await spread(text)
        return new

    def _store(self, new: GroupSettings) -> None:
        save_group(self._path, new)
        self._current = new
        for tell in self.on_change:
            tell(new)


def _refuse_backward(old: GroupSettings, new: GroupSettings, of_active: bool) -> None:
    if new.group_id != old.group_id:
        raise Refused(
            f"these settings belong to another group ({new.group!r})",
            remedy="a server belongs to one group",
            code="foreign-group",
        )
    if new.version < old.version:
        raise Refused(
            f"these settings are version {new.version}, here is {old.version} already",
            remedy="take the newer settings first",
            code="settings-older",
        )
    if new.version == old.version and not of_active:
        raise EverupError(
            f"two different settings have the version {new.version}",
            remedy="repeat the change",
            code="settings-conflict",
        )
