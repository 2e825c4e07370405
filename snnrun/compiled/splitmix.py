"""SplitMix64 (Steele, Lea and Flood 2014) inside compiled loops: whole numbers, the same bits on every machine.

The numbers of a stream are mixed values of an arithmetic progression: word n of the stream of a key, n from 1, is
`mix(key + n STEP)`. `kernels.splitmix` has the same words in PyTorch, `splitmix_arrays` for arrays.
"""

from __future__ import annotations

from snnrun.compiled.jit import part
from snnrun.compiled.splitmix_arrays import STEP, mixed

__all__ = ["STEP", "mix"]

mix = part(mixed)
