"""Sites that learn: training radius against certified one, gradients against differences, runs that resume, files that hold."""

import csv
import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from gloro_lite import stored
from gloro_lite.datasets import points
from gloro_lite.datasets.benchmarks import DataError
from gloro_lite.files import only_one
from gloro_lite.methods.sites import Data, Settings, Sites, hinge, initial_sites, load_data, load_sites, smooth, train_sites, warp
from gloro_lite.methods.sites.__main__ import main
from gloro_lite.methods.sites.results import write
from gloro_lite.train import results


def some(n=40, d=6, classes=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=generator, dtype=dtype), torch.arange(n) % classes


def test_logits_are_those_of_the_classifier():
    s, y = some()
    x, _ = some(20, seed=1)
    model = Sites(s, y)
    assert torch.allclose(model(x).double(), model.classifier().logits(x), atol=1e-5)
    assert torch.equal(model(x).argmax(1), model.certify(x, 0.1).prediction)


@pytest.mark.parametrize("half", [False, True])
def test_training_radius_is_the_certified_one_where_the_label_is_right(half):
    s, y = some()
    x, _ = some(50, seed=1)
    model = Sites(s, y)
    c = model.certify(x, 0.1, candidates=40)
    radius = model.radius(x, c.prediction, own=40, rivals=40, half=half)
    assert torch.allclose(radius.double(), c.radius, atol=1e-5)
    # Towards any other label it is not positive.
    wrong = model.radius(x, (c.prediction + 1) % 3, own=40, rivals=40)
    assert (wrong <= 1e-6).all()


def test_labels_of_unequal_size_and_few_sites():
    s, _ = some(6)
    model = Sites(s, torch.tensor([0, 1, 1, 1, 1, 1]))
    x, _ = some(30, seed=1)
    c = model.certify(x, 0.01, candidates=9)
    assert torch.allclose(model.radius(x, c.prediction, own=4, rivals=16).double(), c.radius, atol=1e-5)


def test_the_training_radius_within_a_box_lies_between_that_without_and_the_distance_there():
    s, y = some(60, 5)
    x, _ = some(200, 5, seed=1)
    x = ((1.8 * x - 0.4).clamp(0, 1)).double()  # many coordinates at an end of the box
    model = Sites(s.double(), y)
    c = model.certify(x, 0.01, form="cells", candidates=60, box=(0.0, 1.0))
    free, boxed = (model.radius(x, c.prediction, own=60, rivals=60, box=box) for box in (None, (0.0, 1.0)))
    assert (free <= boxed * (1 + 1e-9)).all() and (boxed <= c.radius + 1e-6).all()
    assert (boxed > 1.05 * free).float().mean() > 0.2


def test_the_training_radius_within_a_box_is_exact_for_two_sites_whose_bisector_is_met_inside():
    s, y = torch.tensor([[0.3, 0.2, 0.4], [0.9, 0.7, -0.5]], dtype=torch.float64), torch.tensor([0, 1])
    x = torch.tensor([[0.2, 0.3, 0.0]], dtype=torch.float64)  # the third coordinate can only grow, and q's is below p's
    radius = Sites(s, y).radius(x, torch.tensor([0]), box=(0.0, 1.0)).item()
    normal = s[1] - s[0]
    level = (normal * ((s[0] + s[1]) / 2 - x[0])).sum()
    nearest = level * normal[:2] / normal[:2].square().sum()
    assert ((x[0, :2] + nearest > 0) & (x[0, :2] + nearest < 1)).all()
    assert radius == pytest.approx(nearest.norm().item(), rel=1e-9)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_gradient_of_the_radius_is_its_slope(box):
    s, y = some(dtype=torch.float64)
    x, labels = some(10, seed=1, dtype=torch.float64)
    x = (1.8 * x - 0.4).clamp(0, 1)
    model = Sites(s, y)
    (gradient,) = torch.autograd.grad(model.radius(x, labels, box=box).sum(), model.sites)
    way = torch.randn(s.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-7
    higher, lower = (Sites(s + sign * step * way, y).radius(x, labels, box=box).sum() for sign in (1, -1))
    assert (gradient * way).sum().item() == pytest.approx(((higher - lower) / (2 * step)).item(), rel=1e-5)


def test_losses():
    radius = torch.tensor([-1.0, 0.5, 3.0])
    assert hinge(radius, 2.0).item() == pytest.approx((3 + 1.5) / 3)
    assert hinge(radius, 2.0, cap=2.0).item() == pytest.approx((2 + 1.5) / 3)
    assert smooth(radius, 0.5, 4.0).item() == pytest.approx(
        sum(1 / (1 + 2.718281828459045 ** (4 * (r - 0.5))) for r in (-1, 0.5, 3)) / 3
    )


def test_warp_bends_a_share_of_the_images_a_little():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(400, 1, 28, 28)
    x[:, :, 10:18, 12:16] = 1
    bent = warp(x, 1.0, 0.5, generator)
    same = (bent == x).all(3).all(2).all(1)
    assert 0.4 < same.double().mean() < 0.6 and bent.min() >= 0 and bent.max() <= 1 + 1e-6
    # Ink is moved, not made: its amount changes by a zoom's share, its centre by little more than a pixel.
    assert (bent.sum((1, 2, 3)) / 32 - 1).abs().max() < 0.4
    rows = torch.arange(28.0).view(1, 1, 28, 1)
    assert ((bent * rows).sum((1, 2, 3)) / bent.sum((1, 2, 3)) - 13.5).abs().max() < 3
    assert torch.equal(warp(x, 1.0, 0.0, generator), x)
    assert torch.allclose(warp(x, 0.0, 1.0, generator), x, atol=1e-5)


@pytest.mark.parametrize("how", ["images", "kmeans"])
def test_initial_sites(how):
    x, y = points.moons(90, noise=0.05)
    model = initial_sites(x, y, 4, how, seed=3)
    assert model.labels.bincount().tolist() == [4, 4]
    assert torch.equal(model.sites, initial_sites(x, y, 4, how, seed=3).sites)
    drawn = (model.sites[:, None] == x).all(2).any(1)
    assert drawn.all() == (how == "images")
    if how == "kmeans":  # nearer to the points than sites drawn from them
        cost = [torch.cdist(x, m.sites.detach()).amin(1).square().sum() for m in (model, initial_sites(x, y, 4, seed=3))]
        assert cost[0] < cost[1]


def test_training_raises_certified_accuracy_and_keeps_the_best_epoch():
    x, y = points.moons(300, noise=0.1)
    data, held = Data(x[:200], y[:200]), Data(x[200:], y[200:])
    settings = Settings(epsilon=0.2, target=0.25, slope=8.0, rate=0.3, batch_size=50, warp=0.0, loss="smooth")
    model = initial_sites(*data, 4, seed=1)
    before = (model.certify(held.x, 0.2).label == held.y).double().mean().item()
    history = train_sites(model, data, held, settings, epochs=30)
    after = (model.certify(held.x, 0.2, candidates=4).label == held.y).double().mean().item()
    assert after > before + 0.1
    assert max(row["vra"] for row in history) == pytest.approx(after, abs=0.011)
    assert [row["epoch"] for row in history] == list(range(30))


@pytest.mark.parametrize("form", [{"form": "bisectors"}, {"form": "cells"}, {"form": "cells", "box": (0.0, 1.0)}])
def test_no_point_within_a_radius_has_another_label(form):
    """Attacked along the way to each site of another label, where the nearest of them lie, and at random."""
    s, y = some(60, 5)
    model = Sites(s, y)
    x, _ = some(100, 5, seed=1)
    c = model.certify(x, 0.05, candidates=60, **form)
    generator = torch.Generator().manual_seed(0)
    x = x.double()
    ways = [s[k].double() - x for k in range(60)] + [torch.randn(x.shape, generator=generator).double() for _ in range(200)]
    exact = s.double()
    for way in ways:
        moved = x + c.radius[:, None] * (1 - 1e-9) * way / way.norm(dim=1, keepdim=True)
        if "box" in form:  # the nearest point of the box is no farther
            moved = moved.clamp(0, 1)
        assert torch.equal(y[torch.cdist(moved, exact).argmin(1)], c.prediction)


def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path):
    x, y = points.moons(120)
    data = Data(x.view(-1, 1, 1, 2), y)
    settings = Settings(epsilon=0.2, target=0.3, rate=0.2, batch_size=30, finish=2, warp=0.5)
    whole, parts = initial_sites(data.x, y, 3), initial_sites(data.x, y, 3)
    train_sites(whole, data, data, settings, epochs=6, seed=5)
    file = tmp_path / "checkpoint.pt"
    train_sites(parts, data, data, settings, epochs=4, seed=5, checkpoint=file, max_seconds=-1)
    assert not file.exists()  # no time, no epoch
    cut = dataclasses.replace(settings, finish=0)
    train_sites(parts, data, data, cut, epochs=2, seed=5, checkpoint=file)
    again = initial_sites(data.x, y, 3)
    history = train_sites(again, data, data, settings, epochs=6, seed=5, checkpoint=file)
    assert len(history) == 6 and torch.equal(whole.sites, again.sites)
    with pytest.raises(ValueError, match=r"run with other target: give another folder"):
        train_sites(again, data, data, dataclasses.replace(settings, target=0.4), epochs=6, seed=5, checkpoint=file)
    with pytest.raises(ValueError, match=r"run with other schedule: give another folder"):  # its last epochs were 4 and 5
        train_sites(again, data, data, settings, epochs=7, seed=5, checkpoint=file)
    old = torch.load(file, weights_only=True)
    old["key"]["data"] = old["key"].pop("dataset")  # as it was called once
    torch.save(old, file)
    assert len(train_sites(again, data, data, settings, epochs=6, seed=5, checkpoint=file)) == 6
    for damaged in (b"", b"junk", file.read_bytes()[:500]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is no checkpoint, or damaged .*: delete it to train from the start"):
            train_sites(again, data, data, settings, epochs=6, seed=5, checkpoint=file)


def test_sites_that_were_not_validated_are_those_of_the_last_epoch(tmp_path):
    train, _, test = load_data("digits")
    settings = Settings(dataset="digits", epsilon=0.5, target=0.6, per_class=2, batch_size=500, warp=0.0)
    sites = initial_sites(train.images(), train.y, settings.per_class)
    before = Sites(sites.sites, sites.labels)
    history = train_sites(sites, train, None, settings, epochs=2)
    result = write(sites, before, train, Data(test.x[:20], test.y[:20]), tmp_path, settings, history, epochs=2, seed=0)
    assert result["chosen_epoch"] == 1 and result["validation_vra"] is None
    assert json.loads((tmp_path / "result.json").read_text())["epochs"] == 2


def test_the_command_leaves_what_its_figures_follow_from(tmp_path, capsys):
    folder = tmp_path / "digits" / "seed-1"
    flags = ["--dataset=digits", "--epsilon=0.5", "--target=0.6", "--per-class=5", "--rate=5", "--batch-size=100", "--seed=1"]
    flags.append("--output")
    for wrong in ("-1", "0", "nan"):
        with pytest.raises(SystemExit):
            main([*flags, str(folder), "--max-seconds", wrong])
        assert "argument --max-seconds: must be a number greater than 0" in capsys.readouterr().err
    assert main([*flags, str(folder), "--epochs", "3", "--max-seconds", "1e-9"]) == 3
    assert main([*flags, str(folder), "--epochs", "3", "--no-test"]) == 0
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"], "nothing of the test set"
    assert main([*flags, str(folder), "--epochs", "3"]) == 0
    result = json.loads((folder / "result.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == [
        "certificates.csv",
        "certificates_before.csv",
        "certificates_in_box.csv",
        "history.csv",
        "model.safetensors",
        "result.json",
    ]
    model, (_, _, test) = load_sites(folder / "model.safetensors"), load_data("digits", seed=1)
    for name, key, options in (("certificates", "test_vra", {}), ("certificates_in_box", "test_vra_in_box", {"box": (0.0, 1.0)})):
        c = model.certify(test.x, 0.5, form="cells", **options)
        rows = [line.split(",") for line in (folder / f"{name}.csv").read_text().splitlines()[1:]]
        assert [int(row[1]) for row in rows] == test.y.tolist()
        assert [int(row[2]) for row in rows] == c.prediction.tolist()
        assert [float(row[3]) for row in rows] == pytest.approx(c.radius.tolist(), rel=1e-9, abs=1e-12)
        assert sum(row[1] == row[2] and float(row[3]) > 0.5 for row in rows) / len(rows) == pytest.approx(result[key])
    assert result["test_vra_in_box"] >= result["test_vra"] >= result["forms"]["bisectors"]["test_vra"] > 0.3
    assert result["forms"]["bisectors"]["test_vra"] > result["forms"]["before"]["test_vra"]
    capsys.readouterr()
    assert main([*flags, str(folder)]) == 1
    assert "holds result.json and model.safetensors: give another folder" in capsys.readouterr().err


def test_two_processes_do_not_train_in_one_folder(tmp_path, capsys):
    with only_one(tmp_path, "training"):
        assert main(["--dataset=digits", "--output", str(tmp_path)]) == 1
    assert "another process is training in" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(results.STORED.glob("sites/*/seed-*/result.json")), ids=lambda path: path.parts[-3])
def test_stored_runs_hold_together(path):
    """The figures follow from the certificates; the certificates, on some images, from the sites."""
    result, folder = json.loads(path.read_text()), path.parent
    # Some records were written when the data set was called `data`.
    written = stored.renamed_of_sites(result["settings"])
    settings = Settings(**{name: value for name, value in written.items() if value is not None})
    assert settings.dataset in ("mnist", "cifar10") and result["settings"].get("data") in (None, settings.dataset)
    model, tables = load_sites(folder / "model.safetensors"), {}
    assert len(model.sites) == result["sites"] == settings.per_class * model.classes
    for name, form in (("certificates", "cells"), ("certificates_in_box", "cells_in_box"), ("certificates_before", "before")):
        with (folder / f"{name}.csv").open() as file:
            rows = tables[name] = [(int(r["label"]), int(r["prediction"]), float(r["radius"])) for r in csv.DictReader(file)]
        assert len(rows) == result["test_images"]
        figures = result["forms"][form]
        for epsilon, share in figures["vra_at"].items():
            assert sum(a == b and radius > float(epsilon) for a, b, radius in rows) / len(rows) == share
        assert figures["test_vra"] == sum(a == b and radius > settings.epsilon for a, b, radius in rows) / len(rows)
        assert figures["test_vra"] == pytest.approx(figures["vra_at"][repr(round(settings.epsilon, 6))], abs=2e-4)  # rounded
        assert figures["test_accuracy"] == sum(a == b for a, b, _ in rows) / len(rows)
    assert result["test_vra"] == result["forms"]["cells"]["test_vra"]
    assert result["test_vra_in_box"] == result["forms"]["cells_in_box"]["test_vra"]
    history = list(csv.DictReader((folder / "history.csv").open()))
    assert max(float(row["vra"]) for row in history) == result["validation_vra"] == float(history[result["chosen_epoch"]]["vra"])
    try:
        test = load_data(settings.dataset, seed=result["seed"])[2]
    except (DataError, OSError):
        return
    x, few = test.images(slice(0, 60)), slice(0, 60)
    for name, options in (("certificates", {}), ("certificates_in_box", {"box": (0.0, 1.0)})):
        c = model.certify(x, settings.epsilon, form="cells", **options)
        assert test.y[few].tolist() == [row[0] for row in tables[name][few]]
        assert c.prediction.tolist() == [row[1] for row in tables[name][few]]
        assert c.radius.tolist() == pytest.approx([row[2] for row in tables[name][few]], rel=1e-4, abs=1e-6)


def test_errors_say_what_to_do(tmp_path):
    s, y = some()
    model = Sites(s, y)
    with pytest.raises(ValueError, match='"bisectors" or "cells", not'):
        model.certify(s, 0.1, form="faces")
    with pytest.raises(ValueError, match='a box needs form="cells"'):
        model.certify(s, 0.1, box=(0, 1))
    with pytest.raises(ValueError, match="must be integers"):
        Sites(s, y.float())
    with pytest.raises(ValueError, match="label 0 has 14 images, too few for 15 sites"):
        initial_sites(s, y, 15)
    with pytest.raises(ValueError, match='"images" or "kmeans"'):
        initial_sites(s, y, 5, "random")
    with pytest.raises(ValueError, match="at least 1, not 0"):
        initial_sites(s, y, 0)
    for wrong, message in (
        ({"loss": "cross"}, "smooth or hinge"),
        ({"rate": 0.0}, "rate must be greater than 0"),
        ({"rivals": 0}, "rivals must be at least 1"),
        ({"share": 2.0}, r"share in \[0, 1\]"),
        ({"fall": 0.0}, "decay and fall"),
        ({"epsilon": -1.0}, "epsilon is an l2 radius"),
    ):
        with pytest.raises(ValueError, match=message):
            train_sites(model, Data(s, y), settings=Settings(**wrong), epochs=1)
    with pytest.raises(ValueError, match="no images"):
        train_sites(model, Data(s[:0], y[:0]), epochs=1)
    with pytest.raises(FileNotFoundError, match="run python -m gloro_lite"):
        load_sites(tmp_path / "none.safetensors")
    save_file({"weight": s}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no sites"):
        load_sites(tmp_path / "other.safetensors")
