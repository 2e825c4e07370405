"""The liquid: a sparse network of spiking neurons, excitatory and inhibitory, with random synapses that stay as drawn.

Neurons stand on a grid, see `rules.connectivity.grid`. A synapse from neuron p to neuron i exists with the probability
K exp(-(d / reach)^2). d is their distance, and K depends on their types (Maass, Natschläger and Markram 2002). The
defaults of the constants are those of Zhang, Li, Jin and Choe, "A Digital Liquid State Machine With Biologically
Inspired Learning and Its Application to Speech Recognition" (2015): K and `reach` are the connectivity of ST-RSBP's and
HM2-BP's reservoirs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snnrun.kernels import Synapses
from snnrun.rules.base import synapse_index
from snnrun.rules.connectivity import grid


class Wiring(NamedTuple):
    """How recurrent synapses are drawn. Each list has a number for E to E, E to I, I to E, and I to I.

    `excitatory`: share of excitatory neurons. `strength`: K of the module's rule. `reach`: in steps of the grid, or
    None for synapses at random, with the probability K whatever the distance. `weights`: of the synapses, mV.
    """

    excitatory: float
    strength: Sequence[float]
    reach: float | None
    weights: Sequence[float]


class Neurons(NamedTuple):
    """The neurons of a liquid: which are excitatory, (N,) bool, and the synapses among them."""

    excitatory: Tensor
    recurrent: Synapses


def draw_neurons(neurons: int, wiring: Wiring, generator: Generator) -> Neurons:
    """Draw types and recurrent synapses. Self-connections are possible, as in the papers' reservoirs."""
    excitatory = torch.rand(neurons, generator=generator) < wiring.excitatory
    kind = (~excitatory).long()  # 0: E, 1: I
    pair = 2 * kind[None, :] + kind[:, None]  # [post, pre]: EE 0, EI 1, IE 2, II 3
    probability = torch.tensor(wiring.strength, dtype=torch.float32)[pair]
    if wiring.reach is not None:
        place = torch.cartesian_prod(*(torch.arange(side) for side in grid(neurons))).float()
        probability = probability * torch.exp(-((torch.cdist(place, place) / wiring.reach) ** 2))
    pre, post = synapse_index(torch.rand(neurons, neurons, generator=generator) < probability)
    return Neurons(excitatory, Synapses(torch.tensor(wiring.weights, dtype=torch.float32)[pair[post, pre]], pre, post))


def draw_inputs(inputs: int, neurons: int, fan_out: int, weight: float, generator: Generator) -> Tensor:
    """Weights (N, I) from inputs that reach `fan_out` neurons each, with weight `weight` or its negative, mV."""
    reached = torch.rand(inputs, neurons, generator=generator).argsort(dim=1)[:, :fan_out]
    sign = torch.where(torch.rand(inputs, fan_out, generator=generator) < 0.5, -weight, weight)
    return torch.zeros(inputs, neurons).scatter_(1, reached, sign).T
