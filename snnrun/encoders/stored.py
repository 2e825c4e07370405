"""The encoder of corpora whose samples are already spike trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snnrun import declared
from snnrun.declared import Range
from snnrun.errors import UsageError


@dataclass(frozen=True)
class Stored:
    """The samples themselves; seed, epoch and index are not used.

    Attributes:
        steps: T; longer trains are cut there. None: all stored steps.

    Raises:
        UsageError: If `steps` is not positive.
    """

    kinds: ClassVar[tuple[str, ...]] = ("spikes",)

    seed: int
    steps: Annotated[int | None, Range(at_least=1)] = None

    def __post_init__(self) -> None:
        declared.check("encoder", Stored, vars(self))

    def encode(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Hand on a batch of packed spikes, int64 (B, T', W), cut to (B, T, W).

        Raises:
            ValueError: If the samples are not packed spikes.
            UsageError: If they have fewer steps than `steps`.
        """
        del index, epoch
        if samples.dtype != np.int64 or samples.ndim != 3:
            raise ValueError(f"want packed spikes, int64 (B, T, W); got {samples.dtype} {samples.shape}")
        if self.steps is not None and self.steps > samples.shape[1]:
            raise UsageError(
                f"encoder.steps={self.steps}: the stored spike trains have {samples.shape[1]} steps. "
                "Choose at most as many, or null for all."
            )
        return np.ascontiguousarray(samples[:, : self.steps])
