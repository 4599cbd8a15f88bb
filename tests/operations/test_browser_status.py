"""The status pages in a real browser, served by the real relay: login, search, retry and refresh, at both ends of the
widths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from browser import PATIENCE_MS, opened, serious_faults
from conftest import wait_for
from playwright.sync_api import Browser, Page, expect

from sandbox.__main__ import LABEL, Demo, start

WIDTHS = (360, 1280)
EVIL_ID = "twitter:<img src=x onerror=alert(1)>'\"&"
EVIL_TEXT = "<script>alert(1)</script> my secret complaint"

expect.set_options(timeout=PATIENCE_MS)
both_widths = pytest.mark.parametrize("width", WIDTHS)


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """The demo, with one post delivered and one that carries markup, parked."""
    with ExitStack() as stack:
        demo = start(stack, any_port=True, echo=None)
        wait_for(lambda: demo.khoros.subscriptions)
        demo.khoros.label(next(iter(demo.khoros.posts)), LABEL)
        wait_for(lambda: demo.zendesk.tickets)
        park(demo, EVIL_ID)
        yield demo
        demo.relay.kill()


def park(demo: Demo, post_id: str) -> None:
    """Lets Zendesk refuse a post with this id."""
    demo.khoros.add_posts(1, entityId=post_id, text=EVIL_TEXT)
    demo.zendesk.faults.fail(1, 422, path="/api/v2/tickets", method="POST")
    lines = len(demo.relay.output)
    demo.khoros.label(post_id, LABEL)
    demo.relay.wait_for_line("event=parked", after=lines)


@contextmanager
def logged_in(browser: Browser, demo: Demo, width: int, path: str = "/status", **context: Any) -> Iterator[Page]:
    credentials = {"username": "anyone", "password": demo.relay.env["STATUS_PASSWORD"]}
    with opened(browser, demo.relay.url + path, width, http_credentials=credentials, **context) as page:
        yield page


def test_the_browser_asks_for_the_password_and_shows_nothing_without_it(browser: Browser, demo: Demo) -> None:
    window = browser.new_context(http_credentials={"username": "anyone", "password": "a-guess"})
    page = window.new_page()
    answer = page.goto(f"{demo.relay.url}/status")
    assert answer is not None and answer.status == 401
    assert "waiting" not in page.content() and "twitter" not in page.content()
    window.close()


@both_widths
def test_a_parked_post_is_found_and_sent_again(browser: Browser, demo: Demo, width: int) -> None:
    post_id = f"twitter:retry-{width}"
    park(demo, post_id)
    with logged_in(browser, demo, width) as page:
        page.get_by_role("searchbox").fill(post_id)
        page.keyboard.press("Enter")
        row = page.locator(".items .item").filter(has_text="my secret complaint").filter(has_text="Zendesk")
        expect(row).to_have_count(1)
        expect(row.locator(".chip")).to_have_text("needs attention")
        row.locator(".who").click()
        expect(page.locator(".timeline")).to_contain_text("Attempt 1: refused")
        page.get_by_role("button", name="Send again").click()
        expect(page.get_by_role("status")).to_contain_text("was put back")
        wait_for(lambda: post_id in {ticket.external_id for ticket in demo.zendesk.tickets})
        ticket = next(ticket for ticket in demo.zendesk.tickets if ticket.external_id == post_id)
        link = page.locator(".timeline").get_by_role("link", name=f"#{ticket.id}")  # the page refreshes itself
        expect(link).to_have_attribute("href", f"{demo.relay.env['ZENDESK_API_URL']}/agent/tickets/{ticket.id}")
        page.get_by_role("link", name="Khoros to Zendesk relay").click()
        page.get_by_role("searchbox").fill(str(ticket.id))
        page.get_by_role("button", name="Search").click()
        expect(row.locator(".chip")).to_have_text("delivered")


@both_widths
def test_nothing_found_leads_back_to_the_latest(browser: Browser, demo: Demo, width: int) -> None:
    with logged_in(browser, demo, width, "/status?q=nobody") as page:
        expect(page.locator("main")).to_contain_text("Nothing found.")
        page.get_by_role("link", name="Show the latest").click()
        expect(page.locator(".items .item").first).to_be_visible()


@both_widths
def test_markup_from_outside_stays_text(browser: Browser, demo: Demo, width: int) -> None:
    with logged_in(browser, demo, width) as page:
        row = page.locator(".items .item").filter(has_text=EVIL_TEXT).first
        expect(row).to_be_visible()
        row.locator(".who").click()
        page.get_by_text("What Khoros sent").click()
        expect(page.locator("pre")).to_contain_text("alert(1)")
        assert page.locator("main img:not(.brand img), main script").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@both_widths
def test_axe_finds_no_serious_fault(browser: Browser, demo: Demo, width: int, scheme: str) -> None:
    with logged_in(browser, demo, width, color_scheme=scheme, bypass_csp=True) as page:
        expect(page.locator(".plot .delivered")).not_to_have_count(0)
        assert serious_faults(page) == []
        page.locator(".items .item.parked .who").first.click()
        expect(page.locator(".timeline")).to_be_visible()
        assert serious_faults(page) == []
        page.goto(demo.relay.url)
        assert serious_faults(page) == []


def test_the_keyboard_alone_searches_and_sends_again(browser: Browser, demo: Demo) -> None:
    park(demo, "twitter:keys")
    with logged_in(browser, demo, 1280, "/status?q=twitter:keys") as page:
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.innerText") == "Send again":  # a row's own
                break
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("was put back")


def test_the_pages_own_style_is_not_blocked_by_its_policy(browser: Browser, demo: Demo) -> None:
    with logged_in(browser, demo, 1280) as page:
        assert page.evaluate("getComputedStyle(document.querySelector('.plot .delivered')).fill") != "rgb(0, 0, 0)"


def test_the_page_follows_what_happens_unless_somebody_uses_it(browser: Browser, demo: Demo) -> None:
    with logged_in(browser, demo, 1280) as page:
        page.clock.install()
        page.reload()
        delivered = page.locator(".tabs .delivered b")
        before = int(delivered.inner_text())
        page.get_by_role("searchbox").fill("half a w")
        tickets = len(demo.zendesk.tickets)
        demo.khoros.add_posts(1, entityId="twitter:follows", text="Hello")
        demo.khoros.label("twitter:follows", LABEL)
        wait_for(lambda: len(demo.zendesk.tickets) > tickets)
        page.clock.run_for(16_000)
        expect(page.get_by_role("searchbox")).to_have_value("half a w")
        assert int(delivered.inner_text()) == before
        page.get_by_role("searchbox").fill("")
        page.get_by_role("searchbox").blur()
        page.clock.run_for(16_000)
        expect(delivered).to_have_text(str(before + 2))


def test_times_are_in_the_readers_zone_and_in_utc_without_a_script(browser: Browser, demo: Demo) -> None:
    with logged_in(browser, demo, 1280, timezone_id="Asia/Kolkata", locale="en-GB") as page:
        [local, utc] = page.evaluate(
            "[...document.querySelectorAll('.axis time')].slice(0, 1).flatMap(t => [t.textContent, t.dateTime])"
        )
        assert local.endswith(":30") and utc.endswith(":00:00Z")
        page.locator(".items .who").first.click()
        [local, utc] = page.locator(".timeline time").first.evaluate("t => [t.textContent, t.dateTime]")
        assert re.search(r"20\d\d, \d\d:\d\d:\d\d$", local) and local[-8:-6] != utc[-9:-7]
    with logged_in(browser, demo, 1280, java_script_enabled=False) as page:
        expect(page.locator(".axis time").first).to_contain_text(":00 UTC")


def test_giving_up_takes_two_steps(browser: Browser, demo: Demo) -> None:
    park(demo, "twitter:given-up")
    with logged_in(browser, demo, 360, "/status?q=twitter:given-up") as page:
        expect(page.get_by_role("button", name="Give it up")).to_be_hidden()
        page.get_by_text("Give up", exact=True).click()
        page.get_by_role("button", name="Give it up").click()
        expect(page.get_by_role("status")).to_contain_text("was given up")


def test_on_a_phone_a_row_takes_two_lines(browser: Browser, demo: Demo) -> None:
    with logged_in(browser, demo, 360, "/status?state=delivered") as page:
        heights = page.evaluate("[...document.querySelectorAll('.item')].map(row => row.clientHeight)")
        assert heights and max(heights) < 80
