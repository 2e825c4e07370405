"""What a corpus is made of, and how its training samples are cut."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.data.augment import Augment


@dataclass(frozen=True)
class Corpus:
    """A corpus as its files have it.

    Attributes:
        kind: What a sample is ("image", "spikes"); an encoder says which kinds it takes.
        shape: Shape of one sample, without its time; N, the number of input channels, is its product.
        classes: Name of each class, in the order of the labels.
        train_samples, test_samples: Images are uint8, shape (S, N); spikes are bits, int64 of shape (S, T, W), channel
            n of a step being bit n % 64 of word n // 64.
        train_labels, test_labels: int64, shape (S,).
        synthetic: Whether it was made by a program, to stand in for data that was recorded.
    """

    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    train_samples: NDArray[Any]
    train_labels: NDArray[np.int64]
    test_samples: NDArray[Any]
    test_labels: NDArray[np.int64]
    synthetic: bool = False

    def digest(self) -> str:
        """SHA-256 over all samples and labels, in hexadecimal."""
        sha = hashlib.sha256()
        for samples, labels in (self.train_samples, self.train_labels), (self.test_samples, self.test_labels):
            sha.update(np.ascontiguousarray(samples).data)
            sha.update(np.ascontiguousarray(labels, dtype="<i8").data)
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

    samples: NDArray[Any]
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
    synthetic: bool = False
    augment: Augment | None = None

    @property
    def label(self) -> str:
        """The name, and the warning that goes with it."""
        return f"{self.name} (synthetic)" if self.synthetic else self.name

    @property
    def channels(self) -> int:
        """N, the number of input channels."""
        return math.prod(self.shape)

    @property
    def steps(self) -> int:
        """T of stored spike trains; 0 where the encoder sets it."""
        return self.train.samples.shape[1] if self.kind == "spikes" else 0


def stratified(labels: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose `size` positions so that every class keeps its share to within one sample; ascending, shape (size,).

    Each class gets the whole part of its share; what is left goes to the largest remainders (Hamilton's method), in
    whole numbers, so that nothing hangs on rounding.
    """
    values, counts = np.unique(labels, return_counts=True)
    take, remainder = np.divmod(counts * size, len(labels))
    take[np.argsort(-remainder, kind="stable")[: size - int(take.sum())]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == value))[:k]
        for value, k in zip(values.tolist(), take.tolist(), strict=True)
    ]
    return np.sort(np.concatenate(chosen))
