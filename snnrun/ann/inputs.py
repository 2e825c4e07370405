"""What the models without spikes see: values as they are, spikes as their counts in bins."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrun.kernels import ops
from snnrun.network.model import Signal


class Bins:
    """Turns a batch into values (B, T', N) float32.

    Bits become spikes per step, in [0, 1], in T' bins of `size` steps; the last bin may have fewer, and counts as one
    of `size`. Values stay as they are, NaN after the end of a sample included.

    Args:
        signal: The inputs.
        size: Steps of a bin; None for one bin over all.
    """

    def __init__(self, signal: Signal, size: int | None) -> None:
        self.spikes, self.channels = signal.spikes, signal.channels
        self.size = size or max(signal.steps, 1)
        self.number = -(-signal.steps // self.size) if signal.spikes else max(signal.steps, 1)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Values of a batch of bits (B, T, W) int64, or of values (B, T, N). Raises ValueError for another shape."""
        if self.spikes != (inputs.dtype == torch.int64):
            raise ValueError(f"inputs of type {inputs.dtype} are not what this model was made for")
        if not self.spikes:
            return inputs
        batch, steps, width = inputs.shape
        short = -steps % self.size
        if short:
            inputs = torch.cat([inputs, inputs.new_zeros(batch, short, width)], dim=1)
        counts = ops.count_spikes(inputs.reshape(-1, self.size, width), self.channels)
        return counts.reshape(batch, -1, self.channels) / self.size


def lengths(values: Tensor, spikes: bool) -> Tensor:
    """How many steps of each sample there are, (B,), at least 1.

    A series ends with its last step that is not NaN. Spikes end with the last bin that has one: what follows is
    silence, whether the recording was longer or not.
    """
    there = (values != 0).any(dim=2) if spikes else ~values.isnan().any(dim=2)
    place = torch.arange(1, values.shape[1] + 1, device=values.device)
    return (there * place).amax(dim=1).clamp(min=1)
