"""The liquid: a sparse network of spiking neurons, excitatory and inhibitory, with random synapses that stay as drawn.

Neurons stand on a grid, see `rules.connectivity.grid`. A synapse from neuron p to neuron i exists with the probability
K exp(-(d / reach)^2). d is their distance, and K depends on their types (Maass, Natschläger and Markram 2002). The
defaults of the constants are those of Zhang, Li, Jin and Choe, "A Digital Liquid State Machine With Biologically
Inspired Learning and Its Application to Speech Recognition" (2015): K and `reach` are the connectivity of ST-RSBP's and
HM2-BP's reservoirs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.kernels import Lif, Synapses
from snnrun.network.model import Design, Signal
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


@dataclass(frozen=True, kw_only=True)
class Liquid(Design):
    """What the models with liquids share. Lists of four have a number for E to E, E to I, I to E, and I to I.

    Attributes:
        excitatory: Share of excitatory neurons.
        connectivity: `distance` draws a synapse with probability strength exp(-(d / reach)^2), where d is the distance
            of its neurons on a grid; `random` with probability `strength`.
        strength: Probability at distance 0.
        reach: In steps of the grid.
        weights: Of the recurrent synapses, mV.
        threshold, tau_m, tau_s, t_ref: Threshold in mV, time constants and refractory period in ms.
    """

    excitatory: Annotated[float, Range(at_least=0, at_most=1)] = 0.8
    connectivity: Literal["distance", "random"] = "distance"
    strength: Annotated[Sequence[float], Range(at_least=0, at_most=1)] = (0.45, 0.3, 0.6, 0.15)
    reach: Annotated[float, Range(above=0)] = 2.0
    weights: Sequence[float] = (3.0, 6.0, -2.0, -2.0)
    threshold: Annotated[float, Range(above=0)] = 20.0
    tau_m: Annotated[float, Range(at_least=1)] = 64.0
    tau_s: Annotated[float, Range(at_least=1)] = 8.0
    t_ref: Annotated[int, Range(at_least=0)] = 3

    @property
    def wiring(self) -> Wiring:
        """How the recurrent synapses are drawn."""
        reach = self.reach if self.connectivity == "distance" else None
        return Wiring(self.excitatory, self.strength, reach, self.weights)

    @property
    def lif(self) -> Lif:
        """The neuron."""
        return Lif(self.tau_m, self.tau_s, self.t_ref, self.threshold)

    def check_fours(self) -> None:
        """Raise UsageError unless each list has four numbers."""
        for name, values in (("strength", self.strength), ("weights", self.weights)):
            if len(values) != 4:
                raise UsageError(
                    f"model.{name}: {len(values)} numbers. Allowed: 4, for synapses from E to E, E to I, I to E, "
                    "I to I, where E is an excitatory and I an inhibitory neuron."
                )

    def check_spikes(self, signal: Signal, model: str) -> None:
        """Raise UsageError unless the model gets spikes."""
        if not signal.spikes:
            raise UsageError(
                f"model={model}: a liquid needs spikes, and this encoder gives values. Choose encoder=poisson for "
                "images, and leave the encoder of other corpora to the defaults."
            )


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
