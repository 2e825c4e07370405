"""The layers of a spiking network as plain tensors and numbers, from which each format is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from snnrun.errors import UsageError
from snnrun.kernels import Lif, Srm, Stbp, Window, Wta, reference
from snnrun.kernels.neuron import slack_threshold
from snnrun.network import Layer, Network
from snnrun.rules import LayerKind, LayerWeights, LeeRule, SlayerRule, StbpRule
from snnrun.rules.delays import whole
from snnrun.rules.spike_train import SpikeTrainRule

# Rules of users may derive from these, with other losses or gradients, but not with another forward pass.
FORWARD = {rule.layer for rule in (StbpRule, SpikeTrainRule, SlayerRule, LeeRule)}


class AdaptiveStbp(NamedTuple):
    """STBP's neurons each with constants of its own, (N,): `kernels.reference.alif`.

    `kept` and `after_spike` are what a step keeps of the membrane, `adaptation_decay` what it leaves of the adaptation,
    and `rise` by how much an adaptation of 1 raises the threshold; 0 if none adapts. `strict`: they fire above it.
    """

    kept: Tensor
    after_spike: Tensor
    adaptation_decay: Tensor
    rise: float
    strict: bool


@dataclass(frozen=True)
class Part:
    """A layer that fires.

    Attributes:
        name: Such as `hidden1`.
        sources: Whose spikes it gets, side by side: names of layers, or `input`.
        neurons: N.
        window: How a convolution or a pool looks at its input, whose averages are taken first if `window.pool` > 1.
        average: The average pool before a dense layer.
        weight: (N, I) or (K, C, height, width). A pool has the same for all inputs, `gain`, and None here.
        bias: (N,) or (K,), or None.
        loop: Recurrent weights (N, N), which act after one step, to row from column; None if there are none.
        delay: Whole steps by which the spikes of each input come later, (I,) int64, or None.
        neuron: What its neurons are.
        threshold: At which they fire, or above which (`Lif`); of `Wta` one for each, (N,).
    """

    name: str
    sources: tuple[str, ...]
    neurons: int
    window: Window | None
    average: Window | None
    weight: Tensor | None
    gain: float
    bias: Tensor | None
    loop: Tensor | None
    delay: Tensor | None
    neuron: Stbp | AdaptiveStbp | Lif | Srm | Wta
    threshold: float | Tensor


@torch.no_grad()
def parts(network: Network) -> list[Part]:
    """The layers of a network, from the input on. Raises UsageError if its rule has a forward pass of its own."""
    if type(network.rule).layer not in FORWARD:
        raise UsageError(
            f"The layers of {type(network.rule).__name__} run by code of its own, which this format does not have. "
            "Use --format safetensors."
        )
    found = []
    for name, size, layer in zip(network.layer_names, network.sizes, network.layers, strict=True):
        assert isinstance(layer, Layer)
        found.append(_part(network, name, size, layer.kind, layer.weights()))
    return found


def _part(network: Network, name: str, size: int, kind: LayerKind, weights: LayerWeights) -> Part:
    rule, gain, loop, delay = network.rule, network.rule.pool_weight(kind), None, weights.delay
    neuron: Stbp | AdaptiveStbp | Lif | Srm | Wta
    threshold: float | Tensor
    if isinstance(rule, StbpRule):
        weights = rule.at_thresholds(weights)
        alif = rule.alif(kind, weights)
        if alif is None:
            neuron = rule.neuron(kind)
        else:
            kept, rise = reference.keeps(alif, rule.neuron(kind)), alif.strength * rule.threshold(kind)
            neuron = AdaptiveStbp(kept.f, kept.f_after, alif.adaptation_decay, rise, rule.strict_threshold)
        threshold = rule.threshold(kind)
    elif isinstance(rule, SpikeTrainRule):
        weights = rule.at_thresholds(weights)
        neuron = rule.lif(kind, weights)
        threshold = neuron.v_th if kind.window is not None and not kind.pool else slack_threshold(neuron.v_th)
        if rule.inhibits(kind):
            loop = rule.inhibition(weights).dense(size)
    elif isinstance(rule, SlayerRule):
        neuron = rule.neuron(kind)
        threshold = neuron.v_th
        delay = None if delay is None else delay.floor()
    else:
        assert isinstance(rule, LeeRule)
        assert weights.threshold is not None
        neuron = rule.neuron(kind)
        each = weights.threshold * rule.initial_threshold(kind, weights.weight[0].numel())
        threshold = each.repeat_interleave(size // len(each))
    return Part(
        name,
        tuple(network.sources(kind)),
        size,
        kind.window,
        kind.average,
        None if kind.pool else weights.weight.detach().contiguous(),
        gain,
        None if weights.bias is None else weights.bias.detach(),
        loop if weights.recurrent_weight is None else weights.recurrent_weight.detach(),
        None if delay is None else whole(delay),
        neuron,
        threshold,
    )
