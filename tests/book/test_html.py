"""The rendered book: every page is there, and every picture has a text alternative."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
PAGES = re.findall(r"book/\w+", (ROOT / "_toc.yml").read_text())


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
