"""A real browser for the tests of pages, and axe-core, which finds faults of accessibility.

Nothing is downloaded: the tests use the browser of this machine. They take as long as all others together, so they run
by `make browser` alone, which sets BROWSER_TESTS=only.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from sandbox.screenshot import BROWSERS

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip
AXE_VERSION = "4.14.1"
AXE_FOLDER = Path(__file__).parent.parent / ".axe"
AXE = AXE_FOLDER / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE_MS = 30_000


def deselect_browser_tests(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves in `items` either the tests that need a browser, or the others."""
    only = os.environ.get("BROWSER_TESTS") == "only"
    others = [item for item in items if ("browser" in getattr(item, "fixturenames", ())) != only]
    if others:
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=others)


def find_browser() -> str | None:
    """The path of this machine's Chromium or Chrome."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's Chromium or Chrome, without a window."""
    path = find_browser()
    assert path, f"no browser is on the PATH ({', '.join(BROWSERS)}): apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, width: int = 1280, height: int = 800, **context: Any) -> Iterator[Page]:
    """A page in a window of its own. At the end the page must fit the window's width, and its console must be empty."""
    window = browser.new_context(viewport={"width": width, "height": height}, **context)
    window.set_default_timeout(PATIENCE_MS)
    page = window.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    try:
        page.goto(url)
        yield page
        page.wait_for_load_state()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"the page is {wide} px wide and scrolls sideways in {width} px"
        assert not messages, messages
    finally:
        window.close()


def serious_faults(page: Page, part: str = "html") -> list[str]:
    """The serious and critical faults that axe-core finds in a part of the page: the rule and the place."""
    command = f"npm install --no-save --prefix {AXE_FOLDER.name} axe-core@{AXE_VERSION}"
    assert AXE.exists(), f"axe-core is not installed: {command}"
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(f"axe.run('{part}', {{resultTypes: ['violations']}})")
    faults = [fault for fault in found["violations"] if fault["impact"] in ("serious", "critical")]
    assert found["passes"], "axe-core examined nothing"
    return [f"{fault['id']}: {node['target']} {node['failureSummary']}" for fault in faults for node in fault["nodes"]]
