"""The rendered book: every page is there, and every picture has a text alternative."""

import re
from html.parser import HTMLParser

import pytest
from conftest import HTML, PAGES


class Pictures(HTMLParser):
    """Collects what the article of a page shows without words, and its prose."""

    def __init__(self):
        super().__init__()
        self.images: list[dict] = []
        self.canvases: list[dict] = []
        self.in_article = False
        self.in_code = 0
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "article":
            self.in_article = True
        if tag == "pre":
            self.in_code += 1
        if self.in_article and tag == "img":
            self.images.append(attributes)
        if self.in_article and tag == "canvas":
            self.canvases.append(attributes)

    def handle_endtag(self, tag):
        if tag == "article":
            self.in_article = False
        if tag == "pre":
            self.in_code -= 1

    def handle_data(self, data):
        if self.in_article and not self.in_code:
            self.text.append(data)


@pytest.fixture(params=PAGES, ids=lambda page: page.removeprefix("book/"))
def page(request):
    path = HTML / f"{request.param}.html"
    assert path.is_file(), "build the book first: make book"
    parser = Pictures()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_pictures_have_a_text_alternative(page):
    for image in page.images:
        alt = (image.get("alt") or "").strip()
        assert len(alt) >= 20, f"{image.get('src')} has alt={alt!r}"
        assert not alt.endswith((".png", ".svg")), f"{image.get('src')} has its file's name as alt"
    for canvas in page.canvases:
        assert canvas.get("aria-label") or canvas.get("aria-labelledby")


def test_no_unresolved_markup_is_shown(page):
    text = "".join(page.text)
    assert len(text) > 300
    for sign in ("{glue:", "{prf:ref}", "{cite:", "|---|", "|—|"):
        assert sign not in text


def test_there_are_pictures_at_all():
    assert sum((HTML / f"{p}.html").read_text(encoding="utf-8").count("<img") for p in PAGES) >= 8


def test_every_page_has_a_description_and_an_icon_of_its_own():
    seen = {}
    for name in PAGES:
        text = (HTML / f"{name}.html").read_text(encoding="utf-8")
        (words,) = re.findall(r'<meta name="description" content="([^"]*)">', text)
        assert 40 < len(words) <= 200 and "\\" not in words, (name, words)
        assert seen.setdefault(words, name) == name
        icon = re.search(r'<link rel="icon" href="([^"]*)"', text).group(1)
        assert ((HTML / name).parent / icon).is_file()


def test_icons_that_the_pages_name_are_there():
    """The theme's icons were cut down to those that are used, and no further."""
    script = (HTML / "_static" / "scripts" / "fontawesome.js").read_text(encoding="utf-8")
    named = {
        icon
        for name in PAGES
        for icon in re.findall(
            r'<i class="[^"]*\bfa-(?!solid|regular|brands|fw|lg)([a-z0-9-]+)', (HTML / f"{name}.html").read_text("utf-8")
        )
    }
    assert len(named) >= 3
    for icon in named:
        assert re.search(rf'["{{,]"?{icon}"?[:"]', script), icon
    assert len(script) < 300_000
