"""Every page of the built book in a real browser: no request leaves it, nothing fails, and anybody can read it."""

import pytest
from browser import WIDGETS, drawn
from conftest import HTML, PAGES, PHONE, THEMES, formulas_set, themed

# The theme's own, on every page.
NOT_OURS = ("Got invalid theme mode",)
ZOOMED = 320  # what a window of 1280 shows at 400 %
HEAVIEST = 2_000_000  # bytes that a page and all that it loads may have, before compression

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
GOOD_PRACTICE = ["heading-order", "empty-table-header", "image-redundant-alt", "duplicate-id", "label-title-only"]
OF_COLOUR = {"color-contrast", "link-in-text-block"}
# What axe finds in the theme, by its rule and a piece of the element's HTML, and why it stays.
OF_THE_THEME = (
    # Named "Search" and "Color mode", they show a key's name or a tooltip besides; the icon alone is seen.
    ("label-content-name-mismatch", "search-button-field"),
    ("label-content-name-mismatch", "theme-switch-button"),
)
# A column's head that is a formula is not empty: axe does not read the MathML that screen readers are given.
AXE = """async (rules) => {
  const runOnly = { type: "rule", values: rules };
  const { violations } = await axe.run(document, { runOnly, resultTypes: ["violations"], elementRef: true });
  return violations.flatMap(({ id, nodes }) => nodes
    .filter(({ element }) => id !== "empty-table-header" || !element.querySelector("mjx-assistive-mml math"))
    .map(({ target, html }) => [id, target.join(" "), html.slice(0, 200)])); }"""

# What is wider than the box that it scrolls in.
WIDER = """(boxes) => [...document.querySelectorAll(boxes)].filter((e) => e.scrollWidth > e.clientWidth + 1)
    .map((e) => [e.textContent.slice(0, 60), e.scrollWidth, e.clientWidth])"""


def widgets_on(name: str) -> list[str]:
    return [widget for widget, page in WIDGETS.items() if page == short(name)]


def watched(browser, base: str) -> tuple:
    """A new page whose reader has chosen the light theme, and a list of all that goes wrong on it from now on."""
    page, wrong = themed(browser, THEMES[0], viewport={"width": 1280, "height": 900}), []
    page.on("request", lambda r: r.url.startswith((base, "data:", "blob:")) or wrong.append(f"external: {r.url}"))
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
    page.on("response", lambda r: r.status < 400 or wrong.append(f"{r.status}: {r.url}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on(
        "console",
        lambda m: m.type != "error" or any(t in m.text for t in NOT_OURS) or wrong.append(f"console: {m.text}"),
    )
    return page, wrong


def check_whole(page, name: str, wrong: list[str]) -> None:
    """Widgets are drawn, all formulas are set, and nothing has failed."""
    formulas_set(page)
    for widget in widgets_on(name):
        drawn(page, widget)
    formulas = page.locator("span.math, div.math").count()
    set_ = page.locator("mjx-container").count()
    assert not wrong
    assert set_ >= formulas > 0 or formulas == 0


def short(name: str) -> str:
    return name.removeprefix("book/")


@pytest.fixture(scope="module", params=PAGES, ids=short)
def opened(request, browser):
    """A page of the book, read from the disk: its name, the page, and what went wrong. Opened once for all tests of it."""
    page, wrong = watched(browser, HTML.as_uri())
    page.goto(f"{HTML.as_uri()}/{request.param}.html", wait_until="load")
    formulas_set(page)
    yield request.param, page, wrong
    page.close()


def resized(page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("window.scrollTo({ top: 0, behavior: 'instant' })")
    page.wait_for_timeout(300)  # boxes that scroll are marked after a pause


@pytest.mark.parametrize("name", PAGES, ids=short)
def test_page_loads_over_http_without_another_host(name, browser, server, pictured):
    page, wrong = watched(browser, server)
    page.goto(f"{server}/{name}.html", wait_until="load")
    check_whole(page, name, wrong)
    pictured(page, short(name))
    weight = page.evaluate(
        """performance.getEntriesByType('resource').reduce((sum, one) => sum + one.decodedBodySize,
            performance.getEntriesByType('navigation')[0].decodedBodySize)"""
    )
    page.close()
    assert weight < HEAVIEST


def test_page_opens_from_the_disk(opened):
    name, page, wrong = opened
    check_whole(page, name, wrong)


def test_a_phone_shows_all_of_a_page(opened, pictured):
    name, page, _ = opened
    resized(page, PHONE)
    for widget in widgets_on(name):
        box = drawn(page, widget).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE
    for width in (ZOOMED, PHONE):
        resized(page, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    pictured(page, f"{short(name)}-phone")


def test_page_is_accessible(opened):
    """axe-core finds nothing against WCAG 2.2 AA, in either theme and at two widths, and no page is wider than its window."""
    import offline

    axe = offline.axe()
    if axe is None:
        pytest.skip("npm cannot give axe-core: pages are not checked for accessibility")
    name, page, _ = opened
    page.evaluate(axe.read_text(encoding="utf-8"))
    rules = set(page.evaluate("(tags) => axe.getRules(tags).map((rule) => rule.ruleId)", RULES) + GOOD_PRACTICE)
    rules &= set(page.evaluate("axe.getRules().map((rule) => rule.ruleId)"))
    assert rules > OF_COLOUR
    found = []
    # The light one last: the next test finds the page as it was. Colours are the same at every width, and a wide page shows more.
    for width, theme in ((1280, THEMES[1]), (1280, THEMES[0]), (PHONE, THEMES[0])):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("(theme) => Object.assign(document.documentElement.dataset, { mode: theme, theme })", theme)
        for widget in widgets_on(name):
            drawn(page, widget)
        resized(page, width)
        wanted = rules if theme == THEMES[0] else OF_COLOUR  # the rest is the same in both
        found += [
            (width, theme, rule, target, html)
            for rule, target, html in page.evaluate(AXE, sorted(wanted))
            if not any(rule == theirs and part in html for theirs, part in OF_THE_THEME)
        ]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not found


def test_code_and_formulas_fit(opened):
    """No code, text or table is wider than a desktop's column, folded or not; what is no code cell fits a phone's too.

    So formulas are no stops of the tab key; what scrolls is one.
    """
    _, page, _ = opened
    resized(page, 1280)
    assert page.locator("article mjx-container[tabindex='0']").count() == 0
    clipped = page.evaluate(
        """[...document.querySelectorAll('article pre')].filter((e) => e.scrollWidth > e.clientWidth + 1
            && !(/auto|scroll/.test(getComputedStyle(e).overflowX) && e.tabIndex === 0)).map((e) => e.textContent.slice(0, 40))"""
    )
    assert not clipped
    page.evaluate("document.querySelectorAll('article details').forEach((e) => (e.open = true))")
    page.evaluate("document.querySelectorAll('article .toggle-hidden').forEach((e) => e.classList.remove('toggle-hidden'))")
    boxes = "article pre, article div.pst-scrollable-table-container"
    assert page.evaluate(WIDER, boxes) == []
    resized(page, PHONE)
    boxes = "article .cell_output pre, article div.pst-scrollable-table-container"
    assert page.evaluate(WIDER, boxes) == []
    wide = page.evaluate(
        """[...document.querySelectorAll('article p code')].filter((e) => e.offsetParent && e.getBoundingClientRect().right >
            e.closest('p').getBoundingClientRect().right + 1).map((e) => e.textContent)"""
    )
    assert wide == []
    wide = page.evaluate(
        """[...document.querySelectorAll('article mjx-container')].filter((e) => e.offsetParent).map((e) =>
            [e.textContent, e.querySelector('mjx-math').getBoundingClientRect().width - e.getBoundingClientRect().width])
            .filter(([, beyond]) => beyond > 2)"""
    )
    assert wide == []


def contrasts(page, words: str) -> list[tuple[str, float]]:
    """The contrast of every element's text with what lies under it, by WCAG's formula."""
    return page.evaluate(
        """(words) => {
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
        return [...document.querySelectorAll(words)].filter((e) => e.textContent.trim()).map((e) => {
          const style = getComputedStyle(e);
          const [a, b] = [light(rgba(e.tagName === "text" ? style.fill : style.color)), under(e)].sort((x, y) => y - x);
          return [e.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)]; });
        }""",
        words,
    )


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("widget", WIDGETS)
def test_widgets_are_readable_in_both_themes(widget, theme, browser):
    """Every word of a widget has the contrast with what lies under it that WCAG asks for, 4.5."""
    page = themed(browser, theme, viewport={"width": 1250, "height": 900})
    page.goto(f"{HTML.as_uri()}/book/{WIDGETS[widget]}.html")
    drawn(page, widget)
    tags = (
        "p:not(.gloro-spoken)",
        "text:not(.gloro-on-color)",
        "b",
        "button",
        "label span",
        "output",
        "th",
        "td",
        "legend",
        "li",
    )
    ratios = contrasts(page, ", ".join(f'[data-widget="{widget}"] {tag}' for tag in tags))
    page.close()
    assert len(ratios) > 8
    assert all(ratio >= 4.5 for _, ratio in ratios), [r for r in ratios if r[1] < 4.5]


def test_a_dark_page_is_printed_light(browser):
    page = themed(browser, "dark", viewport={"width": 1250, "height": 900})
    page.goto(f"{HTML.as_uri()}/{PAGES[0]}.html")
    formulas_set(page)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    ratios = contrasts(page, "article p, article li, article h1, article h2")
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    back = page.evaluate("document.documentElement.dataset.theme")
    page.close()
    assert len(ratios) > 5 and all(ratio >= 4.5 for _, ratio in ratios)
    assert back == "dark"


def test_motion_and_forced_colours(browser):
    """Readers who ask for less motion get none; with forced colours, words and controls of a widget are still there."""
    widget, name = next(iter(WIDGETS.items()))
    context = browser.new_context(reduced_motion="reduce", forced_colors="active", viewport={"width": 1250, "height": 900})
    page = context.new_page()
    page.goto(f"{HTML.as_uri()}/book/{name}.html")
    found = drawn(page, widget)
    moving = page.evaluate(
        """[...document.querySelectorAll('*')].filter((e) => {
            const style = getComputedStyle(e);
            const seconds = (times) => Math.max(...times.split(',').map(parseFloat));
            return seconds(style.transitionDuration) > 0.01 || seconds(style.animationDuration) > 0.01; }).length"""
    )
    ratios = contrasts(page, f'[data-widget="{widget}"] p:not(.gloro-spoken), [data-widget="{widget}"] button')
    sliders = found.locator("input[type=range]").first
    assert sliders.is_visible()
    context.close()
    assert moving == 0
    assert all(ratio >= 4.5 for _, ratio in ratios)


def test_pages_are_small():
    for name in PAGES:
        assert (HTML / f"{name}.html").stat().st_size < 1_000_000
