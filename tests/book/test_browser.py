"""Every page of the built book in a real browser: no request leaves it, and nothing fails."""

import re

import pytest
from conftest import HTML, ROOT

PAGES = re.findall(r"book/\w+", (ROOT / "_toc.yml").read_text())
SCREENSHOTS = ROOT / "screenshots"
# The theme's own, on every page.
NOT_OURS = ("Got invalid theme mode",)
PHONE = 375


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
    if "decision_margins" in name:
        page.wait_for_function("document.querySelectorAll('.gloro-widget').length === 4")
    page.evaluate("document.fonts.ready.then(() => true)")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.removeprefix('book/')}-{scheme}.png", full_page=True)
    page.close()
    assert not wrong


def test_phone_width_has_no_sideways_scroll(browser, server):
    page = browser.new_page(viewport={"width": PHONE, "height": 800})
    page.goto(f"{server}/book/decision_margins.html")
    page.wait_for_function("document.querySelectorAll('.gloro-widget').length === 4")
    for box in page.evaluate("[...document.querySelectorAll('.gloro-widget')].map((e) => e.getBoundingClientRect().right)"):
        assert box <= PHONE
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    page.screenshot(path=SCREENSHOTS / "decision_margins-phone.png", full_page=True)
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_widgets_are_readable_in_both_themes(theme, browser, server):
    """Every word of a widget and of its sliders has the contrast with what lies under it that WCAG asks for, 4.5."""
    page = browser.new_page(viewport={"width": 1250, "height": 900})
    page.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
    page.goto(f"{server}/book/decision_margins.html")
    page.wait_for_function("document.querySelectorAll('.gloro-widget').length === 4")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    ratios = page.evaluate(
        """() => {
        const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const rgba = (color) => {
          brush.clearRect(0, 0, 1, 1);
          brush.fillStyle = color;
          brush.fillRect(0, 0, 1, 1);
          return [...brush.getImageData(0, 0, 1, 1).data];
        };
        const light = (color) => {
          const [r, g, b] = color.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const under = (node) => {
          for (let e = node; e; e = e.parentElement) {
            const color = rgba(getComputedStyle(e).backgroundColor);
            if (color[3] === 255) return light(color);
          }
          return 1;
        };
        const words = ".gloro-widget p, .gloro-widget h4, .gloro-widget text, .gloro-widget b, .gloro-widget button, "
          + ".widget-subarea .widget-label, .widget-subarea .widget-readout";
        return [...document.querySelectorAll(words)].filter((e) => e.textContent.trim()).map((e) => {
          const style = getComputedStyle(e);
          const [a, b] = [light(rgba(e.tagName === "text" ? style.fill : style.color)), under(e)].sort((x, y) => y - x);
          return [e.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)]; });
        }"""
    )
    page.close()
    assert len(ratios) > 20
    assert all(ratio >= 4.5 for _, ratio in ratios), [r for r in ratios if r[1] < 4.5]


def test_pages_are_small():
    for name in PAGES:
        assert (HTML / f"{name}.html").stat().st_size < 3_000_000
