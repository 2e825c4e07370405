"""Layers and topologies: a network is a learning rule applied to a stack of weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from snnrun.errors import UsageError
from snnrun.kernels import ops, pack, words
from snnrun.rules import LayerKind, LayerWeights, Rule, SpikeTrain
from snnrun.rules.base import synapse_index


@dataclass(frozen=True)
class LayerSpec:
    """One hidden layer of a topology string."""

    size: int
    recurrent: bool


def parse_topology(topology: str) -> list[LayerSpec]:
    """Hidden layers of `400-R400`: sizes from the input on, R before a recurrent one; empty for none.

    Raises:
        UsageError: a part is not a positive size.
    """
    if not topology:
        return []
    specs = []
    for part in topology.split("-"):
        match = re.fullmatch(r"(R?)([1-9][0-9]{0,5})", part)
        if match is None:
            raise UsageError(
                f"model.network: cannot read {part!r} in {topology!r}. Allowed: hidden layer sizes joined by '-', "
                "each with an R in front if the layer is recurrent, such as 800, 400-R400 or R100-100."
            )
        specs.append(LayerSpec(int(match[2]), bool(match[1])))
    return specs


class Activity(NamedTuple):
    """What a forward pass leaves: the output and the spike train of every layer, output included."""

    output: SpikeTrain
    layers: list[SpikeTrain]


class Layer(nn.Module):
    """The weights of one layer as parameters, under the names that checkpoints and exports use."""

    weight: nn.Parameter
    recurrent_weight: nn.Parameter | None
    bias: nn.Parameter | None
    recurrent_mask: Tensor | None
    recurrent_index: Tensor | None

    def __init__(self, kind: LayerKind, weights: LayerWeights) -> None:
        super().__init__()
        self.kind = kind
        # Stored input by input: on a CPU an input spike adds the row of its neuron.
        self.weight = nn.Parameter(weights.weight.T.contiguous().T)
        for name in ("recurrent_weight", "bias"):
            value = getattr(weights, name)
            self.register_parameter(name, None if value is None else nn.Parameter(value))
        mask = weights.recurrent_mask
        self.register_buffer("recurrent_mask", mask)
        self.register_buffer("recurrent_index", None if mask is None else synapse_index(mask), persistent=False)

    def weights(self) -> LayerWeights:
        """The tensors as the rule takes them."""
        return LayerWeights(self.weight, self.recurrent_weight, self.recurrent_mask, self.bias, self.recurrent_index)


class Network(nn.Module):
    """A spiking network of dense and recurrent layers with one learning rule.

    Args:
        rule: learning rule with its neuron constants.
        inputs: number of input channels.
        topology: hidden layers, see `parse_topology`.
        outputs: number of classes; the output layer is added behind the hidden ones.
        seed: of the initial weights.

    Raises:
        UsageError: the topology cannot be read, or the number of thresholds does not fit it.
    """

    def __init__(self, rule: Rule, *, inputs: int, topology: str, outputs: int, seed: int = 0) -> None:
        super().__init__()
        self.rule, self.inputs, self.topology = rule, inputs, topology
        specs = [*parse_topology(topology), LayerSpec(outputs, recurrent=False)]
        check_thresholds(rule.v_th, topology)
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList()
        fan_in = inputs
        for number, spec in enumerate(specs):
            kind = LayerKind(number, output=number == len(specs) - 1, recurrent=spec.recurrent)
            self.layers.append(Layer(kind, rule.initialise(kind, fan_in, spec.size, generator)))
            fan_in = spec.size
        self.sizes = [spec.size for spec in specs]
        self.layer_names = [
            "output" if number == len(specs) - 1 else f"hidden{number + 1}" for number in range(len(specs))
        ]

    def forward(self, spikes: Tensor, labels: Tensor | None = None) -> Activity:
        """Run spikes: (B, T, inputs) of 0 and 1, or their bits (B, T, W) int64 (see `kernels.pack`).

        `labels` (B,) are needed for training: the output layer's rule uses them.
        """
        packed = spikes.dtype == torch.int64
        bits = spikes if packed else pack(spikes)
        if words(self.inputs) != bits.shape[2] or not (packed or self.inputs == spikes.shape[2]):
            raise ValueError(f"spikes of shape {tuple(spikes.shape)} do not fit a network of {self.inputs} inputs")
        train = SpikeTrain(bits, ops.count_spikes(bits, self.inputs))
        trains = []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            train = self.rule.layer(layer.kind, layer.weights(), train, labels)
            trains.append(train)
        return Activity(train, trains)

    def add_weight_penalty(self) -> None:
        """Add the rule's regulariser to the gradients that a backward pass has left."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            penalty = self.rule.weight_penalty(layer.kind, layer.weights())
            if penalty is None:
                continue
            for parameter, extra in zip((layer.weight, layer.recurrent_weight), penalty, strict=True):
                if parameter is not None and parameter.grad is not None and extra is not None:
                    parameter.grad += extra

    def synapses(self) -> int:
        """Number of trained synapses and biases."""
        total = 0
        for layer in self.layers:
            assert isinstance(layer, Layer)
            total += layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel())
            total += 0 if layer.recurrent_mask is None else int(layer.recurrent_mask.sum())
        return total


def check_thresholds(v_th: object, topology: str) -> None:
    """Raise UsageError unless there is one threshold, or one for each hidden layer and the output."""
    layers = len(parse_topology(topology)) + 1
    values = list(v_th) if isinstance(v_th, (list, tuple)) else [v_th]
    if len(values) not in (1, layers):
        raise UsageError(
            f"model.v_th: {len(values)} thresholds for the {layers} layers of model.network={topology} and the output. "
            f"Allowed: one number for all layers, or {layers} as [a,b,...]."
        )
