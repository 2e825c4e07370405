"""Population coding: several neurons share a value, and each fires most where the value is its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snnrun.declared import Range
from snnrun.encoders.rate import RateEncoder


@dataclass(frozen=True)
class Population(RateEncoder):
    """Neurons with overlapping receptive fields, whose trains are drawn as `RateEncoder` draws them.

    The centres of the K fields of a value lie evenly from 0 to 1. A neuron fires with probability 1 / attenuation where
    the value is its centre, and with less the further away it is, down to 0 at the next centre. So every value makes
    the same number of spikes on average, and its size is where they are, which neurons without memory can tell apart.

    Source: Bohte, Kok, La Poutre, Error-backpropagation in temporally encoded networks of spiking neurons,
    Neurocomputing 48, 2002.

    Differs from the paper: its fields are Gaussian and decide when a neuron fires once. These are triangular, which
    needs no exponential and so gives the same spikes on every machine, and decide how often it fires.

    Attributes:
        fields: K, neurons for each value.
    """

    kinds: ClassVar[tuple[str, ...]] = ("vector", "series")

    steps: Annotated[int, Range(at_least=1)] = 200
    attenuation: Annotated[float, Range(at_least=1)] = 1.0
    fields: Annotated[int, Range(at_least=2)] = 12

    def inputs(self, channels: int) -> int:
        """N, the number of neurons for so many channels: those of a value lie together."""
        return channels * self.fields

    def begin(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> Callable[[], NDArray[np.int64]]:
        """Begin to draw the spikes of vectors (B, N) or series (B, P, N) of values 0..1, see `RateEncoder.begin`."""
        if samples.dtype != np.float32 or samples.ndim not in (2, 3):
            raise ValueError(f"want values, float32 (B, N) or (B, P, N); got {samples.dtype} {samples.shape}")
        return super().begin(self._felt(samples), index, epoch)

    def _felt(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """How near each value is to the centres of its neurons, 0 to 1."""
        places = samples.astype(np.float64)[..., None] * (self.fields - 1)
        near = 1.0 - np.abs(places - np.arange(self.fields))
        near = np.where(near < 0, 0.0, near)  # of NaN it stays NaN
        return near.reshape(*samples.shape[:-1], -1).astype(np.float32)
