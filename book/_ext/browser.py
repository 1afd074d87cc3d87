"""The installed Chromium or Chrome, driven by Playwright, without anything that calls home."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"
EXPLORATION = HTML / "book" / "decision_margins.html"
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def executable() -> str | None:
    """Where the browser is, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def launched():
    """A browser with a fresh profile. Raises FileNotFoundError where none is installed."""
    path = executable()
    if path is None:
        raise FileNotFoundError(f"no browser found: install one of {', '.join(NAMES)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
