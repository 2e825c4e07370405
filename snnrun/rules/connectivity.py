"""Recurrent connectivity: sparse and by distance on a grid. The papers take it from liquid state machines."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

# Connection strength by the types of pre- and post-neuron, excitatory (E) or inhibitory (I).
STRENGTH = {("E", "E"): 0.3, ("E", "I"): 0.2, ("I", "E"): 0.4, ("I", "I"): 0.1}
EXCITATORY_SHARE = 0.8

# The grids of the published networks; other sizes take the most compact grid that holds them exactly.
GRIDS = {
    100: (5, 5, 4),
    135: (3, 3, 15),
    200: (5, 5, 8),
    250: (5, 5, 10),
    400: (5, 5, 16),
    500: (5, 5, 20),
    800: (10, 10, 8),
}


def grid(neurons: int) -> tuple[int, int, int]:
    """Side lengths of the grid that `neurons` neurons stand on."""
    if neurons in GRIDS:
        return GRIDS[neurons]
    shapes = [
        (a, b, neurons // (a * b))
        for a in range(1, math.isqrt(neurons) + 1)
        if neurons % a == 0
        for b in range(a, math.isqrt(neurons // a) + 1)
        if (neurons // a) % b == 0
    ]
    return min(shapes, key=sum)


def connect(neurons: int, connectivity: str, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw which recurrent synapses exist.

    Pre-neuron p reaches post-neuron i (or itself) with probability 1.5 c exp(-d^2 / 4). Here d is their distance on the
    grid, and c depends on their types (HM2-BP's and ST-RSBP's reservoirs). `connectivity`:

    - `two_sided`: that rule.
    - `one_sided`: what the ST-RSBP authors' code builds. Its grid coordinates are unsigned, so a synapse exists only
      if no coordinate of the pre-neuron is smaller than the post-neuron's. The only loops are self-connections.
    - `full`: every pair, self-connections included.

    Returns:
        mask (N, N) bool, to row from column; sign (N,), +1 for excitatory and -1 for inhibitory neurons.
    """
    excitatory = torch.rand(neurons, generator=generator) < EXCITATORY_SHARE
    sign = torch.where(excitatory, 1.0, -1.0)
    if connectivity == "full":
        return torch.ones(neurons, neurons, dtype=torch.bool), sign
    axes = [torch.arange(side) for side in grid(neurons)]
    place = torch.cartesian_prod(*axes).float()  # (N, 3)
    offset = place[None, :] - place[:, None]  # [i, p]: pre minus post
    strength = torch.tensor(
        [[STRENGTH["I", "I"], STRENGTH["E", "I"]], [STRENGTH["I", "E"], STRENGTH["E", "E"]]],
    )[excitatory.long()[:, None], excitatory.long()[None, :]]  # [post type, pre type]
    probability = 1.5 * strength * torch.exp(-offset.square().sum(-1) / 4)
    if connectivity == "one_sided":
        probability = probability * (offset >= 0).all(-1)
    return torch.rand(neurons, neurons, generator=generator) < probability, sign
