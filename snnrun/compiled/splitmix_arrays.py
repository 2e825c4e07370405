"""SplitMix64 (Steele, Lea and Flood 2014) on arrays, without Numba: random words by number, alike on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mixed(x: Any) -> Any:
    """SplitMix64's output function, of an array of unsigned words."""
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


def keyed(index: NDArray[np.int64], *numbers: int) -> NDArray[np.uint64]:
    """A word for each sample, by its number in the corpus (B,) and by numbers that all share, such as the seed."""
    word = np.zeros(len(index), np.uint64)
    for number in (*(np.full(len(index), each) for each in numbers), index):
        word = mixed(word + STEP + number.astype(np.uint64))
    return word
