"""Spike trains that come later, each input's by its own whole number of steps, and what errors that gives.

Steps may be negative: then trains come earlier. What would come before the first step or after the last is lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snnrun.kernels.packed import pack, unpack


def delayed(spikes: Tensor, steps: Tensor) -> Tensor:
    """Bits (B, T, W) of the trains of I inputs, from theirs, `steps` (I,) int64 later."""
    return pack(_later(unpack(spikes, len(steps)), steps))


def advanced(errors: Tensor, steps: Tensor) -> Tensor:
    """The errors (B, T, I) of trains before they are delayed, from those after: value t is that of t + steps."""
    return _later(errors, -steps)


def delay_errors(spikes: Tensor, steps: Tensor, errors: Tensor) -> Tensor:
    """Half the difference of the errors one step after and one step before each spike arrives, summed: (B, I).

    Args:
        spikes: bits (B, T, W) of the trains before they are delayed.
        steps: (I,) int64.
        errors: (B, T, I), of the delayed trains; they are 0 outside the steps.
    """
    sent = unpack(spikes, len(steps), errors.dtype)
    return 0.5 * (sent * (_later(errors, -steps - 1) - _later(errors, 1 - steps))).sum(dim=1)


def _later(values: Tensor, steps: Tensor) -> Tensor:
    """Values (B, T, I) so many `steps` (I,) later; 0 where nothing was."""
    last = values.shape[1] - 1
    time = torch.arange(last + 1, device=values.device)[:, None] - steps
    return values.gather(1, time.clamp(0, last).expand_as(values)) * ((time >= 0) & (time <= last))
