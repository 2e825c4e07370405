"""The reference kernels of STBP's adaptive neurons (ALIF), whose constants are each neuron's own.

They are those of Bellec et al. 2018 (LSNN) and Yin et al. 2021, with the membrane and the reset of STBP. From
u = a = o = 0 before the first step, with f as in `time.stbp_scan` and the decay of the neuron itself:

    u^t = u^{t-1} f(o^{t-1}) + drive^t + W_rec o^{t-1}
    a^t = rho a^{t-1} + (1 - rho) o^{t-1}
    o^t = 1 if u^t >= v_th (1 + strength a^t) (`strict`: >), else 0

So a, between 0 and 1, is the recent rate of the neuron's own spikes. A neuron fires if its *effective* membrane
x^t = u^t - strength v_th a^t reaches v_th. The surrogate derivative h is that of x. Backwards through time,

    dL/do^t = (from above) + dL/du^{t+1} u^t f'(o^t) + dL/du^{t+1} W_rec + (1 - rho) dL/da^{t+1}
    dL/du^t = dL/do^t h(x^t) + dL/du^{t+1} f(o^t)
    dL/da^t = -strength v_th dL/do^t h(x^t) + rho dL/da^{t+1}

    dL/d(decay) = sum_t dL/du^{t+1} u^t df(o^t)/d(decay),    dL/drho = sum_t dL/da^{t+1} (a^t - o^t)

Without `temporal_gradient` nothing comes from step t + 1 to step t.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from snnrun.kernels.neuron import Alif, Stbp
from snnrun.kernels.packed import pack, unpack
from snnrun.kernels.reference.currents import held
from snnrun.kernels.reference.time import surrogate


class Keeps(NamedTuple):
    """f(o), its slope f'(o) and df(o)/d(decay) of each neuron, (N,), without a spike and `_after` one.

    Without a spike df/d(decay) is 1.
    """

    f: Tensor
    f_after: Tensor
    slope: Tensor
    slope_after: Tensor
    by_decay_after: Tensor


def keeps(alif: Alif, neuron: Stbp) -> Keeps:
    """What a step keeps of the membrane: 0 after a spike (eq. 8 of Wu et al. 2018), or the exponential of eq. 6."""
    decay, none = alif.decay, torch.zeros_like(alif.decay)
    if not neuron.exponential_reset:
        return Keeps(decay, none, -decay, -decay, torch.zeros_like(decay))
    share = torch.exp(-1.0 / decay)
    by_decay = torch.where(decay > 0, share * (1.0 + 1.0 / decay), none)
    return Keeps(decay, decay * share, none - 1.0, -share, by_decay)


def alif_scan(
    drive: Tensor, recurrent_weight: Tensor | None, alif: Alif, neuron: Stbp, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Simulate adaptive neurons; see the module.

    Args:
        drive: (B, K, N), bias included: K values for T steps, as in `currents`. Spikes give K = T.
        recurrent_weight: (N, N), which acts after one step, or None.
        alif: what each neuron has of its own.
        neuron: threshold, surrogate derivative and reset; its `decay` is not used.
        steps: T.

    Returns:
        bits of the spikes (B, T, W); firing counts (B, N); membranes u (B, T, N) before the reset; effective membranes
        x (B, T, N), or (0, 0, 0) if no neuron adapts, where x = u.
    """
    kept, rise = keeps(alif, neuron), alif.strength * neuron.v_th
    driven = held(drive, steps)
    spikes, membrane, effective = torch.empty_like(driven), torch.empty_like(driven), torch.empty_like(driven)
    u, a, o = drive.new_zeros(3, len(drive), drive.shape[2]).unbind()
    for t in range(steps):
        u = u * torch.where(o > 0, kept.f_after, kept.f) + driven[:, t]
        if recurrent_weight is not None:
            u = torch.addmm(u, o, recurrent_weight.T)
        a = a * alif.adaptation_decay + (1.0 - alif.adaptation_decay) * o
        x = u - rise * a
        o = (x > neuron.v_th if neuron.strict else x >= neuron.v_th).to(drive.dtype)
        spikes[:, t], membrane[:, t], effective[:, t] = o, u, x
    return pack(spikes), spikes.sum(dim=1), membrane, effective if alif.strength else drive.new_empty(0, 0, 0)


def alif_scan_backward(
    grad_spikes: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    effective: Tensor,
    recurrent_weight: Tensor | None,
    alif: Alif,
    neuron: Stbp,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagate through the steps of adaptive neurons; see the module.

    Args:
        grad_spikes: (B, T, N), dL/do from the layer above.
        spikes, membrane, effective, recurrent_weight, alif, neuron: as in `alif_scan`.

    Returns:
        dL/du (B, T, N), which is also the gradient of the drive of each step; dL/d(decay) (N,); dL/drho (N,).
    """
    o, adapts = unpack(spikes, membrane.shape[2], membrane.dtype), alif.strength > 0
    kept, rise, rho = keeps(alif, neuron), alif.strength * neuron.v_th, alif.adaptation_decay
    h = surrogate(effective if adapts else membrane, neuron)
    f, slope, by_decay = (
        torch.where(o > 0, after, before)
        for before, after in (
            (kept.f, kept.f_after), (kept.slope, kept.slope_after), (torch.ones_like(kept.f), kept.by_decay_after)
        )
    )  # fmt: skip
    a = (membrane - effective) / rise if adapts else torch.zeros_like(membrane)
    grad_u = torch.empty_like(membrane)
    ahead, adaptation, grad_decay, grad_rho = membrane.new_zeros(4, len(membrane), membrane.shape[2]).unbind()
    for t in range(membrane.shape[1] - 1, -1, -1):  # `ahead` and `adaptation` are those of step t + 1
        grad_decay = grad_decay + ahead * membrane[:, t] * by_decay[:, t]
        grad_rho = grad_rho + adaptation * (a[:, t] - o[:, t])
        if not neuron.temporal_gradient:
            ahead = grad_spikes[:, t] * h[:, t]
            adaptation = -rise * ahead
        else:
            grad_o = grad_spikes[:, t] + ahead * membrane[:, t] * slope[:, t] + (1.0 - rho) * adaptation
            if recurrent_weight is not None:
                grad_o = torch.addmm(grad_o, ahead, recurrent_weight)
            error = grad_o * h[:, t]
            adaptation = rho * adaptation - rise * error
            ahead = error + ahead * f[:, t]
        grad_u[:, t] = ahead
    return grad_u, grad_decay.sum(dim=0), grad_rho.sum(dim=0)
