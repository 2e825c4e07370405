"""Time to first spike: the larger a value, the earlier its input neuron fires, once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from snnrun import declared
from snnrun.compiled import threads
from snnrun.compiled.packed_arrays import words
from snnrun.declared import Range
from snnrun.encoders import trains


@dataclass(frozen=True)
class Latency:
    """A value x fires once, at step (T - 1) f(x), rounded; smaller values fire later or in the same step.

    f(1) = 0 and f(least) = 1. It is (1 - x) / (1 - least), or log(x) / log(least), which gives equal ratios of values
    equal times, as the charging of a membrane does. Nothing is drawn.

    Attributes:
        seed: Not used.
        steps: T.
        curve: "linear" or "logarithmic".
        least: The value that fires at the last step; smaller ones stay silent, 0 among them.

    Raises:
        UsageError: If an option is out of its range.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "vector")

    seed: int
    steps: Annotated[int, Range(at_least=2)] = 100
    curve: Literal["linear", "logarithmic"] = "linear"
    least: Annotated[float, Range(above=0, below=1)] = 0.00390625

    def __post_init__(self) -> None:
        declared.check("encoder", Latency, vars(self))

    def encode(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Bits (B, T, W) of a batch: pixels uint8 (B, N), or values from 0 to 1, float32 (B, N).

        Raises:
            ValueError: If the samples are something else.
        """
        del index, epoch
        times = self.times(values_of(samples)).astype(np.int32)
        bits = np.empty((len(times), self.steps, words(times.shape[1])), np.uint64)
        threads.share(len(times), lambda turn: trains.once(times, bits, turn))
        return bits.view(np.int64)

    def times(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The step at which each value fires, -1 for those that stay silent."""
        fires = np.fmax(x, self.least)
        late = (1 - fires) / (1 - self.least) if self.curve == "linear" else np.log(fires) / math.log(self.least)
        return np.where(x >= self.least, np.rint((self.steps - 1) * late), -1)


def values_of(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Samples (B, N), or series (B, P, N), as values from 0 to 1 and NaN; ValueError if they are something else."""
    if samples.dtype == np.uint8 and samples.ndim == 2:
        return samples / 255.0
    if samples.dtype != np.float32 or samples.ndim not in (2, 3):
        raise ValueError(f"want uint8 (B, N), or float32 (B, N) or (B, P, N); got {samples.dtype} {samples.shape}")
    values = samples.astype(np.float64)
    if ((values < 0) | (values > 1)).any():
        raise ValueError("want values from 0 to 1")
    return values
