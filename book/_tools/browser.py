"""The installed Chromium or Chrome, driven by Playwright, without anything that calls home; and where the widgets are."""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"
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

# The page that shows each widget: the one table that says so.
WIDGETS = {
    "BottomLogit": "bottom_class",
    "MarginExplorer": "introduction",
    "VoronoiPlayground": "voronoi",
    "TrainingReplay": "training_on_digits",
}
SETTLE = (
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
)


def page_of(widget: str) -> Path:
    """The built page that shows a widget."""
    return HTML / "book" / f"{WIDGETS[widget]}.html"


def selector(widget: str) -> str:
    """What finds a widget on its page."""
    return f'[data-widget="{widget}"]'


def drawn(page, widget: str):
    """The widget's element, once it is on screen and drawn."""
    found = page.locator(selector(widget))
    found.wait_for()
    found.scroll_into_view_if_needed()
    page.wait_for_function(
        f"Number(document.querySelector('{selector(widget)}').dataset.redraws) >= 1"
    )
    page.evaluate(SETTLE)
    return found


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


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None: ...


@contextmanager
def served():
    """The built book over http; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=HTML)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
