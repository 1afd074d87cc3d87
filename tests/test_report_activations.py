"""Activations: `gloro_lite.report.activations`."""

import matplotlib.pyplot as plt
import pytest

from gloro_lite.report import activations


def small_net(activation, vra, seed=0, **changed):
    """A row of `data/activations.json`."""
    kind = "ReLU" if activation == "relu" else "MinMax"
    layers = {"1 Linear": 0.5, f"2 {kind}": 0.97, f"4 {kind}": 0.99}
    run = {"activation": activation, "seed": seed, "vra": vra, "accuracy": 0.95, "ratio": 0.9, "layers": layers}
    return run | {"gradient_share": 0.83, "alignment": 0.85} | changed


def some_activations(**changed):
    """Nets of two seeds; `changed` has by activation what is otherwise of these."""
    found = {"none": {"vra": 0.70, "ratio": 0.5}, "abs": {"vra": 0.84}, "minmax": {"vra": 0.82}}
    found |= {"groupsort4": {"vra": 0.83, "ratio": 0.92}, "relu": {"vra": 0.80, "alignment": 0.95, "gradient_share": 0.8}}
    rows = [
        small_net(name, **{**found[name], **changed.get(name, {}), "seed": seed, "accuracy": 0.94 + 0.02 * seed})
        for seed in (0, 1)
        for name in found
    ]
    rows[-1]["vra"] += 0.012  # ReLU's second seed
    seconds = {"minmax": 0.011, "relu": 0.010, "abs": 0.0099, "groupsort4": 0.016}
    step = {"seconds": seconds, "settings": {"batch_size": 128}, "machine": {"device": "one"}}
    lost = [("base", 0.5, 0.9), ("base", 0.52, 0.9), ("activation: ReLU", 0.46, 0.88), ("another", 0.1, 0.1)]
    ablations = [{"variant": name, "validation_vra": vra, "validation_accuracy": right} for name, vra, right in lost]
    return activations.Trained(activations.by_activation(rows), {"epochs": 30}, step, ablations)


def test_the_table_of_activations_has_means_over_seeds_and_their_range():
    lines = activations.table(some_activations()).splitlines()
    assert lines[2:] == [
        "| MinMax | 82.0 | 82.0 | 95.0 | 0.83 | 0.85 | 1.1 |",
        "| GroupSort of 4 | 83.0 | 83.0 | 95.0 | 0.83 | 0.85 | 1.6 |",
        "| absolute value | 84.0 | 84.0 | 95.0 | 0.83 | 0.85 | 1.0 |",
        "| ReLU | 80.6 | 80.0–81.2 | 95.0 | 0.80 | 0.95 | 1.0 |",
        "| no hidden layer | 70.0 | 70.0 | 95.0 | 0.83 | 0.85 | – |",
    ]


def test_what_the_chapter_says_of_activations():
    texts = activations.numbers(some_activations())
    assert {texts["seeds"], texts["epochs"], texts["batch"], texts["where"]} == {"2", "30", "128", "one"}
    assert (texts["vra-relu"], texts["share-relu"], texts["align-relu"]) == ("80.6", "0.80", "0.95")
    assert texts["error"] == f"{100 * (0.82 * 0.18 / 400) ** 0.5:.1f}"  # 200 digits of each seed
    assert texts["ratio"] == "0.90 to 0.92"  # a linear classifier's, 0.5, is not of an activation
    assert texts["kept"] == "3.0%" and texts["step-groupsort4"] == "1.6"
    assert activations.lost_to_relu(some_activations()) == {"lost-vra": "5.0", "lost-accuracy": "2.0"}


@pytest.mark.parametrize(
    "broken",
    [
        {"relu": {"gradient_share": 0.7}},
        {"relu": {"alignment": 0.87}},
        {"abs": {"alignment": 0.93}},
        {"relu": {"vra": 0.82}},
        {"none": {"vra": 0.81}},
        {"groupsort4": {"vra": 0.845}},
        {"minmax": {"vra": 0.835}},
    ],
    ids=str,
)
def test_activations_of_which_the_text_says_too_much_stop_the_chapter(broken):
    with pytest.raises(AssertionError):
        activations.numbers(some_activations(**broken))


def test_a_net_that_was_measured_before_training_has_an_arrow_to_its_trained_mark():
    start = {"relu": {"alignment": 0.1, "gradient_share": 0.3}}
    figure = activations.use_of_bound(some_activations(), start)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(activations.NAMES.values())
    assert [len(marks.get_offsets()) for marks in axis.collections] == [2, 2, 2, 2, 1, 2]
    assert axis.collections[4].get_facecolors().tolist() == [[1, 1, 1, 1]]  # hollow
    (arrow,) = axis.texts
    assert (arrow.xyann, arrow.xy) == ((0.1, 0.3), (0.95, 0.8))
    plt.close(figure)
