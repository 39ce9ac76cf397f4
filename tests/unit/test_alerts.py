"""Messages to people: delivered, kept while the network is away, kept over a restart, bounded.

Method: a real SMTP server (aiosmtpd) and a real web server on loopback; no clock is faked, the
pauses of the outbox are shortened.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiosmtpd.smtp import SMTP

from everup.alerts.mail import Mailer
from everup.alerts.message import Message
from everup.alerts.outbox import WAITING_MAX, Outbox
from everup.alerts.webhook import Caller
from everup.config.schema import Mail, Webhook
from everup.errors import NotConnected
from everup.system.files import Door

MESSAGE = Message(
    group="shop",
    server="secondary",
    kind="active-after-failover",
    severity="critical",
    sentence="Failover: secondary is active under epoch 2.",
    at="2026-11-22T03:00:00.000+00:00",
    event_id=7,
)


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(envelope)
        return "250 taken"


class Way:
    """Takes messages once it is told to."""

    def __init__(self) -> None:
        self.wanted = True
        self.away = False
        self.taken: list[Message] = []

    async def send(self, message: Message) -> None:
        if self.away:
            raise NotConnected("the network is away")
        self.taken.append(message)


async def _until(shown: Any) -> None:
    async with asyncio.timeout(10):
        while not shown():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _running(outbox: Outbox) -> AsyncIterator[None]:
    task = asyncio.create_task(outbox.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_alerts_mail_reaches_a_real_server() -> None:
    mailbox = Mailbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(mailbox), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        mail = Mail(host="127.0.0.1", port=port, recipients=("ops@example.org", "b@example.org"))
        await Mailer(lambda: mail).send(MESSAGE)
    (envelope,) = mailbox.mails
    assert envelope.rcpt_tos == ["ops@example.org", "b@example.org"]
    text = envelope.content.decode()
    assert "Subject: [Everup shop] Failover: secondary is active under epoch 2." in text
    assert "X-Everup-Event: active-after-failover" in text


async def test_alerts_webhook_posts_json_and_a_refusal_counts_as_not_delivered() -> None:
    got: list[Any] = []
    answers = [500, 200]

    async def take(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.Response(status=answers[len(got) - 1])

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    caller = Caller(lambda: Webhook(url=f"http://127.0.0.1:{port}/hook"))
    try:
        with pytest.raises(NotConnected):
            await caller.send(MESSAGE)
        await caller.send(MESSAGE)
    finally:
        await runner.cleanup()
    assert got[1] == MESSAGE.to_json()


async def test_alerts_wait_while_the_network_is_away_and_survive_a_restart(
    tmp_path: Path,
) -> None:
    way = Way()
    way.away = True
    first = Outbox(tmp_path / "outbox", {"mail": way}, pauses_s=(0.02,))
    first.put(MESSAGE)
    async with _running(first):
        await asyncio.sleep(0.1)
    assert way.taken == [] and len(first.waiting("mail")) == 1
    second = Outbox(tmp_path / "outbox", {"mail": way}, pauses_s=(0.02,))
    async with _running(second):
        await asyncio.sleep(0.05)
        way.away = False
        await _until(lambda: way.taken)
    assert way.taken == [MESSAGE] and second.waiting("mail") == []


async def test_alerts_one_way_that_fails_does_not_hold_up_another(tmp_path: Path) -> None:
    broken, good = Way(), Way()
    broken.away = True
    outbox = Outbox(tmp_path / "outbox", {"mail": broken, "webhook": good})
    async with _running(outbox):
        outbox.put(MESSAGE)
        await _until(lambda: good.taken)
    assert len(outbox.waiting("mail")) == 1


async def test_alerts_queue_is_bounded_and_damaged_files_are_left_out(tmp_path: Path) -> None:
    way = Way()
    outbox = Outbox(tmp_path / "outbox", {"mail": way})
    for _ in range(WAITING_MAX + 3):
        outbox.put(MESSAGE)
    assert len(outbox.waiting("mail")) == WAITING_MAX
    outbox.waiting("mail")[0].write_text("not JSON")
    async with _running(outbox):
        await _until(lambda: not outbox.waiting("mail"))
    assert len(way.taken) == WAITING_MAX - 1


class FullDisk(Door):
    def write(self, operation: str, descriptor: int, data: bytes | memoryview) -> int:
        raise OSError(28, "No space left on device")


async def test_alerts_are_sent_from_memory_when_the_disk_is_full(tmp_path: Path) -> None:
    way = Way()
    outbox = Outbox(tmp_path / "outbox", {"mail": way}, door=FullDisk())
    async with _running(outbox):
        outbox.put(MESSAGE)
        await _until(lambda: way.taken)
    assert way.taken == [MESSAGE]


async def test_alerts_go_on_when_the_disk_lets_a_message_neither_be_read_nor_removed(
    tmp_path: Path,
) -> None:
    way = Way()
    outbox = Outbox(tmp_path / "outbox", {"mail": way})
    (tmp_path / "outbox/0000000000.mail.json").mkdir()  # reading and removing it are OSErrors
    async with _running(outbox):
        outbox.put(MESSAGE)
        await _until(lambda: way.taken)
        await _until(lambda: outbox.waiting("mail") == [])
    assert way.taken == [MESSAGE]


def test_alerts_that_nobody_wants_are_not_queued(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", {"mail": Mailer(lambda: None)})
    outbox.put(MESSAGE)
    assert outbox.waiting("mail") == []
