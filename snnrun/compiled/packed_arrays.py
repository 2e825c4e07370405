"""Spike trains as bits in NumPy arrays: (..., W) int64. Channel n of a step is bit n % 64 of word n // 64.

`kernels.packed` has the same for PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 64


def words(channels: int) -> int:
    """W, the words that hold one step of so many channels."""
    return -(-channels // BITS)


def pack(spikes: NDArray[Any]) -> NDArray[np.int64]:
    """Bits (..., W) of spikes (..., N) of 0 and 1."""
    padded = np.zeros((*spikes.shape[:-1], words(spikes.shape[-1]) * BITS), np.uint8)
    padded[..., : spikes.shape[-1]] = spikes
    return np.packbits(padded, axis=-1, bitorder="little").view(np.int64)


def unpack(bits: NDArray[np.int64], channels: int) -> NDArray[np.bool_]:
    """Spikes (..., channels) of their bits (..., W)."""
    octets = np.ascontiguousarray(bits).view(np.uint8)
    return np.unpackbits(octets, axis=-1, bitorder="little", count=channels).view(np.bool_)
