"""Sphinx extension: what every page says of itself, valid HTML, and what a page need not carry.

To search engines and to who shares a link: a page's description is its first paragraph. To readers: when a chapter ran and with
what, at its foot. Font Awesome's script and style rules, 1.6 MB of icons, are cut down to those that the pages show.

Where the book is published stands in _config.yml: with `repository: url:` chapters link to Binder and Colab; with
`html: baseurl:` pages have their own address and a picture for previews, and there is a sitemap.
"""

from __future__ import annotations

import html
import inspect
import re
import shutil
import sys
from collections import _tuplegetter
from dataclasses import Field, fields, is_dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "_tools"))

import bundles
import nbformat
import yaml
from docutils import nodes
from execute import ROOT, TWINS, twin
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

logger = logging.getLogger(__name__)

LONGEST = 155  # letters that search engines show of a description
SCRIPT = Path("_static") / "scripts" / "fontawesome.js"
SHEET = Path("_static") / "styles" / "pydata-sphinx-theme.css"
PDF = ROOT / "_build" / "pdf" / "gloro-lite.pdf"  # pdf.py makes it
PREVIEW = ROOT / "book" / "images" / "margin_explorer.png"
LAUNCH = {
    "notebook_interface": "jupyterlab",
    "binderhub_url": "https://mybinder.org",
    "colab_url": "https://colab.research.google.com",
}
# An icon in the script: its name, then width, height, other names, code and outline.
ENTRY = re.compile(
    r'("?)([a-z0-9-]+)\1:\[\d+,\d+,\[[^\]]*\],"[0-9a-f]*",(?:"[^"]*"|\[[^\]]*\])\],?'
)
# A rule of the style sheet that does nothing but to put an icon's letter before an element.
RULE = re.compile(r'((?:\.fa-[a-z0-9-]+:before,?)+)\{content:"[^"]*"\}')
# What stays on one line: a formula in a sentence with its brackets, hyphen and marks, and "x =" with the figure after it.
FORMULA = r'<span class="math notranslate nohighlight">[^<]*</span>'
FIGURE = r' <span class="pasted-text">[^<]*</span>'
MARKS = r"[-.,;:!?)\]”’]"
WHOLE = re.compile(
    rf"[(\[“]*{FORMULA}(?<==\\\)</span>){FIGURE}|[(\[“]+{FORMULA}{MARKS}*|{FORMULA}{MARKS}+"
)
ALIASES = re.compile(r"\[\d+,\d+,\[([^\]]*)\]")


def shortened(text: str) -> str:
    """The beginning of a text, to at most `LONGEST` letters, by whole words."""
    text = " ".join(text.split())
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST - 1].rsplit(" ", 1)[0].rstrip(",;:.") + "…"


def description(doctree: nodes.document | None) -> str | None:
    """A page's first paragraph of words, without formulas."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else ():
        words = "".join(
            part.astext()
            for part in paragraph.findall(nodes.Text)
            if not isinstance(part.parent, (nodes.math, nodes.raw))
        )
        words = re.sub(r"^About\.?\s*", "", " ".join(words.split()))
        if len(words) > 40:
            return shortened(words)
    return None


def tidied(body: str) -> str:
    """A page's body with what docutils, sphinx-proof and sphinx-exercise write put right: list entries with a role that ARIA has
    given up, one id for all proofs or exercises of a page, which nothing links to, and a link that begins with a space. And a
    formula in a sentence keeps its brackets, its hyphen and the mark after it on its line, where a browser would break the line
    on either side of it; so does a number its percent sign."""
    body = body.replace('role="doc-biblioentry"', 'role="listitem"')
    body = re.sub(r"(Solution to)(<a [^>]*>) ", r"\1 \2", body)
    body = re.sub(r"(\d(?:</\w+>)*) %", r"\1&nbsp;%", body)
    body = WHOLE.sub(r'<span class="gloro-whole">\g<0></span>', body)
    return re.sub(
        r' id="(?:proof|proof-content|exercise-content|solution-content)"', "", body
    )


def foot(pagename: str) -> str:
    """When a chapter's notebook ran, for how long and with which versions, and its archive; nothing for pages without code."""
    up = "../" * pagename.count("/")
    notebook = ROOT / f"{pagename}.ipynb"
    if not notebook.is_file() or not twin(notebook).is_file():
        return ""
    run = nbformat.read(twin(notebook), 4).metadata.get("gloro", {}).get("run")
    if run is None:
        return ""
    found = run["versions"]
    versions = " and ".join(
        f"{name} {found[name]}" for name in ("Python", "PyTorch") if name in found
    )
    archive = bundles.link(pagename, up)
    return (
        f'<p class="gloro-run">Last run on {run["date"]} in {run["seconds"]} s, '
        f"with {html.escape(versions)}.{f' {archive}.' if archive else ''}</p>"
    )


def offered(body: str) -> str:
    """A body with the link to the PDF at its place, if there is one that is not older than any chapter's results."""
    place = '<p class="gloro-pdf"></p>'
    if place not in body or not _pdf_is_current():
        return body.replace(place, "")
    size = PDF.stat().st_size / 1e6
    link = f'<a href="../{PDF.name}">The book as PDF</a> ({size:.0f} MB, without the API reference).'
    return body.replace(place, f'<p class="gloro-pdf">{link}</p>')


def _pdf_is_current() -> bool:
    if not PDF.is_file():
        return False
    written = PDF.stat().st_mtime
    return all(written >= path.stat().st_mtime for path in TWINS.glob("*.ipynb"))


def with_pdf_link(app: Sphinx, env, added, changed, removed) -> list[str]:
    """The first page is written anew at each build: whether there is a PDF is not in its source."""
    return [app.config.root_doc]


def undocumented(
    app: Sphinx, what: str, name: str, thing: object, skip: bool, options: dict
) -> bool | None:
    """The fields of a named tuple are told in its docstring; its own words for them are "Alias for field number 0"."""
    return True if isinstance(thing, _tuplegetter) else None


def own_signature(
    app: Sphinx,
    what: str,
    name: str,
    thing: object,
    options: dict,
    arguments: str | None,
    result: str | None,
) -> tuple[str, str | None] | None:
    """A class takes what its own constructor does, not what its base may take. Fields tell their types themselves."""
    if what != "class" or not isinstance(thing, type):
        return None
    if hasattr(thing, "_fields") or (is_dataclass(thing) and not explained(thing)):
        app.env.temp_data.get("annotations", {}).pop(name, None)
    if arguments != "(*args, **kwargs)":
        return None
    for anything in ("args", "kwargs"):
        app.env.temp_data.get("annotations", {}).get(name, {}).pop(anything, None)
    own = inspect.signature(thing.__init__)
    taken = [
        parameter.replace(annotation=parameter.empty)
        for parameter in list(own.parameters.values())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    shown = inspect.Signature(taken)
    return str(shown), result


def explained(thing: type) -> list[Field]:
    """A dataclass' fields whose metadata say what they mean: the command line shows that, and so does the reference."""
    return [field for field in fields(thing) if "meaning" in field.metadata]


def meanings(
    app: Sphinx, what: str, name: str, thing: object, options: dict, lines: list[str]
) -> None:
    """Add to a dataclass what its fields mean."""
    if what == "class" and is_dataclass(thing) and (told := explained(thing)):
        lines.append("")
        lines += [f":param {f.name}: {f.metadata['meaning']}" for f in told]


def describe(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Add to a page's head what it says of itself, and to its body its foot; tidy the body."""
    if app.builder.name != "html":
        return
    if "body" in context:
        context["body"] = offered(tidied(context["body"])) + foot(pagename)
    book = app.config.html_title or app.config.project
    title = html.unescape(re.sub("<[^>]*>", "", context.get("title", ""))) or book
    words = description(doctree) or shortened(f"{title}: {book}")
    tags = {"title": title, "description": words, "type": "article", "site_name": book}
    if address := app.config.html_baseurl:
        address = address.rstrip("/")
        tags["url"] = f"{address}/{pagename}.html"
        tags["image"] = f"{address}/_images/{PREVIEW.name}"
    lines = [f'<meta name="description" content="{html.escape(words, quote=True)}">']
    for name, value in tags.items():
        content = html.escape(value, quote=True)
        lines.append(f'<meta property="og:{name}" content="{content}">')
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines, ""])


def launch(app: Sphinx, config: Config) -> None:
    """Links to Binder and Colab, where _config.yml names the repository. (Without it Jupyter Book would link to its own.)"""
    settings = yaml.safe_load((Path(app.srcdir) / "_config.yml").read_text("utf-8"))
    repository = settings.get("repository", {})
    if repository.get("url"):
        config.html_theme_options["repository_branch"] = repository.get(
            "branch", "main"
        )
        config.html_theme_options["launch_buttons"] = dict(LAUNCH)


def one_writer(app: Sphinx) -> None:
    """Write the single page as the others are: some extensions name it, and then MyST-NB's nodes would be unknown there."""
    app.registry.translation_handlers.pop("singlehtml", None)


def sitemap(app: Sphinx, error: Exception | None) -> None:
    """Beside the pages: the PDF; and where the book's address is known, the list of its pages and the picture for previews."""
    out = Path(app.outdir)
    if error or app.builder.name != "html":
        return
    if _pdf_is_current():
        shutil.copy(PDF, out)
    else:
        (out / PDF.name).unlink(missing_ok=True)
    if not app.config.html_baseurl:
        return
    shutil.copy(PREVIEW, out / "_images")
    address = html.escape(app.config.html_baseurl.rstrip("/"))
    pages = (
        f"<url><loc>{address}/{page}.html</loc></url>"
        for page in sorted(app.env.found_docs)
    )
    lines = (
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">',
        *pages,
        "</urlset>",
    )
    (out / "sitemap.xml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def fewer_icons(script: str, wanted: set[str]) -> str:
    """Font Awesome's script with the wanted icons alone."""

    def keep(entry: re.Match) -> str:
        others = re.findall(r'"([a-z0-9-]+)"', ALIASES.search(entry.group(0)).group(1))
        return entry.group(0) if wanted & {entry.group(2), *others} else ""

    return ENTRY.sub(keep, script)


def fewer_rules(sheet: str, wanted: set[str]) -> str:
    """The theme's style sheet with the rules of the wanted icons alone."""

    def keep(rule: re.Match) -> str:
        return (
            rule.group(0)
            if wanted & set(re.findall(r"\.fa-([a-z0-9-]+)", rule.group(1)))
            else ""
        )

    return RULE.sub(keep, sheet)


def cut_icons(app: Sphinx, error: Exception | None) -> None:
    """Leave in the built book the icons that its pages and scripts name."""
    out = Path(app.outdir)
    if error or app.builder.format != "html" or not (out / SCRIPT).is_file():
        return
    sources = [
        *out.rglob("*.html"),
        *(out / SCRIPT).parent.glob("*theme*.js"),
        *(out / "_static").glob("*.js"),
    ]
    wanted: set[str] = set()
    for source in sources:
        wanted |= set(
            re.findall(
                r"\bfa-([a-z0-9-]+)",
                source.read_text(encoding="utf-8", errors="ignore"),
            )
        )
    for path, fewer in ((out / SCRIPT, fewer_icons), (out / SHEET, fewer_rules)):
        path.write_text(
            fewer(path.read_text(encoding="utf-8"), wanted), encoding="utf-8"
        )
        path.with_name(f"{path.name}.map").unlink(missing_ok=True)


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", launch, priority=400)  # before the theme
    app.connect("builder-inited", one_writer)
    app.connect("env-get-outdated", with_pdf_link)
    app.connect("html-page-context", describe)
    app.connect("autodoc-skip-member", undocumented)
    app.connect("autodoc-process-signature", own_signature, priority=600)
    app.connect("autodoc-process-docstring", meanings)
    app.connect("build-finished", cut_icons)
    app.connect("build-finished", sitemap)
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}
