"""The command line: own images certified as the package certifies them, runs compared, and what is refused with a reason."""

import csv
import dataclasses
import io
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import gloro_lite
from gloro_lite import GloroNet, attacks, networks, provenance, serialization, stored
from gloro_lite.cli import cards, images, main
from gloro_lite.cli.arguments import radius
from gloro_lite.experiments import rivals
from gloro_lite.methods.sites import __main__ as sites_command
from gloro_lite.train import recipes, results

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, as a reader's own: a net so small that its bound is proven at once, (path as str)."""
    folder, recipe = tmp_path_factory.mktemp("run"), dataclasses.asdict(recipes.find("mnist-0.3"))
    torch.manual_seed(0)
    small = GloroNet(networks.build("c4k4s4 | 16", SHAPE, 10), SHAPE, 0.3)
    serialization.save(small, folder / "model.safetensors")
    settings = recipe | {"network": "c4k4s4 | 16"}
    record = dict.fromkeys(stored.REQUIRED, 0.0) | {"format": stored.FORMAT, "seed": 0, "epsilon": 0.3, "settings": settings}
    (folder / "result.json").write_text(json.dumps(record))
    return str(folder)


@pytest.fixture(scope="module")
def net(run):
    return gloro_lite.load(run)


@pytest.fixture
def digits():
    """Pictures that look enough like digits for the net to certify some of them and not others, (12, 28, 28) uint8."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(12, 28, 28)
    for number in range(12):
        x[number, 4:24, 10 + number % 5 : 14 + number % 5] = 1
        x[number] += 0.05 * number * torch.rand(28, 28, generator=generator)
    return (x.clamp(0, 1) * 255).round().byte()


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def save(path, **arrays):
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
    return str(path)


# --- certify


def test_certify_writes_what_the_package_certifies(tmp_path, capsys, run, net, digits):
    labels = torch.arange(12) % 10
    file = save(tmp_path / "own.npz", x=digits, y=labels)
    c = net.certify(digits[:, None].float() / 255)
    epsilon = c.radius.median().item()  # half of them certified
    assert main(["certify", run, "--images", file, "--epsilon", repr(epsilon)]) == 0
    out, err = capsys.readouterr()
    table = rows(out)
    assert list(table[0]) == ["index", "label", "prediction", "certified", "radius"]
    assert [row["index"] for row in table] == [str(i) for i in range(12)]
    assert [int(row["label"]) for row in table] == labels.tolist()
    assert [int(row["prediction"]) for row in table] == c.prediction.tolist()
    assert [float(row["radius"]) for row in table] == c.radius.tolist()
    at = net.certify(digits[:, None].float() / 255, epsilon).label.tolist()
    assert [row["certified"] for row in table] == ["bottom" if label == -1 else str(label) for label in at]
    assert 0 < sum(label != -1 for label in at) < 12
    assert f"{sum(label != -1 for label in at)} of 12 images certified at epsilon" in err


def test_certify_a_folder(tmp_path, capsys, run, net, digits):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, pixels in enumerate(digits[:3]):
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    Image.fromarray(digits[3].numpy()).convert("RGB").save(folder / "3.png")  # grey, in three equal channels
    for name in (".DS_Store", "Thumbs.db", "thumbs.db", "Desktop.ini"):  # which systems leave there
        (folder / name).write_bytes(b"not a picture")
    output = tmp_path / "out.csv"
    assert main(["certify", run, "--images", str(folder), "--output", str(output)]) == 0
    table = rows(output.read_text())
    assert list(table[0]) == ["file", "prediction", "certified", "radius"]
    assert [row["file"] for row in table] == ["0.png", "1.png", "2.png", "3.png"]
    assert [float(row["radius"]) for row in table] == net.certify(digits[:4, None].float() / 255).radius.tolist()
    assert capsys.readouterr().out == ""


def test_certify_does_not_write_over_the_images(tmp_path, capsys, run, digits):
    file = save(tmp_path / "own.npz", x=digits)
    before = Path(file).read_bytes()
    assert main(["certify", run, "--images", file, "--output", file]) == 1
    assert "must end in .csv, not in .npz" in capsys.readouterr().err and Path(file).read_bytes() == before


@pytest.mark.parametrize("form", ["bytes", "channels first", "channels last", "float32", "float64", "only array", "npy"])
def test_every_form_of_the_same_images_reads_alike(tmp_path, digits, form):
    x, unit = digits.numpy(), digits.numpy() / np.float32(255)
    path = tmp_path / "own.npz"
    if form == "npy":
        path = tmp_path / "own.npy"
        np.save(path, x)
    elif form == "only array":
        np.savez(path, whatever=x)
    else:
        forms = {"bytes": x, "channels first": x[:, None], "channels last": x[..., None], "float32": unit}
        np.savez(path, x=forms.get(form, unit.astype(np.float64)))
    own = images.read(path, SHAPE, 10)
    assert torch.equal(images.unit(own.x), digits[:, None].float() / 255)
    assert own.y is None and own.names[-1] == "11"


def test_channels_last_of_colour_images(tmp_path):
    x = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    own = images.read(save(tmp_path / "own.npz", x=x.permute(0, 2, 3, 1)), (3, 32, 32), 10)
    assert torch.equal(own.x, x)
    Image.fromarray(x[0].permute(1, 2, 0).numpy()).save(tmp_path / "0.png")
    (tmp_path / "own.npz").unlink()
    assert torch.equal(images.read(tmp_path, (3, 32, 32), 10).x, x[:1])


REFUSED = [
    (lambda x: x.float(), "floats from 0 to 255 .*divide them by 255"),
    (lambda x: x.float() / 128 - 1, "look normalised"),
    (lambda x: (x.float() / 255).index_fill(0, torch.tensor([5]), torch.nan), "image 5 holds NaN"),
    (lambda x: x.long(), "images are int64: give bytes"),
    (lambda x: x > 0, "images are bool"),
    (lambda x: (x > 128).byte(), "bytes of 0 and 1 alone, and white is 255"),
    (lambda x: x[:, 2:], r"shape \(12, 26, 28\), and the net takes 28 x 28 pixels with 1 channel: give \(n, 1, 28, 28\)"),
    (lambda x: x[0], r"shape \(28, 28\)"),
    (lambda x: x[:0], "holds no images"),
]


@pytest.mark.parametrize("change, message", REFUSED, ids=[message for _, message in REFUSED])
def test_arrays_that_are_refused(tmp_path, digits, change, message):
    with pytest.raises(ValueError, match=rf"own\.npz.*{message}"):
        images.read(save(tmp_path / "own.npz", x=change(digits)), SHAPE, 10)


@pytest.mark.parametrize(
    "y, message",
    [
        (torch.full((12,), -1), "y holds -1 to -1, and the net's classes are 0 to 9"),
        (torch.full((12,), 10), "y holds 10 to 10"),
        (torch.zeros(12, 1).long(), r"not int64 of shape \(12, 1\)"),
        (torch.zeros(1).long(), "a whole number for each of the 12 images"),
        (torch.zeros(12), "not float32"),
    ],
)
def test_labels_that_are_refused(tmp_path, digits, y, message):
    with pytest.raises(ValueError, match=message):
        images.read(save(tmp_path / "own.npz", x=digits, y=y), SHAPE, 10)


def test_files_that_are_refused(tmp_path, digits):
    with pytest.raises(ValueError, match="holds a, b: name the images x"):
        images.read(save(tmp_path / "a.npz", a=digits, b=digits), SHAPE, 10)
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"b\.npz is damaged"):
        images.read(tmp_path / "b.npz", SHAPE, 10)
    np.save(tmp_path / "c.npy", np.array([{"code": "could run"}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"c\.npy is damaged or holds no plain arrays"):
        images.read(tmp_path / "c.npy", SHAPE, 10)
    with pytest.raises(FileNotFoundError, match="neither a folder of images nor a file"):
        images.read(tmp_path / "none", SHAPE, 10)
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(ValueError, match="put the image into a folder of its own"):
        images.read(tmp_path / "one.png", SHAPE, 10)


@pytest.mark.parametrize(
    "picture, message",
    [
        (lambda x: Image.fromarray(x[:20]), "has 20 x 28 pixels, and the net takes 28 x 28 pixels with 1 channel: resize it"),
        (lambda x: Image.fromarray(np.stack([x, x, 255 - x], axis=2)), "is in colour"),
        (lambda x: Image.fromarray(x.astype(np.uint16)), "mode I;16: save it with 8 bits a channel"),
        (lambda x: Image.fromarray(np.stack([x, x, x, x], axis=2), "RGBA"), "is transparent in places"),
    ],
)
def test_pictures_that_are_refused(tmp_path, digits, picture, message):
    picture(digits[0].numpy()).save(tmp_path / "first.png")
    with pytest.raises(ValueError, match=rf"first\.png.*{message}"):
        images.read(tmp_path, SHAPE, 10)


@pytest.mark.parametrize("kind, message", [("gif", "holds 2 pictures"), ("png", "transparent in places"), ("jpg", "EXIF .* 6")])
def test_pictures_that_can_be_taken_in_two_ways_are_refused(tmp_path, digits, kind, message):
    """Frames behind the first, one grey that is transparent, and a camera's note that the picture is to be turned."""
    turned = Image.Exif()
    turned[0x0112] = 6
    options = {
        "gif": {"save_all": True, "append_images": [Image.fromarray(digits[1].numpy())]},
        "png": {"transparency": 0},
        "jpg": {"exif": turned},
    }
    Image.fromarray(digits[0].numpy()).save(tmp_path / f"first.{kind}", **options[kind])
    with pytest.raises(ValueError, match=rf"first\.{kind}.*{message}"):
        images.read(tmp_path, SHAPE, 10)


def test_a_damaged_picture_is_named_whatever_its_reader_raises(tmp_path, digits):
    Image.fromarray(digits[0].numpy()).save(tmp_path / "first.ppm")
    data = (tmp_path / "first.ppm").read_bytes()
    (tmp_path / "first.ppm").write_bytes(data.replace(b"28 ", b"2x ", 1))
    with pytest.raises(ValueError, match=r"first\.ppm cannot be read as a picture"):
        images.read(tmp_path, SHAPE, 10)


def test_a_file_name_that_cannot_be_written_into_the_table(tmp_path, digits):
    Image.fromarray(digits[0].numpy()).save(tmp_path / "first.png")
    try:
        os.rename(os.fsencode(tmp_path / "first.png"), os.fsencode(tmp_path) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    with pytest.raises(ValueError, match=r"the name of the file .*dcff\.png' is not UTF-8: rename it"):
        images.read(tmp_path, SHAPE, 10)


def test_a_folder_with_a_file_that_is_no_picture(tmp_path):
    with pytest.raises(ValueError, match="holds no files"):
        images.read(tmp_path, SHAPE, 10)
    (tmp_path / "desktop.ini").touch()
    with pytest.raises(ValueError, match="holds no files"):
        images.read(tmp_path, SHAPE, 10)
    for name in ("notes.txt", "other.db", "desktop.ini.png"):
        (tmp_path / name).write_text("not a picture")
        with pytest.raises(ValueError, match=rf"{re.escape(name)} cannot be read as a picture"):
            images.read(tmp_path, SHAPE, 10)
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["certify", "mnist-0.4", "--images", "x"], "no stored net and no folder 'mnist-0.4'. Stored here: "),
        (["certify", "lmt/mnist-0.3", "--images", "x"], "of another method, lmt, and no GloRo Net"),
        (["certify", str(stored.STORED / "mnist-0.3"), "--images", "x"], "a folder of runs, one a seed: name one, "),
        (["compare", "mnist-0.3", "--plot", "no/such/plot.png"], "does not exist: make it first"),
        (["certify", "mnist-0.3", "--images", "nowhere"], "nowhere is neither a folder of images nor a file"),
        (["certify", "mnist-0.3", "--images", ".", "--output", "no/such/folder.csv"], "does not exist: make it first"),
        (["certify", "mnist-0.3", "--images", ".", "--output", "certificates"], "must end in .csv, not in nothing"),
        (["compare", "mnist-0.3", "mnist-1.58"], "different epsilons (mnist-0.3: 0.3, mnist-1.58: 1.58)"),
        (["compare", "mnist-0.3", "--plot", "x.txt"], "--plot writes a .png"),
        (["certify", "mnist-0.3", "--images", ""], "--images is empty"),  # a variable of the shell that is not set
        (["export", "mnist-0.3", "--output", "no/such/net.PT2"], "does not exist: make it first"),
        (["export", "mnist-0.3", "--output", "net.bin"], "must end in .pt2 or .onnx, not in .bin"),
        (["train", "--recipe", "nothing"], "no recipe 'nothing'"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(capsys, arguments, message):
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ") and err.count("\n") == 1


def test_radius_of_the_command_line():
    assert radius("0.3") == 0.3 and radius("36/255") == 36 / 255 and radius("1e-1") == 0.1
    for text in ("0", "-1", "1/0", "nan", "inf", "a", "", "1e999999999"):  # whose digits no computer would write out
        with pytest.raises(Exception, match="is no radius: give a number greater than 0"):
            radius(text)


@pytest.mark.slow
def test_the_command_where_the_terminal_knows_ascii_alone_or_is_not_there(tmp_path, run, digits):
    """Once ± and a file's name ended in an error about a codec, and a closed stdout in a traceback."""
    Image.fromarray(digits[0].numpy()).save(tmp_path / "ä.png")
    ascii_alone = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    certify = [sys.executable, "-m", "gloro_lite", "certify", run, "--images", str(tmp_path)]
    done = subprocess.run(certify, cwd=ROOT, env=ascii_alone, capture_output=True)
    assert done.returncode == 0 and rb"\xe4.png," in done.stdout, done.stderr
    done = subprocess.run([*certify, "--output", str(tmp_path / "own.csv")], cwd=ROOT, env=ascii_alone, capture_output=True)
    assert done.returncode == 0 and "ä.png," in (tmp_path / "own.csv").read_text(encoding="utf-8"), done.stderr
    (tmp_path / "own.csv").unlink()
    compare = [sys.executable, "-m", "gloro_lite", "compare", "mnist-0.3"]
    done = subprocess.run(compare, cwd=ROOT, env=ascii_alone, capture_output=True)
    assert done.returncode == 0 and rb" \xb1 0.17" in done.stdout, done.stderr
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *certify], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "of 1 images" in done.stderr


@pytest.mark.slow
def test_the_command_as_a_shell_calls_it(tmp_path, run, digits):
    file = save(tmp_path / "own.npz", x=digits)
    command = [sys.executable, "-m", "gloro_lite", "certify", run, "--images", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 13 and "of 12 images" in done.stderr
    # A reader that has enough, as `head` does, is no error to speak of.
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_no_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2 and "usage" in capsys.readouterr().err


def test_certify_the_net_as_it_is_deployed(tmp_path, capsys, run, net, digits):
    file = save(tmp_path / "own.npz", x=digits)
    assert main(["certify", run, "--images", file, "--guarantee", "deployed"]) == 0
    deployed = [float(row["radius"]) for row in rows(capsys.readouterr().out)]
    x = digits[:, None].float() / 255
    assert deployed == net.certify(x, guarantee="deployed").radius.tolist()
    assert all(a < b for a, b in zip(deployed, net.certify(x).radius.tolist(), strict=True))


@pytest.fixture(scope="module")
def both_runs(run, tmp_path_factory):
    """A net for which the local bound of the last layers is better, as a run with the global bound and as one with the local."""
    top, record = tmp_path_factory.mktemp("both"), json.loads((Path(run) / "result.json").read_text())
    torch.manual_seed(0)
    net = GloroNet(networks.build("c4k4s4 | 16", SHAPE, 10, initialisation="pytorch"), SHAPE, 0.3)
    for bound in ("global", "last_layers"):
        (top / bound).mkdir()
        serialization.save(net, top / bound / "model.safetensors")
        record["settings"]["bound"] = bound
        (top / bound / "result.json").write_text(json.dumps(record))
    return str(top / "global"), str(top / "last_layers")


def test_certify_by_the_bound_that_the_net_was_trained_with(tmp_path, capsys, both_runs, digits):
    """What the local bound adds is held against attacks, and against random moves of length epsilon."""
    run, local_run = both_runs
    net = gloro_lite.load(run)
    file, x = save(tmp_path / "own.npz", x=digits), digits[:, None].float() / 255
    known = net.certify(x)
    epsilon = 1.01 * known.radius.median().item()

    def certified(*arguments):
        assert main(["certify", *arguments, "--images", file, "--epsilon", repr(epsilon)]) == 0
        out, err = capsys.readouterr()
        return [(row["prediction"], row["certified"], float(row["radius"])) for row in rows(out)], err

    by_global, said = certified(run)
    assert said.endswith(", by the global bound\n")
    assert certified(local_run, "--bound", "global") == (by_global, said)
    by_both, said = certified(local_run)
    assert said.endswith(", by the global bound, or else the local one of the last layers\n")
    assert certified(run, "--bound", "last_layers") == (by_both, said)
    added = [k for k, (before, after) in enumerate(zip(by_global, by_both, strict=True)) if before != after]
    assert 0 < len(added) < 12
    for k, (prediction, label, proven) in enumerate(by_both):
        if k in added:
            assert by_global[k][1] == "bottom" and label == prediction and epsilon < proven < 1.001 * epsilon
        else:
            assert (prediction, label, proven) == by_global[k]
    truth = torch.tensor([int(by_both[k][0]) for k in added])
    found = attacks.pgd(net.logits, x[added], truth, epsilon, steps=40, restarts=2)
    moves = torch.randn(200, *x[added].shape, generator=torch.Generator().manual_seed(0))
    moves *= epsilon / moves.flatten(2).norm(dim=2)[..., None, None, None]
    for points in (found, *(x[added] + moves)):
        assert (net.logits(points).argmax(dim=1) == truth).all()


def test_the_local_bound_is_of_the_net_in_real_arithmetic(tmp_path, capsys, both_runs, digits):
    run, local_run = both_runs
    file = save(tmp_path / "own.npz", x=digits)
    deployed = ["--images", file, "--guarantee", "deployed"]
    assert main(["certify", run, "--bound", "last_layers", *deployed]) == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: the local bound") and "add --bound global" in err
    assert main(["certify", local_run, *deployed]) == 0  # unless it is asked for, the global bound is taken
    out, err = capsys.readouterr()
    known = gloro_lite.load(local_run).certify(digits[:, None].float() / 255, guarantee="deployed")
    assert [float(row["radius"]) for row in rows(out)] == known.radius.tolist()
    assert "by the global bound" in err and "local" not in err


# --- stored nets


def test_a_run_is_found_by_name_seed_and_path(tmp_path, monkeypatch):
    base = stored.STORED / "mnist-0.3"
    assert stored.folder("mnist-0.3") == base / "seed-0"
    assert stored.folder("mnist-0.3/seed-1") == base / "seed-1"
    assert stored.folder(base / "seed-2") == base / "seed-2"
    assert stored.folder(base / "seed-2" / "model.safetensors") == base / "seed-2"
    assert "mnist-0.3" in stored.names()
    own = tmp_path / "own"
    own.mkdir()
    (own / "result.json").write_bytes((base / "seed-1" / "result.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors: a net is read from the folder of a finished run"):
        gloro_lite.load(own)
    (own / "model.safetensors").write_bytes((base / "seed-1" / "model.safetensors").read_bytes())
    state, other = gloro_lite.load(own).state_dict(), load_file(base / "seed-1" / "model.safetensors")
    assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)
    monkeypatch.chdir(tmp_path)
    assert stored.folder("own") == Path("own")
    of_this = (own / "result.json").read_text()
    (own / "model.safetensors").write_bytes((base / "seed-2" / "model.safetensors").read_bytes())
    with pytest.raises(serialization.WeightFileError, match="was changed, or is of another run"):
        gloro_lite.load(own)
    without = of_this.replace('"epsilon": 0.3', '"radius": 0.3')
    for text in ("{", "{}", '{"settings": {"network": "2C2F", "dataset": "digits"}}', without):
        (own / "result.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged or no record of a run on mnist"):
            gloro_lite.load(own)
    (own / "model.safetensors").write_bytes((base / "seed-1" / "model.safetensors").read_bytes())
    for old, new in (("2C2F", "2C2G"), ("minmax", "minmix")):
        (own / "result.json").write_text(of_this.replace(f'"{old}"', f'"{new}"'))
        with pytest.raises(ValueError, match=rf"own.result\.json is damaged: .*{new}"):
            gloro_lite.load(own)


@pytest.mark.parametrize("field", stored.REQUIRED)
def test_a_record_without_what_commands_read_is_damaged(tmp_path, capsys, run, field):
    own = tmp_path / "own"
    shutil.copytree(run, own)
    record = json.loads((own / "result.json").read_text())
    del record[field]
    (own / "result.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is damaged or no record of a run"):
        stored.record(own)
    with pytest.raises(ValueError, match="is damaged or no result of a run"):
        results.read(own / "result.json")
    assert main(["compare", str(own)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {own / 'result.json'} is damaged")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"test_vra": "0.9"}, "is damaged or no record of a run"),
        ({"test_accuracy": 1.5}, "is damaged or no record of a run"),
        ({"seconds_per_epoch": None}, "is damaged or no record of a run"),
        # A whole file, and what to do is another thing.
        ({"format": stored.FORMAT + 1}, f"its format is {stored.FORMAT + 1}, and this gloro-lite reads formats up to"),
    ],
)
def test_figures_that_are_none_and_a_later_format_are_told_apart(tmp_path, capsys, run, change, message):
    own = tmp_path / "own"
    shutil.copytree(run, own)
    record = json.loads((own / "result.json").read_text())
    (own / "result.json").write_text(json.dumps(record | change))
    assert main(["compare", str(own)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {own / 'result.json'}") and message in err


def test_a_record_without_an_end_to_its_brackets_is_damaged(tmp_path, run):
    own = tmp_path / "own"
    shutil.copytree(run, own)
    (own / "result.json").write_text("[" * 10**5)
    with pytest.raises(ValueError, match="is damaged or no record of a run"):
        gloro_lite.load(own)


def test_a_run_has_one_full_name(tmp_path, monkeypatch):
    base = stored.STORED / "mnist-0.3"
    for run in ("mnist-0.3", "mnist-0.3/", "mnist-0.3/seed-0", base / "seed-0"):
        assert stored.full_name(run) == "mnist-0.3/seed-0"
    assert stored.full_name("lmt/mnist-0.3") == "lmt/mnist-0.3/seed-0"
    own = tmp_path / "mnist-0.3" / "seed-0"  # named like a stored run, and another one
    shutil.copytree(base / "seed-1", own)
    assert stored.full_name(own) == own.as_posix()
    assert stored.chosen(["mnist-1.58", own]) == ["mnist-1.58/seed-0", own.as_posix()]
    assert stored.chosen([]) == stored.runs() and "mnist-0.3/seed-2" in stored.runs()
    monkeypatch.setattr(stored, "STORED", tmp_path / "site" / "data")  # where an installed wheel would look
    with pytest.raises(FileNotFoundError, match="there are no stored runs in"):
        stored.chosen([])


@pytest.mark.parametrize("run", ["lmt/mnist-0.3/seed-0", "sites/mnist-1.58/seed-0"])
def test_a_stored_run_of_another_method_is_named_as_one(run):
    with pytest.raises(stored.OtherMethodError, match=f"of another method, {run.partition('/')[0]}, and no GloRo Net"):
        stored.record(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", stored.names())
def test_every_stored_net_loads(name):
    net, record = gloro_lite.load(name), stored.record(name)
    assert not net.training and net.epsilon == record["epsilon"]
    # The training bound travels with the weights: it is where training left it.
    assert net.estimate().max().item() == pytest.approx(record["lipschitz_estimate"], rel=1e-3)


# --- compare


def test_compare_tabulates_and_plots(tmp_path, capsys):
    target = tmp_path / "compare.png"
    assert main(["compare", "mnist-0.3", "mnist-0.3-unaugmented", "--plot", str(target)]) == 0
    out = capsys.readouterr().out
    record = stored.record("mnist-0.3")
    vra = record["test_vra"]
    assert f"{100 * vra:.2f} ± {100 * (vra * (1 - vra) / 10000) ** 0.5:.2f}" in out
    assert [line.split() for line in out.splitlines() if line.startswith("augmentation")] == [["augmentation", "digits", "none"]]
    with Image.open(target) as picture:
        assert picture.format == "PNG" and min(picture.size) > 400
    assert main(["compare", "mnist-0.3", "mnist-1.58", "--mixed"]) == 0
    assert "4C3F" in capsys.readouterr().out


def test_compare_shows_what_a_local_bound_adds(tmp_path, capsys):
    """By a report that another command wrote: the table has images, the report shares."""
    names = ["mnist-0.3", "mnist-0.3-local-gce/seed-1"]
    own = tmp_path / "own"
    shutil.copytree(stored.folder(names[1]), own)
    (own / stored.LOCAL).unlink()  # nobody asked
    assert main(["compare", *names, str(own)]) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    start = head.index("VRA % with the local bound")
    assert 0 < head.index("VRA % by the global bound") < start < head.index("largest K")
    report = json.loads((ROOT / "data" / "last_layers.json").read_text())["runs"]
    for name, line in zip(names, lines, strict=False):
        row = report[stored.full_name(name)]
        assert line[start:].startswith(f"{100 * row['local']:.2f} ± ") and f"{100 * row['vra']:.2f} ± " in line[:start]
    assert not lines[2][start : head.index("largest K")].strip()
    assert main(["compare", str(own)]) == 0
    out = capsys.readouterr().out
    assert " VRA %  " in out and "bound" not in out
    (own / stored.LOCAL).write_text("index,label\n3,1\n7,2\n")
    assert stored.added_locally(own) == [3, 7]
    for damaged in ("images\n1\n", "index,label\none,1\n"):
        (own / stored.LOCAL).write_text(damaged)
        assert main(["compare", str(own)]) == 1
        assert capsys.readouterr().err.startswith(f"error: {own / stored.LOCAL} is damaged")


def test_compare_says_which_file_a_plot_lacks(tmp_path, capsys):
    for name in ("result.json", "model.safetensors"):
        (tmp_path / name).write_bytes((stored.folder("mnist-0.3") / name).read_bytes())
    assert main(["compare", str(tmp_path), "--plot", str(tmp_path / "x.png")]) == 1
    assert "certificates.csv is not there" in capsys.readouterr().err


def test_a_plot_is_of_the_runs_own_tables(tmp_path, capsys, monkeypatch):
    """Tables that were cut short or are of another run would draw another curve; and ~ is a folder as elsewhere."""
    whole = tmp_path / "whole"
    shutil.copytree(stored.folder("mnist-0.3"), whole)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["compare", str(whole), "--plot", "~/x.png"]) == 0 and (tmp_path / "x.png").is_file()
    damages = {
        "certificates.csv": [
            (lambda text: text[: len(text) // 2], "is damaged or of another run: its rows give a test_"),
            (lambda text: text.partition("\n")[0] + "\n", "is damaged (it has no rows)"),
            (lambda text: text.replace("radius", "radii", 1), "is damaged (KeyError('radius'))"),
            (lambda text: (stored.folder("mnist-0.3/seed-1") / "certificates.csv").read_text(), "of another run"),
        ],
        "history.csv": [
            (lambda text: "", "is damaged (it has no rows)"),
            (lambda text: text[: text.rstrip().rfind("\n") + 1], "is damaged or of another run: it has "),
        ],
    }
    for name, cases in damages.items():
        text = (whole / name).read_text()
        for damage, message in cases:
            (whole / name).write_text(damage(text))
            assert main(["compare", str(whole), "--plot", str(tmp_path / "y.png")]) == 1
            err = capsys.readouterr().err
            assert err.startswith(f"error: {whole / name} ") and message in err
        (whole / name).write_text(text)
    assert not (tmp_path / "y.png").exists()


# --- cards


def test_cards_and_the_table_of_the_readme_are_current():
    for path, text in cards.pages().items():
        assert path.is_file() and path.read_text(encoding="utf-8") == text, f"{path}: run `python -m gloro_lite cards`"


@pytest.mark.parametrize(
    "path", [p for method in stored.OTHER_METHODS for p in sorted(stored.STORED.glob(f"{method}/*/README.md"))], ids=str
)
def test_the_command_of_a_card_asks_for_the_settings_of_its_runs(path):
    text = path.read_text(encoding="utf-8")
    (command,) = re.findall(r"^`python -m ([^`]+)`, with these settings", text, re.M)
    module, *arguments = shlex.split(command)
    module = {"gloro_lite.methods.sites": sites_command, "gloro_lite.experiments.rivals": rivals}[module]
    given = module.parser().parse_args(arguments)
    asked = dataclasses.asdict(module.settings_of(given))
    for run in sorted(path.parent.glob("seed-*/result.json")):
        record = json.loads(run.read_text())
        assert given.epochs == record["epochs"]
        settings = record["settings"]
        if module is sites_command:
            settings = {field: math.inf if value is None else value for field, value in stored.renamed_of_sites(settings).items()}
        differing = {field for field in asked if asked[field] != settings[field]}
        assert asked.keys() == settings.keys() and (record["seed"] != given.seed or not differing)
        for field in differing:
            assert re.search(rf" `{field}` \([^)]*\b{settings[field]} for seed {record['seed']}\b", text)


def test_cards_are_written_and_checked(tmp_path, capsys, monkeypatch):
    results = tmp_path / "data" / "results"
    run = results / "mnist-0.3" / "seed-0"
    run.mkdir(parents=True)
    for name in ("result.json", "model.safetensors"):
        (run / name).write_bytes((stored.STORED / "mnist-0.3" / "seed-0" / name).read_bytes())
    (tmp_path / "data" / "paper.json").write_bytes((ROOT / "data" / "paper.json").read_bytes())
    (tmp_path / "README.md").write_text(f"before\n\n{cards.START}\nold\n{cards.END}\n\nafter\n")
    monkeypatch.setattr(cards.pages, "__defaults__", (results,))
    assert main(["cards", "--check"]) == 1
    assert "is not current" in capsys.readouterr().out
    assert main(["cards"]) == 0 and main(["cards", "--check"]) == 0
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before\n") and readme.endswith("after\n") and "old" not in readme
    record = stored.record(run)
    assert f"| {100 * record['test_vra']:.2f} | [1](data/results/mnist-0.3/README.md) |" in readme and "| not run |" in readme
    card = (results / "mnist-0.3" / "README.md").read_text()
    assert 'gloro_lite.load("mnist-0.3")' in card and f"{100 * record['test_accuracy']:.2f}" in card
    for field, value in record["settings"].items():
        assert field == "name" or f"| `{field}` | " in card, (field, value)
    half = results / "tiny-imagenet-half" / "seed-0"
    half.mkdir(parents=True)
    settings = record["settings"] | {"dataset": "tiny-imagenet", "network": "8C2F-half"}
    (half / "result.json").write_text(json.dumps(record | {"settings": settings, "test_vra": 0.125}))
    (half / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    assert main(["cards"]) == 0
    row = next(line for line in (tmp_path / "README.md").read_text().splitlines() if "half the resolution" in line)
    assert "| 12.50 | [1](data/results/tiny-imagenet-half/README.md) |" in row and "Tiny-ImageNet | 8C2F, " in row
    local = results / "mnist-0.3-local" / "seed-0"
    local.mkdir(parents=True)
    (local / "result.json").write_text(json.dumps(record | {"settings": record["settings"] | {"bound": "last_layers"}}))
    (local / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    table = tmp_path / "data" / "last_layers.json"
    for made_of in ({}, {"weights_sha256": "0" * 64}):  # by whom nobody knows, or of a net that was there before
        table.write_text(json.dumps({"runs": {"mnist-0.3-local/seed-0": {"local": 0.9875, **made_of}}}))
        assert main(["cards"]) == 0
        assert "98.75" not in (tmp_path / "README.md").read_text() + (local.parent / "README.md").read_text()
    assert "local_certificates.csv" not in (local.parent / "README.md").read_text()
    sites = results / "sites" / "mnist-0.3" / "seed-0"
    sites.mkdir(parents=True)
    shutil.copy(stored.STORED / "sites" / "mnist-0.3" / "seed-0" / "result.json", sites)
    assert main(["cards"]) == 0
    row = next(line for line in (tmp_path / "README.md").read_text().splitlines() if "sites that learn" in line)
    vra = json.loads((sites / "result.json").read_text())["test_vra"]
    assert row.startswith("| MNIST |") and f"| {100 * vra:.2f} | [1](data/results/sites/mnist-0.3/README.md) |" in row
    made_of = {"weights_sha256": provenance.weights_digest(local)}
    table.write_text(json.dumps({"runs": {"mnist-0.3-local/seed-0": {"local": 0.9875, **made_of}}}))
    assert main(["cards"]) == 0
    row = next(line for line in (tmp_path / "README.md").read_text().splitlines() if "with a local bound" in line)
    assert "| 98.75 | [1](data/results/mnist-0.3-local/README.md) |" in row and "MNIST | 2C2F, " in row
    text = (local.parent / "README.md").read_text()
    assert "| 98.75 |" in text and "in `local_certificates.csv`, its figures in `data/last_layers.json`" in text
    assert "98.75" not in (run.parent / "README.md").read_text()
    (tmp_path / "README.md").unlink()
    assert main(["cards"]) == 1
    assert "in a checkout of the project" in capsys.readouterr().err
