"""The demo's page in a real browser, over the real relay: what anyone sees who tries it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from browser import PATIENCE_MS, opened, serious_faults
from conftest import wait_for
from playwright.sync_api import Browser, Locator, Page, expect

from sandbox.__main__ import LABEL, Demo, start
from sandbox.buttons import BURST

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
    """The page, with nothing on its way to Zendesk, in the width that a test asks for."""
    with opened(browser, demo.url, getattr(request, "param", WIDTHS[-1])) as page:
        nothing_waits(page)
        yield page


def nothing_waits(page: Page) -> None:
    """Waits until Zendesk has everything. A channel of Slack takes one message a second: that is not waited for."""
    expect(page.locator("#tab-zendesk")).not_to_contain_text("wait")


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


def test_one_post_becomes_a_ticket_by_itself_and_three_steps_tick_themselves_off(browser: Browser) -> None:
    with ExitStack() as stack:
        demo = start(stack, any_port=True, echo=None)
        stack.callback(demo.relay.kill)
        page = stack.enter_context(opened(browser, demo.url))
        expect(page.locator("#step-1")).to_have_class("step done", timeout=5_000)
        expect(page.locator("#opened h3")).to_contain_text("Mara Lindqvist")
        expect(page.locator(".told")).to_contain_text(re.compile(r"Mara's post → ticket #1001, \d+ ms"))
        for label, answer in (
            ("Take Zendesk down", "Zendesk answers 503 to everything."),
            (f"Label {BURST} posts", f"{BURST} posts labelled. {BURST} posts are safe in the database."),
            ("Kill it with -9", f"Killed. {BURST} posts are safe in the database."),
            ("Start it again", "It runs again."),
            ("Bring Zendesk back", "Zendesk works again."),
        ):
            expect(page.locator("#next")).to_have_text(label)
            for width in (1280, 1024, 768, 360):
                page.set_viewport_size({"width": width, "height": 800})
                widths = page.locator(".step > div").evaluate_all("all => all.map(one => one.clientWidth)")
                assert min(widths) > 140, f"{widths} px are left for the words of the steps in {width} px"
            page.locator("#next").click()
            expect(page.locator("#answer")).to_contain_text(answer)
        expect(page.locator(".step.done")).to_have_count(3)
        expect(page.locator("#step-3")).to_contain_text(f"{BURST} posts, {BURST} tickets: none lost, none twice.")
        expect(page.locator("#next")).to_have_count(0)


@both_widths
def test_a_label_becomes_a_ticket_that_opens_as_an_agent_sees_it(page: Page, demo: Demo) -> None:
    post = new_post(demo, page)
    apply(LABEL, post)
    post.get_by_role("link", name="Ticket #").click()
    ticket = page.locator("#opened")
    expect(ticket.locator(".comment")).to_contain_text(post.locator(".text").inner_text())
    expect(ticket.locator(".comment")).to_contain_text("Internal note")
    expect(ticket.get_by_text("khoros", exact=True)).to_be_visible()
    assert page.url.startswith(f"{demo.url}/agent/tickets/")


def test_the_label_again_is_a_note_on_the_same_ticket(page: Page, demo: Demo) -> None:
    post = new_post(demo, page)
    apply(LABEL, post)
    post.get_by_role("link", name="Ticket #").click()
    apply(LABEL, post)
    expect(post.get_by_role("link", name="Ticket #")).to_contain_text("2 notes")
    expect(page.locator("#opened .comment")).to_have_count(2)
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
    demo.relay.wait_for_line("accepted=0 duplicates=2", after=written)
    [post_id] = set(demo.khoros.posts) - known
    post = page.locator(f'[id="{post_id}"]')
    expect(post).to_contain_text("sent 2 times")
    expect(post.get_by_role("link", name="Ticket #")).to_be_visible()
    expect(page.locator("#answer")).to_contain_text("Sent twice, one ticket: #")
    expect(page.locator(".log")).not_to_be_visible()
    page.locator("#raw").check()
    expect(page.locator(".log")).to_contain_text("duplicates=2")
    expect(page.locator(".told")).not_to_be_visible()
    nothing_waits(page)
    assert tickets_of(demo, post) == 1


@both_widths
def test_while_zendesk_is_down_posts_wait_and_afterwards_all_go(page: Page, demo: Demo) -> None:
    before = len(demo.zendesk.tickets)
    switch(page, "Down")
    page.locator("#burst").click()
    expect(page.locator("#tab-zendesk")).to_contain_text(f"{BURST} wait")
    assert len(demo.zendesk.tickets) == before
    expect(page.locator("#story")).to_contain_text("Zendesk does not answer")
    switch(page, "Healthy")
    expect(page.locator("#burst-done")).to_have_text(f"{BURST} of {BURST}")
    nothing_waits(page)
    expect(page.locator(".burst")).to_contain_text("none lost, none twice")
    posts = [ticket.external_id for ticket in demo.zendesk.tickets]
    assert len(posts) == len(set(posts))


@both_widths
def test_a_label_becomes_a_line_in_slack_too_and_the_same_label_again_a_reply(page: Page, demo: Demo) -> None:
    post = new_post(demo, page)
    apply(LABEL, post)
    post.get_by_role("link", name="Slack social-care").click()
    name = re.search(r"@\w+", post.locator(".soft").first.inner_text())
    assert name
    line = page.locator("#slack .line", has=page.locator("blockquote"), has_text=name[0])
    expect(line.locator("blockquote")).to_have_text(post.locator(".text").inner_text())
    expect(line.locator(".said").first).to_contain_text("Label CreateCase")
    apply(LABEL, post)
    expect(line.locator(".thread")).to_contain_text("This post came again")


@both_widths
def test_a_rule_and_messages_of_ours_reach_the_people_that_routes_name(page: Page, demo: Demo) -> None:
    page.locator("#rule").click()
    page.locator("#publish-error").click()
    page.locator("#send").click()
    page.locator("#tab-slack").click()
    page.locator(".channels a", has_text="social-crisis").click()
    expect(page.locator("#slack .line").first).to_contain_text("Rule Product recall")
    page.locator(".channels a", has_text="Ann Keller").click()
    expect(page.locator("#slack .line").first).to_contain_text("LinkedIn refused it for account 9001: Spring roast")
    page.locator("#tab-webhook").click()
    expect(page.locator("#webhooks")).to_contain_text("signature verified")


def test_while_slack_is_down_tickets_go_on_and_a_backlog_becomes_a_digest(page: Page, demo: Demo) -> None:
    page.locator("#tab-slack").click()
    switch(page, "Down")
    page.locator("#burst").click()
    expect(page.locator("#burst-done")).to_have_text(f"{BURST} of {BURST}")
    expect(page.locator("#story")).to_contain_text("Slack #social-care does not answer")
    known = len(digests(demo))
    switch(page, "Healthy")
    wait_for(lambda: len(digests(demo)) > known, 60)  # the relay's next try may be half a minute away
    expect(page.locator("#slack .lines")).to_contain_text("more: see them in Khoros")
    assert not any(message.mentions for message in demo.slack.messages)


def digests(demo: Demo) -> list[str]:
    texts = [message.text for message in demo.slack.messages_in("social-care")]
    return [text for text in texts if "came in at once" in text]


@both_widths
def test_a_relay_that_was_killed_fetches_what_it_missed(page: Page, demo: Demo) -> None:
    post = new_post(demo, page)
    page.locator("#power").click()
    expect(page.locator("#story")).to_contain_text("The relay is dead")
    apply(LABEL, post)
    expect(post).to_contain_text("no answer from the relay")
    expect(page.locator("#answer")).to_contain_text("Khoros keeps the event")
    page.locator("#power").click()
    expect(post.get_by_role("link", name="Ticket #")).to_be_visible()
    expect(page.locator(".told")).to_contain_text("got its label while the relay was away: fetched now.")
    nothing_waits(page)
    assert tickets_of(demo, post) == 1


def test_on_a_phone_what_a_button_answers_is_in_sight_wherever_it_is_pressed(browser: Browser, demo: Demo) -> None:
    [post] = demo.khoros.add_posts(1)
    with opened(browser, demo.url, 360) as page:
        apply("Idea", page.locator(f'[id="{post}"]'))
        expect(page.locator("#answer")).to_contain_text("No route wants this label")
        page.locator("#refuse").scroll_into_view_if_needed()
        expect(page.locator("#answer")).to_be_in_viewport()
        for button in page.locator(".actions button").all():
            box = button.bounding_box()
            assert box and box["x"] + box["width"] <= 360 and box["height"] >= 24


def test_on_a_phone_the_bar_keeps_its_distance_from_the_steps(browser: Browser, demo: Demo) -> None:
    with opened(browser, demo.url, 360) as page:
        last, bar = page.locator("#step-3").bounding_box(), page.locator(".sticky").bounding_box()
        assert last and bar and bar["y"] - last["y"] - last["height"] >= 8


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
        reach(page, "to-desk")
        page.keyboard.press("Enter")
        reach(page, "mode-zendesk-2")
        page.keyboard.press("Space")
        expect(page.locator("#mode-zendesk-2")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#mode-zendesk-2")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#mode-zendesk-1")).to_have_attribute("aria-pressed", "true")
        page.goto(demo.url)
        reach(page, "to-desk")
        page.keyboard.press("Enter")
        reach(page, "tab-slack")
        page.keyboard.press("Enter")
        expect(page.locator("#slack")).to_be_visible()
        assert page.evaluate("document.activeElement.id") == "tab-slack"


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
    with opened(browser, f"{demo.url}/tab/slack", java_script_enabled=False) as page:
        page.get_by_role("button", name="Slow", exact=True).click()
        expect(page).to_have_url(f"{demo.url}/tab/slack")
        page.get_by_role("button", name="Healthy", exact=True).click()
        page.locator("#tab-zendesk").click()
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
        for tab, part in (("zendesk", "html"), ("slack", "#desk"), ("webhook", "#desk")):
            page.locator(f"#tab-{tab}").click()
            expect(page.locator(f"#tab-{tab}")).to_have_attribute("aria-current", "page")
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                assert serious_faults(page, part) == []
