"""The functions of the backend that let spikes get lost."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.jit import Words
from snnrun.kernels.cpu import thinning_loops
from snnrun.kernels.cpu.arrays import as_words, check_type
from snnrun.kernels.reference.thinning import limit


def thin(spikes: Tensor, keys: Tensor, share: float) -> Tensor:
    """See `reference.thin`."""
    words, below, most = as_words(spikes), _as_keys(keys), limit(share)
    left = np.empty_like(words)
    threads.share(len(words), lambda turn: thinning_loops.thin(words, below, most, left, turn))
    return torch.from_numpy(left.view(np.int64))


def thin_gradient(gradient: Tensor, keys: Tensor, share: float) -> Tensor:
    """See `reference.thin_gradient`."""
    check_type(gradient.dtype)
    given, below, most = gradient.contiguous().numpy(), _as_keys(keys), limit(share)
    left = np.empty_like(given)
    threads.share(len(given), lambda turn: thinning_loops.thin_gradient(given, below, most, left, turn))
    return torch.from_numpy(left)


def _as_keys(keys: Tensor) -> Words:
    return keys.contiguous().numpy().view(np.uint64)
