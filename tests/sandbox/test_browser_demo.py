"""The demo's page in a real browser, over the real relay: what anyone sees who tries it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from browser import PATIENCE_MS, opened, serious_faults
from playwright.sync_api import Browser, Locator, Page, expect

from sandbox.__main__ import LABEL, Demo, start
from sandbox.demo import BURST

WIDTHS = (360, 1280)
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><b>bold</b>"

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with ExitStack() as stack:
        demo = start(stack, any_port=True, echo=None)
        yield demo
        demo.relay.kill()


both_widths = pytest.mark.parametrize("page", WIDTHS, indirect=True)


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser, demo: Demo) -> Iterator[Page]:
    """The page, all well, in the width that a test asks for."""
    with opened(browser, demo.url, getattr(request, "param", WIDTHS[-1])) as page:
        expect(page.locator("#waiting")).to_have_text("0")
        yield page


def new_post(demo: Demo, page: Page) -> Locator:
    """A fresh post, once the page shows it."""
    [post] = demo.khoros.add_posts(1)
    shown = page.locator(f'[id="{post}"]')
    expect(shown).to_be_visible()
    return shown


def apply(label: str, post: Locator) -> None:
    post.locator(f'button[value="{label}"]').click()


def switch(page: Page, mode: str) -> None:
    page.get_by_role("button", name=mode, exact=True).click()
    expect(page.get_by_role("button", name=mode, exact=True)).to_have_attribute("aria-pressed", "true")


def reach(page: Page, element: str) -> None:
    """Presses Tab until the element with this id has the focus."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == element:
            return
    raise AssertionError(f"{element} is not reached with the Tab key")


def tickets_of(demo: Demo, post: Locator) -> int:
    post_id = post.get_attribute("id")
    return sum(ticket.external_id == post_id for ticket in demo.zendesk.tickets)


@both_widths
def test_a_label_becomes_a_ticket_that_opens_as_an_agent_sees_it(page: Page, demo: Demo) -> None:
    post = new_post(demo, page)
    apply(LABEL, post)
    post.get_by_role("link", name="Ticket #").click()
    ticket = page.locator("#opened")
    expect(ticket.locator(".comment")).to_contain_text(post.locator(".text").inner_text())
    expect(ticket.locator(".comment")).to_contain_text("internal note")
    expect(ticket.get_by_text("khoros", exact=True)).to_be_visible()
    assert page.url.startswith(f"{demo.url}/agent/tickets/")


def test_the_label_again_is_a_note_on_the_same_ticket(page: Page, demo: Demo) -> None:
    post = new_post(demo, page)
    apply(LABEL, post)
    post.get_by_role("link", name="Ticket #").click()
    apply(LABEL, post)
    expect(post.get_by_role("link")).to_contain_text("2 notes")
    expect(page.locator("#opened .comment").nth(1)).to_contain_text("The label was applied to this post again.")
    assert tickets_of(demo, post) == 1


def test_another_label_makes_no_ticket_and_the_page_says_so(page: Page, demo: Demo) -> None:
    post = new_post(demo, page)
    apply("Praise", post)
    expect(post).to_contain_text("Praise: no ticket")
    assert tickets_of(demo, post) == 0


@both_widths
def test_the_same_event_twice_is_one_ticket(page: Page, demo: Demo) -> None:
    known, written = set(demo.khoros.posts), len(demo.relay.output)
    page.locator("#twice").click()
    demo.relay.wait_for_line("accepted=0 duplicates=1", after=written)
    [post_id] = set(demo.khoros.posts) - known
    post = page.locator(f'[id="{post_id}"]')
    expect(post).to_contain_text("sent 2 times")
    expect(post.get_by_role("link", name="Ticket #")).to_be_visible()
    expect(page.locator("#relay .log")).to_contain_text("duplicates=1")
    expect(page.locator("#waiting")).to_have_text("0")
    assert tickets_of(demo, post) == 1


@both_widths
def test_while_zendesk_is_down_posts_wait_and_afterwards_all_go(page: Page, demo: Demo) -> None:
    before = len(demo.zendesk.tickets)
    switch(page, "Down")
    page.locator("#burst").click()
    expect(page.locator("#waiting")).to_have_text(str(BURST))
    assert len(demo.zendesk.tickets) == before
    expect(page.locator("#story")).to_contain_text("Zendesk does not answer")
    switch(page, "Healthy")
    expect(page.locator("#burst-done")).to_have_text(f"{BURST} of {BURST}")
    expect(page.locator("#waiting")).to_have_text("0")
    expect(page.locator(".burst")).to_contain_text("none lost, none twice")
    posts = [ticket.external_id for ticket in demo.zendesk.tickets]
    assert len(posts) == len(set(posts))


@both_widths
def test_a_relay_that_was_killed_fetches_what_it_missed(page: Page, demo: Demo) -> None:
    post = new_post(demo, page)
    page.get_by_role("button", name="Kill it with -9").click()
    expect(page.locator("#story")).to_contain_text("The relay was killed")
    expect(page.locator("#waiting")).to_have_text("–")
    apply(LABEL, post)
    expect(post).to_contain_text("no answer from the relay")
    page.get_by_role("button", name="Start it again").click()
    expect(post.get_by_role("link", name="Ticket #")).to_be_visible()
    expect(page.locator("#relay .log")).to_contain_text("killed with -9")
    expect(page.locator("#waiting")).to_have_text("0")
    assert tickets_of(demo, post) == 1


def test_everything_works_with_the_keyboard_and_the_focus_stays(browser: Browser, demo: Demo) -> None:
    with opened(browser, demo.url) as page:
        [post] = demo.khoros.add_posts(1)
        made = page.locator(f'[id="made-{post}"]')
        expect(page.locator(f'[id="{post}"]')).to_be_visible()
        reach(page, f"label-1-{post}")
        page.keyboard.press("Enter")
        expect(made).to_be_visible()
        assert page.evaluate("document.activeElement.id") == f"label-1-{post}"
        reach(page, f"made-{post}")
        page.keyboard.press("Enter")
        expect(page.locator("#opened h3")).to_contain_text(page.locator(f'[id="{post}"] .author').inner_text())
        page.goto(demo.url)
        reach(page, "to-zendesk")
        page.keyboard.press("Enter")
        reach(page, "mode-2")
        page.keyboard.press("Space")
        expect(page.locator("#mode-2")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#mode-2")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#mode-1")).to_have_attribute("aria-pressed", "true")


def test_what_strangers_write_is_shown_and_never_run(browser: Browser, demo: Demo) -> None:
    [post_id] = demo.khoros.add_posts(1, author=EVIL, authorScreenName=EVIL, text=EVIL, inReplyTo=EVIL)
    with opened(browser, demo.url) as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        post = page.locator(f'[id="{post_id}"]')
        expect(post.locator(".text")).to_have_text(EVIL)
        apply(LABEL, post)
        post.get_by_role("link", name="Ticket #").click()
        expect(page.locator("#opened .comment")).to_contain_text(EVIL)
        assert page.locator("img, main script, .post b, #opened h3 b").count() == 0


def test_without_javascript_it_works_with_reloads(browser: Browser, demo: Demo) -> None:
    [post_id] = demo.khoros.add_posts(1)
    with opened(browser, demo.url, java_script_enabled=False) as page:
        apply(LABEL, page.locator(f'[id="{post_id}"]'))
        expect(page).to_have_url(f"{demo.url}/")
        demo.relay.wait_for_line(f"event=ticket_created .*post={post_id}")
        page.reload()
        page.locator(f'[id="made-{post_id}"]').click()
        expect(page.locator("#opened .comment")).to_have_count(1)


def test_reduced_motion_shows_no_animation(browser: Browser, demo: Demo) -> None:
    with opened(browser, demo.url, reduced_motion="reduce") as page:
        post = new_post(demo, page)
        expect(post).to_have_attribute("data-fresh", "")
        expect(post).to_have_css("animation-name", "none")


@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_no_serious_fault_in_light_or_dark(browser: Browser, demo: Demo, width: int) -> None:
    with opened(browser, demo.url, width, reduced_motion="reduce") as page:
        refused = new_post(demo, page)
        page.locator("#refuse").click()
        apply(LABEL, refused)  # so that the page has a parked post to show
        expect(page.locator("#attention")).not_to_have_text("0")
        post = new_post(demo, page)
        apply(LABEL, post)
        post.get_by_role("link", name="Ticket #").click()
        expect(page.locator("#opened .comment")).to_have_count(1)
        assert serious_faults(page) == []
        page.emulate_media(color_scheme="dark")
        assert serious_faults(page) == []
