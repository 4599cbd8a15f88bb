"""A real browser for the tests of pages, and axe-core to examine what it shows.

Nothing is downloaded: the tests use the browser of this machine, and are skipped where there is none. .ci/run installs
what is missing and sets BROWSER_TESTS=required, so that there they fail instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from sandbox.screenshot import BROWSERS

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip
AXE_VERSION = "4.14.1"
AXE_FOLDER = Path(__file__).parent.parent / ".axe"
AXE = AXE_FOLDER / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE_MS = 15_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's Chromium or Chrome, without a window."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing(f"no browser is on the PATH ({', '.join(BROWSERS)}): apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, width: int = 1280, height: int = 800, **context: Any) -> Iterator[Page]:
    """A page in a window of its own. Afterwards it must fit the window's width, and its console must be empty."""
    window = browser.new_context(viewport={"width": width, "height": height}, **context)
    window.set_default_timeout(PATIENCE_MS)
    page = window.new_page()
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    try:
        page.goto(url)
        yield page
        page.wait_for_load_state()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"the page is {wide} px wide and scrolls sideways in {width} px"
        assert not told, told
    finally:
        window.close()


def serious_faults(page: Page) -> list[str]:
    """What axe-core finds on the page that is serious or critical: the rule, and where."""
    if not AXE.exists():
        command = f"npm install --no-save --prefix {AXE_FOLDER.name} axe-core@{AXE_VERSION}"
        missing(f"axe-core is not installed: {command}")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    faults = [fault for fault in found["violations"] if fault["impact"] in ("serious", "critical")]
    assert found["passes"], "axe-core examined nothing"
    return [f"{fault['id']}: {node['target']} {node['failureSummary']}" for fault in faults for node in fault["nodes"]]


def missing(what: str) -> NoReturn:
    """Skips the test; fails it where BROWSER_TESTS=required."""
    if os.environ.get("BROWSER_TESTS") == "required":
        pytest.fail(what)
    pytest.skip(what)
