"""The page in a real browser: log in once, look, press the button, see the roles swap."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from everup.agent.membership.foundation import Founding, found
from everup.agent.membership.membership import Membership
from everup.api.memory import MemoryAgent
from everup.api.server import ApiServer
from everup.places import CONSOLE_PORT, Places

pytestmark = pytest.mark.browser

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Served:
    """A console with its agent, and a browser that has not logged in."""

    agent: MemoryAgent
    membership: Membership
    url: str
    context: BrowserContext

    async def log_in(self) -> Page:
        page = await self.context.new_page()
        await page.goto(self.membership.invite("page"))
        await page.wait_for_selector(".servers")
        return page


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET)
        yield launched
        await launched.close()


@pytest.fixture
async def served(tmp_path: Path, browser: Browser) -> AsyncIterator[Served]:
    places = Places.below(tmp_path)
    address = f"127.97.{os.getpid() % 250}.{1 + time.monotonic_ns() // 1000 % 250}"
    found(places, Founding("shop", "primary", (), address, ()))
    agent = MemoryAgent(step_s=0.1)
    membership = Membership(places, lambda: agent.active)
    api = ApiServer(agent, membership, peer_host=address)
    await api.start()
    environment = {**os.environ, "EVERUP_ROOT": str(tmp_path), "EVERUP_CONSOLE_HOST": address}
    console = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "everup.console", env=environment
    )
    await _answers(address)
    context = await browser.new_context(ignore_https_errors=True)
    yield Served(agent, membership, f"https://{address}:{CONSOLE_PORT}", context)
    await context.close()
    console.terminate()
    await asyncio.wait_for(console.wait(), 20)
    await api.stop()
    await membership.close()


async def _answers(address: str) -> None:
    """Until the console listens."""
    end = asyncio.get_running_loop().time() + 30
    while True:
        try:
            _, writer = await asyncio.open_connection(address, CONSOLE_PORT)
            writer.close()
            return
        except OSError:
            assert asyncio.get_running_loop().time() < end, "the console does not listen"
            await asyncio.sleep(0.1)


async def test_console_button_swaps_the_roles(served: Served) -> None:
    page = await served.log_in()
    await expect(page.locator("[data-server=primary]")).to_have_attribute("data-role", "active")
    await page.get_by_role("button", name="Switch over").click()
    await expect(page.get_by_text("Make secondary the active server?")).to_be_visible()
    assert served.agent.active == "primary"
    await page.get_by_role("button", name="Switch over now").click()
    await expect(page.get_by_text("Switching over to secondary")).to_be_visible()
    await expect(page.locator("[data-server=secondary]")).to_have_attribute("data-role", "active")
    await expect(page.locator("[data-server=primary]")).to_have_attribute("data-role", "passive")
    await expect(page.get_by_text("Done", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Close").click()
    await expect(page.locator(".events")).to_contain_text("secondary took over from primary")
    assert served.agent.calls == [("switchover", "secondary", False)]


async def test_console_cancel_changes_nothing(served: Served) -> None:
    page = await served.log_in()
    await page.get_by_role("button", name="Switch over").click()
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_text("Make secondary the active server?")).to_be_hidden()
    assert served.agent.calls == []


async def test_console_shows_changes_by_itself(served: Served) -> None:
    page = await served.log_in()
    served.agent.reachable["secondary"] = False
    served.agent.sync["secondary"] = "unknown"
    served.agent.warnings.append(
        {"id": "w", "sentence": "<b>secondary</b> is not heard", "remedy": "look at it"}
    )
    served.agent.tell("server-unreachable", "critical", "secondary is not heard any more")
    await expect(page.locator("[data-server=secondary]")).to_contain_text("not reachable")
    await expect(page.locator(".warnings")).to_contain_text("<b>secondary</b> is not heard")
    await expect(page.locator(".events .critical")).to_contain_text("not heard any more")
    await expect(page.get_by_role("button", name="Switch over")).to_be_disabled()


async def test_console_refusal_is_shown(served: Served) -> None:
    page = await served.log_in()
    await page.get_by_role("button", name="Switch over").click()
    served.agent.sync["secondary"] = "out-of-sync"
    await page.get_by_role("button", name="Switch over now").click()
    await expect(page.get_by_text("The roles did not change")).to_be_visible()
    await expect(page.get_by_text("cannot become active now")).to_be_visible()
    assert served.agent.active == "primary"


async def test_console_needs_a_login_and_the_link_works_once(served: Served) -> None:
    page = await served.context.new_page()
    answer = await page.goto(served.url)
    assert answer is not None and answer.status == 401
    for path in ("/_nicegui/x", "/_nicegui_ws/socket.io/?EIO=4&transport=polling", "/docs"):
        answer = await page.goto(served.url + path)
        assert answer is not None and answer.status == 401, path
    link = served.membership.invite("page")
    await page.goto(link)
    await page.wait_for_selector(".servers")
    cookies = await served.context.cookies()
    assert [(c["httpOnly"], c["secure"], c["sameSite"]) for c in cookies] == [
        (True, True, "Strict")
    ]
    await served.context.clear_cookies()
    answer = await page.goto(link)
    assert answer is not None and answer.status == 403
    await expect(page.locator("body")).to_contain_text("this token has been used")


async def test_console_log_out(served: Served) -> None:
    page = await served.log_in()
    await page.get_by_text("Log out").click()
    await expect(page.locator("body")).to_contain_text("Logged out")
    answer = await page.goto(served.url)
    assert answer is not None and answer.status == 401
