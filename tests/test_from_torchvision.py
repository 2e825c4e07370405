"""Image corpora of torchvision: against torchvision's own objects, from files written here, their parts, and faults."""

from __future__ import annotations

import hashlib
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from snnrun import cli, data
from snnrun.data import from_torchvision, pictures
from snnrun.errors import SnnrunError, UsageError
from snnrun.record.description import Description
from snnrun.run.samples import Reader


@pytest.fixture(autouse=True, scope="module")
def _torchvision() -> None:
    """torchvision, also of a build for another PyTorch, whose operators do not load: no reading needs them.

    It imports Triton. At collection that would be before `triton_here` has told Triton to interpret.
    """
    global datasets
    try:
        try:
            import torchvision.datasets
        except RuntimeError:
            for name in ("nms", "qnms"):
                torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
            import torchvision.datasets
    except (ImportError, RuntimeError) as reason:
        pytest.skip(f"torchvision cannot be imported: {reason}")
    datasets = torchvision.datasets


datasets: Any = None


def load(root: Path, dataset: str | None, **options: Any) -> data.Dataset:
    return data.load("torchvision", root=root, **{"download": False, "validation": 0, "dataset": dataset, **options})


def failure(root: Path, dataset: str | None, kind: type[SnnrunError] = SnnrunError, **options: Any) -> str:
    with pytest.raises(kind) as error:
        load(root, dataset, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes())


def kmnist(root: Path, sizes: tuple[int, int] = (40, 20)) -> None:
    rng = np.random.default_rng(0)
    for stem, size in zip(("train", "t10k"), sizes, strict=True):
        place = root / "torchvision/KMNIST/raw"
        idx(place / f"{stem}-images-idx3-ubyte", rng.integers(0, 256, (size, 28, 28), np.uint8))
        idx(place / f"{stem}-labels-idx1-ubyte", (np.arange(size) % 10).astype(np.uint8))


def cifar100(root: Path, monkeypatch: pytest.MonkeyPatch, train: int = 30, test: int = 12) -> None:
    """The pickles of CIFAR-100, whose checksums torchvision is told."""
    place, rng = root / "torchvision" / "cifar-100-python", np.random.default_rng(0)
    place.mkdir(parents=True)
    entries = {
        "train": {"data": rng.integers(0, 256, (train, 3072), np.uint8), "fine_labels": [k % 3 for k in range(train)]},
        "test": {"data": rng.integers(0, 256, (test, 3072), np.uint8), "fine_labels": [k % 3 for k in range(test)]},
        "meta": {"fine_label_names": ["apple", "bear", "bed"]},
    }
    sums = {}
    for name, entry in entries.items():
        (place / name).write_bytes(pickle.dumps(entry))
        sums[name] = hashlib.md5((place / name).read_bytes()).hexdigest()
    cls = datasets.CIFAR100
    monkeypatch.setattr(cls, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(cls, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": sums["meta"]})


def omniglot(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, rng = root / "torchvision" / "omniglot-py", np.random.default_rng(0)
    for alphabet in ("Balinese", "Greek"):
        for character in ("character01", "character02"):
            folder = home / "images_background" / alphabet / character
            folder.mkdir(parents=True)
            for k in range(5):
                Image.fromarray(rng.integers(0, 256, (105, 105), np.uint8)).save(folder / f"{k:04d}.png")
    (home / "images_background.zip").write_bytes(b"zip")
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", {"images_background": hashlib.md5(b"zip").hexdigest()})


def as_rows(dataset: Any, form: pictures.Form) -> tuple[np.ndarray, list[int]]:
    """Pixels and labels of a dataset of torchvision, picture by picture."""
    rows = [pictures.brought(dataset[k][0], form).pixels.ravel() for k in range(len(dataset))]
    return np.stack(rows), [int(dataset[k][1]) for k in range(len(dataset))]


# ---- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_by_one", [False, True])
def test_grey_pictures_with_parts(tmp_path: Path, one_by_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kmnist(tmp_path)
    if one_by_one:
        monkeypatch.setattr(from_torchvision, "_stacked", lambda *_: None)
    corpus = load(tmp_path, "KMNIST")
    assert (corpus.kind, corpus.shape, corpus.image) == ("image", (28, 28), (1, 28, 28))
    assert corpus.classes == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    for part, train in ("train", True), ("test", False):
        theirs = datasets.KMNIST(str(tmp_path / "torchvision"), train=train)
        split = getattr(corpus, part)
        assert split.samples.dtype == np.uint8
        assert np.array_equal(split.samples, theirs.data.numpy().reshape(len(theirs), -1))
        assert split.labels.tolist() == theirs.targets.tolist()


def test_pictures_are_brought_to_another_size_and_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar100(tmp_path, monkeypatch)
    theirs = datasets.CIFAR100(str(tmp_path / "torchvision"), train=False)
    for options, form in (
        ({}, pictures.Form((3, 32, 32))),
        ({"rows": 20, "columns": 12, "fit": "pad"}, pictures.Form((3, 20, 12), "pad")),
        ({"colour": False}, pictures.Form((1, 32, 32))),
    ):
        corpus = load(tmp_path, "CIFAR100", **options)
        pixels, labels = as_rows(theirs, form)
        assert np.array_equal(corpus.test.samples, pixels)
        assert corpus.test.labels.tolist() == labels
        assert corpus.image == form.image
    assert corpus.classes == ("apple", "bear", "bed")
    assert "42 pictures are in colour and are made grey; data.colour=true keeps it" in corpus.notes


def test_a_corpus_without_parts_gets_a_drawn_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    omniglot(tmp_path, monkeypatch)
    corpus = load(tmp_path, "Omniglot", rows=28, columns=28)
    assert corpus.classes == tuple(f"{a}/character0{k}" for a in ("Balinese", "Greek") for k in (1, 2))
    assert corpus.sizes == {"train": 16, "validation": 0, "test": 4}
    assert np.bincount(corpus.test.labels).tolist() == [1, 1, 1, 1]
    assert corpus.notes == ("test: no part of its own, so 0.2 of all samples (data.test_fraction)",)
    theirs, form = datasets.Omniglot(str(tmp_path / "torchvision")), pictures.Form((1, 28, 28))
    rows = {row.tobytes() for row in as_rows(theirs, form)[0]}
    assert {row.tobytes() for row in np.concatenate([corpus.train.samples, corpus.test.samples])} == rows
    assert load(tmp_path, "Omniglot", rows=28, columns=28, split_seed=1).digest != corpus.digest


def test_a_split_is_an_option_and_classes_without_samples_go(tmp_path: Path) -> None:
    message = failure(tmp_path, "EMNIST", UsageError)
    assert message.startswith("data.options: EMNIST needs split, as data.options={split: VALUE}. Allowed: byclass, ")
    place = tmp_path / "torchvision/EMNIST/raw"
    for part, size in ("train", 52), ("test", 26):
        idx(place / f"emnist-letters-{part}-images-idx3-ubyte", np.ones((size, 28, 28), np.uint8))
        idx(place / f"emnist-letters-{part}-labels-idx1-ubyte", (np.arange(size) % 26 + 1).astype(np.uint8))
    corpus = load(tmp_path, "EMNIST", options={"split": "letters"})
    assert corpus.classes == tuple("abcdefghijklmnopqrstuvwxyz")
    assert corpus.train.labels[:27].tolist() == [*range(26), 0]
    assert "classes without a sample are left out: N/A" in corpus.notes
    for split in ("words", "train"):
        message = failure(tmp_path, "EMNIST", UsageError, options={"split": split})
        assert message.startswith(f"data.options: EMNIST: Unknown value '{split}' for argument split. Valid values are")


class Splits(torch.utils.data.Dataset):
    """A corpus with three parts, whose pictures are of two sizes."""

    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        sizes = {"train": 6, "val": 4, "test": 2}
        if split not in sizes:
            raise ValueError(f"Unknown value '{split}' for argument split. Valid values are {set(sizes)}.")
        self.size, self.first = sizes[split], {"train": 0, "val": 6, "test": 10}[split]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, k: int) -> tuple[Any, Any]:
        k += self.first
        return Image.new("RGB", (10 + k % 2, 8), (k, 2 * k, 3 * k)), np.int64(k % 2)


def test_three_parts_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "DTD", Splits)
    corpus = load(tmp_path, "DTD", rows=4, columns=4, validation=0.5)
    assert corpus.sizes == {"train": 6, "validation": 4, "test": 2}
    assert corpus.validation.samples[:, 0].tolist() == [6, 7, 8, 9]
    assert "validation: a part of its own, 4 pictures; data.validation is not used" in corpus.notes
    assert corpus.test.samples[:, -1].tolist() == [30, 33]
    message = failure(tmp_path, "DTD", UsageError)
    assert "its pictures differ in size (8 x 10, 8 x 11). Give data.rows and data.columns" in message
    assert "give both or neither" in failure(tmp_path, "DTD", UsageError, rows=4)


def test_a_picture_is_fed_as_the_corpus_feeds_it(tmp_path: Path) -> None:
    kmnist(tmp_path)
    options = {"rows": 14, "columns": 10, "fit": "crop"}
    corpus = load(tmp_path, "KMNIST", **options)
    section = {"name": "torchvision", "dataset": "KMNIST", "root": str(tmp_path), "download": False, **options}
    values = {"seed": 0, "encoder": {"name": "bernoulli", "steps": 9}, "data": section}
    reader = Reader(values, Description("torchvision", "", "", "image", (14, 10), corpus.classes, 9, {}, (1, 14, 10)))
    theirs = datasets.KMNIST(str(tmp_path / "torchvision"), train=False)
    theirs[3][0].save(tmp_path / "a.png")
    wanted = reader.encoder.encode(corpus.test.samples[3:4], np.zeros(1, np.int64), 0)
    assert np.array_equal(reader.read(str(tmp_path / "a.png")).inputs, wanted)


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_a_wrong_name_gets_the_nearest(tmp_path: Path) -> None:
    message = failure(tmp_path, "kmnst", UsageError)
    assert message.startswith("data.dataset: 'kmnst' is no corpus that is taken from torchvision. Allowed: CIFAR10, ")
    assert message.endswith("Did you mean KMNIST?")
    assert failure(tmp_path, "cifar-100", UsageError).endswith("Did you mean CIFAR100?")
    assert "say which corpus of torchvision" in failure(tmp_path, None, UsageError)
    message = failure(tmp_path, "SVHN", UsageError, options={"splits": "extra"})
    assert message.endswith("SVHN has no option 'splits'. Allowed: split. Did you mean split?")


def test_what_is_missing_is_not_downloaded_without_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("the network is touched"))
    message = failure(tmp_path, "KMNIST")
    place = tmp_path / "torchvision"
    assert message.startswith(f"data=torchvision data.dataset=KMNIST: its files in {place} are missing or damaged (")
    assert message.endswith("data.download=true downloads what may be had")

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    message = failure(tmp_path, "SVHN", download=True)
    assert "are missing or damaged (" in message
    assert "data.download" not in message


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    kmnist(tmp_path)
    path = tmp_path / "torchvision/KMNIST/raw/t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    assert "its files in" in failure(tmp_path, "KMNIST")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # torchvision leaves it open
def test_a_picture_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    omniglot(tmp_path, monkeypatch)
    path = tmp_path / "torchvision/omniglot-py/images_background/Greek/character01/0003.png"
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(SnnrunError) as error:
        load(tmp_path, "Omniglot", rows=8, columns=8)
    assert "data=torchvision: a file cannot be used:" in str(error.value)
    assert "it cannot be read (" in str(error.value)


def test_targets_that_are_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Splits, "__getitem__", lambda self, k: (Image.new("L", (8, 8)), [1, 2]))
    monkeypatch.setattr(datasets, "DTD", Splits)
    assert "a target of it is a list and no class" in failure(tmp_path, "DTD", UsageError)
    monkeypatch.setattr(Splits, "__getitem__", lambda self, k: (np.zeros((8, 8)), 1))
    assert "a sample of it is a ndarray and no picture" in failure(tmp_path, "DTD", UsageError)


def test_torchvision_is_missing_or_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    assert failure(tmp_path, "KMNIST").endswith("Install it: pip install 'snnrun[vision]'")

    def unfit(name: str, *rest: Any) -> Any:
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return imported(name, *rest)

    imported = __import__
    monkeypatch.setattr("builtins.__import__", unfit)
    message = failure(tmp_path, "KMNIST")
    assert "does not fit this PyTorch (operator torchvision::nms does not exist). Install both" in message


@pytest.mark.slow
def test_a_run_on_kmnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kmnist(tmp_path)
    options = ["tracking=none", f"outputs={tmp_path / 'out'}", "hardware=cpu", "hardware.kernels=reference"]
    size = ["model.network=20", "model.v_th=1", "encoder.steps=20", "train.epochs=1", "data.validation=0"]
    words = ["train", "data=torchvision", "data.dataset=KMNIST", f"data.root={tmp_path}"]
    assert cli.main([*words, *size, *options]) == 0
    assert "test, last epoch" in capsys.readouterr().out
