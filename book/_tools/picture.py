"""Take the README's picture of the margin explorer from the built book: `python book/_tools/picture.py`."""

from __future__ import annotations

from pathlib import Path

from browser import SETTLE, drawn, launched, page_of

TARGET = Path(__file__).resolve().parents[1] / "images" / "margin_explorer.png"


def main() -> None:
    page_file = page_of("MarginExplorer")
    if not page_file.is_file():
        raise SystemExit("build the book first: make book")
    TARGET.parent.mkdir(exist_ok=True)
    with launched() as browser:
        page = browser.new_page(viewport={"width": 1250, "height": 1000})
        page.goto(page_file.as_uri())
        widget = drawn(page, "MarginExplorer")
        widget.get_by_role("radio", name="ε", exact=True).check()
        widget.get_by_role("button", name="Attack the point").click()
        page.evaluate(SETTLE)
        widget.screenshot(path=TARGET)
    print(TARGET)


if __name__ == "__main__":
    main()
