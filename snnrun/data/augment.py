"""Augmentation of training images: a little different at each presentation, so that a network learns what matters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snnrun.errors import UsageError

# SplitMix64, as the encoders use it; a word of its own keeps the draws apart from theirs.
_STEP, _MIX1, _MIX2 = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_STREAM = 0x6175676D656E74


@dataclass(frozen=True)
class Augment:
    """Random mirroring and shifting of images, keyed by `(seed, epoch, index)` alone, as the encoders' draws are.

    Attributes:
        shape: Of an image: rows, columns.
        seed: Of the run.
        mirror: Mirror each image left-right with probability 1/2.
        shift: Move each image by up to so many pixels, in both directions, and fill up with 0.

    Raises:
        UsageError: If an option is on and samples are not images, or if the shift would leave nothing of an image.
    """

    shape: tuple[int, ...]
    seed: int
    mirror: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        if (self.mirror or self.shift) and len(self.shape) != 2:
            raise UsageError("data.mirror and data.shift: only images can be mirrored and shifted")
        if self.shift and not 0 < self.shift < min(self.shape):
            raise UsageError(f"data.shift={self.shift}: a number of pixels below the {min(self.shape)} of an image")

    def __call__(self, samples: NDArray[np.uint8], index: NDArray[np.int64], epoch: int) -> NDArray[np.uint8]:
        """Samples (B, N) as they are shown in an epoch, from 1; epoch 0, the evaluation, leaves them as they are."""
        if epoch == 0 or not (self.mirror or self.shift):
            return samples
        rows, columns = self.shape
        images = samples.reshape(-1, rows, columns)
        draw = self._draw(index, epoch)
        if self.shift:
            choices = np.uint64(2 * self.shift + 1)
            down = (draw >> np.uint64(8)) % choices
            right = (draw >> np.uint64(32)) % choices
            wide = np.pad(images, ((0, 0), (self.shift, self.shift), (self.shift, self.shift)))
            y = np.arange(rows)[None, :, None] + down.astype(np.int64)[:, None, None]
            x = np.arange(columns)[None, None, :] + right.astype(np.int64)[:, None, None]
            images = wide[np.arange(len(wide))[:, None, None], y, x]
        if self.mirror:
            images = np.where((draw & np.uint64(1))[:, None, None] > 0, images[:, :, ::-1], images)
        return np.ascontiguousarray(images.reshape(samples.shape))

    def _draw(self, index: NDArray[np.int64], epoch: int) -> NDArray[np.uint64]:
        """A random word for each sample."""
        word = np.zeros(len(index), np.uint64)
        for key in (np.full(len(index), _STREAM), np.full(len(index), self.seed), np.full(len(index), epoch), index):
            word = word + _STEP + key.astype(np.uint64)
            word = (word ^ (word >> np.uint64(30))) * _MIX1
            word = (word ^ (word >> np.uint64(27))) * _MIX2
            word ^= word >> np.uint64(31)
        return word
