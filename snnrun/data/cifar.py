"""CIFAR-10 (Krizhevsky 2009) in its binary version: 60,000 colour pictures of 32 x 32 pixels.

Six files of 10,000 records; a record is a byte with the label, then 1,024 bytes each of red, green and blue, row by
row. They are read from their folder, or from the archive as it is downloaded.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snnrun.data import fetch, folders
from snnrun.data.corpus import Corpus, MissingError
from snnrun.data.known import known
from snnrun.errors import SnnrunError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE = (3, 32, 32)
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"  # of the files in the archive
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # of the archive
MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
RECORDS = 10_000  # of a file
_RECORD = 3073  # bytes


@known(
    "colour pictures of 32 x 32 pixels in ten classes",
    "free, downloaded when it is first used",
    "cifar10",
    (50_000, 10_000),
)
def cifar10(root: Path, download: bool) -> Corpus:
    """The pictures, the five training files first to last.

    The files are looked for in `root/cifar10`, `root/cifar10/cifar-10-batches-bin` and `root/cifar-10-batches-bin`,
    then the archive in `root/cifar10` and `root`; else it is downloaded.

    Raises:
        MissingError: If files are missing and cannot be had.
        SnnrunError: If the archive is damaged or another one.
    """
    home = root / "cifar10"
    contents = _folder(root) or _archive(root, home, download)
    images, faults = [], []
    for path, content in contents.items():
        try:
            images.append(_records(content))
        except ValueError as error:
            faults.append(f"{path} is damaged or foreign: {error}. Delete it; get {ARCHIVE} anew from {MIRRORS[0]}")
            images.append(np.zeros((0, _RECORD), np.uint8))
    *train, test = images
    both = np.concatenate(train), test
    (train_samples, train_labels), (test_samples, test_labels) = (
        (np.ascontiguousarray(part[:, 1:]), part[:, 0].astype(np.int64)) for part in both
    )
    return Corpus(
        kind="image",
        shape=IMAGE,
        classes=CLASSES,
        train_samples=train_samples,
        train_labels=train_labels,
        test_samples=test_samples,
        test_labels=test_labels,
        faults=tuple(faults),
        image=IMAGE,
    )


def _folder(root: Path) -> dict[str, bytes]:
    """The contents of the six files by their paths, from the first folder that has one; empty if none has."""
    for folder in (root / "cifar10", root / "cifar10" / FOLDER, root / FOLDER):
        there = {path.name for path in folders.entries(folder)} & set(FILES)
        if not there:
            continue
        missing = [name for name in FILES if name not in there]
        if missing:
            raise MissingError(_missing(root, [f"{folder} lacks {', '.join(missing)}"]))
        return {str(folder / name): _read(folder / name) for name in FILES}
    return {}


def _archive(root: Path, home: Path, download: bool) -> dict[str, bytes]:
    """The contents of the six files in the archive, which is downloaded if it is not there."""
    path = next((place / ARCHIVE for place in (home, root) if _is_file(place / ARCHIVE)), None)
    if path is None:
        path = home / ARCHIVE
        if not download:
            raise MissingError(_missing(root, ["not tried: data.download=false"]))
        try:
            fetch.download(path, MIRRORS, MD5, inflate=False)
        except fetch.UnreachableError as error:
            raise MissingError(_missing(root, error.reasons)) from None
    content = _read(path)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != MD5:
        raise _damaged(path, f"it is not the published one (md5 {md5}, expected {MD5})")
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as archive:
            members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
            missing = [name for name in FILES if name not in members]
            if missing:
                raise _damaged(path, f"it lacks {', '.join(missing)}")
            files = {name: archive.extractfile(members[name]) for name in FILES}
            return {f"{path}/{name}": file.read() for name, file in files.items() if file is not None}
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise _damaged(path, f"it cannot be unpacked ({error})") from None


def _records(content: bytes) -> NDArray[np.uint8]:
    """The records of a file, (S, 3073); ValueError if they are not what they should be, its text being the reason."""
    wanted = RECORDS * _RECORD
    if len(content) != wanted:
        what = "it is cut short" if len(content) < wanted else "it is too long"
        raise ValueError(f"{what}: {len(content):,} bytes, where {RECORDS:,} pictures take {wanted:,}")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    largest = int(records[:, 0].max())
    if largest >= len(CLASSES):
        raise ValueError(f"it has a label of {largest}, where labels are 0 to {len(CLASSES) - 1}")
    return records


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise SnnrunError(f"cannot look for {path}: {error.strerror or error}; check its permissions") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SnnrunError(f"cannot read {path}: {error.strerror or error}; check its permissions") from None


def _damaged(path: Path, what: str) -> SnnrunError:
    return SnnrunError(
        f"{path} is damaged or foreign: {what}. Delete or replace it; what is missing is downloaded anew"
    )


def _missing(root: Path, tried: list[str]) -> str:
    home = root / "cifar10"
    pickles = [
        path
        for place in (home, root, home / "cifar-10-batches-py", root / "cifar-10-batches-py")
        for path in (place / "cifar-10-python.tar.gz", place / "data_batch_1")
        if _is_file(path)
    ]
    python = [f"{pickles[0]} is of the Python version, whose pickles run code: take the binary one."] if pickles else []
    return "\n".join(
        [
            f"data=cifar10: the binary version is not whole in {home.absolute()}.",
            *python,
            "Download:",
            *(f"  {reason}" for reason in tried),
            "What to do, one of:",
            f"  download {MIRRORS[0]}{ARCHIVE} (md5 {MD5}) and put it there, packed or unpacked",
            "  give the folder that holds cifar10/ by data.root=FOLDER or the environment variable SNNRUN_DATA",
        ]
    )
