"""The encoder of models without spikes: samples stay what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Unencoded:
    """Hands images, vectors and series on as values, and spikes as bits. Recordings need an encoder that hears them."""

    kinds: ClassVar[tuple[str, ...]] = ("image", "vector", "series", "spikes")
    steps: ClassVar[int | None] = None
    values: ClassVar[bool] = True

    def encode(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[Any]:
        """Hand on a batch.

        Args:
            samples: Pixels 0 to 255, uint8 (B, N), values, float32 (B, N) or (B, T, N), or packed spikes, int64
                (B, T, W).
            index: Not used.
            epoch: Not used.

        Returns:
            Values float32, pixels in [0, 1]: (B, 1, N) of samples without time, or (B, T, N). Spikes as they are.

        Raises:
            ValueError: The samples are none of these.
        """
        del index, epoch
        if samples.dtype == np.int64 and samples.ndim == 3:
            return samples
        if samples.dtype == np.uint8 and samples.ndim == 2:
            return (samples / np.float32(255))[:, None]
        if samples.dtype == np.float32 and samples.ndim in (2, 3):
            return samples[:, None] if samples.ndim == 2 else samples
        raise ValueError(f"want pixels, values or packed spikes; got {samples.dtype} {samples.shape}")
