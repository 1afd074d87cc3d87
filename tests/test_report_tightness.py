"""How tight are the bounds: `gloro_lite.report.tightness`."""

import pytest

from gloro_lite.report import tightness


def a_net(upper, lower, **changed):
    """An entry of `data/tightness.json`."""
    search = {"local": 3, "images": 1000, "local_steps": 10}
    local = {
        "constant": [10.0, 10.0, 10.0], "slope": [5.0, 2.0, 8.0], "gradient": [4.0, 3.0, 2.0],
        "vra": 0.95, "vra_by_lower": 0.98, "attacked": 0.99,
    }  # fmt: skip
    layers = {"0 Conv2d": [0.9, 0.1], "1 MinMax": [1.0, 0.99], "3 Linear": [0.8, 0.5], "4 logits": [0.5, 0.2]}
    found = {"dataset": "mnist", "loss": "gce", "epsilon": 0.3, "upper": upper, "lower": lower, "vra": 0.9, "vra_by_lower": 0.92}
    return found | {"search": search, "local": local, "layers": layers} | changed


def tight_evidence(**changed):
    """Evidence in which the text is true, but for what is changed of a recipe's net."""
    nets = {
        "cifar10-first/seed-0": a_net(8, 4, dataset="cifar10", vra=0.555, vra_by_lower=0.625),
        "mnist-1.58/seed-0": a_net(10, 9.5, epsilon=1.58, vra_by_lower=0.93),
        "mnist-0.3/seed-0": a_net(10, 8, vra_by_lower=0.91),
        "mnist-0.3-standard/seed-0": a_net(2000, 500, loss="standard", vra=0.0, vra_by_lower=0.858),
    }
    nets = {name: net | changed.get(name.removesuffix("/seed-0"), {}) for name, net in nets.items()}
    slopes = {"standard": [12_000_000, 1100, 96.2], "gloro": [15.8, 11.0, 3.7]}
    return tightness.Evidence(tightness.in_order(nets), {"cifar10": slopes}, {"cifar10": [58, 64]})


def test_nets_are_ordered_by_data_radius_and_loss():
    data = tight_evidence()
    assert list(data.nets) == ["mnist-0.3-standard", "mnist-0.3", "mnist-1.58", "cifar10-first"]
    assert list(data.standard) == ["mnist-0.3-standard"] and list(data.gloro) == ["mnist-0.3", "mnist-1.58", "cifar10-first"]


def test_slopes_of_ours_stand_above_the_paper_s():
    lines = tightness.slope_table(tight_evidence()).splitlines()[2:]
    assert lines[0] == "| `mnist-0.3-standard` | $2.0 \\cdot 10^3$ | 500 | 25% | 5 |"
    assert lines[2] == "| `mnist-1.58` | 10 | 9.5 | 95% | 5 |"
    assert lines[4] == "| *paper:* cifar10, standard | $1.2 \\cdot 10^7$ | $1.1 \\cdot 10^3$ | 0.009% | 96.2 |"
    assert lines[5] == "| *paper:* cifar10, gloro | 15.8 | 11 | 70% | 3.7 |"


def test_shares_of_whole_networks():
    texts = tightness.slope_numbers(tight_evidence())
    assert (texts["ours"], texts["usual"], texts["paper"], texts["paper-usual"]) == ("50 to 95", "25", "70", "0.009")
    assert (texts["share-small"], texts["share-large"]) == ("80", "95")


@pytest.mark.parametrize("broken", [{"mnist-0.3": {"lower": 10.1}}, {"mnist-1.58": {"lower": 8.9}}], ids=str)
def test_a_slope_above_its_bound_or_a_loose_bound_at_the_large_radius_stops_the_chapter(broken):
    with pytest.raises(AssertionError):
        tightness.slope_numbers(tight_evidence(**broken))


def test_shares_near_images_are_medians():
    near = {"constant": [10.0], "slope": [1.0], "gradient": [1.0]}
    data = tight_evidence(**{"mnist-0.3-standard": {"local": near}, "mnist-1.58": {"local": near | {"gradient": [0.5]}}})
    assert tightness.local_shares(data)["mnist-0.3"] == [0.5, 0.2, 0.8]
    texts = tightness.local_numbers(data)
    assert (texts["median"], texts["median-usual"], texts["images"]) == ("10 to 50", "10%", "3")
    # A gradient that is longer than any slope found counts as all of it, and an image without a slope does not count.
    assert texts["at-image"] == "50 to 80"
    data = tight_evidence(
        **{"mnist-0.3": {"local": near | {"constant": [1.0, 1.0], "slope": [0.0, 1.0], "gradient": [0.0, 0.2]}}}
    )
    assert tightness.local_numbers(data)["at-image"] == "20 to 80"


def test_a_share_above_1_near_an_image_stops_the_chapter():
    data = tight_evidence(**{"mnist-1.58": {"local": {"constant": [1.0, 1.0], "slope": [0.5, 1.1], "gradient": [0.5, 0.5]}}})
    with pytest.raises(AssertionError, match=r"mnist-1\.58"):
        tightness.local_numbers(data)


def test_slack_is_a_product_over_layers_and_its_parts_add_up():
    data = tight_evidence()
    assert tightness.kept(data, "mnist-0.3", 0) == pytest.approx([1, 0.9, 0.9, 0.72, 0.36])
    kinds = ("Conv2d", "MinMax", "Linear", "logits")
    assert sum(tightness.lost(data, "mnist-0.3", kind) for kind in kinds) == pytest.approx(1)
    texts = tightness.layer_numbers(tight_evidence())  # 0.1 * 0.5 * 0.2 = 0.01, and next to nothing by MinMax
    assert (texts["lost-Conv2d"], texts["lost-Linear"], texts["lost-MinMax"], texts["lost-logits"]) == (
        "50%",
        "15%",
        "0.22%",
        "35%",
    )
    layers = {"0 Conv2d": [1.0, 0.5], "1 MinMax": [1.0, 0.9]}
    with pytest.raises(AssertionError):
        tightness.layer_numbers(tight_evidence(**{"mnist-1.58": {"layers": layers}}))


def test_limits_of_tighter_bounds():
    lines = tightness.limit_table(tight_evidence()).splitlines()[2:]
    assert lines[2] == "| `mnist-1.58` | 90.0 | 93.0 | 95.0 | 98.0 | 99.0 |"
    texts = tightness.limit_numbers(tight_evidence())
    assert (texts["gain"], texts["gain-small"], texts["gain-cifar"]) == ("3.0", "1.0", "7.0")
    assert (texts["count"], texts["error"], texts["attack-steps"]) == ("1,000", "0.9", "10")
    assert (texts["vra"], texts["vra-local"], texts["attack"]) == ("95.0", "98.0", "99.0")
    assert (texts["usual-vra"], texts["usual-limit"], texts["paper-before"], texts["paper-after"]) == ("0", "86", "58", "64")


def test_figures_show_every_net():
    data = tight_evidence()
    [axis] = tightness.slope_figure(data).axes
    titles = [label.get_text() for label in axis.get_yticklabels()]
    assert titles == [*data.nets, "paper: cifar10, standard", "paper: cifar10, gloro"]
    places = [tuple(points.get_offsets()[0]) for points in axis.collections]
    assert places[:3] == [(2000, 0), (500, 0), (5, 0)]
    is_hollow = [(points.get_facecolors() == 1).all() for points in axis.collections]
    assert is_hollow == [*12 * [False], *6 * [True]]
    histograms = tightness.local_figure(data).axes
    assert [axis.get_title(loc="left") for axis in histograms][::3] == ["mnist-0.3-standard, ε = 0.3", "cifar10-first, ε = 0.3"]
    assert [axis.patches[0].get_facecolor() == histograms[0].patches[0].get_facecolor() for axis in histograms] == [
        True,
        *3 * [False],
    ]
    panels = tightness.layer_figure(data).axes
    assert [axis.get_title() for axis in panels] == ["mnist-0.3-standard", "mnist-0.3", "mnist-1.58"]
    assert panels[0].lines[1].get_ydata().tolist() == tightness.kept(data, "mnist-0.3-standard", 1)
