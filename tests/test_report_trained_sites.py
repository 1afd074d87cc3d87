"""Sites that learn: `gloro_lite.report.trained_sites`."""

import dataclasses

import matplotlib.pyplot as plt
import pytest
import torch

from gloro_lite.report import trained_sites as sites


def a_run_of_sites(**changed):
    """The record of a run of sites."""
    forms = {
        name: {
            "test_vra": vra,
            "vra_at": {"0.79": vra + 0.1, "1.58": vra, "2.37": vra - 0.1},
            "processor_seconds_per_image": cost,
        }
        for name, vra, cost in (("before", 0.4, 0), ("bisectors", 0.6, 2e-3), ("cells", 0.61, 3e-3), ("cells_in_box", 0.7, 4e-3))
    }
    record = {
        "epsilon": 1.58, "sites": 4000, "epochs": 120, "settings": {"dataset": "mnist"}, "forms": forms, "test_accuracy": 0.975,
        "test_vra": 0.61, "train_vra": 0.76, "validation_vra": 0.67, "test_vra_in_box": 0.7, "test_images": 10_000,
    }  # fmt: skip
    return record | changed


def a_boxed_run(vra=0.698, free=0.58, **changed):
    settings = {"dataset": "mnist", "target": 2.5, "box": True, "half": False}
    return a_run_of_sites(settings=settings | changed, test_vra_in_box=vra, test_vra=free)


def a_head(per_class, seed, vra, target=2.0):
    run = {"per_class": per_class, "seed": seed, "target": target, "site_rate": 0.01}
    return run | {"validation_vra": vra, "validation_accuracy": 0.95}


def sites_evidence(**changed):
    radii = sites.Radii(
        trained=torch.tensor([2.0, 2.0, 1.0, 1.0]),
        before=torch.tensor([1.58, 2.0, 1.0, -1.0]),  # a radius of epsilon is not enough
        everything=torch.tensor([1.0, 1.0]),
        small_net=torch.tensor([0.5, 0.5, 0.5, 0.5]),
        large_net=torch.tensor([2.0, -1.0, 1.0, 1.0]),
    )
    photographs = a_run_of_sites(epsilon=36 / 255, settings={"dataset": "cifar10"}, test_vra=0.3852, epochs=60)
    data = sites.Evidence(
        run=a_run_of_sites(settings={"dataset": "mnist", "target": 2.5, "box": False, "half": True}),
        boxed=a_boxed_run(),
        radii=radii,
        rows={
            "mnist-0.3": sites.Row([a_run_of_sites(epsilon=0.3, test_vra=v) for v in (0.96, 0.98)], [{"test_vra": 0.97}]),
            "mnist-1.58": sites.Row([a_run_of_sites(), a_run_of_sites(test_vra_in_box=0.705)], [{"test_vra": 0.63}]),
            "cifar10": sites.Row([photographs], [{"test_vra": 0.56}, {"test_vra": 0.58}]),
        },
        paper=[{"recipe": "mnist-0.3", "gloro": [99.0, 97.8, 95.7]}, {"recipe": "cifar10", "gloro": [77.0, 69.2, 58.4]}],
        heads={1: [a_head(1, 0, 0.50), a_head(1, 1, 0.52)], 4: [a_head(4, 0, 0.56), a_head(4, 1, 0.57)]},
        head_epochs=10,
        linear=[{"validation_vra": 0.54}, {"validation_vra": 0.56}],
    )
    return dataclasses.replace(data, **changed)


def test_sites_are_compared_on_the_images_that_all_were_asked_for():
    found = sites.run_numbers(sites_evidence(), torch.tensor([[-0.64, 1.26]]))
    on_all = {"vra": "61.0%", "untrained": "40.0%", "bisectors": "60.0%", "net": "25.0%", "clean": "97.5%", "in-box": "70.0%"}
    few = {"few": "2", "everything": "0.0%", "few-trained": "100.0%", "few-before": "50.0%", "few-net": "50.0%"}
    others = {"train": "76.0%", "validation": "67.0%", "count": "4,000", "epochs": "120", "low": "−0.6", "high": "1.3"}
    assert found == on_all | few | others
    with pytest.raises(AssertionError):
        sites.run_numbers(sites_evidence(), torch.tensor([[0.1, 0.9]]))


def test_training_for_the_box_is_compared_with_the_same_training_without():
    assert sites.box_numbers(sites_evidence()) == {
        "box-seeds": "70.00, 70.50", "boxed": "69.80%", "boxed-free": "58.0%", "boxed-error": "0.5",
    }  # fmt: skip
    for other in (a_boxed_run(0.702), a_boxed_run(0.69), a_boxed_run(free=0.62), a_boxed_run(target=3.0), a_boxed_run(box=False)):
        with pytest.raises(AssertionError):
            sites.box_numbers(sites_evidence(boxed=other))


def test_the_tables_of_a_run_of_sites():
    assert sites.forms_table(sites_evidence()).splitlines()[2:] == [
        "| untrained, bisectors | any perturbation | 40.0 | 50.0 | 30.0 |",
        "| trained, bisectors | any perturbation | 60.0 | 70.0 | 50.0 |",
        "| trained, cells | any perturbation | 61.0 | 71.0 | 51.0 |",
        "| trained, cells | perturbations within the box | 70.0 | 80.0 | 60.0 |",
    ]
    assert sites.cost_table(sites_evidence(), torch.zeros(4000, 784)).splitlines()[2:] == [
        "| numbers to store | 3,136,000 |",
        "| passes over the training images | 120 |",
        "| certifying an image by bisectors, ms of a core | 2.0 |",
        "| certifying an image by cells, ms of a core | 3.0 |",
        "| the same in the box, ms of a core | 4.0 |",
    ]


def test_sites_on_other_data_are_means_over_seeds_beside_our_net():
    assert sites.rows_table(sites_evidence()).splitlines()[2:] == [
        "| MNIST, 0.3 | 4,000 | 97.5 | 97.0 | 40.0 | 97.0 |",
        "| MNIST, 1.58 | 4,000 | 97.5 | 61.0 | 40.0 | 63.0 |",
        "| CIFAR-10, 0.141 | 4,000 | 97.5 | 38.5 | 40.0 | 57.0 |",
    ]
    found = sites.rows_numbers(sites_evidence())
    assert found["each-seed-0.3"] == "96.0, 98.0" and found["each-seed-cifar10"] == "38.5"
    assert (found["small"], found["small-paper"], found["photographs"], found["photographs-right"]) == (
        "97.0%",
        "95.7%",
        "39%",
        "98%",
    )
    assert found["other-epochs"] == "120 and 60"
    with pytest.raises(AssertionError):
        sites.rows_numbers(sites_evidence(paper=[{"recipe": "mnist-0.3", "gloro": [99.0, 98.0, 97.1]}]))


def test_heads_are_by_the_settings_that_seed_0_prefers():
    kept = [a_head(4, 0, 0.56), a_head(4, 1, 0.50)]
    others = [a_head(4, 0, 0.55, target=2.5), a_head(4, 1, 0.60, target=2.5), a_head(1, 0, 0.5)]
    assert sites.best_heads([*others, *kept]) == {1: [a_head(1, 0, 0.5)], 4: kept}
    assert sites.heads_table(sites_evidence()).splitlines()[2:] == [
        "| 1 | 51.0 | 50.0–52.0 | 95.0 |",
        "| 4 | 56.5 | 56.0–57.0 | 95.0 |",
    ]
    expected = {"seeds": "2", "head-linear": "55.0%", "head-gain": "5.5", "head-most": "4", "head-epochs": "10"}
    assert sites.heads_numbers(sites_evidence()) == expected


@pytest.mark.parametrize(
    ("one", "four"), [(0.57, 0.56), (0.565, 0.57), (0.50, 0.555)], ids=["fewer are best", "no gain", "as good as linear"]
)
def test_heads_that_gain_nothing_stop_the_chapter(one, four):
    with pytest.raises(AssertionError):
        sites.heads_numbers(sites_evidence(heads={1: [a_head(1, 0, one)], 4: [a_head(4, 0, four)]}))


def test_figures_of_sites_show_each_digit_s_and_each_curve():
    pictures = {"before": torch.arange(30.0)[:, None].expand(30, 784), "after": -torch.arange(30.0)[:, None].expand(30, 784)}
    axes = sites.digits(pictures).axes
    assert [axis.images[0].get_array()[0, 0] for axis in axes[:20]] == [*range(0, 30, 3), *range(0, -30, -3)]
    assert [axis.images[0].get_array()[0, 0] for axis in axes[20:]] == [*range(1, 31, 3), *range(-1, -31, -3)]
    [*copies] = (axis.images[0].get_array() for axis in sites.distorted(torch.rand(784), 0.8, 0).axes)
    assert len(copies) == 10 and all(abs(copy - copies[0]).max() > 0.1 for copy in copies[1:])
    *lines, target = sites.curves(sites_evidence()).axes[0].lines
    assert [line.get_ydata()[100] for line in lines] == [50.0, 50.0, 0.0, 0.0, 25.0]  # at 1, of the five in their order
    assert target.get_xdata()[0] == 1.58
    plt.close("all")
