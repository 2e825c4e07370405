"""What a corpus is made of, and how its training samples are cut."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Corpus:
    """A corpus as its files have it.

    Attributes:
        kind: What a sample is ("image"); an encoder says which kinds it takes.
        shape: Shape of one sample; N is its product.
        classes: Name of each class, in the order of the labels.
        train_samples, test_samples: uint8, shape (S, N).
        train_labels, test_labels: int64, shape (S,).
    """

    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    train_samples: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_samples: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

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
        samples: uint8 0..255, shape (S, N).
        labels: int64, shape (S,).
        index: Number of each sample in its corpus, the test samples numbered after the training samples; int64,
            shape (S,). It keys the encoder's draws.
    """

    samples: NDArray[np.uint8]
    labels: NDArray[np.int64]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A corpus cut into training, validation and test samples; see `Corpus` for `kind`, `shape` and `classes`.

    Attributes:
        digest: SHA-256 of the whole corpus, before any cut: two runs with the same digest had the same data.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    digest: str


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
