"""Arrays of one's own: samples and labels in a file of NumPy, HDF5 or MATLAB."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from snnrun.data import array_files, array_labels, array_samples, folders
from snnrun.data.array_files import Rows
from snnrun.data.array_samples import Facts, Form
from snnrun.data.corpus import Converted, Corpus, Samples, stratified
from snnrun.data.known import ANY, known
from snnrun.declared import Range
from snnrun.errors import SnnrunError, UsageError

PARTS = ("", "_validation", "_test")
_NAMES = tuple(f"{axis}{part}" for part in PARTS for axis in "xy")
_SAME = {
    **{f"{axis}_train": axis for axis in "xy"},
    **{f"{axis}_{word}": f"{axis}_validation" for axis in "xy" for word in ("val", "valid")},
}
_IN_MEMORY = 1 << 28  # bytes of samples that are made at once; of more, each batch is
_NAMED = 100_000  # samples that get a name for messages


@known("arrays of your own: images, vectors, series or spike trains in .npz, .npy, .h5 or .mat", "yours", ANY)
def arrays(
    root: Path,
    _download: bool,
    *,
    kind: Literal["auto", "image", "vector", "series", "spikes"] = "auto",
    range: Sequence[float] | None = None,
    time: Literal["first", "last"] = "first",
    test_fraction: Annotated[float, Range(above=0, below=1)] = 0.2,
    split_seed: Annotated[int, Range(at_least=0)] = 0,
) -> Corpus:
    """Samples and labels from the arrays `x` and `y` of a file, and from `x_test`, `x_validation`, `classes`.

    Args:
        root: The file, or a folder of .npy files.
        kind: What a row of x is; "auto" tells it from shape, type and values.
        range: The values that become 0 and 1; None: 0 and 255 of 8-bit images, else the smallest and the largest of
            the samples that are not tested on: of an image's pixels together, of each feature or channel by itself.
        time: Which axis of a row is time, of series and spike trains.
        test_fraction: Share of the samples to test on where there is no x_test, the same in every class.
        split_seed: Seeds that choice; the run's seed does not move it.

    Raises:
        MissingError: If there is no such file.
        SnnrunError: If the file is damaged or its arrays cannot be used; the first sample is named.
        UsageError: If an option does not fit the arrays.
    """
    found, notes = open_arrays(root)
    place = root.name
    whole, starts, ragged = joined(place, {name: found[name] for name in found if name[0] == "x"}, time)
    classes = np.asarray(found["classes"][:]) if "classes" in found else None
    labels = array_labels.read(place, {name: np.asarray(found[name][:]) for name in found if name[0] == "y"}, classes)
    _check_lengths(place, starts, labels.labels)
    train, held, test = _parts(starts, labels, test_fraction, split_seed, notes)

    def name_of(k: int) -> str:
        name = max((name for name in starts if starts[name][0] <= k), key=lambda name: starts[name][0])
        return f"{place}: {name}: sample {k - starts[name][0]:,}"

    measured = np.ones(whole.shape[0], bool)
    measured[test] = False
    facts = array_samples.look(whole, measured, time)
    form, said = _form(whole, facts, kind, range, time, ragged, name_of)
    of = np.concatenate([labels.labels[name.replace("x", "y", 1)] for name in starts])
    order = np.concatenate([train, held, test])
    size = len(train) + len(held)
    samples = _samples(whole, order, form)
    return Corpus(
        kind=form.kind,
        shape=form.shape,
        classes=labels.classes,
        train_samples=_part(samples, slice(0, size)),
        train_labels=of[order[:size]],
        test_samples=_part(samples, slice(size, None)),
        test_labels=of[order[size:]],
        notes=(*said, *notes, *_lacking(labels, of, train, test), *_blank(samples, facts, form.kind)),
        contents="" if isinstance(samples, np.ndarray) else _contents(facts, form, order),
        image=form.image,
        names=tuple(name_of(k).partition(": ")[2] for k in order.tolist()) if len(order) <= _NAMED else (),
        validation=np.arange(len(train), size) if "x_validation" in starts else None,
        form={**form.as_dict(), "labels": list(labels.values)},
    )


# ---- the arrays of a file -------------------------------------------------------------------------------------------


def open_arrays(root: Path, labelled: bool = True) -> tuple[dict[str, Rows], list[str]]:
    """The arrays that are used, by their names x, y, x_test and so on, and notes on others.

    Args:
        root: The file, or the folder of .npy files.
        labelled: Whether samples must have labels.

    Raises:
        MissingError: If there is no such file.
        SnnrunError: If the file is damaged, has no x, or a name that seems mistyped.
    """
    members = array_files.members(root)
    own: dict[str, str] = {}
    others = []
    for name in members:
        canonical = called(name)
        if canonical not in (*_NAMES, "classes"):
            others.append(name)
        elif canonical in own:
            raise SnnrunError(f"{root}: {own[canonical]} and {name} are both {canonical}. Remove one")
        else:
            own[canonical] = name
    for name in others:
        lacking = [word for word in (*_NAMES, "classes") if word not in own]
        near = difflib.get_close_matches(name.lower(), lacking, n=1, cutoff=0.7)
        if near:
            raise SnnrunError(f"{root}: the name {name} is not known. Is it {near[0]}? Rename or remove it")
    if "x" not in own and (labelled or not own):
        there = folders.some(sorted(members)) if members else "nothing"
        raise SnnrunError(f"{root}: it has no x, the array of the samples ({there} is in it). Name it x, its labels y")
    for part in PARTS:
        x, y = f"x{part}", f"y{part}"
        if labelled and (x in own) != (y in own):
            there, lacks = (x, y) if x in own else (y, x)
            raise SnnrunError(f"{root}: it has {there} and no {lacks}. Add {lacks}, or remove {there}")
    notes = [f"not used: {folders.some(sorted(others))}"] if others else []
    found = {name: members[own[name]]() for name in (*_NAMES, "classes") if name in own}
    single = next((name for name, array in found.items() if not array.shape), None)
    if single is not None:
        raise SnnrunError(f"{root}: {single} is a single value; it is an array with an entry for each sample")
    return found, notes


def called(name: str) -> str:
    """The name that an array goes by here: x for X_train."""
    return _SAME.get(name.lower(), name.lower())


class Joined:
    """Several arrays as one, row after row."""

    def __init__(self, arrays: Sequence[Rows]) -> None:
        self._arrays = arrays
        self._starts = np.cumsum([0, *(array.shape[0] for array in arrays)])
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *arrays[0].shape[1:])
        self.dtype: np.dtype[Any] = np.result_type(*(array.dtype for array in arrays))

    def __getitem__(self, positions: Any) -> NDArray[Any]:
        """The rows at these positions, in their order."""
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(self.shape[0]))
        rows = np.empty((len(positions), *self.shape[1:]), self.dtype)
        of = np.searchsorted(self._starts, positions, side="right") - 1
        for number, array in enumerate(self._arrays):
            mine = of == number
            if mine.any():
                own = positions[mine] - self._starts[number]
                straight = len(own) == own[-1] - own[0] + 1 and (np.diff(own) == 1).all()
                rows[mine] = array[int(own[0]) : int(own[-1]) + 1] if straight else array[own]
        return rows


def joined(place: str, arrays: Mapping[str, Rows], time: str) -> tuple[Rows, dict[str, tuple[int, int]], bool]:
    """All samples as one array, where each array begins and ends in it, and whether rows differ in length.

    Raises:
        SnnrunError: If an array is none of samples, or they do not fit each other.
    """
    ragged = any(array.dtype == object for array in arrays.values())
    if ragged:
        arrays = _filled(place, {name: np.asarray(array[:]) for name, array in arrays.items()}, time)
    starts, begin = {}, 0
    first = next(iter(arrays))
    for name, array in arrays.items():
        _check(f"{place}: {name}", array)
        if array.shape[1:] != arrays[first].shape[1:]:
            raise SnnrunError(
                f"{place}: samples of {name} have the shape {array.shape[1:]}, those of {first} "
                f"{arrays[first].shape[1:]}. Bring them to one shape; series of different lengths are saved as an "
                "array of objects"
            )
        starts[name] = begin, begin + array.shape[0]
        begin += array.shape[0]
    return Joined(list(arrays.values())), starts, ragged


def _check(what: str, array: Rows) -> None:
    if array.dtype.kind not in "biuf":
        remedy = ". Save its real part, its magnitude or both as channels" if array.dtype.kind == "c" else ""
        raise SnnrunError(f"{what} has the type {array.dtype}; samples are numbers{remedy}")
    if not 2 <= len(array.shape) <= 4:
        raise SnnrunError(
            f"{what} has {len(array.shape)} dimensions, {array.shape}. Wanted are (samples, features), (samples, "
            "steps, channels), (samples, rows, columns) or images with channels behind"
        )
    if 0 in array.shape:
        raise SnnrunError(f"{what} is empty: its shape is {array.shape}")


def _filled(place: str, arrays: Mapping[str, NDArray[Any]], time: str) -> dict[str, Rows]:
    """Arrays of rows of different lengths as arrays of numbers, with NaN after the end of the shorter ones."""
    rows = {name: [_row(f"{place}: {name}", k, row) for k, row in enumerate(array)] for name, array in arrays.items()}
    if time == "last":
        rows = {name: [row.T for row in own] for name, own in rows.items()}
    rows = {name: [row[:, None] if row.ndim == 1 else row for row in own] for name, own in rows.items()}
    every = [row for own in rows.values() for row in own]
    if not every:
        raise SnnrunError(f"{place}: x is empty")
    channels, longest = every[0].shape[1], max(map(len, every))
    array_files.check_memory(Path(place), "x", 8 * len(every) * longest * channels, "series are brought to one length")
    full: dict[str, Rows] = {}
    for name, own in rows.items():
        wrong = next((k for k, row in enumerate(own) if row.shape[1] != channels), None)
        if wrong is not None:
            raise SnnrunError(
                f"{place}: {name}: sample {wrong} has {own[wrong].shape[1]} channels, the first one {channels}. Series "
                "may differ in their lengths alone, (steps, channels) each; data.time=last if time is their last axis"
            )
        array = np.full((len(own), longest, channels), np.nan)
        for k, row in enumerate(own):
            array[k, : len(row)] = row
        full[name] = array.transpose(0, 2, 1) if time == "last" else array
    return full


def _row(what: str, k: int, row: Any) -> NDArray[Any]:
    try:
        row = np.asarray(row)
    except ValueError:  # a list of lists of different lengths
        row = np.empty(0, object)
    if row.dtype.kind not in "biuf" or row.ndim not in (1, 2):
        raise SnnrunError(
            f"{what}: sample {k} is {row.dtype} {row.shape}; each is a series, an array of numbers (steps,) or (steps, "
            "channels). Pictures of different sizes belong into an image_folder"
        )
    if not row.size:
        raise SnnrunError(f"{what}: sample {k} is empty. Leave such samples out")
    found: NDArray[Any] = row
    return found


def _check_lengths(place: str, starts: Mapping[str, tuple[int, int]], labels: Mapping[str, NDArray[np.int64]]) -> None:
    for name, (begin, end) in starts.items():
        y = name.replace("x", "y", 1)
        if len(labels[y]) != end - begin:
            raise SnnrunError(
                f"{place}: {name} has {end - begin:,} samples and {y} {len(labels[y]):,} labels. Save one label for "
                "each sample"
            )


# ---- the corpus -----------------------------------------------------------------------------------------------------


def _parts(
    starts: Mapping[str, tuple[int, int]],
    labels: array_labels.Labelled,
    test_fraction: float,
    split_seed: int,
    notes: list[str],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train, to validate and to test on."""
    rows = {name: np.arange(*ends) for name, ends in starts.items()}
    held = rows.get("x_validation", np.zeros(0, np.int64))
    if "x_test" in rows:
        return rows["x"], held, rows["x_test"]
    size = round(test_fraction * len(rows["x"]))
    if not 0 < size < len(rows["x"]):
        raise UsageError(f"data.test_fraction={test_fraction}: leaves {size} of {len(rows['x'])} samples to test on")
    test = stratified(labels.labels["y"], size, np.random.Generator(np.random.PCG64(split_seed)))
    notes.append(
        f"test: no x_test, so {test_fraction:g} of every class, {size:,} samples (data.test_fraction, "
        f"data.split_seed={split_seed})"
    )
    return np.setdiff1d(rows["x"], test), held, test


def _form(
    whole: Rows,
    facts: Facts,
    kind: str,
    declared: Sequence[float] | None,
    time: str,
    ragged: bool,
    name_of: array_samples.NameOf,
) -> tuple[Form, list[str]]:
    """How rows become samples, and notes."""
    inner, notes = whole.shape[1:], []
    if kind == "auto":
        kind, why = array_samples.kind_of(whole, facts, ragged)
        notes.append(f"{_PLURAL[kind]}: x has {why}, {whole.dtype} (data.kind says otherwise)")
    array_samples.check_kind(kind, inner)
    array_samples.check_values(facts, kind, name_of)
    eight_bits = whole.dtype == np.uint8
    low, high, said = array_samples.range_of(kind, len(inner), facts, declared, eight_bits, name_of)
    form = Form(kind, inner, time, low, high)
    if kind in ("series", "spikes"):
        shorter = int((facts.lengths < form.steps).sum())
        if shorter:
            lengths = f"{facts.lengths.min():,} to {form.steps:,} steps"
            notes.append(f"{shorter:,} of {whole.shape[0]:,} samples are shorter than the longest: {lengths}")
        if form.steps < form.shape[0]:
            axis = "last" if time == "first" else "first"
            notes.append(
                f"{form.steps:,} steps of {form.shape[0]:,} channels: if it is the other way, data.time={axis}"
            )
    return form, [*notes, *said]


_PLURAL = {"image": "images", "vector": "vectors", "series": "time series", "spikes": "spike trains"}


def _samples(whole: Rows, order: NDArray[np.int64], form: Form) -> Samples:
    """All samples in this order: made at once if they are few, else when they are asked for."""
    first = form(np.asarray(whole[:1]))
    made = Converted(whole, order, form, first.shape[1:])
    return made[:] if first.nbytes * len(order) <= _IN_MEMORY else made


def _contents(facts: Facts, form: Form, order: NDArray[np.int64]) -> str:
    """SHA-256 of all that samples are made of that are not made yet."""
    sha = hashlib.sha256(f"{facts.contents} {form.as_dict()}".encode())
    sha.update(np.ascontiguousarray(order, "<i8").data)
    return sha.hexdigest()


def _part(samples: Samples, rows: slice) -> Samples:
    if isinstance(samples, Converted):
        return Converted(samples.array, samples.rows[rows], samples.form, samples.one)
    return samples[rows]


def _lacking(
    labels: array_labels.Labelled, of: NDArray[np.int64], train: NDArray[np.int64], test: NDArray[np.int64]
) -> list[str]:
    return [
        note
        for part, rows in (("train", train), ("test", test))
        for note in folders.lacking(part, "classes", labels.classes, (labels.classes[k] for k in of[rows]))
    ]


def _blank(samples: Samples, facts: Facts, kind: str) -> list[str]:
    """The notes of `blank` on samples that are not made yet."""
    if isinstance(samples, np.ndarray):
        return []
    empty = int((facts.high == 0).sum() if kind == "spikes" else (facts.low == facts.high).sum())
    what = "have no input spike" if kind == "spikes" else "have one value alone"
    return [f"{empty:,} of {len(facts.low):,} samples {what}"] if empty else []
