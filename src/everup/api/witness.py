"""The witness's process for settings: members give it the newest ones, its keeper reads them.

What enters: HTTPS requests on TCP 7572 from members only. What leaves: group.toml on disk, and word
to the keeper. Apart from the keeper, so that nothing of HTTP or TLS can delay a vote. Unit:
everup-witness-api.
"""

import asyncio
import logging
import signal
import threading

from aiohttp import web

from everup.agent.membership.settings import SettingsStore
from everup.agent.membership.tls import listen_context
from everup.api.access import member_access, who_is_remote
from everup.api.facade import Json
from everup.api.peer import MemberRoutes
from everup.api.server import SHUTDOWN_S, make_app
from everup.config.load import load_server
from everup.config.schema import GroupSettings
from everup.errors import EverupError
from everup.places import WITNESS_PORT, Places
from everup.system.notify import notify
from everup.wire.local import call

log = logging.getLogger(__name__)


class WitnessApi:
    """`host` and `port` are only changed by tests that run several on one machine."""

    def __init__(self, places: Places, *, host: str | None = None, port: int = WITNESS_PORT):
        self._places = places
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self.settings = SettingsStore(places)
        self.settings.on_change.append(self._tell_keeper)

    async def start(self) -> None:
        name = load_server(self._places.server_settings).name
        app = make_app(member_access(lambda: self.settings.current), who_is_remote)
        MemberRoutes(name, self.settings, self._status).add_to(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        context = listen_context(self._places)
        await web.TCPSite(
            self._runner, self._host, self._port, ssl_context=context, reuse_address=True
        ).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _status(self) -> Json:
        try:
            return await asyncio.to_thread(call, self._places.keeper_socket, "status")
        except EverupError as error:
            return {"error": error.to_json()}

    def _tell_keeper(self, group: GroupSettings) -> None:
        del group
        threading.Thread(target=self._reload, name="reload", daemon=True).start()

    def _reload(self) -> None:
        try:
            call(self._places.keeper_socket, "reload")
        except EverupError as error:
            log.warning("the keeper did not reload its settings: %s", error)


async def serve(places: Places) -> None:
    """Until SIGTERM."""
    api = WitnessApi(places)
    await api.start()
    notify("READY=1")
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    await done.wait()
    await api.stop()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(Places.real()))


if __name__ == "__main__":
    main()
