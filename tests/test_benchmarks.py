"""The benchmark images: splits, labels and order, the cache, and the errors where files are missing, damaged or unwritable."""

import errno
import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gloro_lite import files
from gloro_lite.datasets import benchmarks, cache, published, tiny_imagenet
from gloro_lite.datasets.benchmarks import DataError, Info

ROOT = benchmarks.data_root()


def equal(one, other):
    return all(torch.equal(a, b) for part, second in zip(one, other, strict=True) for a, b in zip(part, second, strict=True))


def unreachable(*_, **__):
    raise AssertionError("the published files were read")


# --- small data roots in the published layouts; every image differs, so that a wrong order shows


def make_mnist(root, monkeypatch):
    """12 training and 4 test images; returns them as (x, y), (x, y)."""
    monkeypatch.setitem(benchmarks.INFO, "mnist", Info((1, 28, 28), classes=10, train=9, validation=3, test=4))
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    splits, digests = [], {}
    for part, count in (("train", 12), ("t10k", 4)):
        x = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        y = generator.integers(0, 10, count, dtype=np.uint8)
        for name, content in (
            (f"{part}-images-idx3-ubyte", struct.pack(">IIII", 2051, count, 28, 28) + x.tobytes()),
            (f"{part}-labels-idx1-ubyte", struct.pack(">II", 2049, count) + y.tobytes()),
        ):
            (folder / name).write_bytes(content)
            digests[name] = hashlib.md5(content).hexdigest()
        splits.append((torch.from_numpy(x)[:, None], torch.from_numpy(y).long()))
    monkeypatch.setattr(published, "MNIST_MD5", digests)
    return splits


def make_cifar10(root, monkeypatch):
    """Five batches of 2 training images and one of 2 test images; returns them as (x, y), (x, y)."""
    monkeypatch.setitem(benchmarks.INFO, "cifar10", Info((3, 32, 32), classes=10, train=7, validation=3, test=2))
    kind = published.torchvision_datasets().CIFAR10
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    xs, ys, digests = [], [], {}
    for name in [name for name, _ in kind.train_list + kind.test_list]:
        xs.append(generator.integers(0, 256, (2, 3072), dtype=np.uint8))
        ys.append(generator.integers(0, 10, 2).tolist())
        (folder / name).write_bytes(pickle.dumps({"data": xs[-1], "labels": ys[-1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    digests = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(kind, "train_list", [[name, digests[name]] for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[name, digests[name]] for name, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": digests["batches.meta"]})
    x = torch.from_numpy(np.concatenate(xs)).view(-1, 3, 32, 32)
    y = torch.tensor(ys).flatten()
    return [(x[:10], y[:10]), (x[10:], y[10:])]


WNIDS = ["n03", "n01", "n02"]  # not sorted: the classes are numbered in this order


def make_tiny_imagenet(root, monkeypatch):
    """4 training and 2 test images of each of 3 classes, the first one greyscale; returns them as (x, y), (x, y)."""
    monkeypatch.setitem(benchmarks.INFO, "tiny-imagenet", Info((3, 64, 64), classes=3, train=7, validation=5, test=6))
    folder = root / "tiny-imagenet-200"
    generator = np.random.default_rng(0)
    read = {}

    def write(name):
        mode, shape = ("L", (64, 64)) if not read else ("RGB", (64, 64, 3))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8), mode).save(path, "JPEG")
        read[name] = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)

    train = [(f"train/{wnid}/images/{wnid}_{i}.JPEG", label) for label, wnid in enumerate(WNIDS) for i in range(4)]
    test = [(f"val/images/val_{i}.JPEG", label) for i, label in enumerate((1, 0, 2, 2, 1, 0))]
    for name, _ in train + test:
        write(name)
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (folder / "words.txt").write_text("n01\ta word that nothing needs\n")
    lines = [f"{Path(name).name}\t{WNIDS[label]}\t0\t0\t62\t62\n" for name, label in reversed(test)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    monkeypatch.setattr(tiny_imagenet, "SHA256", tiny_imagenet_digest(folder))
    return [(torch.stack([read[name] for name, _ in part]), torch.tensor([label for _, label in part])) for part in (train, test)]


def tiny_imagenet_digest(folder):
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != "words.txt"]
    return hashlib.sha256(b"".join(hashlib.sha256((folder / name).read_bytes()).digest() for name in sorted(names))).hexdigest()


def zip_up(root, monkeypatch):
    """The folder as the zip that it was unpacked from."""
    path, folder = root / "tiny-imagenet-200.zip", root / "tiny-imagenet-200"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(root))
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    folder.rmdir()
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


MAKE = {"mnist": make_mnist, "cifar10": make_cifar10, "tiny-imagenet": make_tiny_imagenet}
every_dataset = pytest.mark.parametrize("dataset", MAKE)


# --- splits, order, labels


@every_dataset
def test_each_image_is_in_one_split_with_its_label(dataset, tmp_path, monkeypatch):
    (train_x, train_y), (test_x, test_y) = MAKE[dataset](tmp_path, monkeypatch)
    info = benchmarks.INFO[dataset]
    data = benchmarks.load(dataset, tmp_path, download=False)
    for part, count in zip(data, (info.train, info.validation, info.test), strict=True):
        assert part.x.shape == (count, *info.shape) and part.x.dtype == torch.uint8 and part.x.is_contiguous()
        assert part.y.shape == (count,) and part.y.dtype == torch.int64
    assert torch.equal(data.test.x, test_x) and torch.equal(data.test.y, test_y)
    # Results depend on which images are held out, and on the order of the others.
    order = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(2021))
    assert torch.equal(torch.cat((data.validation.x, data.train.x)), train_x[order])
    assert torch.equal(torch.cat((data.validation.y, data.train.y)), train_y[order])


def test_tiny_imagenet_is_read_from_its_zip_too(tmp_path, monkeypatch):
    make_tiny_imagenet(tmp_path, monkeypatch)
    unpacked = benchmarks.load("tiny-imagenet", tmp_path, download=False)
    (tmp_path / "gloro-lite" / "tiny-imagenet.pt").unlink()
    path = zip_up(tmp_path, monkeypatch)
    assert equal(benchmarks.load("tiny-imagenet", tmp_path, download=False), unpacked)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, "gloro-lite"}


@pytest.mark.data
@pytest.mark.skipif(not (ROOT / "MNIST" / "raw").is_dir(), reason="no MNIST in the data root (GLORO_DATA)")
def test_the_real_mnist():
    data = benchmarks.load("mnist", download=False)
    assert [tuple(part.x.shape) for part in data] == [(55000, 1, 28, 28), (5000, 1, 28, 28), (10000, 1, 28, 28)]
    assert data.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    # 5,923 zeros are in the published training set.
    assert int((data.train.y == 0).sum() + (data.validation.y == 0).sum()) == 5923
    # Image 0, read by hand.
    content = (ROOT / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    assert data.test.x[0].numpy().tobytes() == content[16 : 16 + 28 * 28]


@pytest.mark.data
@pytest.mark.skipif(not (ROOT / "cifar-10-batches-py").is_dir(), reason="no CIFAR-10 in the data root (GLORO_DATA)")
def test_the_real_cifar10():
    data = benchmarks.load("cifar10", download=False)
    assert [len(part.x) for part in data] == [45000, 5000, 10000]
    with (ROOT / "cifar-10-batches-py" / "test_batch").open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    assert data.test.x.numpy().tobytes() == batch[b"data"].tobytes() and data.test.y.tolist() == batch[b"labels"]
    assert (torch.bincount(data.train.y) + torch.bincount(data.validation.y)).tolist() == [5000] * 10


@pytest.mark.data
@pytest.mark.skipif(not (ROOT / "tiny-imagenet-200").is_dir(), reason="no unpacked Tiny-ImageNet in the data root (GLORO_DATA)")
def test_the_real_tiny_imagenet():
    data = benchmarks.load("tiny-imagenet", download=False)
    assert [len(part.x) for part in data] == [90000, 10000, 10000]
    assert (torch.bincount(data.train.y) + torch.bincount(data.validation.y)).tolist() == [500] * 200
    folder = ROOT / "tiny-imagenet-200"
    wnids = (folder / "wnids.txt").read_text().split()
    labels = dict(line.split("\t")[:2] for line in (folder / "val" / "val_annotations.txt").read_text().splitlines())
    order = torch.randperm(100000, generator=torch.Generator().manual_seed(2021))
    for row in (0, 1, 4999, 9999):
        for part, label, name in (
            (data.test, wnids.index(labels[f"val_{row}.JPEG"]), f"val/images/val_{row}.JPEG"),
            (data.validation, int(order[row]) // 500, None),
            (data.train, int(order[10000 + row]) // 500, None),
        ):
            published_row = int(order[row if part is data.validation else 10000 + row])
            name = name or f"train/{wnids[label]}/images/{wnids[label]}_{published_row % 500}.JPEG"
            assert part.y[row] == label
            assert (np.array(Image.open(folder / name).convert("RGB")) == part.x[row].permute(1, 2, 0).numpy()).all()


# --- the cache


@every_dataset
def test_the_second_load_reads_the_cache_alone(dataset, tmp_path, monkeypatch):
    MAKE[dataset](tmp_path, monkeypatch)
    first = benchmarks.load(dataset, tmp_path, download=False)
    monkeypatch.setattr(benchmarks, "_read", unreachable)
    assert equal(benchmarks.load(dataset, tmp_path), first)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_the_cache_is_mapped_into_memory(tmp_path, monkeypatch):
    make_mnist(tmp_path, monkeypatch)
    path = str(tmp_path / "gloro-lite" / "mnist.pt")
    data = benchmarks.load("mnist", tmp_path)
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in maps if len(line) == 6 and line[5] == path]
    for part in data:
        for tensor in part:
            assert any(start <= tensor.data_ptr() < end for start, end in ranges)
    # What is done to the tensors stays in memory.
    before = Path(path).read_bytes()
    data.train.x.zero_()
    assert Path(path).read_bytes() == before


@every_dataset
def test_a_damaged_cache_is_made_anew(dataset, tmp_path, monkeypatch):
    MAKE[dataset](tmp_path, monkeypatch)
    # Copies: what is mapped would change with the file that is damaged here.
    first = [[tensor.clone() for tensor in part] for part in benchmarks.load(dataset, tmp_path)]
    path = tmp_path / "gloro-lite" / f"{dataset}.pt"
    whole = path.read_bytes()
    at = whole.index(first[0][0].numpy().tobytes()) + 5
    for damaged in (
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
        whole[:-100],
        whole[: len(whole) // 2],
        b"",
        b"x" * 999,
    ):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=rf"{dataset}\.pt is damaged.*decoded anew"):
            assert equal(benchmarks.load(dataset, tmp_path), first)
        assert path.read_bytes() == whole


def test_a_damaged_cache_does_not_hide_damaged_files(tmp_path, monkeypatch):
    make_mnist(tmp_path, monkeypatch)
    benchmarks.load("mnist", tmp_path)
    (tmp_path / "gloro-lite" / "mnist.pt").write_bytes(b"")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(DataError, match="t10k-labels-idx1-ubyte is truncated"):
        benchmarks.load("mnist", tmp_path)


def test_a_cache_of_another_split_is_not_used(tmp_path, monkeypatch):
    make_mnist(tmp_path, monkeypatch)
    first = benchmarks.load("mnist", tmp_path)
    monkeypatch.setattr(benchmarks, "_SPLIT_SEED", 1)
    second = benchmarks.load("mnist", tmp_path)
    assert not torch.equal(second.validation.x, first.validation.x)
    images = [{x.numpy().tobytes() for x in torch.cat((data.train.x, data.validation.x))} for data in (first, second)]
    assert images[0] == images[1]


def test_images_are_loaded_where_no_cache_can_be_written(tmp_path, monkeypatch):
    make_mnist(tmp_path, monkeypatch)
    (tmp_path / "gloro-lite").write_text("a file where the folder belongs")
    with pytest.warns(UserWarning, match="mnist is loaded, but not kept decoded for the next time: .*gloro-lite"):
        first = benchmarks.load("mnist", tmp_path)
    (tmp_path / "gloro-lite").unlink()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="No space left on device"):
        patch.setattr(os, "fsync", full)
        assert equal(benchmarks.load("mnist", tmp_path), first)
    assert list((tmp_path / "gloro-lite").iterdir()) == []
    assert equal(benchmarks.load("mnist", tmp_path), first)


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from gloro_lite.datasets import cache
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    cache.save(Path(sys.argv[1]), {}, {"x": torch.zeros(1 << 20, dtype=torch.uint8)})
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files have no size limit to set")
def test_a_cache_that_does_not_fit_leaves_the_old_one(tmp_path):
    path = tmp_path / "mnist.pt"
    cache.save(path, {"old": True}, {"x": torch.ones(3)})
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert f"{path} could not be written (File too large)" in run.stdout
    assert cache.load(path, {"old": True})["x"].tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == [path]


WRITE_OFTEN = """
import sys, torch
from pathlib import Path
from gloro_lite.datasets import cache
value = int(sys.argv[2])
for _ in range(30):
    cache.save(Path(sys.argv[1]), {}, {"x": torch.full((100_000,), value)})
"""


@pytest.mark.slow
def test_two_writers_do_not_mix(tmp_path):
    path = tmp_path / "mnist.pt"
    writers = [subprocess.Popen([sys.executable, "-c", WRITE_OFTEN, str(path), value]) for value in "12"]
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a file that fails its checksum
        while any(writer.poll() is None for writer in writers):
            if tensors := cache.load(path, {}):
                values = tensors["x"].unique().tolist()
                assert values in ([1], [2])
                seen.update(values)
    assert [writer.returncode for writer in writers] == [0, 0] and seen
    assert list(tmp_path.iterdir()) == [path]


# --- errors


def test_unknown_names_and_the_root(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="one of mnist, cifar10, tiny-imagenet; not 'imagenet'"):
        benchmarks.load("imagenet", tmp_path)
    monkeypatch.setenv("GLORO_DATA", str(tmp_path))
    assert benchmarks.data_root() == tmp_path and benchmarks.data_root("elsewhere") == Path("elsewhere")
    monkeypatch.delenv("GLORO_DATA")
    assert benchmarks.data_root("~") == Path.home()
    # Whichever folder the command is called in, the images are looked for where the results go.
    monkeypatch.chdir(tmp_path)
    assert benchmarks.data_root() == Path(__file__).resolve().parents[1] / "data" / "root"
    monkeypatch.setattr(files, "__file__", str(tmp_path / "site-packages" / "gloro_lite" / "files.py"))
    assert benchmarks.data_root() == Path("data/root")


BY_HAND = {
    "mnist": r"unpack the four \.gz files of https://.* or of https://.* into MNIST/raw in the data root",
    "cifar10": r"put cifar-10-python\.tar\.gz \(MD5 c58f.*\) into the data root, from .* or, .* https://zenodo\.org/records/10089977",
    "tiny-imagenet": r"put http://.*tiny-imagenet-200\.zip \(MD5 .*\), or the folder that it unpacks to, into the data root",
}


@every_dataset
def test_missing_images(dataset, tmp_path):
    name = {"mnist": "train-images-idx3-ubyte", "cifar10": "data_batch_1", "tiny-imagenet": "tiny-imagenet-200"}[dataset]
    with pytest.raises(DataError, match=f"{name}.*by --data or GLORO_DATA; or allow the download; or {BY_HAND[dataset]}"):
        benchmarks.load(dataset, tmp_path, download=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dataset", "name"),
    [(dataset, name) for dataset, names in (
        ("mnist", published.MNIST_MD5),
        ("cifar10", ["data_batch_1", "data_batch_5", "test_batch", "batches.meta"]),
    ) for name in names],
)  # fmt: skip
def test_files_that_are_not_the_published_ones(dataset, name, tmp_path, monkeypatch):
    MAKE[dataset](tmp_path, monkeypatch)
    path = next(tmp_path.rglob(name))
    whole = path.read_bytes()
    for wrong in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(wrong)
        expected = (
            f"{name} is truncated or altered: .*{hashlib.md5(wrong).hexdigest()}.*{hashlib.md5(whole).hexdigest()}.*Delete it"
        )
        with pytest.raises(DataError, match=expected):
            benchmarks.load(dataset, tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        benchmarks.load(dataset, tmp_path, download=False)
    assert not (tmp_path / "gloro-lite").exists()


def other_jpeg(size=64, quality=50):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), "teal").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train/n01/images/n01_2.JPEG", None, "train holds 11 images where the 12 .*n01_2.JPEG is missing"),
        ("val/images/val_3.JPEG", None, "val holds 5 images where the 6 .*val_3.JPEG is missing"),
        (
            "train/n01/images/n01_4.JPEG",
            lambda _: other_jpeg(),
            "train holds 13 images where the 12 .*n01_4.JPEG is none of them",
        ),
        ("train/n01/images/n01_2.JPEG", lambda whole: whole[:-500], "n01_2.JPEG is truncated or altered"),
        ("val/images/val_3.JPEG", lambda _: b"", "val_3.JPEG is truncated or altered"),
        ("val/images/val_3.JPEG", lambda _: other_jpeg(32), "val_3.JPEG is 32 x 32, 64 x 64 are expected"),
        ("val/images/val_3.JPEG", lambda _: other_jpeg(), "a file in .*tiny-imagenet-200 is altered: the SHA-256"),
        ("wnids.txt", None, "wnids.txt is missing"),
        ("wnids.txt", lambda whole: whole[:-4], "wnids.txt names 2 classes, 3 are expected"),
        ("wnids.txt", lambda whole: whole[4:] + whole[:4], "a file in .*tiny-imagenet-200 is altered: the SHA-256"),
        ("val/val_annotations.txt", None, "val_annotations.txt is missing"),
        ("val/val_annotations.txt", lambda whole: whole[: len(whole) // 2], "val_annotations.txt .* lines where 6 are expected"),
        ("val/val_annotations.txt", lambda whole: whole.replace(b"n02", b"n01"), "val_annotations.txt is truncated or altered"),
        (
            "val/val_annotations.txt",
            lambda whole: whole.replace(b"val_3", b"val_9"),
            "val_annotations.txt is truncated or altered",
        ),
    ],
)
def test_tiny_imagenet_that_is_not_the_published_one(name, change, message, tmp_path, monkeypatch):
    make_tiny_imagenet(tmp_path, monkeypatch)
    path = tmp_path / "tiny-imagenet-200" / name
    if change:
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))
    else:
        path.unlink()
    with pytest.raises(DataError, match=f"(?s){message}.*put the published zip.*{tiny_imagenet.MD5}.*or delete the folder"):
        benchmarks.load("tiny-imagenet", tmp_path)
    assert not (tmp_path / "gloro-lite").exists()


def test_a_damaged_zip(tmp_path, monkeypatch):
    make_tiny_imagenet(tmp_path, monkeypatch)
    path = zip_up(tmp_path, monkeypatch)
    whole = path.read_bytes()
    for wrong in (whole[:-1], whole[:999] + bytes([whole[999] ^ 1]) + whole[1000:]):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=f"tiny-imagenet-200.zip is truncated or altered: .*{tiny_imagenet.MD5}.*Delete it"):
            benchmarks.load("tiny-imagenet", tmp_path, download=False)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    make_mnist(tmp_path, monkeypatch)

    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(published.torchvision_datasets().utils, "calculate_md5", forbidden)
    with pytest.raises(DataError, match=r"mnist cannot be read from .*Permission denied: .*train-images-idx3-ubyte"):
        benchmarks.load("mnist", tmp_path)


# --- downloads, from a folder that stands for the publisher's server


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder whose files are all that can be downloaded, by name."""
    folder = tmp_path / "server"
    folder.mkdir()

    def retrieve(url, path, **_):
        Path(path).write_bytes((folder / url.rpartition("/")[2]).read_bytes())

    utils = published.torchvision_datasets().utils
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(utils, "_urlretrieve", retrieve)
    return folder


def test_mnist_is_downloaded(server, tmp_path, monkeypatch):
    make_mnist(server, monkeypatch)
    resources = []
    for path in sorted((server / "MNIST" / "raw").iterdir()):
        content = gzip.compress(path.read_bytes())
        (server / f"{path.name}.gz").write_bytes(content)
        resources.append((f"{path.name}.gz", hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(published.torchvision_datasets().MNIST, "resources", resources)
    direct = benchmarks.load("mnist", server, download=False)
    root = tmp_path / "new" / "root"
    assert equal(benchmarks.load("mnist", root), direct)
    # What the message of a damaged file says to do.
    (root / "gloro-lite" / "mnist.pt").unlink()
    damaged = root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    damaged.write_bytes(b"damaged")
    with pytest.raises(DataError, match="Delete it and run again"):
        benchmarks.load("mnist", root)
    damaged.unlink()
    assert equal(benchmarks.load("mnist", root), direct)


def test_tiny_imagenet_is_downloaded(server, tmp_path, monkeypatch):
    make_tiny_imagenet(server, monkeypatch)
    direct = benchmarks.load("tiny-imagenet", server, download=False)
    path = zip_up(server, monkeypatch)
    root = tmp_path / "root"
    root.mkdir()
    (root / path.name).write_bytes(path.read_bytes()[:1000])  # left there by a download that was interrupted
    assert equal(benchmarks.load("tiny-imagenet", root), direct)
    path.write_bytes(b"not the published zip")
    with pytest.raises(
        DataError, match=r"Tiny-ImageNet could not be downloaded into .*other \(.*corrupted.*run again with network"
    ):
        benchmarks.load("tiny-imagenet", tmp_path / "other")


@every_dataset
def test_downloads_that_fail(dataset, server, tmp_path):
    message = rf"could not be downloaded into .*root .*run again with network access.*; or {BY_HAND[dataset]}; or .*--data"
    with pytest.raises(DataError, match=rf"(?s){message}"):
        benchmarks.load(dataset, tmp_path / "root")


@every_dataset
def test_a_root_that_cannot_be_written_is_not_downloaded_to(dataset, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        DataError, match=r"must be downloaded, and the data root .*root is not writable \(Not a directory\): give a folder"
    ):
        benchmarks.load(dataset, tmp_path / "file" / "root")


def test_nor_is_a_read_only_root(tmp_path, monkeypatch):
    def read_only(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(
        DataError,
        match=r"MNIST must be downloaded, and .* is not writable \(Read-only file system\): give a folder.*GLORO_DATA",
    ):
        benchmarks.load("mnist", tmp_path)
