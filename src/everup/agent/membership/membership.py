"""This server's part in the group, in one object: settings, peers, tokens, admissions.

What enters: the places, and a way to ask who is active. What leaves: settings that everybody has
sooner or later, and calls to peers. Made once by the agent's process and handed to the agent's
service and to the API.
"""

import asyncio
import logging
import threading
from collections.abc import Callable

from everup import __version__
from everup.agent.membership.admission import Doorkeeper
from everup.agent.membership.foundation import invite, token_store
from everup.agent.membership.peers import Peers
from everup.agent.membership.settings import Edit, SettingsStore
from everup.agent.membership.tokens import Kind
from everup.config.load import load_server
from everup.config.schema import GroupSettings
from everup.errors import EverupError, NotConnected
from everup.places import Places
from everup.system.installation import order_after_mounts
from everup.wire.local import call

log = logging.getLogger(__name__)

SPREAD_INTERVAL_S = 3.0
RELOAD_DEADLINE_MS = 3_000


class Membership:
    """`active` names the server that is active as far as we know, or None."""

    def __init__(self, places: Places, active: Callable[[], str | None]) -> None:
        self.places = places
        self.server = load_server(places.server_settings)
        self.settings = SettingsStore(places)
        self.peers = Peers(places, self.server.name, lambda: self.settings.current)
        self.tokens = token_store(places)
        self.doorkeeper = Doorkeeper(places, self.settings, self.tokens, self.change, __version__)
        self._active = active
        self.settings.on_change.append(self._tell_daemons)

    @property
    def name(self) -> str:
        """Name of this server."""
        return self.server.name

    async def change(self, edit: Edit) -> GroupSettings:
        """Make, store and spread the next version of the settings.

        Raises ConfigInvalid for an edit that breaks a relation, and NotConnected when the active
        server is another one and does not answer: then nothing has changed anywhere.
        """
        return await self.settings.change(edit, self._store_on_active, self._spread)

    async def keep_spread(self, interval_s: float = SPREAD_INTERVAL_S) -> None:
        """For ever: whoever was away gets the settings, and we take newer ones from whoever has
        them. Runs as a task of the agent."""
        while True:
            await asyncio.sleep(interval_s)
            for name in self.peers.names():
                try:
                    await self._compare_with(name)
                except EverupError as error:
                    log.debug("settings not compared with %s: %s", name, error)

    def invite(self, kind: Kind) -> str:
        """A token for a server or witness, or a link for a page."""
        return invite(self.places, self.settings.current, self.name, kind)

    async def close(self) -> None:
        await self.peers.close()

    async def _store_on_active(self, text: str) -> None:
        active = self._active()
        if active is not None and active != self.name:
            await self.peers.push_settings(active, text)

    async def _spread(self, text: str) -> None:
        await self.peers.spread_settings(text)

    async def _compare_with(self, name: str) -> None:
        answer = await self.peers.status(name)
        theirs, ours = int(answer["settings_version"]), self.settings.current.version
        is_active = name == self._active()
        if theirs < ours:
            await self.peers.push_settings(name, self.settings.text())
        elif theirs > ours or (is_active and answer["settings_digest"] != self.settings.digest()):
            text = (await self.peers.call(name, "GET", "/peer/settings"))["toml"]
            await asyncio.to_thread(self.settings.accept, str(text), of_active=is_active)

    def _tell_daemons(self, group: GroupSettings) -> None:
        """Let the other processes of this server read the settings again.

        In a thread of its own: none of them may hold up whoever changed the settings. One that is
        down reads the file when it starts.
        """
        threading.Thread(target=self._reload, args=(group,), name="reload", daemon=True).start()

    def _reload(self, group: GroupSettings) -> None:
        try:
            order_after_mounts(self.places, [tree.path for tree in group.protect])
        except (EverupError, OSError) as error:
            log.warning("boot order of the protected paths was not written: %s", error)
        # The guard keeps no settings: the agent gives it what it needs with every verb.
        for path in (self.places.keeper_socket, self.places.replicator_socket):
            try:
                call(path, "reload", deadline_ms=RELOAD_DEADLINE_MS)
            except NotConnected:
                log.info("%s is not running; it reads the settings when it starts", path.stem)
            except EverupError as error:
                log.warning("%s did not reload its settings: %s", path.stem, error)
