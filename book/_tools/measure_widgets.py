"""Measure, in the browser, what the built book's widgets cost a reader: `python book/_tools/measure_widgets.py`.

Writes data/widgets.json: for each widget what its page weighs, how long after the page's load it can be used, at full speed and
with the processor slowed to a quarter, and how long its first drawing and its redraws take.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import torch
from browser import SETTLE, WIDGETS, drawn, launched, page_of, selector, served

from gloro_lite.files import write_json
from gloro_lite.provenance import device_name

TARGET = Path(__file__).resolve().parents[2] / "data" / "widgets.json"
LOADS = 5
MOVES = 40
SLOW = 4
PATIENCE_MS = 180_000  # on a machine that other jobs fill

# Per widget: what has the focus, and a key that changes the picture and its way back.
KEYS = {
    "BottomLogit": ('input[type="range"]', "ArrowRight", "ArrowLeft"),
    "MarginExplorer": ("canvas", "ArrowLeft", "ArrowRight"),
    "VoronoiPlayground": ("canvas", "ArrowLeft", "ArrowRight"),
    "TrainingReplay": ("canvas", "ArrowLeft", "ArrowRight"),
}
# Told by the page itself, as soon as the widget is in it: whoever asks from outside is not answered while the page is busy.
WATCH = """new MutationObserver((_, watch) => {
  if (!document.querySelector('SELECTOR')) return;
  window.upAt = performance.now();
  watch.disconnect();
}).observe(document, { childList: true, subtree: true });"""
UP = """() => window.upAt - performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"""
WEIGHT = """() => performance.getEntriesByType('resource').reduce((sum, one) => sum + one.decodedBodySize,
  performance.getEntriesByType('navigation')[0].decodedBodySize)"""


def _opened(browser, address: str, widget: str, rate: int):
    page = browser.new_page(viewport={"width": 1250, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(WATCH.replace("SELECTOR", selector(widget)))
    page.context.new_cdp_session(page).send(
        "Emulation.setCPUThrottlingRate", {"rate": rate}
    )
    page.goto(address)
    return page


def _measure(browser, base: str, widget: str) -> dict:
    address = f"{base}/book/{page_of(widget).name}"
    focus, there, back = KEYS[widget]
    result = {}
    for name, rate in (("", 1), ("_quarter_speed", SLOW)):
        up, first = [], []
        for _ in range(LOADS):
            page = _opened(browser, address, widget, rate)
            page.wait_for_function("window.upAt")
            up.append(page.evaluate(UP))
            first.append(float(drawn(page, widget).get_attribute("data-redraw-ms")))
            page.close()
        result[f"up_after_ms{name}"] = round(max(0.0, statistics.median(up)), 1)
        result[f"first_drawing_ms{name}"] = round(statistics.median(first), 1)
    page = _opened(browser, address, widget, 1)
    page.wait_for_load_state("networkidle")
    result["page_bytes"] = page.evaluate(WEIGHT)
    found = drawn(page, widget)
    found.locator(focus).first.focus()
    times = []
    for move in range(MOVES):
        page.keyboard.press(there if move < MOVES // 2 else back)
        page.evaluate(SETTLE)
        times.append(float(found.get_attribute("data-redraw-ms")))
    page.close()
    return {
        **result,
        "redraw_ms": {
            "median": round(statistics.median(times), 2),
            "slowest": max(times),
        },
    }


def main() -> None:
    if not all(page_of(widget).is_file() for widget in WIDGETS):
        raise SystemExit("build the book first: make book")
    load = os.getloadavg()[0]
    with served() as base, launched() as browser:
        widgets = {widget: _measure(browser, base, widget) for widget in WIDGETS}
        version = browser.version
    result = {
        "widgets": widgets,
        "loads": LOADS,
        "moves": MOVES,
        "browser": f"Chromium {version}",
        "device": device_name(torch.device("cpu")),
        "load_average": round(load, 1),
    }
    write_json(TARGET, result)
    print(TARGET.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
