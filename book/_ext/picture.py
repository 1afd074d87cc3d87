"""Take the README's picture of the margin explorer from the built book: `python book/_ext/picture.py`."""

from __future__ import annotations

from pathlib import Path

from browser import EXPLORATION, launched

TARGET = Path(__file__).resolve().parents[1] / "images" / "margin_explorer.png"


def main() -> None:
    if not EXPLORATION.is_file():
        raise SystemExit("build the book first: make book")
    TARGET.parent.mkdir(exist_ok=True)
    with launched() as browser:
        page = browser.new_page(viewport={"width": 1250, "height": 900})
        page.goto(EXPLORATION.as_uri())
        page.wait_for_function(
            "document.querySelectorAll('.gloro-widget').length === 4"
        )
        page.get_by_role("button", name="Attack the point").click()
        page.evaluate("new Promise((done) => setTimeout(done, 300))")
        page.locator(".gloro-widget").nth(1).screenshot(path=TARGET)
    print(TARGET)


if __name__ == "__main__":
    main()
