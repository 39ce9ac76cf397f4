"""The Switch over button: a person presses it in a browser, and the roles swap."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from tests.lab.ground import Ground, wait

from everup.lab.pages import Pages

pytestmark = [
    pytest.mark.lab,
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 30_000


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a headless browser that accepts the group's own certificate authority."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(ignore_https_errors=True)
        context.set_default_timeout(PATIENCE_MS)
        yield context.new_page()
        browser.close()


def test_the_button_swaps_the_roles_after_a_confirmation(ground: Ground, page: Page) -> None:
    active, passive = ground.active, ground.passive
    pages = Pages(ground.lab)
    pages.open()
    page.goto(pages.link(str(ground.group.everup(active, "token", "page")["link"])))
    button = page.get_by_role("button", name="Switch over", exact=True)
    expect(button).to_be_enabled(timeout=PATIENCE_MS)

    button.click()
    expect(page.get_by_text(f"Make {passive} the active server?")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    assert ground.active == active, "nothing happens before the confirmation"

    button.click()
    page.get_by_role("button", name="Switch over now").click()
    wait(lambda: ground.quietly(lambda: ground.active) == passive, 60, "swap of the roles")
    expect(page.get_by_text("Done", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("button", name="Close").click()
    for server, role in ((passive, "active"), (active, "passive")):
        card = page.locator(f'article[data-server="{server}"][data-role="{role}"]')
        expect(card).to_be_visible(timeout=PATIENCE_MS)


def test_a_link_logs_in_once_and_nobody_without_one(ground: Ground, page: Page) -> None:
    active = ground.active
    pages = Pages(ground.lab)
    pages.open()
    link = pages.link(str(ground.group.everup(active, "token", "page")["link"]))
    page.goto(link)
    expect(page.get_by_role("button", name="Switch over", exact=True)).to_be_visible()
    page.context.clear_cookies()
    for address, refused in ((link, 403), (link.rsplit("/login/", 1)[0] + "/", 401)):
        answer = page.goto(address)
        assert answer is not None and answer.status == refused
        assert page.get_by_role("button").count() == 0
