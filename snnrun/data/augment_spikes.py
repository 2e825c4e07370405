"""Augmentation of spike trains that are given: a little different at each presentation to the training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.splitmix_arrays import keyed
from snnrun.data.augment import unit
from snnrun.errors import UsageError

# Streams of the run's seed: of the spikes, and of the moves of whole samples.
_SPIKES, _STEPS, _CHANNELS, _ROWS, _COLUMNS, _MIRROR, _SPEED = (0x7370696B65730 + k for k in range(7))
_ONE = 1 << 32  # probability 1, and a sample as fast as it was
_REACH = 6.0  # standard deviations: with 2^-32 as the unit, no spike is jittered further


@dataclass(frozen=True)
class AugmentSpikes:
    """Random changes of training samples that are spike trains, keyed by `(seed, epoch, index)` alone.

    In this order: single spikes are dropped, the time of those left is stretched, they are jittered, then all of the
    sample moves and is mirrored.
    What leaves the sample is lost. Two spikes of a channel in one step are one. No spike is made.

    Attributes:
        neurons: N.
        image: (channels, rows, columns) of events on a grid; None if the channels are no pixels.
        seed: Of the run.
        time_shift: Move each sample by up to so many steps, either way.
        channel_shift: Move each sample by up to so many channels, either way.
        jitter: Move each spike by itself: by a normal deviate of this standard deviation in steps, rounded.
        drop: Drop each spike with this probability.
        speed: Play each sample slower or faster: the times of its spikes are multiplied by a factor that is uniform
            within this of 1, and rounded. Spikes stay as many as they were, but for those that leave or become one.
        mirror: Mirror each sample left-right with probability 1/2.
        shift: Move each sample by up to so many pixels, in both directions.

    Raises:
        UsageError: If a shift is as large as the samples are, or an option is on that they have no meaning for.
    """

    neurons: int
    steps: int
    image: tuple[int, int, int] | None
    seed: int
    time_shift: int = 0
    channel_shift: int = 0
    jitter: float = 0.0
    drop: float = 0.0
    speed: float = 0.0
    mirror: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        if self.image is not None and self.channel_shift:
            raise UsageError(
                f"data.channel_shift={self.channel_shift}: these channels are pixels, which data.shift moves"
            )
        side = min(self.image[1:]) if self.image else 0
        for key, size, what in (
            ("time_shift", self.steps, "steps"),
            ("jitter", self.steps, "steps"),
            ("channel_shift", self.neurons, "channels"),
            ("shift", side, "rows or columns"),
        ):
            value = getattr(self, key)
            if value and value >= size:
                raise UsageError(f"data.{key}={value:g}: a number below the {size} {what} of a sample is needed")

    @property
    def on(self) -> bool:
        """Whether anything is changed."""
        moved = self.time_shift or self.channel_shift or self.mirror or self.shift
        return bool(moved or self.jitter or self.drop or self.speed)

    def __call__(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[Any]:
        """Bits (B, T, W) int64 as they are shown in an epoch, from 1; epoch 0, the evaluation, leaves them alone."""
        if epoch == 0 or not self.on:
            return samples
        # A compiler comes with these, which listing the corpora should not wait for.
        from snnrun.compiled import threads
        from snnrun.data.scatter import scatter

        words = np.ascontiguousarray(samples).view(np.uint64)
        shown = np.empty_like(words)
        keys, moves, below = (
            keyed(index, _SPIKES, self.seed, epoch),
            self.moves(index, epoch),
            displacements(self.jitter),
        )
        dropped, (_, rows, columns) = round(self.drop * _ONE), self.image or (0, 0, 0)
        threads.share(
            len(words),
            lambda turn: scatter(words, keys, moves, dropped, below, self.neurons, rows, columns, shown, turn),
        )
        return shown.view(np.int64)

    def moves(self, index: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Steps, channels, rows, columns by which each sample moves; whether it is mirrored (1); its stretch; (B, 6).

        The stretch is in units of 2^-32.
        """
        moves = np.zeros((len(index), 6), np.int64)
        moves[:, 5] = _ONE
        most = (
            (_STEPS, self.time_shift), (_CHANNELS, self.channel_shift), (_ROWS, self.shift), (_COLUMNS, self.shift)
        )  # fmt: skip
        for place, (stream, reach) in enumerate(most):
            if reach:
                drawn = keyed(index, stream, self.seed, epoch) % np.uint64(2 * reach + 1)
                moves[:, place] = drawn.astype(np.int64) - reach
        if self.mirror:
            moves[:, 4] = (keyed(index, _MIRROR, self.seed, epoch) & np.uint64(1)).astype(np.int64)
        if self.speed:
            factor = 1.0 + self.speed * (2.0 * unit(keyed(index, _SPEED, self.seed, epoch)) - 1.0)
            moves[:, 5] = np.rint(factor * _ONE).astype(np.int64)
        return moves


def displacements(deviation: float) -> NDArray[np.int64]:
    """The cumulative probabilities of the displacements -R to R, (2R + 1,), in units of 2^-32.

    A displacement is a normal deviate of mean 0 and this standard deviation, rounded to whole steps.
    """
    reach = math.ceil(_REACH * deviation)
    edges = [0.5 * (1 + math.erf((d + 0.5) / (deviation * math.sqrt(2)))) for d in range(-reach, reach)]
    return np.array([*(round(p * _ONE) for p in edges), _ONE], np.int64)
