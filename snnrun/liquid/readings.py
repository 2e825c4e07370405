"""The state of a liquid: numbers read from the spike trains of its neurons at several times."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrun.kernels import unpack


def reading_weights(kind: str, readings: int, tau: float, steps: int) -> Tensor:
    """What a spike at each step adds to each reading, (R, T). The readings lie evenly over the T steps.

    `counts`: the spikes since the reading before. `filtered`: each spike decays by exp(-1 / tau) in a step, and the
    reading sees what is left of all spikes so far (Maass, Natschläger and Markram 2002).
    """
    ends = (torch.arange(1, readings + 1) * steps) // readings  # the first step after each reading
    age = ends[:, None] - 1 - torch.arange(steps)[None, :]  # of a spike when it is read
    if kind == "counts":
        before = torch.cat([ends.new_zeros(1), ends[:-1]])
        return ((age >= 0) & (torch.arange(steps)[None, :] >= before[:, None])).float()
    return torch.where(age >= 0, torch.exp(-age.float() / tau), 0.0)


def read(spikes: Tensor, neurons: int, weights: Tensor) -> Tensor:
    """The state (B, R N) of spikes (B, T, W): the readings `weights` (R, T) of all neurons, one after another."""
    # Sample by sample, so that a state does not depend on the batch, nor its memory on the batch's size.
    return torch.stack([(weights @ unpack(train[None], neurons, weights.dtype)[0]).flatten() for train in spikes])
