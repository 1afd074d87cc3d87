"""Sphinx extension: what every page says of itself to search engines, valid HTML, and what a page need not carry.

A page's description is its first paragraph. Font Awesome's script and style rules, 1.6 MB of icons, are cut down to those that
the pages show.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

LONGEST = 155  # letters that search engines show of a description
SCRIPT = Path("_static") / "scripts" / "fontawesome.js"
SHEET = Path("_static") / "styles" / "pydata-sphinx-theme.css"
# An icon in the script: its name, then width, height, other names, code and outline.
ENTRY = re.compile(
    r'("?)([a-z0-9-]+)\1:\[\d+,\d+,\[[^\]]*\],"[0-9a-f]*",(?:"[^"]*"|\[[^\]]*\])\],?'
)
# A rule of the style sheet that does nothing but to put an icon's letter before an element.
RULE = re.compile(r'((?:\.fa-[a-z0-9-]+:before,?)+)\{content:"[^"]*"\}')
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
    """A page's body with what docutils and sphinx-proof write against today's HTML put right: list entries with a role that ARIA
    has given up, and one id for all proofs or exercises of a page, which nothing links to."""
    body = body.replace('role="doc-biblioentry"', 'role="listitem"')
    return re.sub(
        r' id="(?:proof|proof-content|exercise-content|solution-content)"', "", body
    )


def describe(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Add the description of a page to its head, and tidy its body."""
    if "body" in context:
        context["body"] = tidied(context["body"])
    words = description(doctree) or shortened(
        f"{context.get('title', '')}: {app.config.html_title or app.config.project}"
    )
    context["metatags"] = (
        context.get("metatags", "")
        + f'\n<meta name="description" content="{html.escape(words, quote=True)}">\n'
    )


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
    app.connect("html-page-context", describe)
    app.connect("build-finished", cut_icons)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
