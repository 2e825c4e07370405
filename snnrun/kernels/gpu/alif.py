"""The functions of the `gpu` backend for STBP's adaptive neurons.

Not measured, like all of `gpu`: interpreted and compiled, but no GPU has run it yet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snnrun.kernels import reference
from snnrun.kernels.gpu import alif_loops
from snnrun.kernels.gpu.time import check_float32, launch, names, programs, surrogate_constants
from snnrun.kernels.neuron import Alif, Stbp
from snnrun.kernels.packed import words


def alif_scan(
    drive: Tensor, recurrent_weight: Tensor | None, alif: Alif, neuron: Stbp, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.alif_scan`."""
    check_float32(drive.dtype)
    driven = drive.contiguous() if drive.shape[1] == steps else reference.held(drive, steps)
    batch, _, neurons = driven.shape
    kept = reference.keeps(alif, neuron)
    spikes = torch.empty(batch, steps, words(neurons), dtype=torch.int64, device=driven.device)
    counts, membrane = driven.new_empty(batch, neurons), torch.empty_like(driven)
    effective = torch.empty_like(driven) if alif.strength else None
    loop = None if recurrent_weight is None else recurrent_weight.T.contiguous()
    grid, block = programs(batch, neurons, loop)
    launch(
        alif_loops.alif_scan, grid, driven, loop, names(batch, loop, block["BLOCK"]),
        kept.f.contiguous(), kept.f_after, alif.adaptation_decay.contiguous(), spikes, counts, membrane, effective,
        steps, neurons, words(neurons), neuron.v_th, alif.strength * neuron.v_th, STRICT=neuron.strict, **block,
    )  # fmt: skip
    return spikes, counts, membrane, driven.new_empty(0, 0, 0) if effective is None else effective


def alif_scan_backward(
    grad_spikes: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    effective: Tensor,
    recurrent_weight: Tensor | None,
    alif: Alif,
    neuron: Stbp,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.alif_scan_backward`."""
    check_float32(membrane.dtype)
    batch, steps, neurons = membrane.shape
    kept, rise = reference.keeps(alif, neuron), alif.strength * neuron.v_th
    u = membrane.contiguous()
    grad_u, (by_decay, by_rho) = torch.empty_like(u), u.new_empty(2, batch, neurons).unbind()
    loop = None if recurrent_weight is None or not neuron.temporal_gradient else recurrent_weight.contiguous()
    grid, block = programs(batch, neurons, loop)
    launch(
        # Read by its strides, since the gradient of the counts is one step expanded to all.
        alif_loops.alif_scan_backward, grid, grad_spikes, *grad_spikes.stride(), spikes.contiguous(), u,
        effective.contiguous() if rise else None, loop,
        kept.f.contiguous(), kept.f_after, kept.slope, kept.slope_after, kept.by_decay_after,
        alif.adaptation_decay.contiguous(), grad_u, by_decay, by_rho, steps, neurons, words(neurons),
        neuron.v_th, rise, 1.0 / rise if rise else 0.0, *surrogate_constants(neuron),
        SURROGATE=neuron.surrogate, TEMPORAL=neuron.temporal_gradient, **block,
    )  # fmt: skip
    return grad_u, by_decay.sum(dim=0), by_rho.sum(dim=0)
