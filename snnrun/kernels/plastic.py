"""Liquids whose input synapses learn by spike-timing-dependent plasticity: their wiring and constants."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from snnrun.kernels.neuron import Lif, Synapses


class Liquids(NamedTuple):
    """L liquids side by side, each with N neurons and a part of the inputs of its own.

    Neuron n of liquid l has the number l N + n in all of these.

    `neurons`: N. `edges`: L + 1 numbers; liquid l has the inputs edges[l] ... edges[l + 1]. `pre`, `post`: (S,) int64,
    the plastic synapses, sorted by input and then by neuron. `recurrent`: the fixed synapses within the liquids.
    """

    neurons: int
    edges: tuple[int, ...]
    pre: Tensor
    post: Tensor
    recurrent: Synapses

    @property
    def number(self) -> int:
        """L."""
        return len(self.edges) - 1


class Stdp(NamedTuple):
    """The neuron of such a liquid and its rule (Diehl and Cook 2015), at 1 ms.

    `tau`: time constant of an input's trace, ms. `offset`: what is subtracted from the trace. `w_max`: upper limit of
    the weights, mV; the lower one is 0. `power`: of (w_max - w). `rise`: what a spike adds to the neuron's threshold,
    mV. `keep`: share of what was added that is left after one step. `total`: the sum to which the weights of each
    neuron are scaled after each presentation, mV, or 0 for none.
    """

    lif: Lif
    tau: float
    offset: float
    w_max: float
    power: float
    rise: float
    keep: float
    total: float
