"""The functions of the backend that let spikes come later."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.jit import Counts
from snnrun.kernels.cpu import delay_loops
from snnrun.kernels.cpu.arrays import as_floats, as_words


def delayed(spikes: Tensor, steps: Tensor) -> Tensor:
    """See `reference.delayed`."""
    words, by = as_words(spikes), _as_counts(steps)
    later = np.zeros_like(words)
    threads.share(len(words), lambda turn: delay_loops.delayed(words, by, later, turn))
    return torch.from_numpy(later.view(np.int64))


def advanced(errors: Tensor, steps: Tensor) -> Tensor:
    """See `reference.advanced`."""
    given, by = as_floats(errors), _as_counts(steps)
    earlier = np.empty_like(given)
    threads.share(len(given), lambda turn: delay_loops.advanced(given, by, earlier, turn))
    return torch.from_numpy(earlier)


def delay_errors(spikes: Tensor, steps: Tensor, errors: Tensor) -> Tensor:
    """See `reference.delay_errors`."""
    words, by, given = as_words(spikes), _as_counts(steps), as_floats(errors)
    total = np.zeros((len(given), given.shape[2]), np.float32)
    threads.share(len(given), lambda turn: delay_loops.delay_errors(words, by, given, total, turn))
    return torch.from_numpy(total)


def _as_counts(steps: Tensor) -> Counts:
    return steps.contiguous().numpy()
