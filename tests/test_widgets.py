"""What the widgets are given, and what they refuse. What they draw is tested in a browser, tests/book/test_widgets.py."""

import pytest
import torch

pytest.importorskip("anywidget")

from gloro_lite import GloroNet, MinMax
from gloro_lite.datasets.points import moons
from gloro_lite.fit import fit
from gloro_lite.widgets import BottomLogit, MarginExplorer, TrainingReplay, VoronoiPlayground, export
from gloro_lite.widgets.base import module
from gloro_lite.widgets.training_replay import Recording


def small(classes=2, width=8, inputs=2):
    torch.manual_seed(0)
    return GloroNet(
        torch.nn.Sequential(torch.nn.Linear(inputs, width), MinMax(), torch.nn.Linear(width, classes)), (inputs,), 0.2
    )


def test_explorer_holds_the_nets_and_calls_back():
    x, y = moons(20)
    gloro, standard = small(), small()
    explorer = MarginExplorer(gloro, standard, x, y)
    assert len(explorer.gloro_weights) == 4 * sum(p.numel() for p in gloro.parameters())
    assert explorer.gloro["constants"] == gloro.margin_constants().tolist()
    seen = []
    explorer.observe(lambda change: seen.append(change["new"]), "epsilon")
    explorer.epsilon = 0.4
    assert seen == [0.4]
    with pytest.raises(ValueError, match="epsilon"):
        explorer.epsilon = -1.0


def test_controls_are_the_widgets_own():
    widget = BottomLogit(epsilon=0.4)
    assert widget.with_controls() is widget and widget.largest == 1.0
    assert widget.with_controls(largest=1.5).largest == 1.5 and widget.epsilon == 0.4
    for largest in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="ends at a positive number"):
            widget.with_controls(largest=largest)


def test_bars_stay_what_they_can_be_drawn_as():
    widget = BottomLogit()
    before = widget.logits, widget.rows
    for logits in ([float("nan")], [1.0, 2.0], [1.0, 2.0, float("inf")]):
        with pytest.raises(ValueError):
            widget.logits = logits
    for rows in ([[1.0, 0.0]], [[1.0]] * 3, [[1.0, float("nan")]] * 3):
        with pytest.raises(ValueError):
            widget.rows = rows
    assert (widget.logits, widget.rows) == before
    widget.logits, widget.rows = [1, 2, 3], [(1, 0)] * 3
    assert widget.logits == [1.0, 2.0, 3.0] and widget.rows == [[1.0, 0.0]] * 3


def test_stills_are_described():
    x, y = moons(30)
    sites, labels = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1, 2])
    for widget in (MarginExplorer(small(3), small(3), x, y), BottomLogit(), VoronoiPlayground(sites, labels)):
        html = widget.still().data
        assert html.startswith("<noscript") and "data:image/png" in html and widget.description[:20] in html


def test_replay_records_every_epoch():
    x, y = moons(40)
    recordings = []
    for loss in ("cross_entropy", "standard"):
        recording = Recording(x, y)
        net = small()
        fit(net, (x, y), epochs=3, loss=loss, progress=False, on_epoch=recording.take)
        recordings.append(recording)
    replay = TrainingReplay(*recordings, epsilon=0.2)
    assert len(replay.gloro["history"]) == len(replay.gloro["constants"]) == 3
    assert len(replay.gloro_weights) == 3 * len(recordings[0].weights[0])
    # What is shown is the net with its weights in half precision.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.half())
        logits = net.logits(x)
    assert replay.standard["constants"][-1] == net.margin_constants().tolist()
    halves = torch.frombuffer(bytearray(recordings[1].weights[-1]), dtype=torch.float16)
    whole = torch.frombuffer(bytearray(export.weights(net)), dtype=torch.float32)
    assert torch.equal(halves.float(), whole)
    margin = torch.where(y == 0, 1, -1) * (logits[:, 0] - logits[:, 1])
    assert replay.standard["history"][-1]["margin"] == pytest.approx(margin.median().item(), rel=1e-5)
    entropy = torch.nn.functional.cross_entropy(logits, y).item()
    assert replay.standard["history"][-1]["cross_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert replay.with_controls(0.8) is replay
    assert replay.still().data
    with pytest.raises(ValueError, match="0 and 3 epochs"):
        TrainingReplay(Recording(x, y), recordings[1], epsilon=0.2)


def test_modules_and_styles_are_complete():
    for widget, name in ((BottomLogit, "bottom_logit"), (TrainingReplay, "training_replay")):
        assert widget._esm.count("export default") == 1 and f'dataset.widget = "{widget.__name__}"' in widget._esm
        assert "palette" in widget._esm and module(f"{name}.js") == widget._esm
        assert ".gloro-widget" in widget._css


def test_a_net_too_large_for_the_browser_is_refused():
    x, y = moons(20)
    with pytest.raises(ValueError, match=f"at most {export.MOST_PARAMETERS}"):
        MarginExplorer(small(width=2000), small(width=2000), x, y)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        MarginExplorer(small(inputs=3), small(inputs=3), x, y)
    with pytest.raises(ValueError, match="2 and 3 classes"):
        MarginExplorer(small(2), small(3), x, y)
    odd = GloroNet(torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)), (2,), 0.2)
    with pytest.raises(TypeError, match="not Tanh"):
        MarginExplorer(odd, odd, x, y)


def test_bad_sites_and_bars_are_refused():
    with pytest.raises(ValueError, match="coincide"):
        VoronoiPlayground(torch.zeros(2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="at most 60"):
        VoronoiPlayground(torch.rand(61, 2), torch.arange(61) % 2)
    with pytest.raises(ValueError, match="two to six"):
        BottomLogit(logits=[1.0], rows=[[1.0, 0.0]])
    with pytest.raises(ValueError, match="finite"):
        BottomLogit(logits=[1.0, float("nan")], rows=[[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="site 1 holds NaN"):
        VoronoiPlayground(torch.tensor([[0.0, 0.0], [torch.inf, 1.0]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="two different labels"):
        VoronoiPlayground(torch.eye(2), torch.tensor([1, 1]))
