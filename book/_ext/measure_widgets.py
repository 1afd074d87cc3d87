"""Measure, in the browser, how soon the built book's widgets show and how fast they redraw.

`python book/_ext/measure_widgets.py` writes data/widgets.json, which chapter 6 shows.
"""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

import torch
from browser import EXPLORATION, launched

from gloro_lite.train.results import device_name

TARGET = Path(__file__).resolve().parents[2] / "data" / "widgets.json"
LOADS = 5
MOVES = 40
NAMES = ("bottom logit", "margin explorer", "Voronoi playground", "training replay")

# Per widget: what has the focus, and a key that changes the picture and its way back.
KEYS = (
    ("rect[role=slider]", "ArrowUp", "ArrowDown"),
    ("canvas", "ArrowLeft", "ArrowRight"),
    ("canvas", "ArrowLeft", "ArrowRight"),
    ("canvas", "ArrowLeft", "ArrowRight"),
)
SHOWN = """new Promise((done) => {
  const look = () => document.querySelectorAll('.gloro-widget[data-redraws]').length === 4
    ? done(performance.now() - performance.getEntriesByType('navigation')[0].loadEventEnd) : setTimeout(look, 5);
  look(); })"""
SETTLE = (
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
)


def main() -> None:
    if not EXPLORATION.is_file():
        raise SystemExit("build the book first: make book")
    load = os.getloadavg()[0]
    shown, redraws = [], {}
    with launched() as browser:
        for _ in range(LOADS):
            page = browser.new_page(viewport={"width": 1250, "height": 900})
            page.goto(EXPLORATION.as_uri())
            shown.append(page.evaluate(SHOWN))
            page.close()
        page = browser.new_page(viewport={"width": 1250, "height": 900})
        page.goto(EXPLORATION.as_uri())
        page.evaluate(SHOWN)
        for k, (focus, there, back) in enumerate(KEYS):
            widget = page.locator(".gloro-widget").nth(k)
            widget.locator(focus).first.focus()
            times = []
            for move in range(MOVES):
                page.keyboard.press(there if move < MOVES // 2 else back)
                page.evaluate(SETTLE)
                times.append(float(widget.get_attribute("data-redraw-ms")))
            redraws[NAMES[k]] = {
                "median": round(statistics.median(times), 2),
                "slowest": max(times),
            }
        version = browser.version
    result = {
        "shown_after_load_ms": round(statistics.median(shown), 1),
        "redraw_ms": redraws,
        "page_bytes": EXPLORATION.stat().st_size,
        "loads": LOADS,
        "moves": MOVES,
        "browser": f"Chromium {version}",
        "device": device_name(torch.device("cpu")),
        "load_average": round(load, 1),
    }
    TARGET.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(TARGET.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
