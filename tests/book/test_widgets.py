"""The widgets in the built page, by mouse and by keyboard, against what the package computes from the same state."""

import base64
import json
import re

import nbformat
import pytest
import torch
from conftest import HTML, ROOT

from gloro_lite import GloroNet, MinMax
from gloro_lite.bottom import bottom_logit, certified_radius, margin_constants
from gloro_lite.voronoi import DecisionFaces
from gloro_lite.widgets import export
from gloro_lite.widgets.base import module

PAGE = "book/06_decision_margins.html"
STATE = "application/vnd.jupyter.widget-state+json"


def model(name: str) -> dict:
    """The stored state of the widget that `name`'s JavaScript draws, its buffers among the traits."""
    nb = nbformat.read(ROOT / "_build" / "notebooks" / "06_decision_margins.ipynb", 4)
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
            x = torch.tensor(
                [[state["frame"]["left"] + where * side, state["frame"]["bottom"] + 0.6 * side]], dtype=torch.float64
            )
            with torch.no_grad():
                logits = network(x)
            # The pointer's place is known to a pixel's fraction only; a slope times that is the room it needs.
            assert torch.allclose(torch.tensor(json.loads(shown["logits"])), logits[0].float(), atol=0.1)
            own = torch.tensor([json.loads(shown["logits"])], dtype=torch.float64)
            assert float(shown["radius"]) == pytest.approx(certified_radius(own, table).item(), rel=1e-5)
            assert float(shown["bottom"]) == pytest.approx(bottom_logit(own, table, state["epsilon"]).item(), rel=1e-5)
            assert (shown["certified"] == "true") == (float(shown["radius"]) > state["epsilon"])


def test_margin_explorer_by_keyboard_and_attack(page):
    state = model("Margin explorer")
    panel = page.locator('[data-panel="gloro"]')
    panel.locator("canvas").focus()
    before = data(panel)
    for _ in range(3):
        page.keyboard.press("Shift+ArrowLeft")
    settle(page)
    after = data(panel)
    assert before["logits"] != after["logits"]
    network = rebuilt(state["gloro"]["layers"], state["gloro_weights"])
    assert len(json.loads(after["logits"])) == network[-1].out_features
    page.keyboard.press("a")
    settle(page)
    assert data(panel)["broken"] == "0"
    assert "none found another class" in panel.locator(".gloro-attack").inner_text()


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
    logits[0] = float(first.get_attribute("aria-valuenow"))
    assert logits[0] < state["logits"][0] - 0.3


def test_voronoi_playground(page):
    state = model("Voronoi playground")
    widget = page.locator(".gloro-widget").nth(2)
    canvas = widget.locator("canvas")
    canvas.scroll_into_view_if_needed()
    g = DecisionFaces(torch.tensor(state["sites"]), torch.tensor(state["labels"]))
    for where in ((0.31, 0.42), (0.72, 0.66), (0.93, 0.08)):
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + where[0] * box["width"], box["y"] + where[1] * box["height"])
        settle(page)
        shown = data(widget)
        place = torch.tensor([json.loads(shown["pointer"])], dtype=torch.float64)
        assert float(shown["g"]) == pytest.approx(g.distance(place).item(), rel=1e-5)

    assert data(widget)["broken"] == "0"
    # Carry the selected site onto one of another label, by the arrow keys: the hypothesis fails.
    canvas.focus()
    target = next(s for s, k in zip(state["sites"], state["labels"], strict=True) if k != state["labels"][0])
    start = state["sites"][0]
    step = state["frame"]["side"] / 100
    for axis, (less, more) in enumerate((("ArrowLeft", "ArrowRight"), ("ArrowDown", "ArrowUp"))):
        count = round((target[axis] - start[axis]) / step)
        for _ in range(abs(count)):
            page.keyboard.press(more if count > 0 else less)
    settle(page)
    assert int(data(widget)["broken"]) >= 1
    assert "not 2ε-separated" in widget.locator(".gloro-readout").inner_text()
    before = picture(canvas)
    sites = int(re.match(r"\d+", widget.locator(".gloro-readout").inner_text())[0])
    page.keyboard.press("Delete")
    settle(page)
    assert widget.locator(".gloro-readout").inner_text().startswith(f"{sites - 1} sites")
    box = canvas.bounding_box()
    page.mouse.dblclick(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"])
    settle(page)
    assert widget.locator(".gloro-readout").inner_text().startswith(f"{sites} sites")
    widget.get_by_role("button", name="Relabel").click()
    settle(page)
    assert picture(canvas) != before


def test_training_replay(page):
    state = model("Training replay")
    widget = page.locator(".gloro-widget").nth(3)
    canvas = widget.locator("canvas").first
    canvas.focus()
    last = len(state["gloro"]["history"]) - 1
    before = picture(canvas)
    for k in range(1, 4):
        page.keyboard.press("Shift+ArrowLeft")
        settle(page)
        shown = data(widget)
        assert int(shown["epoch"]) == last - 5 * k
        assert float(shown["vra"]) == pytest.approx(state["gloro"]["history"][last - 5 * k]["vra"])
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    settle(page)
    assert picture(canvas) != before
    shown = int(data(widget)["epoch"])
    widget.get_by_role("button", name="Play").click()
    page.wait_for_function(f"Number(document.querySelectorAll('.gloro-widget')[3].dataset.epoch) > {shown}")
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


@pytest.mark.parametrize("count", [2, 3, 8, 30])
def test_javascript_g_agrees(core, count):
    generator = torch.Generator().manual_seed(count)
    sites = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    labels = torch.arange(count) % 3 if count > 2 else torch.tensor([0, 1])
    x = 2 * torch.rand(200, 2, generator=generator, dtype=torch.float64) - 0.5
    found = core.evaluate(
        """([sites, labels, points]) => {
        const faces = core.voronoiFaces(sites).filter((f) => labels[f.p] !== labels[f.q]);
        return points.map(([x, y]) => core.distanceToFaces(faces, x, y)); }""",
        [sites.tolist(), labels.tolist(), x.tolist()],
    )
    want = DecisionFaces(sites, labels).distance(x)
    assert torch.allclose(torch.tensor(found, dtype=torch.float64), want, rtol=1e-5, atol=1e-12)


def test_each_module_stands_alone():
    for name in ("margin_explorer", "bottom_logit", "voronoi_playground", "training_replay"):
        text = module(f"{name}.js")
        assert "import " not in re.sub(r"//.*|/\*.*?\*/", "", text)
        assert text.count("export default") == 1


def test_page_holds_the_widgets_state():
    assert (HTML / PAGE).read_text(encoding="utf-8").count("widget-view+json") == 4
