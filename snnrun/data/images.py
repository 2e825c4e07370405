"""Image corpora: scikit-learn's digits, and MNIST and Fashion-MNIST in their IDX files."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snnrun.data import fetch
from snnrun.data.corpus import Corpus, MissingError, stratified
from snnrun.data.known import known
from snnrun.errors import SnnrunError

_DIGIT_NAMES = tuple("0123456789")
_DIGITS_TEST_SIZE = 360
_DIGITS_TEST_SEED = 1797

_IMAGES, _LABELS = 2051, 2049  # magic numbers of the IDX format: uint8 in three dimensions, uint8 in one


@dataclass(frozen=True)
class IdxCorpus:
    """Where a corpus of four IDX files is found.

    Attributes:
        title: What people call it.
        torchvision: The folder in which torchvision has a folder `raw` of the files.
        md5: Checksum of each file's uncompressed content (gzip headers and levels differ between mirrors), in the
            order training images, training labels, test images, test labels.
        mirrors: Addresses to download the .gz files from.
        system_folder: Where a package of the operating system puts the files.
        hint: One more way to get them, for the message when they are missing.
    """

    classes: tuple[str, ...]
    title: str
    torchvision: str
    md5: dict[str, str]
    mirrors: tuple[str, ...]
    system_folder: Path | None = None
    hint: str = ""


IDX_CORPORA = {
    "mnist": IdxCorpus(
        classes=_DIGIT_NAMES,
        title="MNIST",
        torchvision="MNIST",
        md5={
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
    ),
    "fashion_mnist": IdxCorpus(
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        title="Fashion-MNIST",
        torchvision="FashionMNIST",
        md5={
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        system_folder=Path("/usr/share/datasets/fashion-mnist"),
        hint="on Debian and Ubuntu: apt install dataset-fashion-mnist",
    ),
}


@known("handwritten digits of 8 x 8 pixels", "free, bundled with scikit-learn")
def digits(_root: Path, _download: bool) -> Corpus:
    """Handwritten digits bundled with scikit-learn: 1797 images of 8 x 8, needing neither folder nor download.

    The pixels 0..16 are rescaled to 0..255. scikit-learn has no official split: 360 samples, drawn once and for all
    with equal shares of every class, are the test samples whatever the run's seed; the other 1437 train.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (its test part), through scikit-learn.
    """
    table = np.loadtxt(_digits_file(), delimiter=",", dtype=np.int64, encoding="ascii")
    samples, labels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8), np.ascontiguousarray(table[:, -1])
    test = stratified(labels, _DIGITS_TEST_SIZE, np.random.Generator(np.random.PCG64(_DIGITS_TEST_SEED)))
    train = np.setdiff1d(np.arange(len(labels)), test)
    parts = samples[train], labels[train], samples[test], labels[test]
    return Corpus("image", (8, 8), _DIGIT_NAMES, *parts, image=(1, 8, 8))


def _digits_file() -> Path:
    """The file in scikit-learn's package, which is not imported: that takes a second and brings in pandas.

    Raises:
        SnnrunError: If scikit-learn or the file is not there.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in () if package is None else package.submodule_search_locations or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return path
    raise SnnrunError("data=digits: its file is part of scikit-learn, which lacks it here. pip install scikit-learn")


@known("handwritten digits of 28 x 28 pixels", "free, downloaded when it is first used", "mnist", (60_000, 10_000))
def mnist(root: Path, download: bool) -> Corpus:
    """MNIST (LeCun, Cortes, Burges): handwritten digits, 60,000 + 10,000 images of 28 x 28; see `load_idx`."""
    return load_idx("mnist", root, download)


@known("clothes of 28 x 28 pixels", "MIT, downloaded when it is first used", "fashion_mnist", (60_000, 10_000))
def fashion_mnist(root: Path, download: bool) -> Corpus:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): clothes, 60,000 + 10,000 images of 28 x 28; see `load_idx`."""
    return load_idx("fashion_mnist", root, download)


def load_idx(name: str, root: Path, download: bool) -> Corpus:
    """Read the four IDX files of a corpus, compressed or not.

    Each is looked for in `root/name`, in torchvision's `root/MNIST/raw` or such a `raw` within `root/name`, then where
    the operating system's package puts it; else it is downloaded. Some copies call it train-images.idx3-ubyte.

    Raises:
        SnnrunError: If a file is missing and cannot be had, or is not the published one.
    """
    corpus = IDX_CORPORA[name]
    folder = root / name
    paths = [_find(corpus, root, name, stem) for stem in corpus.md5]
    missing = [stem for stem, path in zip(corpus.md5, paths, strict=True) if path is None]
    if missing and not download:
        raise MissingError(_missing(name, folder, missing, ["not tried: data.download=false"]))
    for stem in missing:
        try:
            fetch.download(folder / f"{stem}.gz", corpus.mirrors, corpus.md5[stem])
        except fetch.UnreachableError as error:
            left = [other for other in missing if _find(corpus, root, name, other) is None]
            raise MissingError(_missing(name, folder, left, error.reasons)) from None
    train_images, train_labels, test_images, test_labels = (
        _read(name, path or folder / f"{stem}.gz", stem) for stem, path in zip(corpus.md5, paths, strict=True)
    )
    shape = rows, columns = train_images.shape[1:]
    return Corpus(
        kind="image",
        shape=shape,
        classes=corpus.classes,
        train_samples=train_images.reshape(len(train_images), -1),
        train_labels=train_labels.astype(np.int64),
        test_samples=test_images.reshape(len(test_images), -1),
        test_labels=test_labels.astype(np.int64),
        image=(1, rows, columns),
    )


def _find(corpus: IdxCorpus, root: Path, name: str, stem: str) -> Path | None:
    folder, theirs = root / name, Path(corpus.torchvision, "raw")
    places = [folder, root / theirs, folder / "raw", folder / theirs, *filter(None, [corpus.system_folder])]
    names = [other + suffix for other in (stem, stem.replace("-idx", ".idx")) for suffix in (".gz", "")]
    try:
        return next((path for place in places for path in (place / other for other in names) if path.is_file()), None)
    except OSError as error:
        raise SnnrunError(f"cannot look for {stem} in {folder}: {error.strerror or error}") from None


def _missing(name: str, folder: Path, stems: list[str], tried: list[str]) -> str:
    corpus = IDX_CORPORA[name]
    ways = [f"download them from {corpus.mirrors[0]} and put them there"]
    ways += [corpus.hint] if corpus.hint else []
    ways += [f"give the folder that holds {name}/ by data.root=FOLDER or the environment variable SNNRUN_DATA"]
    lines = [
        f"data={name}: files are missing from {folder.absolute()}, and from torchvision's {corpus.torchvision}/raw "
        "beside it (as .gz or unpacked):",
        *(f"  {stem}.gz" for stem in stems),
        "Download:",
        *(f"  {reason}" for reason in tried),
        "What to do, one of:",
        *(f"  {way}" for way in ways),
    ]
    return "\n".join(lines)


def _read(name: str, path: Path, stem: str) -> NDArray[np.uint8]:
    """One IDX file: images (S, rows, columns) or labels (S,).

    The first bytes tell whether the content is compressed, since some programs unpack a file and keep its name.
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except EOFError:
        raise _damaged(path, "it is cut short") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, f"it cannot be unpacked ({error})") from None
    except OSError as error:
        raise SnnrunError(f"cannot read {path}: {error.strerror or error}; check its permissions") from None

    dimensions = _header(path, content, _IMAGES if "images" in stem else _LABELS)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != IDX_CORPORA[name].md5[stem]:
        owner = next(
            (f"{stem} of {other}" for other, c in IDX_CORPORA.items() for stem in c.md5 if c.md5[stem] == md5), ""
        )
        checksums = f"(md5 of the content {md5}, expected {IDX_CORPORA[name].md5[stem]})"
        raise _damaged(path, f"it is {owner} {checksums}") if owner else _another(name, path, checksums)
    # A bytearray, so that the arrays can be written to: PyTorch warns of those that cannot.
    return np.frombuffer(bytearray(content), np.uint8, offset=4 + 4 * len(dimensions)).reshape(dimensions)


def _header(path: Path, content: bytes, magic: int) -> tuple[int, ...]:
    """The dimensions that the header announces, once they are known to fit the content."""
    order = 3 if magic == _IMAGES else 1
    size = 4 + 4 * order
    if len(content) < size:
        raise _damaged(path, f"it is cut short ({len(content)} bytes)")
    found, *dimensions = struct.unpack(f">{1 + order}I", content[:size])
    if found != magic:
        raise _damaged(
            path, f"it is no IDX file of this kind (it begins with {content[:4]!r}, expected number {magic})"
        )
    expected = size + math.prod(dimensions)
    if len(content) != expected:
        raise _damaged(path, f"its header announces {expected} bytes, it has {len(content)}")
    return tuple(dimensions)


def _another(name: str, path: Path, checksums: str) -> SnnrunError:
    title = IDX_CORPORA[name].title
    return SnnrunError(
        f"{path} is a whole IDX file, but not that of {title} {checksums}, and data={name} reads {title} alone. If it "
        f"is meant to be {title}, replace it: what is missing is downloaded. Another corpus, such as KMNIST, EMNIST or "
        "your own: keep it elsewhere, write its pictures as PNG files to <class>/<name>.png, or train/<class>/ and "
        "test/<class>/, and train with data=image_folder data.root=FOLDER"
    )


def _damaged(path: Path, what: str) -> SnnrunError:
    return SnnrunError(
        f"{path} is damaged or foreign: {what}. Delete or replace it; what is missing is downloaded anew"
    )
