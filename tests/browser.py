"""A real browser on the real Prefect UI; the tests that need one are skipped, and say so, where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 300_000
"""Milliseconds that a page gets to show what it is asked for: the first one is thousands of files of a busy server."""


def find_chromium() -> str:
    """Return the path of a Chromium of this machine; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser to look at the UI with: none of {', '.join(NAMES)} is on the PATH")
    return found


@contextmanager
def browsing() -> Iterator[Page]:
    """Hold one page of a browser without a screen."""
    path = find_chromium()
    with sync_playwright() as playwright:
        # --no-sandbox: root may not use it, and containers have none.
        browser: Browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            # High, because the UI leaves out what is below the edge.
            page = browser.new_page(viewport={"width": 1400, "height": 2000})
            page.set_default_timeout(PATIENCE)
            yield page
        finally:
            browser.close()


def wait_for(place: Locator) -> Locator:
    """Return the place when it is seen."""
    expect(place).to_be_visible(timeout=PATIENCE)
    return place
