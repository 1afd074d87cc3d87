"""The rendered book: every page is there, and every picture has a text alternative."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
PAGES = re.findall(r"book/\w+", (ROOT / "_toc.yml").read_text())


class Pictures(HTMLParser):
    """Collects what the article of a page shows without words, and its text."""

    def __init__(self):
        super().__init__()
        self.images: list[dict] = []
        self.canvases: list[dict] = []
        self.in_article = False
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "article":
            self.in_article = True
        if self.in_article and tag == "img":
            self.images.append(attributes)
        if self.in_article and tag == "canvas":
            self.canvases.append(attributes)

    def handle_endtag(self, tag):
        if tag == "article":
            self.in_article = False

    def handle_data(self, data):
        if self.in_article:
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


def test_no_traceback_and_no_unresolved_markup_is_shown(page):
    text = "".join(page.text)
    for sign in ("Traceback (most recent call last)", "{glue:", "{prf:ref}", "{cite:", "|---|", "|—|"):
        assert sign not in text


def test_there_are_pictures_at_all():
    assert sum((HTML / f"{p}.html").read_text(encoding="utf-8").count("<img") for p in PAGES) >= 8
