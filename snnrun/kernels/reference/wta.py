"""The reference kernels of the integrate-and-fire neurons of Lee, Delbruck and Pfeiffer (2016).

Their gradient needs no time: it uses the spike trains' traces at the last step T - 1 alone (eq. 5 and 6),

    x_k = sum over spikes t_p of exp(-(T - 1 - t_p) / tau_m)        of an input; a_i likewise of a neuron.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from snnrun.kernels.neuron import Window, Wta
from snnrun.kernels.packed import pack, unpack
from snnrun.kernels.reference.images import drive


def wta_scan(driven: Tensor, threshold: Tensor, neuron: Wta) -> Tensor:
    """The neurons over all steps, from rest; `driven` (B, T, N) is W s_in. In a step

        V_i = max(decay V_i + w_dyn (W s_in)_i, -th_i)     w_dyn = min(1, (time since the last spike / t_ref)^2)
        s_i = 1 and V_i -= th_i                            if V_i >= th_i
        V_i = max(V_i - inhibition th_i F_i, -th_i)        F_i: the other neurons that fire in this step

    (eq. 1 to 3, the lower bound -th, and lateral inhibition). `threshold` (N,). Returns s (B, T, N), 0.0 or 1.0.
    """
    spikes = torch.empty_like(driven)
    v = torch.zeros_like(driven[:, 0])
    since = torch.full_like(v, torch.inf)
    for t in range(driven.shape[1]):
        open_ = (since / neuron.t_ref).square().clamp(max=1.0) if neuron.t_ref else 1.0
        v = torch.maximum(neuron.decay * v + open_ * driven[:, t], -threshold)
        s = (v >= threshold).to(v.dtype)
        v = v - threshold * s
        if neuron.inhibition:
            others = s.sum(dim=1, keepdim=True) - s
            v = torch.maximum(v - neuron.inhibition * threshold * others, -threshold)
        since = torch.where(s > 0, 1.0, since + 1.0)
        spikes[:, t] = s
    return spikes


def trace(spikes: Tensor, neurons: int, neuron: Wta, dtype: torch.dtype = torch.float32) -> Tensor:
    """What is left of each spike train at the last step, (B, neurons), from bits (B, T, W)."""
    ages = torch.arange(spikes.shape[1] - 1, -1, -1, device=spikes.device, dtype=dtype)
    return torch.einsum("btn,t->bn", unpack(spikes, neurons, dtype), neuron.decay**ages)


def wta_forward(spikes_in: Tensor, weight: Tensor, threshold: Tensor, neuron: Wta) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate a dense layer.

    Args:
        spikes_in: bits (B, T, W) of the I inputs.
        weight: (N, I), mV.
        threshold: (N,), mV, above 0.
        neuron: parameters.

    Returns:
        bits of the spikes (B, T, W); firing counts (B, N); traces at the last step (B, N).
    """
    driven = functional.linear(unpack(spikes_in, weight.shape[1], weight.dtype), weight)
    return _results(wta_scan(driven, threshold, neuron), neuron)


def wta_conv_forward(
    spikes_in: Tensor, weight: Tensor, threshold: Tensor, window: Window, neuron: Wta
) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate a convolution with weights (K, C, height, width) and a threshold for each kernel, (K,)."""
    driven = drive(unpack(spikes_in, window.inputs, weight.dtype), weight, window)
    each = threshold.repeat_interleave(window.neurons // window.kernels)
    return _results(wta_scan(driven, each, neuron), neuron)


def _results(spikes: Tensor, neuron: Wta) -> tuple[Tensor, Tensor, Tensor]:
    bits = pack(spikes)
    return bits, spikes.sum(dim=1), trace(bits, spikes.shape[2], neuron, spikes.dtype)
