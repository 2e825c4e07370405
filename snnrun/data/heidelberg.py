"""The Heidelberg data sets: spoken digits (SHD) and Speech Commands (SSC) as the spikes of a model of the inner ear.

An HDF5 file for each part: `spikes/times` (s, ragged, float16) and `spikes/units` (0 to 699, ragged, uint16) have an
array for each recording, `labels` its class, `extra/keys` the names of the classes and `extra/speaker` who speaks.

Source: Cramer, Stradmann, Schemmel, Zenke, The Heidelberg Spiking Data Sets for the Systematic Evaluation of Spiking
Neural Networks, IEEE Transactions on Neural Networks and Learning Systems 2020.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.packed_arrays import words
from snnrun.data import fetch, folders, hdf5
from snnrun.data.binning import binned
from snnrun.data.corpus import Corpus, MissingError, UnfitError, Unread
from snnrun.data.known import known
from snnrun.data.spikes_file import Encoded
from snnrun.declared import Range
from snnrun.errors import SnnrunError, UsageError

UNITS = 700
_CHUNK = 1 << 20  # bytes unpacked at a time
_EVENTS = ("spikes/times", "spikes/units")
SOURCE = "https://zenkelab.org/resources/spiking-heidelberg-datasets-shd"
MIRRORS = ("https://zenkelab.org/datasets/", "https://compneuro.net/datasets/")


class Published(NamedTuple):
    """What is published of a part: the MD5 of its archive NAME_PART.h5.zip, and its number of recordings."""

    md5: str
    samples: int


SHD = {
    "train": Published("f3252aeb598ac776c1b526422d90eecb", 8_156),
    "test": Published("1503a5064faa34311c398fb0a1ed0a6f", 2_264),
}
SSC = {
    "train": Published("d102be95e7144fcc0553d1f45ba94170", 75_466),
    "valid": Published("b4eee3516a4a90dd0c71a6ac23a8ae43", 9_981),
    "test": Published("a35ff1e9cffdd02a20eb850c17c37748", 20_382),
}
STEPS = {"shd": 350, "ssc": 250}  # the defaults of the corpora


@dataclass(frozen=True)
class Binning:
    """How events become spikes; see `shd` for the attributes."""

    bin_ms: float
    bin_channels: int
    steps: int

    @property
    def channels(self) -> int:
        """N, the number of input channels."""
        return -(-UNITS // self.bin_channels)

    def encoded(self, times: NDArray[Any], units: NDArray[Any]) -> Encoded:
        """Spikes (T, W) of the events of a recording.

        Args:
            times: In s, shape (E,).
            units: From 0 to 699, shape (E,).

        Raises:
            ValueError: If they cannot be used; its text is the reason.
        """
        if len(times) != len(units):
            raise ValueError(f"it has {len(times):,} times and {len(units):,} units")
        times = times.astype(np.float64)
        if not np.isfinite(times).all():
            raise ValueError("some times are NaN or infinite")
        if (times < 0).any():
            raise ValueError("some times are below 0")
        if len(units) and not 0 <= int(units.min()) <= int(units.max()) < UNITS:
            raise ValueError(f"some units are outside 0 to {UNITS - 1}")
        step = np.floor(times * 1e3 / self.bin_ms).astype(np.int64)
        return binned(step, units.astype(np.int64) // self.bin_channels, self.steps, self.channels)


class _Part:
    """The file of a part.

    Attributes:
        path: Of the file.
        labels: int64, shape (S,).
        classes: Names of all classes.
        speakers: Of each recording, shape (S,); None if the file does not say.
    """

    def __init__(self, path: Path, corpus: str) -> None:
        self.path, self._corpus = path, corpus
        with hdf5.opened(path, corpus, SOURCE) as file:
            times, units, labels, keys = (self._entry(file, name) for name in (*_EVENTS, "labels", "extra/keys"))
            try:
                self.labels: NDArray[np.int64] = np.asarray(labels[()]).astype(np.int64)
                self.classes = tuple(key.decode() if isinstance(key, bytes) else str(key) for key in keys[()].tolist())
                said = np.asarray(file["extra/speaker"][()]).astype(np.int64) if "extra/speaker" in file else None
            except (OSError, RuntimeError, TypeError, ValueError) as error:
                raise SnnrunError(f"{path}: it is damaged ({error}); get it anew ({SOURCE})") from None
            sizes = len(times), len(units), len(self.labels)
        self.speakers = said if said is not None and len(said) == len(self.labels) else None
        if len(set(sizes)) > 1 or not np.isin(self.labels, np.arange(len(self.classes))).all():
            raise SnnrunError(
                f"{path}: its {sizes[0]:,} times, {sizes[1]:,} units, {sizes[2]:,} labels and {len(self.classes)} "
                f"classes do not fit together; get it anew ({SOURCE})"
            )

    def _entry(self, file: Any, name: str) -> Any:
        if name not in file:
            raise SnnrunError(
                f"{self.path}: it has no dataset {name}, so it is none of {self._corpus.upper()}; replace it by the "
                f"published one ({SOURCE})"
            )
        return file[name]

    @cached_property
    def _events(self) -> tuple[Any, Any]:
        """Times and units, of a file that stays open: to open it takes longer than to read a recording."""
        file = hdf5.opened(self.path, self._corpus, SOURCE)
        return file[_EVENTS[0]], file[_EVENTS[1]]

    @property
    def stamp(self) -> str:
        """What tells a change of the file."""
        facts = self.path.stat()
        return f"{self.path.name} {facts.st_size} {facts.st_mtime_ns}"

    def read(self, row: int, binning: Binning) -> Encoded:
        """One recording; raises UnfitError if it cannot be used."""
        try:
            times, units = self._events
            return binning.encoded(np.asarray(times[row]), np.asarray(units[row]))
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise UnfitError(f"{self.path}:{row}: {error}; get the file anew ({SOURCE})") from None


# ---- the corpora ----------------------------------------------------------------------------------------------------


@known(
    "twenty digits spoken in English and German, as the spikes of a model of the inner ear",
    f"CC BY 4.0, downloaded when it is first used; terms: {SOURCE}",
    "shd",
    (8_156, 2_264),
)
def shd(
    root: Path,
    download: bool,
    *,
    bin_ms: Annotated[float, Range(at_least=0.001)] = 4.0,
    bin_channels: Annotated[int, Range(at_least=1, at_most=700)] = 1,
    steps: Annotated[int, Range(at_least=1)] = 350,
) -> Corpus:
    """SHD, binned; the recordings in the order of the files, with the published training and test parts.

    `shd_train.h5` and `shd_test.h5` are looked for in `root/shd` and `root`. A file that is there as .h5.gz or .h5.zip
    is unpacked beside it, once; what is missing is downloaded. An event at time t falls into step floor(t / bin);
    several of a channel in one step are one spike; what comes after the last step is left out. Notes count both once
    the files are read.

    Args:
        bin_ms: Length of a step, in ms.
        bin_channels: So many neighbouring units of the 700 make a channel.
        steps: T; the longest recording has 1.4 s.

    Returns:
        Samples that are read when they are asked for, bits int64 (S, T, W).

    Raises:
        MissingError: If a part is missing and cannot be had.
        SnnrunError: If h5py is not installed, or a file is damaged or another one.
    """
    return _load("shd", SHD, root, download, Binning(bin_ms, bin_channels, steps))


@known(
    "35 words of Speech Commands as the spikes of a model of the inner ear",
    f"CC BY 4.0, downloaded when it is first used; terms: {SOURCE}",
    "ssc",
    (75_466, 20_382),
)
def ssc(
    root: Path,
    download: bool,
    *,
    bin_ms: Annotated[float, Range(at_least=0.001)] = 4.0,
    bin_channels: Annotated[int, Range(at_least=1, at_most=700)] = 1,
    steps: Annotated[int, Range(at_least=1)] = 250,
) -> Corpus:
    """SSC, binned; as `shd`, and its part `ssc_valid.h5` is the validation part."""
    return _load("ssc", SSC, root, download, Binning(bin_ms, bin_channels, steps))


def read(
    path: Path,
    number: int,
    *,
    name: str,
    bin_ms: float = 4.0,
    bin_channels: int = 1,
    steps: int | None = None,
    **_others: Any,
) -> Encoded:
    """One recording of a file by options of `shd` or `ssc`: its spikes (T, W) are those that it has in the corpus.

    Raises:
        UsageError: If the file has no recording of this number.
        SnnrunError: If the file or the recording cannot be used.
    """
    part = _Part(_unpacked(path), name)
    if number >= len(part.labels):
        raise UsageError(f"{path}:{number}: no such recording; they are numbered from 0 to {len(part.labels) - 1:,}")
    return part.read(number, Binning(bin_ms, bin_channels, steps or STEPS[name]))


def _load(name: str, published: Mapping[str, Published], root: Path, download: bool, binning: Binning) -> Corpus:
    parts = {part: _Part(path, name) for part, path in _paths(name, published, root, download).items()}
    classes = parts["train"].classes
    notes = []
    for part, own in parts.items():
        if own.classes != classes:
            raise SnnrunError(
                f"{own.path}: its classes are not those of {parts['train'].path}; get both anew ({SOURCE})"
            )
        if len(own.labels) != published[part].samples:
            notes.append(f"{part}: {len(own.labels):,} of {published[part].samples:,} recordings are there")
        notes += folders.lacking(part, "classes", classes, (classes[label] for label in own.labels.tolist()))
    if "valid" in parts:
        notes.append(folders.validates(len(parts["valid"].labels)))
    notes += _strangers([own for part, own in parts.items() if part != "test"], parts["test"])
    rows = [(own, row) for own in parts.values() for row in range(len(own.labels))]
    size = len(rows) - len(parts["test"].labels)

    def read(k: int) -> Encoded:
        own, row = rows[k]
        return own.read(row, binning)

    listing = hashlib.sha256("\n".join(own.stamp for own in parts.values()).encode()).hexdigest()
    key = {"corpus": name, "version": 1, "listing": listing}
    key |= {"bin_ms": binning.bin_ms, "bin_channels": binning.bin_channels}
    train, test = (
        Unread(read, span, binning.steps, words(binning.channels), key)
        for span in (np.arange(size), np.arange(size, len(rows)))
    )
    labels = np.concatenate([own.labels for own in parts.values()])
    return Corpus(
        kind="spikes",
        shape=(binning.channels,),
        classes=classes,
        train_samples=train,
        train_labels=labels[:size],
        test_samples=test,
        test_labels=labels[size:],
        origin=folders.origin(*{own.path.parent for own in parts.values()}),
        notes=tuple(notes),
        names=tuple(f"{own.path}:{row}" for own, row in rows),
        validation=np.arange(len(parts["train"].labels), size) if "valid" in parts else None,
    )


def _strangers(trained: Sequence[_Part], test: _Part) -> list[str]:
    """The note on speakers of the test part that nothing is trained or validated on."""
    if test.speakers is None or any(part.speakers is None for part in trained):
        return []
    known = {speaker for part in trained if part.speakers is not None for speaker in part.speakers.tolist()}
    new = sorted(set(test.speakers.tolist()) - known)
    if not new:
        return []
    count, every = int(np.isin(test.speakers, new).sum()), len(set(test.speakers.tolist()))
    who = folders.some(map(str, new))
    return [
        f"test: {len(new):,} of its {every:,} speakers are in no other part ({who}): {count:,} of {len(test.labels):,} "
        "recordings"
    ]


# ---- the files ------------------------------------------------------------------------------------------------------


def _paths(name: str, published: Mapping[str, Published], root: Path, download: bool) -> dict[str, Path]:
    """The HDF5 file of each part, unpacked and downloaded if it must be; the one to test on last."""
    found = {part: _find(root, name, part) for part in published}
    missing = [part for part, path in found.items() if path is None]
    tried = ["not tried: data.download=false"] if missing and not download else []
    for part in missing if download else []:
        archive = root / name / f"{name}_{part}.h5.zip"
        try:
            fetch.download(archive, MIRRORS, published[part].md5, inflate=False)
        except fetch.UnreachableError as error:
            tried += error.reasons
    if tried:
        still = [part for part in missing if _find(root, name, part) is None]
        raise MissingError(_missing(name, published, root, still, tried))
    paths = {}
    for part in published:
        path = _find(root, name, part)
        assert path is not None
        paths[part] = _unpacked(path)
    return paths


def _find(root: Path, name: str, part: str) -> Path | None:
    """The file of a part, or its archive."""
    places = [*folders.folders_named(root, name), root]
    stem = f"{name}_{part}.h5"
    try:
        return next(
            (path for place in places for end in ("", ".gz", ".zip") if (path := place / f"{stem}{end}").is_file()),
            None,
        )
    except OSError as error:
        raise SnnrunError(f"cannot look for {root / name / stem}: {error.strerror or error}") from None


def _unpacked(path: Path) -> Path:
    """The HDF5 file of a path; an archive is unpacked beside itself, under its name only once it is whole.

    Raises:
        SnnrunError: If the archive is damaged, or there is no room.
    """
    if path.suffix not in (".gz", ".zip"):
        return path
    target = path.with_suffix("")
    if target.is_file():
        return target
    print(f"unpacking {path} into {target}", file=sys.stderr)
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as source, fetch.replacing(target) as file:
                shutil.copyfileobj(source, file, _CHUNK)
            return target
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(target.name) as source,
            fetch.replacing(target) as file,
        ):
            shutil.copyfileobj(source, file, _CHUNK)
        return target
    except EOFError:
        what = "it is cut short"
    except KeyError:
        what = f"it has no {target.name}"
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        what = f"it cannot be unpacked ({error})"
    except OSError as error:
        raise SnnrunError(f"cannot read {path}: {error.strerror or error}; check its permissions") from None
    raise SnnrunError(f"{path} is damaged or foreign: {what}. Delete it; what is missing is downloaded anew")


def _missing(
    name: str, published: Mapping[str, Published], root: Path, parts: Sequence[str], tried: Sequence[str]
) -> str:
    home = root / name
    return "\n".join(
        [
            f"data={name}: files are missing from {home.absolute()} (as .h5, .h5.gz or .h5.zip):",
            *(f"  {name}_{part}.h5.zip (md5 {published[part].md5})" for part in parts),
            "Download:",
            *(f"  {reason}" for reason in tried),
            "What to do, one of:",
            f"  get them from {MIRRORS[0]} and put them there",
            f"  give the folder that holds {name}/ by data.root=FOLDER or the environment variable SNNRUN_DATA",
        ]
    )
