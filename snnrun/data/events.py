"""N-TIDIGITS18: spoken digits as the spikes of a silicon cochlea, in one HDF5 file.

For each part P, train and test, the file has a list of names `P_labels` and the groups `P_addresses` and
`P_timestamps`, which hold an array for each name: the channel (0 to 63) and the time in seconds of every spike. A name
such as man-ae-a-1 is gender, speaker, take and digits; here only the recordings of one digit count.

Source: Anumula, Neil, Delbruck, Liu, Feature Representations for Neuromorphic Audio Spike Streams, Frontiers in
Neuroscience 2018.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.data import folders, hdf5
from snnrun.data.binning import binned
from snnrun.data.corpus import Corpus, MissingError, unseen
from snnrun.data.known import known
from snnrun.declared import Range
from snnrun.errors import SnnrunError

CHANNELS = 64
MD5 = "360a2d11e5429555c9197381cf6b58e0"
SOURCE = "https://docs.google.com/document/d/1Uxe7GsKKXcy6SlDUX4hoJVAC0-UkH-8kr5UXp0Ndi1M"
PARTS = ("train", "test")
# The digits "zero" and "oh" are two classes, and their order is not standard.
CLASSES = {"zero_first": tuple("z123456789o"), "oh_first": tuple("o123456789z")}
_NAME = re.compile(r"([a-z]+)-([a-z0-9]+)-(?:([ab])-([zo1-9]+)|([zo1-9]+)([ab]))", re.IGNORECASE)


class Name(NamedTuple):
    """What the name of a recording says, in lower case."""

    gender: str
    speaker: str
    take: str
    digits: str


@dataclass(frozen=True)
class _Recording:
    """One recording of one digit in the file: its part, its name there, and what that says."""

    part: str
    label: str
    name: Name


@known(
    "single spoken digits as spikes of a silicon cochlea",
    f"by the Sensors Group, University and ETH Zurich; terms: {SOURCE}",
    "ntidigits/n-tidigits.hdf5",
    (2464, 2486),
)
def ntidigits(
    root: Path,
    _download: bool,
    *,
    split: Literal["official", "ab"] = "official",
    class_order: Literal["zero_first", "oh_first"] = "zero_first",
    bin_ms: Annotated[float, Range(above=0)] = 1.6,
    steps: Annotated[int, Range(at_least=1)] = 700,
) -> Corpus:
    """The single digits of N-TIDIGITS18, binned.

    The file is `root/ntidigits/n-tidigits.hdf5` or `root/n-tidigits.hdf5`. An event at time t falls into step
    floor(t / bin); several of a channel in one step are one spike; what comes after the last step is left out. Notes
    count both.

    Args:
        split: "official" is the file's own, which has no speaker in both parts. "ab" trains on the first take of every
            speaker and tests on the second, as the published ST-RSBP runs seem to. Their accuracies do not compare.
        class_order: "zero_first" is z, 1 to 9, o; "oh_first" is o, 1 to 9, z.
        bin_ms: Length of a step, in ms.
        steps: T.

    Returns:
        Packed spikes, int64 (S, T, 1), channel n being bit n; in the order of the file.

    Raises:
        MissingError: If the file is not there.
        SnnrunError: If h5py is not installed, or the file is damaged or another one.
    """
    path = find(root)
    if path is None:
        raise MissingError(_missing(root))
    with hdf5.opened(path, "ntidigits", f"md5 {MD5}") as file:
        recordings, notes, faults = _listed(path, file)
        tested = np.array([r.part == "test" if split == "official" else r.name.take == "b" for r in recordings], bool)
        spikes = np.zeros((len(recordings), steps, 1), np.int64)
        numbers = np.zeros((len(recordings), 3), np.int64)  # left out, merged, all
        for position, recording in enumerate(recordings):
            try:
                channels, times = _events(file, recording)
            except ValueError as error:
                faults.append(f"{path}: {recording.part} recording {recording.label}: {error}; get the file anew")
                continue
            step = np.minimum(times * 1e3 / bin_ms, steps).astype(np.int64)
            spikes[position], *numbers[position] = binned(step, channels, steps, CHANNELS)
        made = "origin" in file.attrs and file.attrs["origin"] == "surrogate"
    notes += unseen(steps, *numbers.T)
    order = CLASSES[class_order]
    labels = np.array([order.index(recording.name.digits) for recording in recordings], np.int64)
    notes += [
        note
        for part, there in (("train", labels[~tested]), ("test", labels[tested]))
        for note in folders.lacking(part, "classes", order, (order[label] for label in there))
    ]
    return Corpus(
        kind="spikes",
        shape=(CHANNELS,),
        classes=order,
        train_samples=spikes[~tested],
        train_labels=labels[~tested],
        test_samples=spikes[tested],
        test_labels=labels[tested],
        origin="surrogate" if made else folders.origin(path.parent),
        notes=tuple(notes),
        faults=tuple(faults),
        names=tuple(
            r.label for part in (False, True) for r, test in zip(recordings, tested, strict=True) if test == part
        ),
    )


def find(root: Path) -> Path | None:
    """The file, if it is there."""
    places = (root / "ntidigits" / "n-tidigits.hdf5", root / "n-tidigits.hdf5")
    try:
        return next((path for path in places if path.is_file()), None)
    except OSError as error:
        raise SnnrunError(f"cannot look for {places[0]}: {error.strerror or error}; check its permissions") from None


def published(path: Path) -> bool:
    """Whether a file is the published one, by its MD5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == MD5


def parse(label: str) -> Name:
    """What the name of a recording says: man-ae-a-1, or in the manner of TIDIGITS man-ae-1a.

    Raises:
        ValueError: If it is no such name.
    """
    match = _NAME.fullmatch(label)
    if match is None:
        raise ValueError("a name such as man-ae-a-1 is wanted: gender, speaker, take, digits")
    gender, speaker, take, digits, digits_first, take_last = match.groups()
    return Name(*(part.lower() for part in (gender, speaker, take or take_last, digits or digits_first)))


# ---- the file -------------------------------------------------------------------------------------------------------


def _listed(path: Path, file: Any) -> tuple[list[_Recording], list[str], list[str]]:
    """The recordings of one digit, in the order of the file; notes and faults."""
    import h5py

    kinds = {"labels": h5py.Dataset, "addresses": h5py.Group, "timestamps": h5py.Group}
    for part in PARTS:
        for what, kind in kinds.items():
            if not isinstance(file.get(f"{part}_{what}"), kind):
                sort = "group" if kind is h5py.Group else "dataset"
                raise SnnrunError(
                    f"{path}: it has no {sort} {part}_{what}, so it is not N-TIDIGITS18; replace it by the published "
                    f"one (md5 {MD5})"
                )
    found, faults, strings = [], [], 0
    for part in PARTS:
        for label in dict.fromkeys(_names(path, file[f"{part}_labels"])):
            try:
                name = parse(label)
            except ValueError as error:
                faults.append(f"{path}: {part} recording {label!r}: {error}")
                continue
            if len(name.digits) == 1:
                found.append(_Recording(part, label, name))
            else:
                strings += 1
    notes = [f"{strings:,} recordings of several digits are not used"] if strings else []
    return found, notes, faults


def _names(path: Path, labels: Any) -> Iterator[str]:
    try:
        names = np.asarray(labels[()]).ravel().tolist()
    except (OSError, RuntimeError, TypeError) as error:
        raise SnnrunError(f"{path}: {labels.name} cannot be read ({error}); get the file anew (md5 {MD5})") from None
    for label in names:
        yield label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)


def _events(file: Any, recording: _Recording) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Channels and times of a recording, checked.

    Raises:
        ValueError: If they cannot be used; its text is the reason.
    """
    arrays = []
    for what in ("addresses", "timestamps"):
        entry = file[f"{recording.part}_{what}"].get(recording.label)
        if entry is None:
            raise ValueError(f"it has no {what}")
        try:
            arrays.append(np.asarray(entry[()], np.float64).ravel())
        except (OSError, RuntimeError, TypeError, ValueError):
            raise ValueError(f"its {what} cannot be read") from None
    channels, times = arrays
    if len(channels) != len(times):
        raise ValueError(f"it has {len(channels):,} addresses and {len(times):,} timestamps")
    if not np.isfinite(times).all():
        raise ValueError("some times are NaN or infinite")
    if (times < 0).any():  # their order does not matter to the bins
        raise ValueError("some times are below 0")
    if not np.isin(channels, np.arange(CHANNELS)).all():
        raise ValueError(f"some channels are not whole numbers from 0 to {CHANNELS - 1}")
    return channels.astype(np.int64), times


def _missing(root: Path) -> str:
    return "\n".join(
        [
            f"data=ntidigits: there is no {(root / 'ntidigits' / 'n-tidigits.hdf5').absolute()}. What to do, one of:",
            f"  get n-tidigits.hdf5 (md5 {MD5}) from the Sensors Group, ETH and University of Zurich,",
            f"  {SOURCE}, under the terms given there, and put it there",
            "  give the folder that holds ntidigits/ by data.root=FOLDER or the environment variable SNNRUN_DATA",
            "  to try things out, make a stand-in: scripts/make_ntidigits_surrogate.py data/ntidigits",
        ]
    )
