"""The functions of the backend for STBP's adaptive neurons."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.turns import Turn
from snnrun.kernels import reference
from snnrun.kernels.cpu import alif_loops
from snnrun.kernels.cpu.alif_loops import AlifConstants, AlifLayer, AlifScan, Gradients
from snnrun.kernels.cpu.arrays import (
    MOST,
    MOST_OF_IMAGES,
    as_floats,
    as_rows,
    as_words,
    check_steps,
    pad,
    padded_size,
    room_for_spikes,
)
from snnrun.kernels.cpu.constants import NO_FLOATS, stbp_constants
from snnrun.kernels.cpu.stbp import scan_of
from snnrun.kernels.neuron import Alif, Stbp
from snnrun.kernels.packed import words


def alif_scan(
    drive: Tensor, recurrent_weight: Tensor | None, alif: Alif, neuron: Stbp, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.alif_scan`."""
    batch, count, neurons = drive.shape
    padded, steps = padded_size(neurons), check_steps(steps)
    loop = NO_FLOATS if recurrent_weight is None else as_rows(recurrent_weight)
    layer = AlifLayer(as_floats(drive).reshape(-1), count, loop, neurons, padded, _constants(alif, neuron))
    spikes = torch.empty(batch, steps, words(neurons), dtype=torch.int64)
    counts, membrane = torch.zeros(batch, padded), torch.empty(batch, steps, neurons)
    effective = torch.empty((batch, steps, neurons) if alif.strength else (0, 0, 0))
    out = as_words(spikes, MOST_OF_IMAGES if recurrent_weight is None else MOST)
    u, x, n = (each.numpy().reshape(-1) for each in (membrane, effective, counts))

    def some(turn: Turn) -> None:
        alif_loops.alif_scan(layer, out, u, x, n, room_for_spikes(out), np.empty(2 * padded, np.float32), turn)

    threads.share(batch, some)
    return spikes, counts[:, :neurons].contiguous(), membrane, effective


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
    loop = NO_FLOATS if recurrent_weight is None else as_rows(recurrent_weight)
    scan = scan_of(grad_spikes, spikes, effective if alif.strength else membrane, loop, neuron)
    layer = AlifScan(scan, as_floats(membrane).reshape(-1), _constants(alif, neuron))
    grad_u, sums = torch.empty(membrane.shape), torch.zeros(2, len(membrane), scan.padded)
    gradients = Gradients(grad_u.numpy().reshape(-1), *(each.numpy().reshape(-1) for each in sums))

    def some(turn: Turn) -> None:
        looped, room = (np.empty(times * scan.padded, np.float32) for times in (1, 2))
        alif_loops.alif_scan_backward(layer, gradients, looped, room, room_for_spikes(scan.words), turn)

    threads.share(len(membrane), some)
    by_decay, by_rho = (each.sum(dim=0)[: scan.neurons].contiguous() for each in sums)
    return grad_u, by_decay, by_rho


def _constants(alif: Alif, neuron: Stbp) -> AlifConstants:
    kept, rise = reference.keeps(alif, neuron), alif.strength * neuron.v_th
    rows = (
        *(kept.f, kept.f_after, kept.slope, kept.slope_after, torch.ones_like(kept.f), kept.by_decay_after),
        *(alif.adaptation_decay, 1.0 - alif.adaptation_decay),
    )
    return AlifConstants(
        stbp=stbp_constants(neuron),
        own=pad(torch.stack(rows)).reshape(-1),
        adapts=alif.strength > 0,
        rise=np.float32(rise),
        fall=np.float32(1.0 / rise if rise else 0.0),
    )
