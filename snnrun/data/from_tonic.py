"""Event corpora as tonic reads and downloads them: DVS Gesture, CIFAR10-DVS, N-Caltech101, DVS-Lip and others.

The class of tonic finds the files and gives events and label; the bins and the store are ours.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.packed_arrays import words
from snnrun.data import folders, library
from snnrun.data.binning import binned
from snnrun.data.corpus import Corpus, UnfitError, Unread
from snnrun.data.known import ANY, known
from snnrun.data.spikes_file import Encoded
from snnrun.declared import Range
from snnrun.errors import SnnrunError, UsageError

# Those that give events and one class; tonic has others, of poses, depth and frames.
NAMES = (
    *("ASLDVS", "CIFAR10DVS", "DVSGesture", "DVSLip", "NCALTECH101", "NMNIST", "NTIDIGITS18", "POKERDVS", "SHD"),
    *("SMNIST", "SSC"),
)
FILES = ("ASLDVS", "CIFAR10DVS", "DVSGesture", "DVSLip", "NCALTECH101", "NMNIST")  # that have a file a sample
PLACE = "tonic"  # the folder below the data root


@dataclass(frozen=True)
class Binning:
    """How events become spikes; see `tonic` for the attributes. `sensor`: columns, rows and polarities."""

    bin_ms: float
    steps: int
    sensor: tuple[int, int, int]
    rows: int
    columns: int
    polarity: str
    start: str

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, rows and columns."""
        return (self.sensor[2] if self.polarity == "kept" else 1), self.rows, self.columns

    def encoded(self, events: Any) -> Encoded:
        """Spikes (T, W) of events, an array with the fields t (us), x and p, and y where the sensor has rows.

        Raises:
            ValueError: If they cannot be used; its text is the reason.
        """
        wide, high, polarities = self.sensor
        time, x = events["t"].astype(np.float64), events["x"].astype(np.int64)
        y = events["y"].astype(np.int64) if "y" in (events.dtype.names or ()) else np.zeros_like(x)
        if not np.isfinite(time).all():
            raise ValueError("some times are NaN or infinite")
        if self.start == "first" and len(time):
            time = time - time.min()
        if (time < 0).any():
            raise ValueError("some times are below 0; data.start=first counts from the first event")
        outside = (x < 0) | (x >= wide) | (y < 0) | (y >= high)
        if outside.any():
            k = int(np.argmax(outside))
            raise ValueError(
                f"event {k:,} lies at column {x[k]}, row {y[k]}, outside the {wide} columns and {high} rows of the "
                f"sensor; data.sensor=[{max(wide, int(x.max()) + 1)},{max(high, int(y.max()) + 1)}] makes it larger"
            )
        channel = y * self.rows // high * self.columns + x * self.columns // wide
        if self.polarity == "kept" and polarities > 1:
            channel += (events["p"].astype(np.int64) > 0) * self.rows * self.columns
        step = np.floor(time / (1e3 * self.bin_ms)).astype(np.int64)
        return binned(step, channel, self.steps, math.prod(self.image))


@known(
    "any event corpus of tonic, which data.dataset names: DVSGesture, CIFAR10DVS, NCALTECH101, DVSLip ...",
    "downloaded by tonic when it is first used, under the terms of each corpus",
    ANY,
)
def tonic(
    root: Path,
    download: bool,
    *,
    dataset: str | None = None,
    options: Any = None,
    bin_ms: Annotated[float, Range(at_least=0.001)] = 5.0,
    steps: Annotated[int, Range(at_least=1)] = 300,
    rows: Annotated[int | None, Range(at_least=1, at_most=4096)] = None,
    columns: Annotated[int | None, Range(at_least=1, at_most=4096)] = None,
    polarity: Literal["kept", "merged"] = "kept",
    start: Literal["recorded", "first"] = "recorded",
    sensor: Sequence[int] | None = None,
    test_fraction: Annotated[float, Range(above=0, below=1)] = 0.2,
    split_seed: Annotated[int, Range(at_least=0)] = 0,
) -> Corpus:
    """A corpus of tonic, binned, with its parts; its files lie in `root/tonic`, and their names give the order.

    An event at time t falls into step floor(t / bin); several of a channel in one step are one spike; what comes after
    the last step is left out. Notes count both once the files are read.

    Args:
        dataset: Name of its class in `tonic.datasets`.
        options: Arguments of that class besides the part; a mapping.
        bin_ms: Length of a step, in ms.
        steps: T.
        rows, columns: That those of the sensor are brought to, each new one being a band of old ones; None: the
            sensor's own.
        polarity: "kept" gives darker and brighter a channel each, in this order; "merged" makes them one.
        start: What t counts from: "recorded" leaves it as it is, "first" is the sample's first event.
        sensor: Columns and rows of the sensor, where tonic does not know them or has them too small; None: tonic's.
        test_fraction: Share of the samples to test on where the corpus has no such part, the same in every class.
        split_seed: Seeds the draw; the run's seed does not move it.

    Returns:
        Samples that are read when they are asked for, bits int64 (S, T, W).

    Raises:
        MissingError: If files are missing or damaged, and cannot be had.
        SnnrunError: If tonic is not installed.
        UsageError: If there is no such corpus or option, or the size of its sensor is not known.
    """
    name = library.choose("tonic", dataset, NAMES)
    place, given = str(root / PLACE), dict(options or {})
    cls = _class(name, download)
    objects = library.parts(cls, given, partial(library.made, "tonic", cls, place, download, save_to=place))
    first = next(iter(objects.values()))
    binning = Binning(bin_ms, steps, *_size(name, first, sensor, rows, columns), polarity, start)
    corpus = _corpus(objects, _key(name, first, given, binning), binning, name, test_fraction, split_seed)
    return replace(corpus, origin=folders.origin(root / PLACE, Path(first.location_on_system)))


def _corpus(
    objects: Mapping[str, Any], key: dict[str, Any], binning: Binning, name: str, fraction: float, split_seed: int
) -> Corpus:
    """The corpus of the objects of tonic, one for each part."""
    samples = {part: _listed(name, own) for part, own in objects.items()}
    classes, labels, notes = library.numbered(
        {part: [label for _, label in own] for part, own in samples.items()},
        getattr(next(iter(objects.values())), "classes", None),
    )
    entries = [
        (objects[part], k, _named(objects[part], k, name, part)) for part, own in samples.items() for k, _ in own
    ]
    every = np.concatenate([labels[part] for part in samples])
    train, test, validation = _divided(samples, every, fraction, split_seed)
    if validation is not None:
        notes.append(folders.validates(len(validation)))
    if library.WHOLE in samples:
        notes.append(library.drawn(fraction))
        key |= {"test_fraction": fraction, "split_seed": split_seed}

    def read(k: int) -> Encoded:
        own, row, label = entries[k]
        return _read(label, own, row, binning)

    width, grid = words(math.prod(binning.image)), binning.sensor[1] > 1
    return Corpus(
        kind="spikes",
        shape=binning.image if grid else (math.prod(binning.image),),
        classes=classes,
        train_samples=Unread(read, train, binning.steps, width, key),
        train_labels=every[train],
        test_samples=Unread(read, test, binning.steps, width, key),
        test_labels=every[test],
        notes=tuple(notes),
        image=binning.image if grid else None,
        names=tuple(entries[k][2] for k in (*train.tolist(), *test.tolist())),
        validation=validation,
    )


def read(
    path: Path,
    *,
    dataset: str,
    bin_ms: float = 5.0,
    steps: int = 300,
    rows: int | None = None,
    columns: int | None = None,
    polarity: str = "kept",
    start: str = "recorded",
    sensor: Sequence[int] | None = None,
    options: Any = None,
    **_others: Any,
) -> Encoded:
    """One file of events by options of `tonic`: its spikes (T, W) are those that it has as a sample of the corpus.

    Raises:
        UsageError: If samples of the corpus have no file each.
        UnfitError: If tonic cannot read it.
    """
    if dataset not in FILES:
        raise UsageError(f"{path}: samples of tonic's {dataset} have no file each. Give one of the corpus, as test:17.")
    cls = _class(dataset, False)
    own = cls.__new__(cls)  # without its files: of all that it holds, the reading of one takes these alone
    defaults = {name: entry.default for name, entry in library.parameters(cls).items() if name not in ("self",)}
    vars(own).update({**defaults, **dict(options or {}), "data": [str(path)], "targets": [0]})
    vars(own).update(dict.fromkeys(("transform", "target_transform", "transforms")))
    size = _size(dataset, own, sensor, rows, columns)
    return _read(str(path), own, 0, Binning(bin_ms, steps, *size, polarity, start))


def _class(name: str, download: bool) -> Any:
    """The class of tonic; without leave to download, one that refuses to."""
    try:
        import tonic.datasets
    except ImportError:
        raise SnnrunError("data=tonic: tonic is not installed. Install it: pip install 'snnrun[tonic]'") from None
    cls = getattr(tonic.datasets, name)

    def refuse(_self: Any) -> None:
        raise FileNotFoundError("not tried: data.download=false")

    # The name stays: it is that of the folder.
    return cls if download else type(name, (cls,), {"download": refuse})


def _size(
    name: str, dataset: Any, sensor: Sequence[int] | None, rows: int | None, columns: int | None
) -> tuple[tuple[int, int, int], int, int]:
    """The sensor, and the rows and columns that it is brought to."""
    known = dataset.sensor_size
    if sensor is not None and (len(sensor) != 2 or min(sensor) < 1):
        raise UsageError(f"data.sensor={list(sensor)}: the number of columns and of rows of the sensor are needed")
    if known is None and sensor is None:
        raise UsageError(
            f"data.sensor: recordings of {name} differ in size. Give columns and rows that hold all, as "
            "data.sensor=[240,180]"
        )
    wide, high, polarities = known or (0, 0, 2)
    wide, high = sensor or (wide, high)
    if (rows or 1) > high or (columns or 1) > wide:
        raise UsageError(f"data.rows, data.columns: at most the {high} rows and {wide} columns of the sensor of {name}")
    return (wide, high, polarities), rows or high, columns or wide


def _listed(name: str, dataset: Any) -> list[tuple[int, int | str]]:
    """Number and label of each sample; where samples have a file each, in the order of the files' names."""
    targets = getattr(dataset, "targets", None) or getattr(dataset, "label_data", None)
    try:
        if targets is None or len(targets) != len(dataset):
            targets = [dataset[k][1] for k in range(len(dataset))]
        labels = [library.label(target) for target in targets]
    except TypeError as error:
        raise UsageError(f"data.dataset={name}: {error}") from None
    order = sorted(range(len(labels)), key=lambda k: _path(dataset, k) or "")  # which leaves others as they are
    return [(k, labels[k]) for k in order]


def _path(dataset: Any, k: int) -> str | None:
    """The file of a sample, if it has one."""
    own = dataset.data[k] if isinstance(dataset.data, list) and dataset.data else None
    return own if isinstance(own, str) else None


def _named(dataset: Any, k: int, name: str, part: str) -> str:
    """What messages call a sample."""
    return _path(dataset, k) or f"{name}, {part} {k}"


def _divided(
    samples: Mapping[str, Sequence[Any]], labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]:
    """Which samples, part after part, to train and to test on, and which of the former to validate on."""
    if library.WHOLE in samples:
        test = library.tested(labels, fraction, seed)
        return np.setdiff1d(np.arange(len(labels)), test), test, None
    of = np.repeat(list(samples), [len(own) for own in samples.values()])
    train, test = np.flatnonzero(of != "test"), np.flatnonzero(of == "test")
    validation = np.flatnonzero(of[train] == "validation")
    return train, test, validation if "validation" in samples else None


def _key(name: str, dataset: Any, options: Mapping[str, Any], binning: Binning) -> dict[str, Any]:
    """All that the samples depend on; names, sizes and times stand for the files' contents."""
    import tonic

    home = Path(dataset.location_on_system)
    stamps = [
        f"{path.relative_to(home)} {facts.st_size} {facts.st_mtime_ns}"
        for path in sorted(home.rglob("*"))
        if path.is_file()
        for facts in [path.stat()]
    ]
    listing = hashlib.sha256("\n".join(stamps).encode(errors="surrogateescape")).hexdigest()
    form = {field: value for field, value in vars(binning).items() if field != "steps"}
    given = json.dumps(options, sort_keys=True, default=str)
    own = {"corpus": "tonic", "version": 1, "tonic": tonic.__version__, "dataset": name, "options": given}
    return {**own, "listing": listing, **form}


def _read(name: str, dataset: Any, row: int, binning: Binning) -> Encoded:
    try:
        return binning.encoded(dataset[row][0])
    except ValueError as error:
        raise UnfitError(f"{name}: {error}") from None
    except Exception as error:  # whatever a library raises for a file that is damaged
        raise UnfitError(f"{name}: tonic cannot read it ({type(error).__name__}: {error}); get it anew") from None
