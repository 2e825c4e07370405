"""Rate coding of images: the brighter the pixel, the more often its input neuron fires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from snnrun import declared
from snnrun.compiled import threads
from snnrun.declared import Range
from snnrun.encoders import draws


@dataclass(frozen=True)
class RateEncoder:
    """Independent draws: a pixel's neuron fires at each step with a probability that depends on its brightness.

    The draws of a sample depend only on `(seed, epoch, index)`. It gets the same spikes in any batch, order and thread,
    on any machine. Fewer steps give the beginning of the same train.

    Attributes:
        seed: Not negative.
        steps: T, the length of the spike trains.
        frozen: Draw each sample once, as epoch 0, and reuse the draw in every epoch.
        attenuation: A white pixel fires with probability 1 / attenuation.

    Raises:
        UsageError: If an option is out of its range.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image",)
    first_step: ClassVar[int] = 0

    seed: Annotated[int, Range(at_least=0)]
    steps: Annotated[int, Range(at_least=1)]
    frozen: bool = False
    attenuation: Annotated[float, Range(at_least=1)] = 1.0

    def __post_init__(self) -> None:
        declared.check("encoder", type(self), vars(self))

    def probabilities(self) -> NDArray[np.float64]:
        """Firing probability per step for each of the 256 pixel values, shape (256,)."""
        return np.arange(256) / 255 / self.attenuation

    def encode(self, samples: NDArray[np.uint8], index: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Draw the spikes of a batch: bits (B, T, W) int64. Neuron n of a step is bit n % 64 of word n // 64.

        Arguments and errors are those of `begin`.
        """
        return self.begin(samples, index, epoch)()

    def begin(
        self, samples: NDArray[np.uint8], index: NDArray[np.int64], epoch: int
    ) -> Callable[[], NDArray[np.int64]]:
        """Begin to draw the spikes of a batch, and go on with it while other loops leave a thread idle.

        Args:
            samples: Pixels 0..255, shape (B, N).
            index: Each sample's number in its corpus, shape (B,).
            epoch: 0 for evaluation, from 1 up for training.

        Returns:
            A function to call once: it waits for the spikes and returns them.

        Raises:
            ValueError: If the arrays do not fit each other or the epoch is negative.
        """
        if samples.dtype != np.uint8 or samples.ndim != 2 or index.shape != samples.shape[:1] or epoch < 0:
            raise ValueError(
                f"want uint8 samples (B, N), index (B,) and epoch >= 0; "
                f"got {samples.dtype} {samples.shape}, {index.shape} and {epoch}"
            )
        levels = np.rint(self.probabilities() * draws.ALWAYS).astype(np.int64)
        keys = np.empty((len(samples), 3), np.int64)
        keys[:, 0], keys[:, 1], keys[:, 2] = self.seed, 0 if self.frozen else epoch, index
        spikes = np.empty((len(samples), self.steps, -(-samples.shape[1] // 64)), np.int64)
        words = spikes.view(np.uint64)
        task = partial(draws.draw, samples, levels, keys, self.first_step, words)
        work = threads.Ahead(len(samples), task)

        def spikes_drawn() -> NDArray[np.int64]:
            work.finish()
            return spikes

        return spikes_drawn


@dataclass(frozen=True)
class Poisson(RateEncoder):
    """Poisson-like trains: p = pixel / 255 / attenuation at steps 1 to T-1; step 0 stays silent.

    Pixels with p < 1e-5 never fire. Source: the encoders of the HM2-BP and ST-RSBP simulators. Their attenuation is
    5.5, so a white pixel fires at 18 % of the steps. They draw each sample once, as `frozen=True` does.
    """

    first_step: ClassVar[int] = 1

    steps: Annotated[int, Range(at_least=2)] = 400  # step 0 never carries a spike
    attenuation: Annotated[float, Range(at_least=1)] = 5.5

    def probabilities(self) -> NDArray[np.float64]:
        """Firing probability per step for each of the 256 pixel values, shape (256,)."""
        p = super().probabilities()
        return np.where(p < 1e-5, 0.0, p)


@dataclass(frozen=True)
class Bernoulli(RateEncoder):
    """Bernoulli trains: p = pixel / 255 / attenuation at every step (attenuation 1: the STBP paper's input)."""

    steps: Annotated[int, Range(at_least=1)] = 20
