"""`make screenshot`: takes the README's pictures of the demo's page and of the status page, in a real browser."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import HttpCredentials, Page, ViewportSize, expect, sync_playwright

from sandbox.__main__ import LABEL, STATUS_PASSWORD, Demo, start
from sandbox.buttons import BURST
from sandbox.day import serve_day
from sandbox.relay import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = ViewportSize(width=1280, height=800)
STATUS_SIZE = ViewportSize(width=1440, height=900)
SCALE = 1.5  # sharp, and still small
PATIENCE_MS = 60_000


def main() -> int:
    """Runs the demo and takes its pictures. Returns 1 when there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"No browser is on the PATH ({', '.join(BROWSERS)}): apt-get install chromium", file=sys.stderr)
        return 1
    expect.set_options(timeout=PATIENCE_MS)
    with ExitStack() as stack, sync_playwright() as playwright:
        demo = start(stack, any_port=True, echo=None)
        window = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        login = HttpCredentials(username="demo", password=STATUS_PASSWORD)
        page = window.new_page(
            viewport=SIZE, device_scale_factor=SCALE, reduced_motion="reduce", http_credentials=login
        )
        page.goto(demo.url)
        break_zendesk(page, demo)
        take(page, "demo")
        page.set_viewport_size(STATUS_SIZE)
        page.goto(f"{serve_day(stack, STATUS_PASSWORD)}/status")
        take(page, "status")
        window.close()
    return 0


def break_zendesk(page: Page, demo: Demo) -> None:
    """Waits for the first ticket, takes Zendesk down, labels a burst of posts and one more, and waits until Slack has
    all of them."""
    expect(page.locator("#step-1")).to_contain_text("one ticket")
    for button in ("Take Zendesk down", f"Label {BURST} posts"):
        page.locator("#next", has_text=button).click()
    label(page, demo, 1)
    expect(page.locator("#tab-zendesk")).to_contain_text(f"{BURST + 1} wait")
    expect(page.locator("#tab-slack")).not_to_contain_text("wait")
    page.locator("#inbox .scroll").evaluate("element => element.scrollTo(0, 0)")
    page.mouse.move(0, 0)


def label(page: Page, demo: Demo, number: int) -> None:
    """Labels one of the first posts."""
    post = list(demo.khoros.posts)[number]
    page.locator(f'[id="{post}"] button[value="{LABEL}"]').click()


def take(page: Page, name: str) -> None:
    """Takes a picture in light and one in dark colours."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        picture: Path = ROOT / "docs" / f"{name}-{scheme}.png"
        page.screenshot(path=picture)
        print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size // 1024} KB")


if __name__ == "__main__":
    sys.exit(main())
