"""The `gpu` backend for a first layer that gets currents: the scans of spiking layers over a drive of currents.

Not measured, like all of `gpu`: interpreted and compiled, but no GPU has run it yet.
"""

from __future__ import annotations

from torch import Tensor

from snnrun.kernels import reference
from snnrun.kernels.gpu.time import check_float32, lif_scan, readout, stbp_scan, stbp_scan_backward
from snnrun.kernels.neuron import Lif, Stbp, Synapses, slack_threshold
from snnrun.kernels.packed import unpack
from snnrun.kernels.reference import current_drive

__all__ = ["current_drive", "lif_driven", "readout_sums", "stbp_driven", "stbp_driven_backward"]


def lif_driven(
    drive: Tensor, recurrent: Synapses | None, lif: Lif, steps: int, slack: bool = True
) -> tuple[Tensor, Tensor]:
    """See `reference.lif_driven`."""
    check_float32(drive.dtype)
    theta = slack_threshold(lif.v_th) if slack else lif.v_th
    return lif_scan(reference.held(drive, steps), recurrent, lif, theta)


def readout_sums(rule: str, lif: Lif, spikes: Tensor, like: Tensor, count: int) -> Tensor:
    """See `reference.readout_sums`."""
    check_float32(like.dtype)
    return reference.held_sums(readout(rule, spikes, like.shape[1], lif), count)


def stbp_driven(
    drive: Tensor, recurrent_weight: Tensor | None, neuron: Stbp, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.stbp_driven`."""
    check_float32(drive.dtype)
    return stbp_scan(reference.held(drive, steps), recurrent_weight, neuron)


def stbp_driven_backward(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp, count: int
) -> tuple[Tensor, Tensor]:
    """See `reference.stbp_driven_backward`."""
    check_float32(membrane.dtype)
    grad_u = stbp_scan_backward(grad_spikes, spikes.contiguous(), membrane.contiguous(), recurrent_weight, neuron)
    grad_recurrent = grad_u.new_zeros(0, 0)
    if recurrent_weight is not None:
        own = unpack(spikes[:, :-1], membrane.shape[2], membrane.dtype)
        grad_recurrent = (own.flatten(0, 1).T @ grad_u[:, 1:].flatten(0, 1)).T
    return reference.held_sums(grad_u, count), grad_recurrent
