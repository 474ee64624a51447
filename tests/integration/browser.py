"""A real browser, without a window, that tells what a page does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Seen:
    """A page, and what it did.

    Attributes:
        page: Open in the browser.
        said: Everything on the console, and errors.
        asked: URLs that were requested, the page's own aside.
    """

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        reason = f"no browser: install one of {', '.join(NAMES)}, as .ci/chromium does"
        pytest.fail(reason, pytrace=False) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def look(browser: Browser, file: Path, width: int = 1100) -> Seen:
    """Open a file and wait until all is quiet."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    seen, own = Seen(page), file.absolute().as_uri()
    page.on("console", lambda message: seen.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: seen.said.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: None if request.url == own else seen.asked.append(request.url))
    page.goto(own, wait_until="networkidle")
    return seen
