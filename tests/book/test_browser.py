"""Every page of the built book in a real browser: no request leaves it, and nothing fails."""

import re

import pytest
from conftest import HTML, ROOT

PAGES = re.findall(r"book/\w+", (ROOT / "_toc.yml").read_text())
SCREENSHOTS = ROOT / "screenshots"
# The theme's own, on every page.
NOT_OURS = ("Got invalid theme mode",)


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("name", PAGES, ids=lambda name: name.removeprefix("book/"))
def test_page_loads_without_a_network(name, scheme, browser, server):
    base = server if scheme == "http" else HTML.as_uri()
    page = browser.new_page(viewport={"width": 1250, "height": 900})
    wrong = []
    page.on("request", lambda r: r.url.startswith((base, "data:", "blob:")) or wrong.append(f"external: {r.url}"))
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
    page.on("response", lambda r: r.status < 400 or wrong.append(f"{r.status}: {r.url}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on(
        "console",
        lambda m: m.type != "error" or any(t in m.text for t in NOT_OURS) or wrong.append(f"console: {m.text}"),
    )
    page.goto(f"{base}/{name}.html", wait_until="load")
    page.wait_for_function("!window.MathJax || !window.MathJax.startup || window.MathJax.startup.promise.then(() => true)")
    if "06_decision_margins" in name:
        page.wait_for_function("document.querySelectorAll('.gloro-widget').length === 4")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.removeprefix('book/')}-{scheme}.png", full_page=True)
    page.close()
    assert not wrong


def test_phone_width_has_no_sideways_scroll(browser, server):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(f"{server}/book/06_decision_margins.html")
    page.wait_for_function("document.querySelectorAll('.gloro-widget').length === 4")
    for box in page.evaluate("[...document.querySelectorAll('.gloro-widget')].map((e) => e.getBoundingClientRect().right)"):
        assert box <= 390
    page.screenshot(path=SCREENSHOTS / "06_decision_margins-phone.png", full_page=True)
    page.close()


def test_pages_are_small():
    for name in PAGES:
        assert (HTML / f"{name}.html").stat().st_size < 3_000_000
