"""The widgets in the built pages, by mouse, touch and keyboard, against what the package computes from the same state.

Each is looked for by its name on the page that book/_tools/browser.py says, and each test opens a page of its own.
"""

import base64
import json
import re
from functools import partial

import nbformat
import pytest
import torch
from browser import SETTLE, WIDGETS, drawn, page_of, selector
from conftest import HTML, PHONE, ROOT

from gloro_lite import MinMax
from gloro_lite.bottom import bottom_logit, margin_constants
from gloro_lite.certificate import certified_radius
from gloro_lite.voronoi import DecisionFaces

STATE = "application/vnd.jupyter.widget-state+json"
FIRST_WORDS = {
    "BottomLogit": "Bottom logit",
    "MarginExplorer": "Margin explorer",
    "VoronoiPlayground": "Voronoi playground",
    "TrainingReplay": "Training replay",
}


def model(widget: str) -> dict:
    """The stored state of a widget, its buffers among the traits."""
    nb = nbformat.read(ROOT / "_build" / "notebooks" / f"{WIDGETS[widget]}.ipynb", 4)
    for stored in nb.metadata["widgets"][STATE]["state"].values():
        if stored["state"].get("description", "").startswith(FIRST_WORDS[widget]):
            buffers = {b["path"][0]: base64.b64decode(b["data"]) for b in stored.get("buffers", [])}
            return {**stored["state"], **buffers}
    raise AssertionError(f"no widget {widget} in the notebook")


def rebuilt(layers: list[dict], weights: bytes) -> torch.nn.Sequential:
    """The network of a stored state, by PyTorch, in float64."""
    values = torch.frombuffer(bytearray(weights), dtype=torch.float32).double()
    network = torch.nn.Sequential()
    for layer in layers:
        if layer["kind"] == "linear":
            linear = torch.nn.Linear(layer["columns"], layer["rows"], dtype=torch.float64)
            size = linear.weight.numel()
            linear.weight.data = values[:size].view_as(linear.weight)
            linear.bias.data = values[size : size + layer["rows"]]
            values = values[size + layer["rows"] :]
            network.append(linear)
        else:
            network.append(MinMax() if layer["kind"] == "minmax" else torch.nn.ReLU())
    assert len(values) == 0
    return network


@pytest.fixture
def opened(browser, server):
    """Opens a page and gives the drawn widget: `opened("BottomLogit")`, or with options of a browser's context."""
    contexts = []

    def open_(widget: str, **options):
        context = browser.new_context(**{"viewport": {"width": 1250, "height": 1000}, **options})
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{server}/book/{WIDGETS[widget]}.html")
        return drawn(page, widget)

    yield open_
    for context in contexts:
        context.close()


def data(locator) -> dict:
    return locator.evaluate("(e) => ({...e.dataset})")


def settle(widget) -> None:
    """Wait until what was asked for is drawn."""
    widget.page.evaluate(SETTLE)


def picture(locator) -> bytes:
    return locator.evaluate("(e) => e.toDataURL()")


def said(widget) -> str:
    """What a screen reader is told, after the pause that ends a row of changes."""
    widget.page.wait_for_timeout(500)
    return widget.locator(".gloro-spoken").inner_text()


def press(widget, key: str, times: int = 1) -> None:
    for _ in range(times):
        widget.page.keyboard.press(key)
    settle(widget)


def at(box: dict, x: float, y: float) -> tuple[float, float]:
    """A place in a box on the screen, by fractions from its top left corner."""
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def swipe(widget, start: tuple[float, float], by: float) -> None:
    """One finger up or down the screen, as the device reports it."""
    session = widget.page.context.new_cdp_session(widget.page)
    touch = partial(session.send, "Input.dispatchTouchEvent")
    touch({"type": "touchStart", "touchPoints": [{"x": start[0], "y": start[1]}]})
    for k in range(1, 11):
        touch({"type": "touchMove", "touchPoints": [{"x": start[0], "y": start[1] + by * k / 10}]})
    touch({"type": "touchEnd", "touchPoints": []})
    widget.page.wait_for_timeout(300)


def sliders(widget) -> dict[str, str]:
    """The accessible name and the spoken value of each slider."""
    return dict(
        widget.locator("input[type=range]").evaluate_all(
            "(all) => all.map((e) => [e.getAttribute('aria-label'), e.getAttribute('aria-valuetext')])"
        )
    )


# What all four have in common.


@pytest.mark.parametrize("widget", WIDGETS)
def test_sliders_are_native_named_and_sane(widget, opened):
    found = opened(widget)
    named = sliders(found)
    assert "ε, the radius, in input units" in named
    epsilon = found.get_by_label("ε, the radius, in input units")
    epsilon.focus()
    state = model(widget)
    for _ in range(3):
        press(found, "ArrowRight")
    after = sliders(found)["ε, the radius, in input units"]
    assert after == f"{state['epsilon'] + 0.03:.2f}"
    assert all(len(value.lstrip("−").rstrip("°")) <= 5 for value in sliders(found).values())
    assert float(epsilon.get_attribute("max")) == state["largest"]
    # JupyterLab's keys rest while one of these has the focus: it asks the element itself.
    quiet = "(all) => all.every((e) => e.hasAttribute('data-lm-suppress-shortcuts'))"
    assert found.locator("button, canvas, input, summary").evaluate_all(quiet)


@pytest.mark.parametrize("widget", WIDGETS)
def test_reset_brings_the_start_back(widget, opened):
    found = opened(widget)
    ignored = ("redraws", "redrawMs")
    before = {k: v for k, v in data(found).items() if k not in ignored}
    named = sliders(found)
    found.get_by_label("ε, the radius, in input units").focus()
    press(found, "ArrowRight", 5)
    canvas = found.locator("canvas").first
    if canvas.count():
        canvas.focus()
        press(found, "ArrowLeft", 4)
    else:
        found.locator("svg[role=img]").first.click(position={"x": 60, "y": 200})
    settle(found)
    assert {k: v for k, v in data(found).items() if k not in ignored} != before or sliders(found) != named
    found.get_by_role("button", name="Reset").click()
    settle(found)
    assert {k: v for k, v in data(found).items() if k not in ignored} == before
    assert sliders(found) == named


@pytest.mark.parametrize("widget", WIDGETS)
def test_nothing_is_computed_off_screen(widget, browser, server):
    """A widget is there at once and drawn when the reader comes near; then it rests until something changes."""
    page = browser.new_page(viewport={"width": 1250, "height": 300})
    page.goto(f"{server}/book/{WIDGETS[widget]}.html")
    found = page.locator(selector(widget))
    found.wait_for(state="attached")
    page.wait_for_timeout(400)
    top = found.evaluate("(e) => e.getBoundingClientRect().top")
    assert top > 600, "the widget is at the top of its page: nothing to test"
    assert "redraws" not in data(found)
    found = drawn(page, widget)
    count = data(found)["redraws"]
    page.wait_for_timeout(300)
    assert data(found)["redraws"] == count
    page.close()


@pytest.mark.parametrize("widget", WIDGETS)
def test_printing_draws_what_was_not_on_screen(widget, browser, server):
    page = browser.new_page(viewport={"width": 1250, "height": 300})
    page.goto(f"{server}/book/{WIDGETS[widget]}.html")
    found = page.locator(selector(widget))
    found.wait_for(state="attached")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert int(data(found)["redraws"]) >= 1
    page.close()


@pytest.mark.parametrize("widget", WIDGETS)
def test_a_swipe_scrolls_the_page(widget, opened):
    found = opened(widget, viewport={"width": PHONE, "height": 700}, has_touch=True)
    pictures = found.locator("canvas, svg[role=img]")
    canvas = pictures.first
    canvas.evaluate("(e) => e.scrollIntoView({block: 'center', behavior: 'instant'})")
    found.page.wait_for_timeout(200)
    box = canvas.bounding_box()
    before = found.page.evaluate("window.scrollY")
    shown = {k: v for k, v in data(found).items() if not k.startswith("redraw")}
    swipe(found, at(box, 0.97, 0.9), -250)
    assert found.page.evaluate("window.scrollY") > before + 100
    assert {k: v for k, v in data(found).items() if not k.startswith("redraw")} == shown


@pytest.mark.parametrize("widget", WIDGETS)
def test_targets_are_large_enough_for_a_finger(widget, opened):
    """WCAG 2.2's 24 pixels, for what is pressed to act."""
    found = opened(widget, viewport={"width": PHONE, "height": 700})
    for summary in found.locator("summary").all():
        summary.click()
    boxes = found.locator("button, input[type=range], label.gloro-check, .gloro-choice label, summary").evaluate_all(
        "(all) => all.map((e) => [e.textContent || e.getAttribute('aria-label'), e.getBoundingClientRect().height])"
    )
    assert boxes and all(height >= 24 for _, height in boxes), boxes


@pytest.mark.parametrize("widget", WIDGETS)
def test_the_page_holds_the_state_and_a_still_picture(widget, browser, server):
    text = page_of(widget).read_text(encoding="utf-8")
    assert "widget-view+json" in text and FIRST_WORDS[widget] in text
    assert not [source for source in re.findall(r'<script[^>]* src="([^"]*)"', text) if "require" in source]
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{server}/book/{WIDGETS[widget]}.html")
    still = page.locator(f'img.gloro-still[alt^="{FIRST_WORDS[widget]}"]')
    assert still.count() == 1
    assert still.evaluate("(e) => e.naturalWidth") > 200
    assert len(still.get_attribute("alt")) > 80
    context.close()


# The margin explorer.


def agrees(shown: dict, network: torch.nn.Sequential, table: torch.Tensor, epsilon: float) -> None:
    """A panel's read-outs are what Python computes at the point that it shows."""
    with torch.no_grad():
        logits = network(torch.tensor([json.loads(shown["point"])], dtype=torch.float64))
    assert json.loads(shown["logits"]) == pytest.approx(logits[0].tolist(), rel=1e-5)
    radius = certified_radius(logits, table).item()
    assert float(shown["radius"]) == pytest.approx(radius, rel=1e-5)
    assert float(shown["bottom"]) == pytest.approx(bottom_logit(logits, table, epsilon).item(), rel=1e-5)
    assert int(shown["prediction"]) == logits.argmax().item()
    assert (shown["certified"] == "true") == (radius > epsilon)


def panel(widget, name: str):
    return widget.locator(f'[data-panel="{name}"]')


def test_margin_explorer_shows_what_the_package_computes(opened):
    state, widget = model("MarginExplorer"), opened("MarginExplorer")
    for name in ("gloro", "standard"):
        canvas = panel(widget, name).locator("canvas")
        network = rebuilt(state[name]["layers"], state[f"{name}_weights"])
        table = torch.tensor(state[name]["constants"], dtype=torch.float64)
        for where in (0.2, 0.55, 0.8):
            before = picture(canvas)
            widget.page.mouse.click(*at(canvas.bounding_box(), where, 0.4))
            settle(widget)
            assert picture(canvas) != before
            shown = data(panel(widget, name))
            side = state["frame"]["side"]
            pointed = [state["frame"]["left"] + where * side, state["frame"]["bottom"] + 0.6 * side]
            assert json.loads(shown["point"]) == pytest.approx(pointed, abs=side / 100)  # to a pixel or two
            agrees(shown, network, table, state["epsilon"])


def test_margin_explorer_by_keyboard_and_what_is_said(opened):
    state, widget = model("MarginExplorer"), opened("MarginExplorer")
    gloro = panel(widget, "gloro")
    gloro.locator("canvas").focus()
    before = json.loads(data(gloro)["point"])
    press(widget, "Shift+ArrowLeft", 3)
    after = data(gloro)
    left = max(before[0] - 0.3 * state["frame"]["side"], state["frame"]["left"])
    assert json.loads(after["point"])[0] == pytest.approx(left)
    table = torch.tensor(state["gloro"]["constants"], dtype=torch.float64)
    agrees(after, rebuilt(state["gloro"]["layers"], state["gloro_weights"]), table, state["epsilon"])
    words = said(widget)
    assert f"({left:.2f}, {before[1]:.2f})".replace("-", "−") in words
    assert "GloRo Net" in words and "Standard net" in words and f"{float(after['radius']):.3f}" in words
    press(widget, "a")
    assert data(gloro)["broken"] == "0" and float(data(gloro)["reach"]) == float(after["radius"])
    assert "none found another class" in gloro.locator(".gloro-attack").inner_text()
    assert "none found another class" in said(widget)


def test_the_point_follows_a_pressed_mouse_only(opened):
    widget = opened("MarginExplorer")
    gloro = panel(widget, "gloro")
    box = gloro.locator("canvas").bounding_box()
    widget.page.mouse.click(*at(box, 0.3, 0.3))
    settle(widget)
    held = data(gloro)["point"]
    widget.page.mouse.move(*at(box, 0.7, 0.7), steps=10)
    settle(widget)
    assert data(gloro)["point"] == held
    widget.page.mouse.down()
    widget.page.mouse.move(*at(box, 0.5, 0.6), steps=5)
    widget.page.mouse.up()
    settle(widget)
    moved = data(gloro)["point"]
    assert moved != held
    button = widget.get_by_role("button", name="Attack the point")
    target = button.bounding_box()
    widget.page.mouse.move(target["x"] + 5, target["y"] + 5, steps=20)  # over the map
    button.click()
    settle(widget)
    assert data(gloro)["point"] == moved and data(gloro)["broken"] == "0"


def test_attackable_and_unproven_come_apart_at_epsilon(opened):
    """Close to the boundary an attack within epsilon finds another class; where bottom wins farther off, none does."""
    state, widget = model("MarginExplorer"), opened("MarginExplorer")
    standard = panel(widget, "standard")
    network = rebuilt(state["standard"]["layers"], state["standard_weights"])
    table = torch.tensor(state["standard"]["constants"], dtype=torch.float64)
    epsilon, frame = state["epsilon"], state["frame"]
    # Where, by Python: certified radius at most epsilon, and another class seen, or not seen, on rings up to epsilon.
    axis = (torch.arange(40, dtype=torch.float64) + 0.5) / 40
    places = torch.cartesian_prod(axis, axis)
    points = torch.stack((frame["left"] + places[:, 0] * frame["side"], frame["bottom"] + (1 - places[:, 1]) * frame["side"]), 1)
    angles = torch.linspace(0, 2 * torch.pi, 73, dtype=torch.float64)[:-1]
    rings = torch.linspace(0.1, 1, 10, dtype=torch.float64)[:, None, None] * torch.stack((angles.cos(), angles.sin()), 1)

    def other_within(reach):
        with torch.no_grad():
            own = network(points).argmax(1)
            around = network((points[:, None, None] + reach * rings).flatten(0, 2)).argmax(1).view(len(points), -1)
        return (around != own[:, None]).any(1)

    with torch.no_grad():
        unproven = certified_radius(network(points), table) <= epsilon
    cases = {"attackable": unproven & other_within(0.8 * epsilon), "unproven": unproven & ~other_within(1.2 * epsilon)}
    widget.get_by_role("radio", name="ε", exact=True).check()
    box = standard.locator("canvas").bounding_box()
    for verdict, where in cases.items():
        assert where.any()
        place = places[where][where.sum() // 2]
        widget.page.mouse.click(*at(box, *place.tolist()))
        widget.get_by_role("button", name="Attack the point").click()
        settle(widget)
        shown = data(standard)
        assert float(shown["reach"]) == pytest.approx(epsilon) and shown["certified"] == "false"
        assert (int(shown["broken"]) > 0) == (verdict == "attackable")
        assert verdict in standard.locator(".gloro-attack").inner_text()
    legend = widget.locator(".gloro-legend").inner_text()
    assert "found another class" in legend and "found no other class" in legend


def test_epsilon_slider_widens_the_hatched_region(opened):
    widget = opened("MarginExplorer")
    canvas = panel(widget, "gloro").locator("canvas")
    grey = """(c) => {
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let n = 0;
        const near = (a, b) => Math.abs(d[a] - d[b]) < 4;
        for (let k = 0; k < d.length; k += 4) n += near(k, k + 1) && near(k, k + 2) && d[k + 3] > 50;
        return n; }"""
    before = canvas.evaluate(grey)
    widget.get_by_label("ε, the radius, in input units").focus()
    press(widget, "ArrowRight", 10)
    assert canvas.evaluate(grey) > 1.1 * before


def test_a_tap_puts_the_point_and_a_finger_on_it_drags(opened):
    widget = opened("MarginExplorer", viewport={"width": PHONE, "height": 700}, has_touch=True)
    gloro = panel(widget, "gloro")
    canvas = gloro.locator("canvas")
    canvas.evaluate("(e) => e.scrollIntoView({block: 'center', behavior: 'instant'})")
    widget.page.wait_for_timeout(200)
    box = canvas.bounding_box()
    widget.page.touchscreen.tap(*at(box, 0.5, 0.8))
    settle(widget)
    side = model("MarginExplorer")["frame"]["side"]
    tapped = json.loads(data(gloro)["point"])
    before = widget.page.evaluate("window.scrollY")
    swipe(widget, at(box, 0.5, 0.8), -0.4 * box["height"])
    settle(widget)
    dragged = json.loads(data(gloro)["point"])
    assert widget.page.evaluate("window.scrollY") == before
    assert dragged == pytest.approx([tapped[0], tapped[1] + 0.4 * side], abs=side / 40)


# Bottom's logit.


def bottom_agrees(widget, logits: list[float], rows: torch.Tensor, epsilon: float) -> dict:
    settle(widget)
    shown = data(widget)
    assert json.loads(shown["logits"]) == pytest.approx(logits)
    assert torch.allclose(torch.tensor(json.loads(shown["rows"]), dtype=torch.float64), rows, atol=1e-9)
    for key, tight in (("sum", False), ("tight", True)):
        table = margin_constants(rows, 1.0, tight=tight)
        want = bottom_logit(torch.tensor([logits], dtype=torch.float64), table, epsilon).item()
        assert float(shown[key]) == pytest.approx(want, rel=1e-5)
    return shown


def test_bottom_logit_by_mouse_tap_and_slider(opened):
    state, widget = model("BottomLogit"), opened("BottomLogit")
    logits, rows = list(state["logits"]), torch.tensor(state["rows"], dtype=torch.float64)
    check = partial(bottom_agrees, widget, epsilon=state["epsilon"])
    check(logits, rows)
    widget.locator("summary").click()
    widget.get_by_label("y₀, the logit of class 0, blue").focus()
    press(widget, "ArrowRight", 2)
    logits[0] += 0.1
    check(logits, rows)
    assert f"⊥ = y₁ + ε · {margin_constants(rows, 1.0, tight=False)[0, 1]:.2f}" in said(widget)

    # Drag the first bar's top down, then tap it up again.
    bars, vectors = widget.locator("svg[role=img]").all()
    box = bars.bounding_box()
    handle = bars.locator(".gloro-handle").first.bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    widget.page.mouse.move(x, y)
    widget.page.mouse.down()
    widget.page.mouse.move(x, y + 60, steps=4)
    widget.page.mouse.up()
    settle(widget)
    dragged = json.loads(data(widget)["logits"])[0]
    assert dragged < logits[0] - 1
    logits[0] = dragged
    check(logits, rows)
    widget.page.mouse.click(x, y - 30)
    settle(widget)
    tapped = json.loads(data(widget)["logits"])[0]
    assert tapped > dragged + 1
    logits[0] = tapped
    check(logits, rows)

    # Turn a row with its length kept: K_0 + K_1 stays, the tight constant does not.
    before = check(logits, rows)
    widget.get_by_label("keep the rows' lengths").check()
    box = vectors.bounding_box()
    widget.page.mouse.click(*at(box, 0.5, 0.1))  # beside the arrows: the ringed one goes there
    settle(widget)
    length = rows[0].norm()
    rows[0] = torch.tensor([0.0, length])
    after = json.loads(data(widget)["rows"])[0]
    assert after == pytest.approx([0.0, length.item()], abs=0.05)
    rows[0] = torch.tensor(after)
    shown = check(logits, rows)
    assert float(shown["sum"]) == pytest.approx(float(before["sum"]), rel=1e-6)
    assert float(shown["tight"]) != pytest.approx(float(before["tight"]), rel=1e-3)

    # The winner by the tight form is said.
    tight = float(shown["tight"])
    wins = "⊥ wins" if max(logits) <= tight else f"class {int(torch.tensor(logits).argmax())} wins"
    assert f"With the tight ‖wⱼ − wᵢ‖: {wins}" in widget.locator(".gloro-readout").inner_text()


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.5])
@pytest.mark.parametrize("width", [1250, PHONE])
def test_bottom_logit_draws_figure_2(width, epsilon, opened):
    """Whiskers end at y_i + epsilon K, bottom's level is the highest of them, and no words overlap."""
    state = model("BottomLogit")
    widget = opened("BottomLogit", viewport={"width": width, "height": 1000})
    widget.get_by_label("ε, the radius, in input units").evaluate(
        "(e, value) => { e.value = value; e.dispatchEvent(new Event('input')); }", str(epsilon)
    )
    settle(widget)
    rows, logits = torch.tensor(state["rows"], dtype=torch.float64), torch.tensor(state["logits"], dtype=torch.float64)
    top = int(logits.argmax())
    cells = widget.locator(".gloro-table tbody tr").evaluate_all(
        "(all) => all.map((r) => [...r.cells].map((c) => c.textContent))"
    )
    levels = widget.locator("svg[role=img]").first.evaluate(
        """(picture) => {
        const bars = [...picture.querySelectorAll('rect')].filter((e) => e.getAttribute('fill').startsWith('url'));
        const lines = [...picture.querySelectorAll('path')].filter((e) => !e.closest('g, defs')).map((e) => e.getAttribute('d'));
        return { bars: bars.map((e) => +e.getAttribute('y')), lines }; }"""
    )
    for form, tight in enumerate((False, True)):
        table = margin_constants(rows, 1.0, tight=tight)[top]
        reach = logits + epsilon * table
        for i in range(len(logits)):
            words = cells[i][2 + form].replace("−", "-")
            assert words == "predicted" if i == top else float(words.split("= ")[1]) == pytest.approx(reach[i].item(), abs=0.006)
        # The second whisker's path starts M x y V end: the highest end is the level of bottom's bar.
        ends = [float(d.split("V")[1].split()[0]) for d in levels["lines"][form::2] if "V" in d]
        assert len(ends) == len(logits) - 1
        assert min(ends) == pytest.approx(levels["bars"][form], abs=1e-6)
    boxes = widget.locator("svg[role=img] text").evaluate_all(
        """(all) => all.map((e) => {
            const { left, top, right, bottom } = e.getBoundingClientRect();
            return [left, top, right, bottom, e.textContent]; })"""
    )
    for k, a in enumerate(boxes):
        for b in boxes[:k]:
            apart = a[2] <= b[0] + 0.5 or b[2] <= a[0] + 0.5 or a[3] <= b[1] + 3 or b[3] <= a[1] + 3  # lines are set closely
            assert apart, (a, b)


# The Voronoi playground.


def playground_agrees(widget, epsilon: float) -> dict:
    """g and the separation are what Python computes for the sites that the widget shows; returns what it shows."""
    settle(widget)
    shown = data(widget)
    sites, labels = (torch.tensor(json.loads(shown[key])) for key in ("sites", "labels"))
    g = DecisionFaces(sites, labels)
    place = torch.tensor([json.loads(shown["place"])], dtype=torch.float64)
    assert float(shown["g"]) == pytest.approx(g.distance(place).item(), rel=1e-5)
    apart = torch.cdist(sites.double(), sites.double())[labels[:, None] != labels]
    assert float(shown["least"]) == pytest.approx(apart.min().item(), rel=1e-5)
    assert int(shown["broken"]) == int((apart <= 2 * epsilon).sum()) // 2
    return shown


def test_voronoi_playground(opened):
    state, widget = model("VoronoiPlayground"), opened("VoronoiPlayground")
    page, canvas = widget.page, widget.locator("canvas")
    check = partial(playground_agrees, widget, state["epsilon"])
    box = canvas.bounding_box()
    side, left, bottom = (state["frame"][key] for key in ("side", "left", "bottom"))

    def on_screen(x, y):
        return at(box, (x - left) / side, 1 - (y - bottom) / side)

    for where in ((0.31, 0.42), (0.72, 0.66), (0.93, 0.08)):
        page.mouse.move(*at(box, *where))
        shown = check()
        assert json.loads(shown["place"])[0] == pytest.approx(left + where[0] * side, abs=side / 100)
    assert shown["broken"] == "0"

    # Drag a site towards one of another label with the mouse: the hypothesis fails.
    before = picture(canvas)
    rival = next(s for s, k in zip(state["sites"], state["labels"], strict=True) if k != state["labels"][0])
    page.mouse.move(*on_screen(*state["sites"][0]))
    page.mouse.down()
    page.mouse.move(*on_screen(rival[0], rival[1] + state["epsilon"]), steps=5)
    page.mouse.up()
    shown = check()
    assert json.loads(shown["sites"])[0] == pytest.approx([rival[0], rival[1] + state["epsilon"]], abs=side / 100)
    assert int(shown["broken"]) >= 1 and "not 2ε-separated" in widget.locator(".gloro-readout").inner_text()
    assert picture(canvas) != before

    # And back with the keyboard; where the site is and what that means is said.
    canvas.focus()
    for axis, keys in enumerate((("ArrowLeft", "ArrowRight"), ("ArrowDown", "ArrowUp"))):
        steps = round((state["sites"][0][axis] - json.loads(shown["sites"])[0][axis]) / (side / 100))
        press(widget, keys[steps > 0], abs(steps))
    shown = check()
    assert shown["broken"] == "0" and "g certifies every site" in widget.locator(".gloro-readout").inner_text()
    x, y = json.loads(shown["sites"])[0]
    words = said(widget)
    assert f"at ({x:.2f}, {y:.2f})".replace("-", "−") in words and "2ε-separated" in words

    count = len(state["sites"])
    by_key = (partial(press, widget, key) for key in ("a", "l", "Delete"))
    by_mouse = (
        partial(page.mouse.dblclick, *at(box, 0.9, 0.1)),
        *(widget.get_by_role("button", name=n).click for n in ("Relabel", "Delete")),
    )
    for add, relabel, delete in (by_key, by_mouse):
        add()
        added = json.loads(check()["labels"])
        assert len(added) == count + 1
        relabel()
        assert json.loads(check()["labels"]) == [*added[:-1], (added[-1] + 1) % state["classes"]]
        delete()
        assert json.loads(check()["labels"]) == added[:-1]


def test_taps_on_the_playground_do_what_drags_do(opened):
    state = model("VoronoiPlayground")
    widget = opened("VoronoiPlayground", viewport={"width": PHONE, "height": 800}, has_touch=True)
    canvas = widget.locator("canvas")
    canvas.evaluate("(e) => e.scrollIntoView({block: 'start', behavior: 'instant'})")
    widget.page.wait_for_timeout(200)
    check = partial(playground_agrees, widget, state["epsilon"])

    def tap(x, y):
        canvas.evaluate("(e) => e.scrollIntoView({block: 'center', behavior: 'instant'})")
        widget.page.wait_for_timeout(100)
        widget.page.touchscreen.tap(*at(canvas.bounding_box(), x, y))
        return check()

    side, left, bottom = (state["frame"][key] for key in ("side", "left", "bottom"))
    shown = tap(0.9, 0.9)
    assert json.loads(shown["place"]) == pytest.approx([left + 0.9 * side, bottom + 0.1 * side], abs=side / 50)
    assert f"g = {float(shown['g']):.3f}" in said(widget)
    x, y = state["sites"][3]
    shown = tap((x - left) / side, 1 - (y - bottom) / side)
    assert shown["selected"] == "3" and json.loads(shown["sites"]) == state["sites"]
    widget.get_by_role("radio", name="moves the selected site there").check()
    shown = tap(0.95, 0.95)
    assert json.loads(shown["sites"])[3] == pytest.approx([left + 0.95 * side, bottom + 0.05 * side], abs=side / 50)
    widget.get_by_role("radio", name="adds a site there").check()
    shown = tap(0.05, 0.95)
    assert len(json.loads(shown["sites"])) == len(state["sites"]) + 1


def test_the_playground_says_why_it_refuses(opened):
    state, widget = model("VoronoiPlayground"), opened("VoronoiPlayground")
    note = widget.locator(".gloro-note")
    add = widget.get_by_role("button", name="Add", exact=True)
    for _ in range(state["most"] - len(state["sites"])):
        add.click()
    assert len(set(map(tuple, json.loads(data(widget)["sites"])))) == state["most"]  # none on top of another
    add.click()
    settle(widget)
    assert len(json.loads(data(widget)["sites"])) == state["most"]
    assert f"{state['most']} sites already" in note.inner_text() and note.get_attribute("role") == "status"
    delete = widget.get_by_role("button", name="Delete")
    for _ in range(state["most"]):
        delete.click()
        if "stays" in note.inner_text():
            widget.get_by_role("button", name="Next site").click()
    settle(widget)
    left = json.loads(data(widget)["labels"])
    delete.click()
    assert len(set(left)) == 2 and ("must stay" in note.inner_text() or "must be left" in note.inner_text())
    # With two sites left, a label changes to one that keeps two, and the message says to which.
    while len(json.loads(data(widget)["labels"])) > 2:
        delete.click()
        if "stays" in note.inner_text():
            widget.get_by_role("button", name="Next site").click()
        settle(widget)
    delete.click()
    assert "Two sites must stay" in note.inner_text()
    widget.get_by_role("button", name="Relabel").click()
    settle(widget)
    assert len(set(json.loads(data(widget)["labels"]))) == 2


# The training's replay.


def test_training_replay(opened):
    state, widget = model("TrainingReplay"), opened("TrainingReplay")
    canvas = widget.locator("canvas").first
    last = len(state["gloro"]["history"]) - 1
    size = 80  # of the lattice in training_replay.js
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) / size * state["frame"]["side"]
    lattice = torch.cartesian_prod(state["frame"]["left"] + centres, state["frame"]["bottom"] + centres)
    points, labels = torch.tensor(state["points"], dtype=torch.float64), torch.tensor(state["labels"])

    def check(epoch, epsilon=state["epsilon"]):
        """The map's share of bottom, the VRA and the read-outs are those of the weights and constants of this epoch."""
        settle(widget)
        shown = data(widget)
        assert int(shown["epoch"]) == epoch
        both = zip(("gloro", "standard"), json.loads(shown["bottom"]), json.loads(shown["vra"]), strict=True)
        for name, bottom, vra in both:
            stored = state[f"{name}_weights"]
            each = len(stored) // (last + 1)
            halves = torch.frombuffer(bytearray(stored[epoch * each : (epoch + 1) * each]), dtype=torch.float16)
            network = rebuilt(state[name]["layers"], halves.float().numpy().tobytes())
            table = torch.tensor(state[name]["constants"][epoch], dtype=torch.float64)
            with torch.no_grad():
                radius = certified_radius(network(lattice), table)
                outputs = network(points)
            assert bottom == pytest.approx((radius <= epsilon).double().mean().item(), abs=2 / size**2)
            right = (outputs.argmax(1) == labels) & (certified_radius(outputs, table) > epsilon)
            assert vra == pytest.approx(right.double().mean().item(), abs=1.01 / len(labels))
            row = state[name]["history"][epoch]
            own = torch.nn.functional.one_hot(labels).bool()
            margins = outputs[own] - outputs.where(~own, -torch.inf).amax(1)
            assert row["margin"] == pytest.approx(margins.median().item(), rel=1e-4, abs=1e-5)
            entropy = torch.nn.functional.cross_entropy(outputs, labels).item()
            assert row["cross_entropy"] == pytest.approx(entropy, rel=1e-4, abs=1e-6)

    check(last)
    before = picture(canvas)
    canvas.focus()
    for k in range(1, 4):
        press(widget, "Shift+ArrowLeft")
        check(last - 5 * k)
    assert picture(canvas) != before
    assert f"Epoch {last - 15}" in said(widget)

    # The VRA, its curve and the map are of the epsilon shown.
    epoch, epsilon = last - 15, model("TrainingReplay")["epsilon"] + 0.1
    curve = widget.locator("polyline").first
    points_before = curve.get_attribute("points")
    widget.get_by_label("ε, the radius, in input units").focus()
    press(widget, "ArrowRight", 10)
    check(epoch, epsilon)
    assert curve.get_attribute("points") != points_before
    assert f"at ε = {epsilon:.2f}" in widget.locator(".gloro-readout").inner_text()

    widget.get_by_label("epoch", exact=True).focus()
    press(widget, "Home")
    check(0, epsilon)
    widget.get_by_role("button", name="Play").click()
    widget.page.wait_for_function(f"Number(document.querySelector('{selector('TrainingReplay')}').dataset.epoch) > 0")
    widget.get_by_role("button", name="Pause").click()


# The loader.


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"></head><body>
<script type="application/vnd.jupyter.widget-view+json">{"model_id": "one"}</script>
<script type="application/vnd.jupyter.widget-view+json">{"model_id": "one"}</script>
<script type="application/vnd.jupyter.widget-view+json">{"model_id": "broken"}</script>
<script type="application/vnd.jupyter.widget-state+json">%s</script>
<script src="%s"></script></body></html>"""
ESM = """export default {
  initialize({ model }) { model.set("started", (model.get("started") ?? 0) + 1); },
  render({ model, el }) {
    const [count, bytes, deep] = ["count", "bytes", "deep"].map((name) => () => model.get(name));
    const show = () => { el.textContent = `${count()} ${bytes().getUint8(1)} ${deep().inner.getUint8(0)}`; };
    model.on("change:count", show);
    el.onclick = () => { model.set("count", model.get("count") + 1); model.save_changes(); };
    show();
  },
};"""


def test_the_loader_keeps_anywidgets_protocol(browser, tmp_path):
    """Views of one model change together, buffers come back to their places, and a module that fails says so."""
    state = {
        "one": {
            "model_module": "anywidget",
            "model_name": "AnyModel",
            "state": {"_esm": ESM, "_css": "body { color: rgb(1, 2, 3) }", "count": 1, "deep": {}},
            "buffers": [
                {"path": ["bytes"], "encoding": "base64", "data": base64.b64encode(b"\x05\x07").decode()},
                {"path": ["deep", "inner"], "encoding": "base64", "data": base64.b64encode(b"\x09").decode()},
            ],
        },
        "broken": {"model_module": "anywidget", "model_name": "AnyModel", "state": {"_esm": "throw new Error('no luck');"}},
    }
    loader = ROOT / "book" / "assets" / "gloro" / "widgets.js"
    path = tmp_path / "page.html"
    path.write_text(PAGE % (json.dumps({"state": state}), loader.as_uri()), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    places = page.locator(".gloro-mount")
    page.wait_for_function("document.querySelectorAll('.gloro-mount')[1]?.textContent === '1 7 9'")
    places.first.click()
    assert [places.nth(k).inner_text() for k in range(2)] == ["2 7 9"] * 2
    assert "no luck" in places.nth(2).inner_text()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(1, 2, 3)"
    page.close()


def test_the_loader_is_all_that_the_pages_load():
    loaded = {path.name for path in (HTML / "_static").rglob("*.js") if path.stat().st_size > 300_000}
    assert not loaded, f"large scripts in the book: {loaded}"
