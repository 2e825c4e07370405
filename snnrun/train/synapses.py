"""The synapses of a layer of a spiking network, by the neuron that they start at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun.kernels import reference
from snnrun.network import Layer
from snnrun.rules import Rule


@dataclass(frozen=True)
class FanOut:
    """Number of a layer's synapses that start at each of its inputs, `forward` (I,), and neurons, `recurrent` (N,)."""

    forward: Tensor
    recurrent: Tensor | None = None


def fan_out(layer: Layer, rule: Rule, *, working: bool = False) -> FanOut:
    """Number of synapses of a layer by their pre-neuron, with the fixed inhibition among its neurons.

    For a convolution or a spiking pool, these are the synapses of the windows that see the pre-neuron. An average pool
    is not a layer. A spike goes through it to the synapses of the next layer, unless it lies beyond the last whole
    square.

    Args:
        layer: Of a network.
        rule: The network's.
        working: Leave out synapses whose weight is 0.
    """
    weight, kind = layer.weight.detach(), layer.kind
    there = (weight != 0 if working else torch.ones_like(weight, dtype=torch.bool)).float()
    if kind.window is not None:
        window = kind.window
        seen = reference.drive_by_input(there.new_ones(1, window.neurons), there, window)[0]
        return FanOut((seen * window.pool**2).round().long())
    recurrent = layer.recurrent_mask
    if recurrent is not None and working:
        assert layer.recurrent_weight is not None
        recurrent = recurrent & (layer.recurrent_weight.detach() != 0)
    own = None if recurrent is None else recurrent.sum(dim=0)
    if rule.inhibits(kind):
        own = torch.full((len(weight),), len(weight) - 1)
    forward = there.sum(dim=0)
    if kind.average is not None:
        average = reference.pool_weight(kind.average, there)
        forward = reference.drive_by_input(forward[None], average, kind.average)[0]
    return FanOut(forward.round().long(), own)


def dense_operations(layer: Layer) -> int:
    """Multiply-accumulates of one pass of a layer of this shape with real-valued activities.

    A recurrent layer adds all of N x N. A convolution has its window for each of its neurons. A pool only adds, so it
    has none.
    """
    if layer.kind.pool:
        return 0
    if layer.kind.window is not None:
        return int(layer.kind.window.neurons * layer.weight[0].numel())
    return int(layer.weight.numel() + (0 if layer.recurrent_weight is None else len(layer.weight) ** 2))
