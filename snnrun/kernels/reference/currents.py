"""The reference kernels of a first layer that gets currents instead of spikes.

An input has K values, (B, K, I), each of which is its current for an equal part of the T steps: that of step t is value
floor(t K / T). It adds w_ij x_j where a spike would add w_ij. A constant input has one value. So the drive is computed
K times for a sample, and every sum over steps of a neuron times an input is a sum over values:

    sum over t of r_i(t) x_j(t) = sum over k of x_j(k) R_i(k),   R_i(k) = sum of r_i(t) over the steps of value k

These functions take the drive of any layer, dense or over images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snnrun.kernels.neuron import Lif, Stbp, Synapses, slack_threshold
from snnrun.kernels.packed import pack, unpack
from snnrun.kernels.reference.time import lif_scan, readout, stbp_scan, stbp_scan_backward


def current_drive(values: Tensor, weight: Tensor) -> Tensor:
    """sum_j w_ij x_j of each value, (B, K, N), of values (B, K, I) and weights (N, I)."""
    return values @ weight.T


def shares(count: int, steps: int, device: torch.device | None = None) -> Tensor:
    """The number of the value, below `count`, that each of the T steps has, (T,) int64."""
    return torch.arange(steps, device=device) * count // steps


def held(values: Tensor, steps: int) -> Tensor:
    """The value of each step, (B, T, N), of values (B, K, N)."""
    return values[:, shares(values.shape[1], steps, values.device)]


def held_sums(by_step: Tensor, count: int) -> Tensor:
    """Sums (B, K, N) over the steps of each value, of what is (B, T, N)."""
    steps = by_step.shape[1]
    if steps % count == 0:
        return by_step.reshape(len(by_step), count, steps // count, -1).sum(dim=2)
    mine = torch.nn.functional.one_hot(shares(count, steps, by_step.device), count)
    return mine.T.to(by_step.dtype) @ by_step


def lif_driven(
    drive: Tensor, recurrent: Synapses | None, lif: Lif, steps: int, slack: bool = True
) -> tuple[Tensor, Tensor]:
    """Simulate leaky integrate-and-fire neurons that get currents.

    Args:
        drive: (B, K, N), mV: what the currents add to the synapse in each step. It acts after one step, as spikes do.
        recurrent: synapses among the N neurons, which act after one step; None if there are none.
        lif: neuron parameters.
        steps: T.
        slack: whether the threshold has the slack of dense layers and pools; convolutions have none.

    Returns:
        bits of the spikes (B, T, W), none at step 0; firing counts (B, N).
    """
    theta = slack_threshold(lif.v_th, drive.dtype) if slack else lif.v_th
    loop = None if recurrent is None else recurrent.dense(drive.shape[2])
    spikes = lif_scan(held(drive, steps), loop, lif, theta)
    return pack(spikes), spikes.sum(dim=1).to(drive.dtype)


def readout_sums(rule: str, lif: Lif, spikes: Tensor, like: Tensor, count: int) -> Tensor:
    """R (B, K, N) of the rule's readout, from the bits (B, T, W) of the neurons' spikes.

    `like` (B, N) has the number of neurons and the type; `count` is K.

    The S-PSP of a current is e_ij = sum over k of x_j(k) R_i(k).
    """
    return held_sums(readout(rule, spikes, like.shape[1], lif, like.dtype), count)


def stbp_driven(
    drive: Tensor, recurrent_weight: Tensor | None, neuron: Stbp, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate STBP's neurons that get currents.

    Args:
        drive: (B, K, N), bias included.
        recurrent_weight: (N, N), which acts after one step, or None.
        neuron: parameters.
        steps: T.

    Returns:
        bits of the spikes (B, T, W); firing counts (B, N); membrane potentials u (B, T, N) before the reset.
    """
    spikes, membrane = stbp_scan(held(drive, steps), recurrent_weight, neuron)
    return pack(spikes), spikes.sum(dim=1), membrane


def stbp_driven_backward(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp, count: int
) -> tuple[Tensor, Tensor]:
    """Backpropagate through the steps of a layer that gets currents.

    Args:
        grad_spikes: (B, T, N), dL/do from the layer above.
        spikes, membrane, recurrent_weight, neuron: as in `stbp_driven`.
        count: K.

    Returns:
        dL/d(drive) (B, K, N); dL/dW_rec (N, N), stored input by input, or (0, 0).
    """
    own = unpack(spikes, membrane.shape[2], membrane.dtype)
    grad_u = stbp_scan_backward(grad_spikes, own, membrane, recurrent_weight, neuron)
    grad_recurrent = grad_u.new_zeros(0, 0)
    if recurrent_weight is not None:
        grad_recurrent = (own[:, :-1].flatten(0, 1).T @ grad_u[:, 1:].flatten(0, 1)).T
    return held_sums(grad_u, count), grad_recurrent
