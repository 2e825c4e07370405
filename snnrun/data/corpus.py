"""What a corpus and its parts are made of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled import parallel
from snnrun.data import audio
from snnrun.data.spikes_file import Encoded
from snnrun.errors import SnnrunError

# What is done to training samples (B, ...) with their numbers (B,) in an epoch; epoch 0, the evaluation, leaves them.
Augmentation = Callable[[NDArray[Any], NDArray[np.int64], int], NDArray[Any]]

_AT_ONCE = 256  # samples in memory while all of a corpus are read


@dataclass(frozen=True)
class Mapped:
    """Some samples of an array in a file, which are read when they are asked for.

    Attributes:
        array: All samples, mapped into memory.
        rows: Which of them these are, shape (S,).
    """

    array: NDArray[Any]
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the samples, S first."""
        return len(self.rows), *self.array.shape[1:]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Any) -> NDArray[Any]:
        """A copy of the samples at these positions."""
        samples: NDArray[Any] = self.array[self.rows[positions]]
        return samples


@dataclass(frozen=True)
class Unread:
    """Some samples that each have a file of their own, which is read when the sample is asked for.

    Attributes:
        read: Gives sample number k, its spikes (T, W), and how many of its events come after the last step; several
            threads call it at once. Raises UnfitError.
        rows: Which samples these are, shape (S,).
        steps: T.
        width: W.
        key: All that `read` depends on, as JSON can hold it.
    """

    read: Callable[[int], Encoded]
    rows: NDArray[np.int64]
    steps: int
    width: int
    key: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the samples, S first."""
        return len(self.rows), self.steps, self.width

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Any) -> NDArray[Any]:
        """The samples at these positions, read on all threads."""
        rows = self.rows[positions]
        samples = np.empty((len(rows), self.steps, self.width), np.int64)

        def task(item: int) -> None:
            samples[item] = self.read(int(rows[item])).spikes

        parallel.each(len(rows), task)
        return samples


@dataclass(frozen=True)
class Converted:
    """Some rows of an array in a file, which are read and made samples when they are asked for.

    Attributes:
        array: Gives the rows at an array of positions.
        rows: Which rows these are, shape (S,).
        form: Makes samples (B, ...) of rows.
        one: Shape of a sample.
    """

    array: Any
    rows: NDArray[np.int64]
    form: Callable[[NDArray[Any]], NDArray[Any]]
    one: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the samples, S first."""
        return len(self.rows), *self.one

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Any) -> NDArray[Any]:
        """The samples at these positions."""
        return self.form(np.asarray(self.array[self.rows[positions]]))


Samples = NDArray[Any] | Mapped | Unread | Converted


def pick(samples: Samples, positions: NDArray[np.int64]) -> Samples:
    """The samples at these positions; those of files stay there."""
    return samples[positions] if isinstance(samples, np.ndarray) else replace(samples, rows=samples.rows[positions])


class MissingError(SnnrunError):
    """A corpus is not there; the text says where to get it."""


class UnfitError(SnnrunError):
    """A recording cannot be used; the text names it."""


class Scan(NamedTuple):
    """What the files of samples hold.

    Attributes:
        faults: Of the samples that have one.
        spikes: Of each sample (S,), -1 with a fault.
        left_out, merged, events: Of each sample, see `Encoded`, (S,); 0 with a fault.
        contents: SHA-256 of all samples.
    """

    faults: list[str]
    spikes: NDArray[np.int64]
    left_out: NDArray[np.int64]
    merged: NDArray[np.int64]
    events: NDArray[np.int64]
    contents: str


def scan(*parts: Unread) -> Scan:
    """Read every file, on all threads."""
    sha, faults = hashlib.sha256(), list[str]()
    counts, numbers = [np.zeros(0, np.int64)], [np.zeros((0, 3), np.int64)]
    for part in parts:
        for start in range(0, len(part), _AT_ONCE):
            samples, own, found = _attempt(part, part.rows[start : start + _AT_ONCE])
            sha.update(samples.data)
            faults += [fault for fault in found if fault]
            # Of a negative number, NumPy counts the bits of the absolute value.
            spikes = np.bitwise_count(samples.view(np.uint64)).sum(axis=(1, 2), dtype=np.int64)
            counts.append(np.where([bool(fault) for fault in found], -1, spikes))
            numbers.append(own)
    left_out, merged, events = np.concatenate(numbers).T
    return Scan(faults, np.concatenate(counts), left_out, merged, events, sha.hexdigest())


def unseen(steps: int, left_out: NDArray[np.int64], merged: NDArray[np.int64], events: NDArray[np.int64]) -> list[str]:
    """The notes on events that the spikes of so many steps do not show; the numbers are those of a `Scan`."""
    notes, cut, lost = [], int((left_out > 0).sum()), int(merged.sum())
    if cut:
        notes.append(
            f"{left_out.sum():,} events of {cut:,} of {len(left_out):,} recordings come after the last step "
            f"(data.steps={steps}) and are left out; `snnrun data stats` says when they come"
        )
    if lost:
        share = 100 * lost / int(events.sum())
        notes.append(
            f"{lost:,} of {events.sum():,} events ({share:.2g} %) share a step and a channel with another, and are one "
            "spike with it"
        )
    return notes


def _attempt(part: Unread, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """These samples; what each leaves out, merges and has (S, 3); and its fault, empty if it has none.

    A sample with a fault is silent.
    """
    samples, numbers = np.zeros((len(rows), part.steps, part.width), np.int64), np.zeros((len(rows), 3), np.int64)
    faults = [""] * len(rows)

    def task(item: int) -> None:
        try:
            sample = part.read(int(rows[item]))
            samples[item], numbers[item] = sample.spikes, sample[1:]
        except UnfitError as error:
            faults[item] = str(error)

    parallel.each(len(rows), task)
    return samples, numbers, faults


@dataclass(frozen=True)
class Corpus:
    """A corpus as its files have it.

    Attributes:
        kind: What a sample is ("image", "vector", "series", "spikes", "audio"); an encoder says which kinds it takes.
        shape: Shape of one sample, without its time; N, the number of input channels, is its product. Empty for
            recordings, whose channels are the encoder's.
        classes: Name of each class, in the order of the labels.
        train_samples, test_samples: Images are (S, N), channel by channel and row by row, uint8 or float32 from 0 to 1;
            vectors are float32 (S, N) from 0 to 1. Series are float32 (S, T, N) from 0 to 1, NaN at the steps after the
            end of a shorter one. Spikes are bits, int64 of shape (S, T, W), channel n of a step being bit n % 64 of
            word n // 64. Recordings are their files, `audio.Recording`, shape (S,).
        train_labels, test_labels: int64, shape (S,).
        origin: "recorded"; "synthetic" if a program made it up; "surrogate" if a program made it in the form of a
            recorded corpus, to stand in for that.
        sample_rate: That every recording must have, in Hz; None for any.
        notes: What a user should know of this copy, such as the number of files that it lacks.
        faults: What forbids its use, each naming the file and the remedy.
        contents: SHA-256 over what the samples were made from, in hexadecimal; empty if that is the samples themselves.
        image: (channels, rows, columns) of samples that are images or events on a grid, which convolutions need: input
            n is that of (channel * rows + row) * columns + column. None of other samples.
        names: Of the samples, those to train on first, by which messages call them; empty where they have none.
        validation: Which of the training samples are the validation split, ascending; None if it is to be cut.
        form: How a row of a user's array becomes a sample, as JSON can hold it, for `predict`; None of others.
    """

    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    train_samples: Samples
    train_labels: NDArray[np.int64]
    test_samples: Samples
    test_labels: NDArray[np.int64]
    origin: str = "recorded"
    sample_rate: int | None = None
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    contents: str = ""
    image: tuple[int, int, int] | None = None
    names: tuple[str, ...] = ()
    validation: NDArray[np.int64] | None = None
    form: Mapping[str, Any] | None = None

    @property
    def recordings(self) -> list[audio.Recording]:
        """The files of a corpus of recordings, or pieces of some, those to train on first."""
        parts = (self.train_samples, self.test_samples)
        return [path for part in parts if isinstance(part, np.ndarray) for path in part.tolist()]

    @property
    def unread(self) -> list[Unread]:
        """The samples that are read from their files when they are asked for, those to train on first."""
        return [part for part in (self.train_samples, self.test_samples) if isinstance(part, Unread)]

    def digest(self) -> str:
        """SHA-256 over all samples and labels, in hexadecimal; of recordings, over names and contents of the files."""
        sha, contents = hashlib.sha256(), self.contents
        if self.unread and not contents:
            contents = scan(*self.unread).contents
        if self.kind == "audio":
            sha.update(audio.digest(self.recordings, audio.hashes(self.recordings)).encode())
        sha.update(contents.encode())
        for samples, labels in (self.train_samples, self.train_labels), (self.test_samples, self.test_labels):
            if isinstance(samples, np.ndarray) and self.kind != "audio":
                sha.update(np.ascontiguousarray(samples).data)
            sha.update(np.ascontiguousarray(labels, dtype="<i8").data)
        if self.validation is not None:
            sha.update(np.ascontiguousarray(self.validation, dtype="<i8").data)
        return sha.hexdigest()


@dataclass(frozen=True)
class Split:
    """A part of a corpus.

    Attributes:
        samples: See `Corpus`.
        labels: int64, shape (S,).
        index: Number of each sample in its corpus, the test samples numbered after the training samples; int64,
            shape (S,). It keys the encoder's draws.
    """

    samples: Samples
    labels: NDArray[np.int64]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A corpus cut into training, validation and test samples; see `Corpus` for the attributes of the same names.

    Attributes:
        digest: SHA-256 of the whole corpus, before any cut: two runs with the same digest had the same data.
        augment: What is done to a training sample at each presentation; None for nothing.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    digest: str
    origin: str = "recorded"
    notes: tuple[str, ...] = ()
    augment: Augmentation | None = None
    image: tuple[int, int, int] | None = None
    form: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        """The name, and the warning that goes with it."""
        return self.name if self.origin == "recorded" else f"{self.name} ({self.origin})"

    @property
    def channels(self) -> int:
        """N, the number of input channels."""
        return math.prod(self.shape)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples of each part."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}

    @property
    def steps(self) -> int:
        """T of stored spike trains, and the length of series; 0 where there is no time."""
        return self.train.samples.shape[1] if self.kind in ("spikes", "series") else 0


def stratified(labels: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose `size` positions so that every class keeps its share to within one sample; ascending, shape (size,).

    Each class gets the whole part of its share; what is left goes to the largest remainders (Hamilton's method), in
    whole numbers, so that nothing hangs on rounding.
    """
    of_each = np.bincount(labels)
    values, counts = np.flatnonzero(of_each), of_each[of_each > 0]
    take, remainder = np.divmod(counts * size, len(labels))
    take[np.argsort(-remainder, kind="stable")[: size - int(take.sum())]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == value))[:k]
        for value, k in zip(values.tolist(), take.tolist(), strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def listed(items: Sequence[str], most: int = 5) -> str:
    """The first few of a list, a line each, and the number of the others."""
    more = [f"and {len(items) - most:,} more"] if len(items) > most else []
    return "\n".join(f"  {item}" for item in [*items[:most], *more])
