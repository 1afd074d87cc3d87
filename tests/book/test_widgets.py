"""The widgets in the built page, by mouse and by keyboard, against what the package computes from the same state."""

import base64
import json
import re
from functools import partial

import nbformat
import pytest
import torch
from conftest import HTML, ROOT

from gloro_lite import GloroNet, MinMax
from gloro_lite.bottom import bottom_logit, margin_constants
from gloro_lite.certificate import certified_radius
from gloro_lite.voronoi import DecisionFaces
from gloro_lite.widgets import export
from gloro_lite.widgets.base import module

PAGE = "book/decision_margins.html"
STATE = "application/vnd.jupyter.widget-state+json"


def model(name: str) -> dict:
    """The stored state of the widget that `name`'s JavaScript draws, its buffers among the traits."""
    nb = nbformat.read(ROOT / "_build" / "notebooks" / "decision_margins.ipynb", 4)
    for stored in nb.metadata["widgets"][STATE]["state"].values():
        if stored["state"].get("description", "").startswith(name):
            buffers = {b["path"][0]: base64.b64decode(b["data"]) for b in stored.get("buffers", [])}
            return {**stored["state"], **buffers}
    raise AssertionError(f"no widget {name} in the notebook")


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


@pytest.fixture(scope="module")
def page(browser, server):
    page = browser.new_page(viewport={"width": 1250, "height": 900})
    page.goto(f"{server}/{PAGE}")
    page.wait_for_function("document.querySelectorAll('.gloro-widget').length === 4")
    yield page
    page.close()


def data(locator) -> dict:
    return locator.evaluate("(e) => ({...e.dataset})")


def settle(page) -> None:
    """Wait until what was asked for is drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def picture(locator) -> bytes:
    return locator.evaluate("(e) => e.toDataURL()")


def test_margin_explorer_shows_what_the_package_computes(page):
    state = model("Margin explorer")
    for name in ("gloro", "standard"):
        panel = page.locator(f'[data-panel="{name}"]')
        canvas = panel.locator("canvas")
        canvas.scroll_into_view_if_needed()
        network = rebuilt(state[name]["layers"], state[f"{name}_weights"])
        table = torch.tensor(state[name]["constants"], dtype=torch.float64)
        for where in (0.2, 0.55, 0.8):
            before = picture(canvas)
            box = canvas.bounding_box()
            page.mouse.move(box["x"] + where * box["width"], box["y"] + 0.4 * box["height"])
            settle(page)
            assert picture(canvas) != before
            shown = data(panel)
            side = state["frame"]["side"]
            pointed = [state["frame"]["left"] + where * side, state["frame"]["bottom"] + 0.6 * side]
            assert json.loads(shown["point"]) == pytest.approx(pointed, abs=side / 100)  # to a pixel or two
            agrees(shown, network, table, state["epsilon"])


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


def test_margin_explorer_by_keyboard_and_attack(page):
    state = model("Margin explorer")
    panel = page.locator('[data-panel="gloro"]')
    panel.locator("canvas").focus()
    before = json.loads(data(panel)["point"])
    for _ in range(3):
        page.keyboard.press("Shift+ArrowLeft")
    settle(page)
    after = data(panel)
    assert json.loads(after["point"])[0] == pytest.approx(max(before[0] - 0.3 * state["frame"]["side"], state["frame"]["left"]))
    table = torch.tensor(state["gloro"]["constants"], dtype=torch.float64)
    agrees(after, rebuilt(state["gloro"]["layers"], state["gloro_weights"]), table, state["epsilon"])
    page.keyboard.press("a")
    settle(page)
    assert data(panel)["broken"] == "0"
    assert "none found another class" in panel.locator(".gloro-attack").inner_text()


def test_a_click_holds_the_point_for_the_attack_button(page):
    panel = page.locator('[data-panel="gloro"]')
    canvas = panel.locator("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    settle(page)
    held = data(panel)["point"]
    button = page.get_by_role("button", name="Attack the point")
    target = button.bounding_box()
    page.mouse.move(target["x"] + 5, target["y"] + 5, steps=20)  # over the map
    button.click()
    settle(page)
    assert data(panel)["point"] == held and data(panel)["broken"] == "0"
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.3 * box["height"])
    settle(page)
    assert data(panel)["point"] != held


def test_epsilon_slider_widens_the_grey_region(page):
    canvas = page.locator('[data-panel="gloro"] canvas')
    grey = """(c) => {
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let n = 0;
        const near = (a, b) => Math.abs(d[a] - d[b]) < 4;
        for (let k = 0; k < d.length; k += 4) n += near(k, k + 1) && near(k, k + 2) && d[k + 3] > 150;
        return n; }"""
    before = canvas.evaluate(grey)
    widget = page.locator(".gloro-widget").nth(1)
    handle = widget.locator("xpath=ancestor::*[contains(@class,'widget-vbox')][1]").locator(".noUi-handle").first
    handle.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    settle(page)
    assert canvas.evaluate(grey) > 1.1 * before


def test_bottom_logit_by_mouse_and_keyboard(page):
    state = model("Bottom logit")
    widget = page.locator(".gloro-widget").nth(0)
    logits, rows = list(state["logits"]), torch.tensor(state["rows"], dtype=torch.float64)

    def check():
        settle(page)
        shown = data(widget)
        assert json.loads(shown["logits"]) == pytest.approx(logits)
        assert torch.allclose(torch.tensor(json.loads(shown["rows"]), dtype=torch.float64), rows)
        for key, tight in (("sum", False), ("tight", True)):
            table = margin_constants(rows, 1.0, tight=tight)
            want = bottom_logit(torch.tensor([logits], dtype=torch.float64), table, state["epsilon"]).item()
            assert float(shown[key]) == pytest.approx(want, rel=1e-5)

    check()
    first = widget.locator('rect[role="slider"]').first
    first.focus()
    page.keyboard.press("ArrowUp")
    logits[0] += 0.05
    check()
    arrow = widget.locator('circle[role="slider"]').nth(1)
    arrow.focus()
    page.keyboard.press("Shift+ArrowLeft")
    rows[1, 0] -= 0.5
    check()
    first.scroll_into_view_if_needed()
    box = first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60, steps=4)
    page.mouse.up()
    settle(page)
    logits[0] = json.loads(data(widget)["logits"])[0]
    assert logits[0] < state["logits"][0] - 0.3
    check()
    logits[0] = min(logits)
    tight = float(data(widget)["tight"])
    says = "⊥ wins" if max(logits) <= tight else f"class {int(torch.tensor(logits).argmax())} wins"
    assert f"With the tight Kᵢⱼ: {says}" in widget.locator(".gloro-readout").inner_text()


def test_voronoi_playground(page):
    state = model("Voronoi playground")
    widget = page.locator(".gloro-widget").nth(2)
    canvas = widget.locator("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    side, left, bottom = (state["frame"][key] for key in ("side", "left", "bottom"))

    def at(x, y):
        """Where a point of the plane is on the screen."""
        return box["x"] + (x - left) / side * box["width"], box["y"] + (1 - (y - bottom) / side) * box["height"]

    def check():
        """g and the separation are what Python computes for the sites that the widget shows; returns what it shows."""
        settle(page)
        shown = data(widget)
        sites, labels = (torch.tensor(json.loads(shown[key])) for key in ("sites", "labels"))
        g = DecisionFaces(sites, labels)
        place = torch.tensor([json.loads(shown["place"])], dtype=torch.float64)
        assert float(shown["g"]) == pytest.approx(g.distance(place).item(), rel=1e-5)
        apart = torch.cdist(sites.double(), sites.double())[labels[:, None] != labels]
        assert float(shown["least"]) == pytest.approx(apart.min().item(), rel=1e-5)
        assert int(shown["broken"]) == int((apart <= 2 * state["epsilon"]).sum()) // 2
        return shown

    for where in ((0.31, 0.42), (0.72, 0.66), (0.93, 0.08)):
        page.mouse.move(box["x"] + where[0] * box["width"], box["y"] + where[1] * box["height"])
        shown = check()
        assert json.loads(shown["place"])[0] == pytest.approx(left + where[0] * side, abs=side / 100)
    assert shown["broken"] == "0"

    # Drag a site towards one of another label with the mouse: the hypothesis fails.
    before = picture(canvas)
    rival = next(s for s, k in zip(state["sites"], state["labels"], strict=True) if k != state["labels"][0])
    page.mouse.move(*at(*state["sites"][0]))
    page.mouse.down()
    page.mouse.move(*at(rival[0], rival[1] + state["epsilon"]), steps=5)
    page.mouse.up()
    shown = check()
    assert json.loads(shown["sites"])[0] == pytest.approx([rival[0], rival[1] + state["epsilon"]], abs=side / 100)
    assert int(shown["broken"]) >= 1 and "not 2ε-separated" in widget.locator(".gloro-readout").inner_text()
    assert picture(canvas) != before

    # And back with the keyboard.
    canvas.focus()
    for axis, keys in enumerate((("ArrowLeft", "ArrowRight"), ("ArrowDown", "ArrowUp"))):
        steps = round((state["sites"][0][axis] - json.loads(shown["sites"])[0][axis]) / (side / 100))
        for _ in range(abs(steps)):
            page.keyboard.press(keys[steps > 0])
    shown = check()
    assert shown["broken"] == "0" and "g certifies every site" in widget.locator(".gloro-readout").inner_text()

    count = len(state["sites"])
    corner = box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"]
    by_key = (partial(page.keyboard.press, key) for key in ("a", "l", "Delete"))
    by_mouse = (
        partial(page.mouse.dblclick, *corner),
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


def test_training_replay(page):
    state = model("Training replay")
    widget = page.locator(".gloro-widget").nth(3)
    canvas = widget.locator("canvas").first
    last = len(state["gloro"]["history"]) - 1
    size = 80  # of the lattice in training_replay.js
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) / size * state["frame"]["side"]
    lattice = torch.cartesian_prod(state["frame"]["left"] + centres, state["frame"]["bottom"] + centres)
    points, labels = torch.tensor(state["points"], dtype=torch.float64), torch.tensor(state["labels"])

    def check(epoch):
        """The map's grey share and the read-outs are those of the weights and constants recorded at this epoch."""
        settle(page)
        shown = data(widget)
        assert int(shown["epoch"]) == epoch
        for name, grey in zip(("gloro", "standard"), json.loads(shown["grey"]), strict=True):
            stored = state[f"{name}_weights"]
            each = len(stored) // (last + 1)
            network = rebuilt(state[name]["layers"], stored[epoch * each : (epoch + 1) * each])
            table = torch.tensor(state[name]["constants"][epoch], dtype=torch.float64)
            with torch.no_grad():
                radius = certified_radius(network(lattice), table)
                outputs = network(points)
            assert grey == pytest.approx((radius <= state["epsilon"]).double().mean().item(), abs=2 / size**2)
            own = torch.nn.functional.one_hot(labels).bool()
            margins = outputs[own] - outputs.where(~own, -torch.inf).amax(1)
            assert state[name]["history"][epoch]["margin"] == pytest.approx(margins.median().item(), rel=1e-4, abs=1e-5)
        for key in ("vra", "margin"):
            assert float(shown[key]) == pytest.approx(state["gloro"]["history"][epoch][key])

    before = picture(canvas)
    canvas.focus()
    for k in range(1, 4):
        page.keyboard.press("Shift+ArrowLeft")
        check(last - 5 * k)
    assert picture(canvas) != before
    # The slider, by the mouse: its left end is the first epoch.
    slider = widget.locator("xpath=ancestor::*[contains(@class,'widget-vbox')][1]").locator(".noUi-target").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 1, box["y"] + box["height"] / 2)
    check(0)
    widget.get_by_role("button", name="Play").click()
    page.wait_for_function("Number(document.querySelectorAll('.gloro-widget')[3].dataset.epoch) > 0")
    widget.get_by_role("button", name="Pause").click()


def test_still_pictures_without_scripts(browser, server):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{server}/{PAGE}")
    stills = page.locator("noscript img.gloro-still, img.gloro-still")
    assert stills.count() == 4
    for k in range(4):
        assert stills.nth(k).evaluate("(e) => e.naturalWidth") > 200
        assert len(stills.nth(k).get_attribute("alt")) > 80
    context.close()


SHAPES = [(2, [6], 3), (2, [8, 6], 2), (2, [4, 4, 4], 5)]


@pytest.fixture(scope="module")
def core(browser):
    """A page with the functions of core.js at hand."""
    page = browser.new_page()
    page.goto("about:blank")
    text = (ROOT / "gloro_lite" / "widgets" / "core.js").read_text(encoding="utf-8")
    page.evaluate(
        """async (text) => {
        window.core = await import(URL.createObjectURL(new Blob([text], {type: "text/javascript"}))); }""",
        text,
    )
    yield page
    page.close()


@pytest.mark.parametrize(("inputs", "hidden", "classes"), SHAPES)
def test_javascript_agrees_on_golden_vectors(core, inputs, hidden, classes):
    torch.manual_seed(1)
    layers = torch.nn.Sequential()
    for k, width in enumerate(hidden):
        layers.append(torch.nn.Linear(inputs, width))
        layers.append(torch.nn.ReLU() if k == 1 else MinMax())
        inputs = width
    layers.append(torch.nn.Linear(inputs, classes))
    net = GloroNet(layers, (2,), 0.2)
    x = 3 * torch.randn(50, 2)
    found = core.evaluate(
        """([layers, bytes, x, y, table, epsilon]) => {
        const view = new DataView(Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0)).buffer);
        const out = core.logits(core.network(layers, view), x, y).map((a) => [...a]);
        const each = x.map((_, k) => out.map((a) => a[k]));
        return {out: each, bottom: each.map((v) => core.bottomLogit(v, table, epsilon)),
                radius: each.map((v) => core.certifiedRadius(v, table)),
                many: [...core.predictions(out, table).radius]}; }""",
        [
            export.layers(net),
            base64.b64encode(export.weights(net)).decode(),
            *x.double().T.tolist(),
            export.table(net),
            0.2,
        ],
    )
    with torch.no_grad():
        logits = layers.double()(x.double())
    table = torch.tensor(export.table(net), dtype=torch.float64)
    for got, want in (
        (found["out"], logits),
        (found["bottom"], bottom_logit(logits, table, 0.2)),
        (found["radius"], certified_radius(logits, table)),
        (found["many"], certified_radius(logits, table)),
    ):
        assert torch.allclose(torch.tensor(got, dtype=torch.float64), want, rtol=1e-5, atol=1e-12)


SQUARES = [[float(a), float(b)] for a in range(4) for b in range(3)]  # every four neighbours lie on a circle
LINE = [[0.3 * k, 0.7 * k] for k in (0, 1, 3, 4, 7)]


@pytest.mark.parametrize("sites", [2, 3, 8, 30, SQUARES, LINE], ids=["2", "3", "8", "30", "squares", "line"])
def test_javascript_g_agrees(core, sites):
    generator = torch.Generator().manual_seed(7)
    if isinstance(sites, int):
        sites = torch.rand(sites, 2, generator=generator, dtype=torch.float64).tolist()
    labels = torch.arange(len(sites)) % min(3, len(sites))
    x = 4 * torch.rand(200, 2, generator=generator, dtype=torch.float64) - 1
    found = core.evaluate(
        """([sites, labels, points]) => {
        const faces = core.voronoiFaces(sites).filter((f) => labels[f.p] !== labels[f.q]);
        return points.map(([x, y]) => core.distanceToFaces(faces, x, y)); }""",
        [sites, labels.tolist(), x.tolist()],
    )
    want = DecisionFaces(torch.tensor(sites, dtype=torch.float64), labels).distance(x)
    assert torch.allclose(torch.tensor(found, dtype=torch.float64), want, rtol=1e-5, atol=1e-12)


def test_attack_in_the_browser_breaks_what_is_not_certified(core):
    """It finds nothing within the certified radius, and does find another class not far beyond the boundary."""
    torch.manual_seed(1)
    net = GloroNet(torch.nn.Sequential(torch.nn.Linear(2, 8), MinMax(), torch.nn.Linear(8, 3)), (2,), 0.2)
    points = 2 * torch.randn(20, 2, dtype=torch.float64)
    angles = torch.linspace(0, 2 * torch.pi, 91, dtype=torch.float64)
    circle = torch.stack((angles.cos(), angles.sin()), 1)
    network = net.network.double()
    with torch.no_grad():
        logits = network(points)
        radius = certified_radius(logits, torch.tensor(export.table(net), dtype=torch.float64))
        steps = torch.linspace(0, 8, 200, dtype=torch.float64)
        around = points[:, None, None] + steps[:, None, None] * circle
        seen = network(around.flatten(0, 2)).argmax(1).view(around.shape[:3]) != logits.argmax(1)[:, None, None]
    reach = steps.where(seen.any(2), torch.inf).amin(1)
    found = core.evaluate(
        """([layers, bytes, points, radii]) => {
        const view = new DataView(Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0)).buffer);
        const net = core.network(layers, view);
        return points.map((p, k) => radii.map((r) => core.attack(net, p, r[k]).broken)); }""",
        [
            export.layers(net),
            base64.b64encode(export.weights(net)).decode(),
            points.tolist(),
            [(radius * (1 - 1e-9)).tolist(), (1.2 * reach).where(reach.isfinite(), 0.0).tolist()],
        ],
    )
    inside, beyond = torch.tensor(found).T
    assert (inside == 0).all()
    assert reach.isfinite().sum() > 5 and (beyond[reach.isfinite()] > 0).double().mean() > 0.8


def test_each_module_stands_alone():
    for name in ("margin_explorer", "bottom_logit", "voronoi_playground", "training_replay"):
        text = module(f"{name}.js")
        assert "import " not in re.sub(r"//.*|/\*.*?\*/", "", text)
        assert text.count("export default") == 1


def test_page_holds_the_widgets_state():
    assert (HTML / PAGE).read_text(encoding="utf-8").count("widget-view+json") == 4
