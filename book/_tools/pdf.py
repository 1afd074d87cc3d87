"""Make the whole book one PDF: `python book/_tools/pdf.py`, after `jupyter-book build . --builder singlehtml`.

The single page of all chapters is printed by the installed Chromium or Chrome. Its headings become the outline, its links stay
links, widgets are shown as still pictures, solutions are unfolded, and folded code stays folded. The API reference and the index are left to the pages.
"""

from __future__ import annotations

import re
from pathlib import Path

from browser import launched

from gloro_lite.files import write_atomically

BUILD = Path(__file__).resolve().parents[2] / "_build"
PAGES = BUILD / "singlehtml"
TARGET = BUILD / "pdf" / "gloro-lite.pdf"
MINUTES = 10
SCALE = 0.8  # so that a line of code fits
STYLE = """
.bd-main .bd-content .bd-article section > h1:first-of-type { break-before: page; display: block; }
span[id="document-book/api"] + section, span[id="document-genindex"] + section { display: none !important; }
#jb-print-toc li:has(> a:is([href="#document-book/api"], [href="#document-genindex"])) { display: none !important; }
"""
FOOT = """<div style="width: 100%; font: 8px sans-serif; text-align: center; color: #444">
<span class="pageNumber"></span></div>"""


def single_page() -> Path:
    """The page that holds all chapters. Raises SystemExit where it was not built."""
    found = [page for page in PAGES.rglob("*.html") if page.stat().st_size > 100_000]
    if len(found) != 1:
        raise SystemExit(
            "build the single page first: make pdf (jupyter-book build . --path-output . --builder singlehtml)"
        )
    return found[0]


def for_print(text: str) -> str:
    """The page as a book: its title before the contents, chapters on the level of the first one, stills in place of widgets."""
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)[1].rpartition(
        "&#8212;"
    )[2]
    head, chapter, rest = text.partition('<span id="document-')
    first = re.search(r"<h1>(.*?)</h1>", head, re.DOTALL)[1]
    head = head.replace(f"<h1>{first}</h1>", f"<h1>{title.strip()}</h1>", 1)
    rest = re.sub(r"(</?h)([2-6])\b", lambda tag: f"{tag[1]}{int(tag[2]) - 1}", rest)
    text = head + chapter + rest
    text = re.sub(
        r'<noscript class="gloro-noscript">(.*?)</noscript>',
        r"<p>\1</p>",
        text,
        flags=re.DOTALL,
    )
    return re.sub(
        r'<script type="application/vnd\.jupyter\.widget-[a-z]+\+json">.*?</script>',
        "",
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    page_file = single_page()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    still = PAGES / "print.html"  # Sphinx writes the single page's links as from here
    still.write_text(for_print(page_file.read_text(encoding="utf-8")), encoding="utf-8")
    try:
        with launched() as browser:
            page = browser.new_page(color_scheme="light")
            page.set_default_timeout(MINUTES * 60_000)
            page.goto(still.as_uri())
            page.evaluate("window.MathJax?.startup?.promise?.then(() => true)")
            page.evaluate("document.fonts.ready.then(() => true)")
            page.add_style_tag(content=STYLE)
            page.emulate_media(media="print", color_scheme="light")
            book = page.pdf(
                format="A4",
                scale=SCALE,
                margin={
                    "top": "18mm",
                    "bottom": "18mm",
                    "left": "18mm",
                    "right": "18mm",
                },
                print_background=True,
                outline=True,
                tagged=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOT,
            )
            write_atomically(TARGET, book)
    finally:
        still.unlink(missing_ok=True)
    print(TARGET)


if __name__ == "__main__":
    main()
