"""The rendered book: every page is there, and every picture has a text alternative."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import bundles
import pytest
from conftest import HTML, PAGES, ROOT


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
        assert f'<meta property="og:description" content="{words}">' in text and 'property="og:title"' in text
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


def test_a_chapter_ends_with_its_last_run():
    for name in PAGES:
        runs = re.findall(r'<p class="gloro-run">(.*?)</p>', (HTML / f"{name}.html").read_text(encoding="utf-8"))
        if not (ROOT / f"{name}.ipynb").is_file():
            assert runs == []
            continue
        (run,) = runs
        assert re.fullmatch(
            r"Last run on \d{4}-\d\d-\d\d in \d+ s, with Python 3\.\d+\.\d+\S* and PyTorch 2\.\d+\.\d+\S*\."
            r"( <a href=.* download>This notebook with the data that it reads</a> \(unpacked \S+ MB\)\.)?",
            run,
        ), run


def test_a_chapter_is_offered_with_the_data_that_its_run_read(tmp_path):
    """The archives hold what the run noted, byte for byte, and one runs from its folder by a package without a checkout."""
    offered = 0
    for name in PAGES:
        text = (HTML / f"{name}.html").read_text(encoding="utf-8")
        read = bundles.data_files(ROOT / f"{name}.ipynb") if (ROOT / f"{name}.ipynb").is_file() else []
        links = re.findall(r'href="\.\./(chapters/[a-z_]+\.zip)"', text)
        assert links == ([f"chapters/{Path(name).name}.zip"] if read else [])
        if not links:
            continue
        offered += 1
        with zipfile.ZipFile(HTML / links[0]) as archive:
            for path in read:
                assert archive.read(f"{Path(name).name}/{path.removeprefix('data/')}") == (ROOT / path).read_bytes()
            archive.extractall(tmp_path)
    assert offered >= 10

    shutil.copytree(ROOT / "gloro_lite", tmp_path / "site" / "gloro_lite")
    chapter = tmp_path / "muon_and_the_sphere"
    (chapter / "results" / "mnist-0.3").rename(chapter / "away")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "muon_and_the_sphere.ipynb", "out.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    assert subprocess.run(command, cwd=chapter, env=environment, capture_output=True).returncode != 0  # so it is from there
    (chapter / "away").rename(chapter / "results" / "mnist-0.3")
    ran = subprocess.run(command, cwd=chapter, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_figures_are_shown_at_half_their_size():
    text = (HTML / f"{PAGES[0]}.html").read_text(encoding="utf-8")
    widths = re.findall(r'<img[^>]* src="\.\./_images/[0-9a-f]{64}\.png" style="width: (\d+)px;', text)
    assert len(widths) >= 3 and all(200 < int(width) < 700 for width in widths)


def test_the_reference_tells_of_ours_and_nothing_twice():
    """Neither torch's words for every module, nor a named tuple's for its fields, nor a base's arguments."""
    text = (HTML / "book" / "api.html").read_text(encoding="utf-8")
    for words in ("Define the computation", "Return the extra representation", "Alias for field number"):
        assert words not in text, words
    words = re.sub(r"<[^>]*>", "", text)
    assert "*args" not in words and "kwargs (" not in words
    assert "MarginExplorer(gloro, standard, points, labels, *, epsilon=None)" in words
    (recipe,) = re.findall(r'id="gloro_lite.train.recipes.Recipe".*?</dl>', text, re.DOTALL)
    assert re.search(r"train_epsilon</strong> \(<em>float</em>\) – \w", recipe)  # what a field means, from its metadata


def test_a_formula_keeps_its_marks_on_its_line():
    import pages

    formula = '<span class="math notranslate nohighlight">\\(x\\)</span>'
    equal = '<span class="math notranslate nohighlight">\\(x =\\)</span> <span class="pasted-text">3</span>'
    for text in (f"({formula}).", f"“({formula}”", f"{formula}-", equal):
        assert pages.tidied(f"a {text} b") == f'a <span class="gloro-whole">{text}</span> b'
    assert pages.tidied(f"a {formula} b {formula}") == f"a {formula} b {formula}"
    assert pages.tidied("<b>97.03</b> % of") == "<b>97.03</b>&nbsp;% of"
    assert pages.tidied('Solution to<a href="#e"> Exercise 1</a>') == 'Solution to <a href="#e">Exercise 1</a>'


def test_the_index_has_the_main_terms_and_is_linked():
    text = (HTML / "genindex.html").read_text(encoding="utf-8")
    for term in ("Lipschitz constant", "certified radius", "power iteration", "adversarial example", "separation", "TRADES"):
        assert re.search(rf">\s*{term}", text), term
    assert 'href="../genindex.html"' in (HTML / f"{PAGES[0]}.html").read_text(encoding="utf-8")


def test_the_pdf_is_linked_where_it_is_there():
    text = (HTML / f"{PAGES[0]}.html").read_text(encoding="utf-8")
    assert ("gloro-lite.pdf" in text) == (HTML / "gloro-lite.pdf").is_file()


def test_an_old_pdf_is_not_offered(tmp_path, monkeypatch):
    import pages

    pdf, results = tmp_path / "book.pdf", tmp_path / "chapter.ipynb"
    monkeypatch.setattr(pages, "PDF", pdf)
    monkeypatch.setattr(pages, "twin", lambda notebook: results)
    body = '<p>A.</p><p class="gloro-pdf"></p>'
    results.write_text("{}")
    assert pages.offered(body) == "<p>A.</p>"
    pdf.write_bytes(bytes(3_000_000))
    os.utime(results, (1, 1))
    assert '<a href="../book.pdf">' in pages.offered(body) and "3 MB" in pages.offered(body)
    os.utime(pdf, (0, 0))
    assert pages.offered(body) == "<p>A.</p>"


def test_addresses_give_a_sitemap_previews_and_links_to_run(tmp_path):
    import pages

    (tmp_path / "_images").mkdir()
    (tmp_path / "_config.yml").write_text("repository: {url: https://example.org/r}", encoding="utf-8")
    config = SimpleNamespace(html_baseurl="https://example.org/book/", html_theme_options={})
    app = SimpleNamespace(
        srcdir=tmp_path,
        outdir=tmp_path,
        builder=SimpleNamespace(name="html"),
        config=config,
        env=SimpleNamespace(found_docs={"book/b", "a"}),
    )
    pages.sitemap(app, None)
    found = [place.text for place in ElementTree.parse(tmp_path / "sitemap.xml").iter() if place.tag.endswith("loc")]
    assert found == ["https://example.org/book/a.html", "https://example.org/book/book/b.html"]
    pages.launch(app, config)
    assert (
        config.html_theme_options["launch_buttons"]["binderhub_url"] and config.html_theme_options["repository_branch"] == "main"
    )
    config.html_title, config.project = "The book", "p"
    context = {"title": "A &amp; <em>B</em>", "body": '<p class="gloro-pdf"></p>'}
    pages.describe(app, "book/b", "page.html", context, None)
    assert '<meta property="og:title" content="A &amp; B">' in context["metatags"]
    assert '<meta property="og:url" content="https://example.org/book/book/b.html">' in context["metatags"]
    config.html_baseurl, config.html_theme_options = "", {}
    (tmp_path / "sitemap.xml").unlink()
    (tmp_path / "_config.yml").write_text("title: without an address")
    pages.sitemap(app, None)
    pages.launch(app, config)
    assert not (tmp_path / "sitemap.xml").exists() and config.html_theme_options == {}
