"""A browser for the rendered pages, and a server of them. Tests that need a browser are skipped where none is installed."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
PAGES = re.findall(r"book/\w+", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
sys.path.insert(0, str(ROOT / "book" / "_ext"))
sys.path.insert(0, str(ROOT / "book" / "_tools"))

PHONE = 375
THEMES = ("light", "dark")


def pytest_addoption(parser):
    parser.addoption("--screenshots", action="store_true", help="keep pictures of all pages, at two widths, in screenshots/")


@pytest.fixture(scope="session")
def pictured(request):
    """Keeps a picture of a whole page in screenshots/, where that was asked for: a long page's takes seconds."""

    def keep(page, name: str) -> None:
        if request.config.getoption("--screenshots", default=False):
            folder = ROOT / "screenshots"
            folder.mkdir(exist_ok=True)
            page.screenshot(path=folder / f"{name}.png", full_page=True)

    return keep


@pytest.fixture(scope="session")
def browser():
    from browser import executable, launched

    if executable() is None:
        pytest.skip("no Chromium or Chrome is installed: the pages are not tested in a browser")
    with launched() as chromium:
        yield chromium


@pytest.fixture(scope="session")
def server():
    """The address of the built book over http."""
    from browser import served

    with served() as address:
        yield address


def themed(browser, theme: str, **options):
    """A page whose reader has chosen a theme."""
    page = browser.new_page(**options)
    page.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
    return page


def formulas_set(page) -> None:
    """Wait until MathJax is done, where the page has formulas, and fonts are there."""
    page.wait_for_function("!window.MathJax || (window.MathJax.startup?.promise ?? false)")
    page.evaluate("window.MathJax?.startup?.promise?.then(() => true)")
    page.evaluate("document.fonts.ready.then(() => true)")
