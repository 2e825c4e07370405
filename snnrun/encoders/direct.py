"""No spikes: the values themselves, as currents of the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snnrun import declared
from snnrun.declared import Range
from snnrun.encoders.latency import values_of
from snnrun.encoders.series import check_points


@dataclass(frozen=True)
class Direct:
    """The current of an input neuron is value / attenuation in every step: what it would fire in the mean as `Poisson`.

    It is constant for an image or a vector. Of a series it is that of the time: each point is held for an equal part of
    the steps. After the end of a series there is none. A current of x acts as x spikes in the step would. Nothing is
    drawn.

    Attributes:
        seed: Not used.
        steps: T.
        attenuation: A white pixel, or a value of 1, is a current of 1 / attenuation, in spikes per step.

    Raises:
        UsageError: If an option is out of its range.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "vector", "series")
    makes_currents: ClassVar[bool] = True

    seed: int
    steps: Annotated[int, Range(at_least=2)] = 400
    attenuation: Annotated[float, Range(above=0)] = 5.5

    def __post_init__(self) -> None:
        declared.check("encoder", Direct, vars(self))

    def encode(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[np.float32]:
        """The currents of a batch, (B, P, N), of pixels uint8 (B, N) or values float32 (B, N), P = 1, or (B, P, N).

        Raises:
            ValueError: If the samples are something else.
            UsageError: If a series has more points than there are steps.
        """
        del index, epoch
        values = values_of(samples)
        if values.ndim == 3:
            check_points(values.shape[1], self.steps)
        else:
            values = values[:, None]
        return (np.nan_to_num(values) / self.attenuation).astype(np.float32)
