"""Rate coding: the brighter the pixel, or the larger the value, the more often its input neuron fires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snnrun import declared
from snnrun.compiled import threads
from snnrun.compiled.jit import Words
from snnrun.compiled.packed_arrays import words
from snnrun.compiled.turns import Turn
from snnrun.declared import Range
from snnrun.encoders import draws, trains
from snnrun.encoders.series import check_points


@dataclass(frozen=True)
class RateEncoder:
    """Independent draws: a neuron fires at each step with a probability that depends on its value, 0 to 1.

    The value is the brightness of a pixel, that of a vector, or that of a series at the time: each of its points is
    held for an equal part of the steps, and nothing fires after its end. The draws of a sample depend only on
    `(seed, epoch, index)`. It gets the same spikes in any batch, order and thread, on any machine. Of an image or a
    vector, fewer steps give the beginning of the same train.

    Attributes:
        seed: Not negative.
        steps: T, the length of the spike trains.
        frozen: Draw each sample once, as epoch 0, and reuse the draw in every epoch.
        attenuation: A white pixel, or a value of 1, fires with probability 1 / attenuation.

    Raises:
        UsageError: If an option is out of its range.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "vector", "series")
    first_step: ClassVar[int] = 0

    seed: Annotated[int, Range(at_least=0)]
    steps: Annotated[int, Range(at_least=1)]
    frozen: bool = False
    attenuation: Annotated[float, Range(at_least=1)] = 1.0

    def __post_init__(self) -> None:
        declared.check("encoder", type(self), vars(self))

    def probability(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Firing probability per step for values from 0 to 1."""
        return values / self.attenuation

    def probabilities(self) -> NDArray[np.float64]:
        """Firing probability per step for each of the 256 pixel values, shape (256,)."""
        return self.probability(np.arange(256) / 255)

    def encode(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Draw the spikes of a batch: bits (B, T, W) int64. Neuron n of a step is bit n % 64 of word n // 64.

        Arguments and errors are those of `begin`.
        """
        return self.begin(samples, index, epoch)()

    def begin(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> Callable[[], NDArray[np.int64]]:
        """Begin to draw the spikes of a batch, and go on with it while other loops leave a thread idle.

        Args:
            samples: Pixels 0..255, uint8 (B, N); values 0..1, float32 (B, N); or series of such values, float32
                (B, P, N), NaN after the end of each.
            index: Each sample's number in its corpus, shape (B,).
            epoch: 0 for evaluation, from 1 up for training.

        Returns:
            A function to call once: it waits for the spikes and returns them.

        Raises:
            ValueError: If the arrays do not fit each other, a value is out of range or the epoch is negative.
            UsageError: If a series has more points than there are steps.
        """
        kinds = {np.dtype(np.uint8): (2,), np.dtype(np.float32): (2, 3)}
        if samples.ndim not in kinds.get(samples.dtype, ()) or index.shape != samples.shape[:1] or epoch < 0:
            raise ValueError(
                f"want samples (B, N), uint8 or float32, or float32 (B, P, N), index (B,) and epoch >= 0; "
                f"got {samples.dtype} {samples.shape}, {index.shape} and {epoch}"
            )
        levels = self._levels(samples)
        keys = np.empty((len(samples), 3), np.int64)
        keys[:, 0], keys[:, 1], keys[:, 2] = self.seed, 0 if self.frozen else epoch, index
        spikes = np.empty((len(samples), self.steps, words(samples.shape[-1])), np.int64)
        if samples.ndim == 3:
            check_points(samples.shape[1], self.steps)
        work = threads.Ahead(len(samples), self._task(levels, keys, spikes.view(np.uint64)))

        def spikes_drawn() -> NDArray[np.int64]:
            work.finish()
            return spikes

        return spikes_drawn

    def _task(self, levels: NDArray[np.int32], keys: NDArray[np.int64], words: Words) -> Callable[[Turn], None]:
        """What writes the spikes of a turn."""
        loop: Callable[..., None] = draws.draw if levels.ndim == 2 else draws.draw_series
        return partial(loop, levels, keys, self.first_step, words)

    def _levels(self, samples: NDArray[Any]) -> NDArray[np.int32]:
        """The probability for each value, in units of 2^-L; 0 for NaN."""
        levels: NDArray[np.int32]
        if samples.dtype == np.uint8:
            levels = self._rounded(self.probabilities())[samples]
            return levels
        values = np.nan_to_num(samples.astype(np.float64))
        if values.size and not 0 <= values.min() <= values.max() <= 1:
            raise ValueError("want values from 0 to 1")
        return self._rounded(self.probability(values))

    def _rounded(self, probabilities: NDArray[np.float64]) -> NDArray[np.int32]:
        return np.rint(probabilities * draws.ALWAYS).astype(np.int32)


@dataclass(frozen=True)
class Poisson(RateEncoder):
    """Poisson-like trains: p = value / attenuation at steps 1 to T-1, of a pixel pixel / 255; step 0 stays silent.

    Values with p < 1e-5 never fire. Source: the encoders of the HM2-BP and ST-RSBP simulators. Their attenuation is
    5.5, so a white pixel fires at 18 % of the steps. They draw each sample once, as `frozen=True` does.
    """

    first_step: ClassVar[int] = 1

    steps: Annotated[int, Range(at_least=2)] = 400  # step 0 never carries a spike
    attenuation: Annotated[float, Range(at_least=1)] = 5.5

    def probability(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Firing probability per step for values from 0 to 1."""
        p = super().probability(values)
        return np.where(p < 1e-5, 0.0, p)


@dataclass(frozen=True)
class Bernoulli(RateEncoder):
    """Bernoulli trains: p = value / attenuation at every step, of a pixel pixel / 255 (1: the STBP paper's input)."""

    steps: Annotated[int, Range(at_least=1)] = 20


@dataclass(frozen=True)
class Regular(RateEncoder):
    """Evenly spaced spikes: value / attenuation of them in a step, the rate of `Poisson`.

    A neuron adds up its rates, step by step from a fraction that `(seed, epoch, index)` and its number give, and fires
    whenever the sum passes a whole number. So its count is less than 1 off the sum of its rates, where the counts of
    draws scatter. Of a series the rate is that of the time.
    """

    steps: Annotated[int, Range(at_least=1)] = 400
    attenuation: Annotated[float, Range(at_least=1)] = 5.5

    def _task(self, levels: NDArray[np.int32], keys: NDArray[np.int64], words: Words) -> Callable[[Turn], None]:
        return partial(trains.regular, levels if levels.ndim == 3 else levels[:, None], keys, words)
