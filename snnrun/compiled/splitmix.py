"""SplitMix64 (Steele, Lea and Flood 2014) inside compiled loops: whole numbers, the same bits on every machine.

The numbers of a stream are mixed values of an arithmetic progression: word n of the stream of a key, n from 1, is
`mix(key + n STEP)`. `kernels.splitmix` has the same words in PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.compiled.jit import part

STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@part
def mix(x: Any) -> Any:
    """SplitMix64's output function."""
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))
