"""The reference kernels of SLAYER's spike response neurons: dense layers, convolutions, spiking pools.

The paper filters the spikes with the response kernel eps and weights the result. Both are linear, so here the weighted
spikes are filtered, with eps as two cascaded filters of first order:

    (eps * x)(t) = rise q(t),  q(t) = decay_s (q(t-1) + p(t-1)),  p(t) = decay_s p(t-1) + x(t)

The backward pass correlates with eps, which is the same filter run backwards in time. Its result z is the gradient of
the weighted spikes. So dL/dW = sum_t z(t) s_in(t)^T, and the layer below gets dL/ds_in(t) = W^T z(t), in which its
error is correlated with its own response already (the paper's eps correlated with W^T delta).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from snnrun.kernels.neuron import Srm, Window
from snnrun.kernels.packed import pack, unpack
from snnrun.kernels.reference.images import drive, drive_by_input, drive_by_weight, pool_weight, tap_by_tap


def srm_scan(driven: Tensor, recurrent_weight: Tensor | None, neuron: Srm) -> tuple[Tensor, Tensor]:
    """The neurons over all steps, from rest:

        u(t) = (eps * (W s_in + W_rec s))(t) + sum over own spikes t' < t of nu(t - t')
        s(t) = 1 if u(t) >= v_th, else 0

    `driven` (B, T, N) is W s_in. Since eps(0) = 0, a spike acts from the next step on. Returns s, 0.0 or 1.0, and u.
    """
    spikes, membrane = torch.empty_like(driven), torch.empty_like(driven)
    p, q, refractory, delayed, s = driven.new_zeros(5, len(driven), driven.shape[2]).unbind()
    for t in range(driven.shape[1]):
        if recurrent_weight is not None:
            p = torch.addmm(p, s, recurrent_weight.T, alpha=neuron.rise)
        q = neuron.decay_s * (q + p)
        p = neuron.decay_s * p + neuron.rise * driven[:, t]
        refractory = refractory + neuron.refractoriness * s
        delayed = neuron.decay_r * (delayed + refractory)
        refractory = neuron.decay_r * refractory
        u = q + (delayed if neuron.alpha else refractory)
        s = (u >= neuron.v_th).to(driven.dtype)
        spikes[:, t], membrane[:, t] = s, u
    return spikes, membrane


def srm_scan_backward(grad_spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Srm) -> Tensor:
    """The error delta(t) = rho(u(t)) dL/ds(t), correlated with eps: z(t) = sum_k eps(k) delta(t + k), (B, T, N).

    A recurrent weight adds z(t) W_rec to dL/ds(t). As in the paper, no error passes through the refractory kernel.
    """
    reach = neuron.width * neuron.v_th
    rho = neuron.height / reach * torch.exp(-(membrane - neuron.v_th).abs() / reach)
    z = torch.empty_like(grad_spikes)
    p, q = z.new_zeros(2, len(z), z.shape[2]).unbind()
    for t in range(z.shape[1] - 1, -1, -1):
        q = neuron.decay_s * (q + p)
        grad = grad_spikes[:, t]
        if recurrent_weight is not None:
            grad = torch.addmm(grad, q, recurrent_weight)
        p = neuron.decay_s * p + neuron.rise * rho[:, t] * grad
        z[:, t] = q
    return z


def srm_forward(
    spikes_in: Tensor, weight: Tensor, recurrent_weight: Tensor | None, neuron: Srm
) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate a dense layer.

    Args:
        spikes_in: bits (B, T, W) of the I inputs.
        weight: (N, I), mV.
        recurrent_weight: (N, N), mV, or None.
        neuron: parameters.

    Returns:
        bits of the spikes (B, T, W); firing counts (B, N); membrane potentials (B, T, N), refractory part included.
    """
    driven = functional.linear(unpack(spikes_in, weight.shape[1], weight.dtype), weight)
    return _results(*srm_scan(driven, recurrent_weight, neuron))


def srm_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    neuron: Srm,
    wants_input: bool,
    wants_weight: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagate through a dense layer.

    Args:
        grad_spikes: (B, T, N), dL/ds from the layer above.
        spikes_in, spikes, membrane, weight, recurrent_weight, neuron: as in `srm_forward`.
        wants_input: whether the layer below needs its gradient.
        wants_weight: whether the weights need theirs.

    Returns:
        dL/d(input spikes) (B, T, I), or (B, 0, 0) if not wanted; dL/dW (N, I), stored input by input, or (0, 0);
        dL/dW_rec (N, N), stored likewise, or (0, 0).
    """
    z = srm_scan_backward(grad_spikes, membrane, recurrent_weight, neuron)
    grad_in = z @ weight if wants_input else z.new_zeros(len(z), 0, 0)
    grad_recurrent = z.new_zeros(0, 0)
    if not wants_weight:
        return grad_in, z.new_zeros(0, 0), grad_recurrent
    rows = z.flatten(0, 1)
    grad_weight = (unpack(spikes_in, weight.shape[1], z.dtype).flatten(0, 1).T @ rows).T
    if recurrent_weight is not None:
        grad_recurrent = (unpack(spikes, z.shape[2], z.dtype).flatten(0, 1).T @ rows).T
    return grad_in, grad_weight, grad_recurrent


def srm_conv_forward(spikes_in: Tensor, weight: Tensor, window: Window, neuron: Srm) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate a convolution with the weights (K, C, height, width), mV. Otherwise as `srm_forward`."""
    driven = drive(unpack(spikes_in, window.inputs, weight.dtype), weight, window)
    return _results(*srm_scan(driven, None, neuron))


def srm_conv_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    membrane: Tensor,
    weight: Tensor,
    window: Window,
    neuron: Srm,
    wants_input: bool,
    wants_weight: bool = True,
) -> tuple[Tensor, Tensor]:
    """Backpropagate through a convolution: dL/d(input spikes) and dL/dW (K, C, height, width), or (0, 0, 0, 0)."""
    z = srm_scan_backward(grad_spikes, membrane, None, neuron)
    gradient, below = torch.zeros_like(weight), []
    for b in range(len(z)):  # one by one, to save memory
        if wants_weight:
            inputs = unpack(spikes_in[b : b + 1], window.inputs, weight.dtype)
            gradient += drive_by_weight(inputs, z[b : b + 1], weight, window)
        if wants_input:
            below.append(drive_by_input(z[b : b + 1], weight, window))
    grad_in = torch.cat(below) if wants_input else z.new_zeros(len(z), 0, 0)
    return grad_in, tap_by_tap(gradient) if wants_weight else z.new_zeros(0, 0, 0, 0)


def srm_pool_forward(
    spikes_in: Tensor, window: Window, gain: float, neuron: Srm, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate a spiking pool, whose neurons see their window of one channel with the weight `gain`, mV, each."""
    inputs = unpack(spikes_in, window.inputs, dtype)
    return _results(*srm_scan(drive(inputs, gain * pool_weight(window, inputs), window), None, neuron))


def srm_pool_backward(grad_spikes: Tensor, membrane: Tensor, window: Window, gain: float, neuron: Srm) -> Tensor:
    """Backpropagate through a spiking pool: dL/d(input spikes) (B, T, I)."""
    z = srm_scan_backward(grad_spikes, membrane, None, neuron)
    return drive_by_input(z, gain * pool_weight(window, z), window)


def _results(spikes: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return pack(spikes), spikes.sum(dim=1), membrane
