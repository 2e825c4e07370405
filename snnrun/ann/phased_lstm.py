"""Phased LSTM (Neil, Pfeiffer and Liu, NeurIPS 2016): an LSTM whose units are updated while a gate in time is open.

Unit j has a period tau_j and a shift s_j in time. At time t its phase is phi = ((t - s) mod tau) / tau, and its gate
(eq. 6), with r the share of the period in which it is open, is

    k = 2 phi / r       for phi < r / 2
    k = 2 - 2 phi / r   for r / 2 < phi < r
    k = alpha phi       otherwise: the leak, which lets gradients through in training and is 0 in evaluation

Cell and output move as far as the gate is open (eq. 7 to 10), from the old cell c and output h, with k at this time:

    i, f = sigmoid(W x + U h + w * c + b)
    c~   = f * c + i * tanh(W x + U h + b),      c <- k c~ + (1 - k) c
    o    = sigmoid(W x + U h + w * c~ + b)
    h~   = o * tanh(c~),                         h <- k h~ + (1 - k) h

tau (by its logarithm), s and r are trained with the weights. Initial periods are drawn log-uniform, shifts uniform in
the period.

Differs from the paper: inputs come as counts in bins of equal length, at the times of the bins, and not at times of
their own. The output gate sees c~, which the paper leaves open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrun.ann.recurrent import Recurrent, RecurrentModel
from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.network.model import Signal

LEAST_OPEN = 1e-3  # of the share of a period in which a gate is open


@dataclass(frozen=True, kw_only=True)
class PhasedLstm(Recurrent):
    """Phased LSTM.

    Attributes:
        period_least, period_most: Limits of the initial periods, in steps.
        open: Initial share of its period in which a gate is open.
        leak: alpha.
        peephole: Whether the gates see the cell.
    """

    period_least: Annotated[float, Range(above=0)] = 10.0
    period_most: Annotated[float, Range(above=0)] = 200.0
    open: Annotated[float, Range(above=0, at_most=1)] = 0.5
    leak: Annotated[float, Range(at_least=0)] = 0.001
    peephole: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.period_most < self.period_least:
            raise UsageError(
                f"model.period_most: {self.period_most:g} is less than model.period_least, {self.period_least:g}."
            )

    def module(self, signal: Signal, outputs: int) -> PhasedLstmModel:
        """The model."""
        return PhasedLstmModel(self, signal, outputs)


class PhasedLstmModel(RecurrentModel):
    """See `PhasedLstm`."""

    letter, gates, suffix = "PL", 4, ""

    def cell(self, options: PhasedLstm, inputs: int, size: int) -> PhasedLayer:
        """A layer. The time of an input is that of the beginning of its bin; rows of an image are a step apart."""
        return PhasedLayer(options, inputs, size, float(self.bins.size) if self.bins.spikes else 1.0)

    def apart(self) -> dict[nn.Parameter, float]:
        """Periods, shifts and open shares of the time gates, which are no weights."""
        layers = [layer for layer in self.layers.values() if isinstance(layer, PhasedLayer)]
        return {gate: 1.0 for layer in layers for gate in (layer.log_period, layer.shift, layer.open)}

    def run(self, layer: nn.Module, values: Tensor, training: bool) -> Tensor:
        """Outputs (B, T, H)."""
        outputs: Tensor = layer(values, training)
        return outputs


class PhasedLayer(nn.Module):
    """A layer of Phased LSTM. Weights are as those of `nn.LSTM`, gates in the order input, forget, cell, output.

    Args:
        options: Of the model.
        inputs: N.
        size: H.
        interval: Time between two inputs, in steps.
    """

    def __init__(self, options: PhasedLstm, inputs: int, size: int, interval: float) -> None:
        super().__init__()
        self.hidden_size, self._interval, self._leak = size, interval, options.leak
        bound = 1.0 / math.sqrt(size)
        self.weight_ih = nn.Parameter(torch.empty(4 * size, inputs).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(4 * size, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(4 * size).uniform_(-bound, bound)) if options.bias else None
        # Of input, forget and output gate.
        self.peephole = nn.Parameter(torch.empty(3, size).uniform_(-bound, bound)) if options.peephole else None
        least, most = math.log(options.period_least), math.log(options.period_most)
        self.log_period = nn.Parameter(torch.empty(size).uniform_(0.0, 1.0) * (most - least) + least)
        self.shift = nn.Parameter(torch.empty(size).uniform_(0.0, 1.0) * self.log_period.detach().exp())
        self.open = nn.Parameter(torch.full((size,), options.open))

    def time_gate(self, time: Tensor, training: bool) -> Tensor:
        """k at these times (T,), in steps: (T, H)."""
        cycles = (time[:, None] - self.shift) / self.log_period.exp()
        phase = cycles - cycles.detach().floor()
        share = self.open.clamp(LEAST_OPEN, 1.0)
        rising, falling = 2.0 * phase / share, 2.0 - 2.0 * phase / share
        closed = (self._leak if training else 0.0) * phase
        return torch.where(phase < share / 2, rising, torch.where(phase < share, falling, closed))

    def forward(self, values: Tensor, training: bool) -> Tensor:
        """Outputs (B, T, H) over values (B, T, N). `training`: whether the leak is on."""
        batch, steps, _ = values.shape
        time = torch.arange(steps, device=values.device, dtype=values.dtype) * self._interval
        opened = self.time_gate(time, training).unbind()
        driven = functional.linear(values, self.weight_ih, self.bias).unbind(dim=1)
        cell = output = values.new_zeros(batch, self.hidden_size)
        see_in, see_forget, see_out = (0.0, 0.0, 0.0) if self.peephole is None else self.peephole.unbind()
        outputs = []
        for drive, k in zip(driven, opened, strict=True):  # matrix products dominate: (B, H) by (H, 4 H)
            gate_in, gate_forget, new, gate_out = (drive + output @ self.weight_hh.T).chunk(4, dim=1)
            kept = torch.sigmoid(gate_forget + see_forget * cell) * cell
            wanted = kept + torch.sigmoid(gate_in + see_in * cell) * torch.tanh(new)
            shown = torch.sigmoid(gate_out + see_out * wanted) * torch.tanh(wanted)
            cell, output = torch.lerp(cell, wanted, k), torch.lerp(output, shown, k)
            outputs.append(output)
        return torch.stack(outputs, dim=1)
