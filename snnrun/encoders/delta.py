"""Send-on-delta: a series speaks only when it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snnrun import declared
from snnrun.compiled import threads
from snnrun.compiled.packed_arrays import words
from snnrun.declared import Range
from snnrun.encoders import trains
from snnrun.encoders.latency import values_of
from snnrun.encoders.series import check_points


@dataclass(frozen=True)
class Delta:
    """Two neurons for each channel of a series fire where it has risen, or fallen, by a threshold.

    A channel remembers a level, at first its first value. When the value is `threshold` or more above the level, the
    neuron for rises fires and the level rises by one threshold; likewise for falls. A neuron fires at most once a step,
    so a larger change takes several steps of the T / P that each of P points has. Unless it needs more steps than
    these, the level is less than a threshold off the value at the last step of each point. Nothing is drawn, and
    nothing fires after the end of a series. (Send-on-delta: Miskowicz, Sensors 2006.)

    Attributes:
        seed: Not used.
        steps: T.
        threshold: As a share of the range of the values.

    Raises:
        UsageError: If an option is out of its range.
    """

    kinds: ClassVar[tuple[str, ...]] = ("series",)

    seed: int
    steps: Annotated[int, Range(at_least=1)] = 400
    threshold: Annotated[float, Range(above=0, at_most=1)] = 0.05

    def __post_init__(self) -> None:
        declared.check("encoder", Delta, vars(self))

    def inputs(self, channels: int) -> int:
        """Two neurons a channel: those for rises come first."""
        return 2 * channels

    def encode(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Bits (B, T, W) of a batch of series, float32 (B, P, N), values from 0 to 1 and NaN after the end.

        Raises:
            ValueError: If the samples are something else.
            UsageError: If a series has more points than there are steps.
        """
        del index, epoch
        if samples.ndim != 3:
            raise ValueError(f"want series, float32 (B, P, N); got {samples.dtype} {samples.shape}")
        values_of(samples)
        check_points(samples.shape[1], self.steps)
        return crossings(samples, self.threshold, self.steps)


def crossings(series: NDArray[np.float32], threshold: float, steps: int) -> NDArray[np.int64]:
    """The bits (B, T, W) of `Delta` for series (B, P, N)."""
    batch, _, channels = series.shape
    bits = np.empty((batch, steps, words(2 * channels)), np.uint64)
    whole = np.ascontiguousarray(series)
    threads.share(batch, lambda turn: trains.crossings(whole, threshold, np.empty(channels), bits, turn))
    return bits.view(np.int64)
