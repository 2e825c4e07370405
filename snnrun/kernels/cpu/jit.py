"""How the loops of the cpu kernels are compiled, and the arrays they work on.

A loop writes into arrays it is given and holds no interpreter lock. Neurons are worked on in blocks of 64, one spike
word each; the last block of a layer may be 32 or 16 wide. Weights come pre-neuron first, (I, P), so that a spike adds
one row; P is N padded to whole blocks, and so are all arrays by neuron. Numba's cache of a loop knows its own file
alone: after a change to a part it calls, remove the folder `__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from snnrun.kernels.cpu.vector import FAST

Floats = NDArray[np.float32]
Times = NDArray[np.uint16]
Indices = NDArray[np.int32]
Words = NDArray[np.uint64]

# Without Numba's memory manager nothing counts references in the loops, and nothing can be allocated there.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": set(FAST), "error_model": "numpy", "_nrt": False}


def jit(function: Callable[..., Any]) -> Any:
    """Compile at the first call; keep the result on disk where there is a folder to write it to."""
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache folder
        return njit(**_OPTIONS)(function)


def part(function: Callable[..., Any]) -> Any:
    """Compile as a part of the loops that call it."""
    return njit(forceinline=True, **_OPTIONS)(function)
