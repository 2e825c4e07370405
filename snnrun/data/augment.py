"""Augmentation of training images: a little different at each presentation, so that a network learns what matters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.splitmix_arrays import keyed
from snnrun.errors import UsageError

# Words of their own keep the draws apart from those of the encoders and from each other.
_STREAM = 0x6175676D656E74
_MAP_STREAM = 0x656C6173746963
_ERASE_STREAM = 0x65726173650000
# Of a rectangle that is erased: its share of the image, and its height over its width (Zhong et al. 2020).
_AREA, _RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
_EVERY = -1  # in place of an image's number, where all images share a map


@dataclass(frozen=True)
class Augment:
    """Random changes of training images, keyed by `(seed, epoch, index)` alone, as the encoders' draws are.

    In this order: elastic distortion, scale and rotation in one map (see `distort`), shift, mirror, erasing.

    Attributes:
        image: (channels, rows, columns); None if the samples are no images.
        seed: Of the run.
        mirror: Mirror each image left-right with probability 1/2.
        shift: Move each image by up to so many pixels, in both directions, and fill up with 0.
        elastic: Strength of the elastic distortion, in pixels before smoothing; 3.4 in the ST-RSBP simulator.
        rotation: Largest angle, in degrees; 12 there.
        scale: Largest stretch of each axis, as a fraction; 0.12 there.
        erase: Set a rectangle of each image to 0 with this probability: 2 % to a third of its area, one side at most
            3.3 times the other, anywhere inside it; all channels alike.
        distortion: "own" draws a map for each image and presentation; "authors" one an epoch for all images, with equal
            elastic displacements along both axes, enlarging only.

    Raises:
        UsageError: If an option is on and samples are not images, or if the shift is larger than they are.
    """

    image: tuple[int, int, int] | None
    seed: int
    mirror: bool = False
    shift: int = 0
    elastic: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    erase: float = 0.0
    distortion: str = "own"

    def __post_init__(self) -> None:
        given = {key: getattr(self, key) for key in ("mirror", "shift", "elastic", "rotation", "scale", "erase")}
        if self.image is None:
            on = [f"data.{key}" for key, value in given.items() if value]
            if on:
                raise UsageError(f"{', '.join(on)}: only images can be augmented")
            return
        least = min(self.image[1:])
        if self.shift and not 0 < self.shift < least:
            raise UsageError(f"data.shift={self.shift}: a number of pixels below the {least} of an image")

    def __call__(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[Any]:
        """Samples (B, N) as they are shown in an epoch, from 1; epoch 0, the evaluation, leaves them as they are."""
        distorts = self.elastic or self.rotation or self.scale
        if self.image is None or epoch == 0 or not (self.mirror or self.shift or distorts or self.erase):
            return samples
        images = samples.reshape(-1, *self.image)
        if distorts:
            images = self._distorted(images, index, epoch)
        draw = keyed(index, _STREAM, self.seed, epoch)
        if self.shift:
            images = self._shifted(images, draw)
        if self.mirror:
            images = np.where((draw & np.uint64(1))[:, None, None, None] > 0, images[..., ::-1], images)
        if self.erase:
            images = np.where(self.erased(index, epoch)[:, None], images.dtype.type(0), images)
        return np.ascontiguousarray(images.reshape(samples.shape))

    def erased(self, index: NDArray[np.int64], epoch: int) -> NDArray[np.bool_]:
        """The pixels that are set to 0, (B, rows, columns)."""
        assert self.image is not None
        _, rows, columns = self.image
        erases, area, ratio, down, right = (
            unit(keyed(index, _ERASE_STREAM + number, self.seed, epoch)) for number in range(5)
        )
        area = (_AREA[0] + area * (_AREA[1] - _AREA[0])) * rows * columns
        ratio = np.exp(np.log(_RATIO[0]) + ratio * (np.log(_RATIO[1]) - np.log(_RATIO[0])))
        height = np.clip(np.rint(np.sqrt(area * ratio)), 1, rows)
        width = np.clip(np.rint(np.sqrt(area / ratio)), 1, columns)
        top, left = np.floor(down * (rows - height + 1)), np.floor(right * (columns - width + 1))
        row, column = np.arange(rows), np.arange(columns)
        inside_rows = (row >= top[:, None]) & (row < (top + height)[:, None])
        inside_columns = (column >= left[:, None]) & (column < (left + width)[:, None])
        found: NDArray[np.bool_] = inside_rows[:, :, None] & inside_columns[:, None]
        return found & (erases < self.erase)[:, None, None]

    def _distorted(self, images: NDArray[np.uint8], index: NDArray[np.int64], epoch: int) -> NDArray[np.uint8]:
        # A compiler comes with these, which listing the corpora should not wait for.
        from snnrun.compiled import threads
        from snnrun.data import distort

        authors = self.distortion == "authors"
        keys = keyed(np.full_like(index, _EVERY) if authors else index, _MAP_STREAM, self.seed, epoch)
        strength = np.array([self.elastic, self.scale, math.radians(self.rotation)], np.float32)
        images, shown, taps = np.ascontiguousarray(images), np.empty(images.shape, np.uint8), distort.gaussian()
        threads.share(len(images), lambda turn: distort.distort(images, keys, strength, taps, authors, shown, turn))
        return shown

    def _shifted(self, images: NDArray[Any], draw: NDArray[np.uint64]) -> NDArray[Any]:
        rows, columns = images.shape[2:]
        choices = np.uint64(2 * self.shift + 1)
        down = ((draw >> np.uint64(8)) % choices).astype(np.int64)
        right = ((draw >> np.uint64(32)) % choices).astype(np.int64)
        wide = np.pad(images, ((0, 0), (0, 0), (self.shift, self.shift), (self.shift, self.shift)))
        y = np.arange(rows)[None, :, None] + down[:, None, None]
        x = np.arange(columns)[None, None, :] + right[:, None, None]
        # Indices on both sides of the channels' slice put these last.
        return np.moveaxis(wide[np.arange(len(wide))[:, None, None], :, y, x], 3, 1)


def unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Random words as numbers in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
