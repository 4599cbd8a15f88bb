"""`make screenshot`: takes the README's picture of the demo's page, in a real browser."""

from __future__ import annotations

import re
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

from sandbox.__main__ import LABEL, Demo, start
from sandbox.relay import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = ViewportSize(width=1280, height=800)
PICTURE = ROOT / "docs" / "demo.png"


def main() -> int:
    """Runs the demo and takes its picture. Returns 1 when there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"No browser is on the PATH ({', '.join(BROWSERS)}): apt-get install chromium", file=sys.stderr)
        return 1
    with ExitStack() as stack, sync_playwright() as playwright:
        demo = start(stack, any_port=True, echo=None)
        window = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = window.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
        page.goto(demo.url)
        take(page, demo, PICTURE)
        window.close()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size // 1024} KB")
    return 0


def take(page: Page, demo: Demo, picture: Path) -> None:
    """Publishes a message, labels two posts, and 200 more while Zendesk is down. Takes the picture while these become
    tickets."""
    first, second, *_ = demo.khoros.posts
    for button in ("send", "publish"):
        page.locator(f"#{button}").click()
    for post in (second, first):
        page.locator(f'[id="{post}"] button[value="{LABEL}"]').click()
        expect(page.locator(f'[id="made-{post}"]')).to_be_visible()
    page.get_by_role("button", name="Down", exact=True).click()
    page.locator("#burst").click()
    expect(page.locator("#tab-zendesk")).to_contain_text("200 wait")
    page.get_by_role("button", name="Slow", exact=True).click()
    expect(page.locator("#burst-done")).to_have_text(re.compile(r"[6-9]\d of"), timeout=60_000)
    page.locator(f'[id="made-{first}"]').click()
    expect(page.locator("#opened")).to_contain_text(str(demo.khoros.posts[first]["author"]))
    page.locator("#inbox .scroll").evaluate("element => element.scrollTo(0, 0)")
    page.mouse.move(0, 0)
    page.screenshot(path=picture)


if __name__ == "__main__":
    sys.exit(main())
