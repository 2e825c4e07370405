"""The reference kernels of layers over images: convolutions, spiking pools, and STBP's convolutions.

The drive of a convolution, the weighted spikes of a step, is linear in the weights and in the spikes, so its S-PSPs
need no sum over pairs: with the readout r_i(t) of an output neuron (see `reference`)

    sum_ij gain_i e_ij          the weight gradient       is the derivative of sum_it gain_i r_i(t) drive_i(t) by w
    sum_i credit_i w_ij e_ij    the weighted error below  is sum_t s_j(t) (transposed convolution of credit r(t))_j

and nothing of size (outputs x receptive field x time) is stored. Samples take their turn, for the reference's memory.

Weights are (K, C, height, width), mV, of a cross-correlation (nothing is flipped), stored tap by tap with the kernels
innermost: `weight.permute(1, 2, 3, 0)` is contiguous. `window` says where they look; see `neuron.Window`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from snnrun.kernels.neuron import THRESHOLD_SLACK, Lif, Stbp, Window
from snnrun.kernels.packed import pack, unpack
from snnrun.kernels.reference_time import lif_scan, readout, stbp_scan, stbp_scan_backward

# ---- spike-train-level rules ----------------------------------------------------------------------------------------


def conv_forward(spikes_in: Tensor, weight: Tensor, window: Window, lif: Lif) -> tuple[Tensor, Tensor]:
    """Simulate a convolution of leaky integrate-and-fire neurons.

    Args:
        spikes_in: bits (B, T, W) of the C * rows * columns inputs.
        weight: (K, C, height, width), mV.
        window: where each neuron looks.
        lif: neuron parameters; unlike dense layers the authors' convolutions fire above `v_th` itself.

    Returns:
        bits of the spikes (B, T, W), none at step 0; firing counts (B, N).
    """
    spikes = lif_scan(
        _drive(_images(spikes_in, window, weight.dtype), weight, window, len(spikes_in)), None, lif, lif.v_th
    )
    return pack(spikes), spikes.sum(dim=1).to(weight.dtype)


def pool_forward(
    spikes_in: Tensor, window: Window, lif: Lif, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Simulate a spiking pool: each neuron sums its window of one channel with weight 1. Returns as `conv_forward`."""
    images, ones = _images(spikes_in, window, dtype), _ones(window, spikes_in.device, dtype)
    spikes = lif_scan(_drive(images, ones, window, len(spikes_in)), None, lif, lif.v_th - THRESHOLD_SLACK)
    return pack(spikes), spikes.sum(dim=1).to(dtype)


def conv_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Total post-synaptic potential a_i = sum_j w_ij e_ij over each neuron's window, (B, N)."""
    drive = _drive(_images(spikes_in, window, weight.dtype), weight, window, len(spikes_in))
    return (readout(rule, spikes, window.neurons, lif, weight.dtype) * drive).sum(dim=1)


def pool_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, window: Window) -> Tensor:
    """Total post-synaptic potential sum_j e_ij of a pool's neurons, (B, N) float32. No backend has its own."""
    images, ones = _images(spikes_in, window, torch.float32), _ones(window, spikes.device, torch.float32)
    return (readout(rule, spikes, window.neurons, lif) * _drive(images, ones, window, len(spikes))).sum(dim=1)


def conv_backward(
    rule: str,
    lif: Lif,
    spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor,
    credit: Tensor | None,
    weight: Tensor,
    window: Window,
) -> tuple[Tensor, Tensor]:
    """The two sums that a spike-train-level backward pass of a convolution needs.

    Args:
        rule: whose S-PSP, `strsbp` or `hm2bp`.
        lif: neuron parameters; `v_th` plays no part.
        spikes_in, spikes: bits (B, T, W) of the inputs and of the layer's N neurons.
        gain: (B, N), what multiplies e_ij in the weight gradient.
        credit: (B, N), what multiplies w_ij e_ij in the error of the layer below; None when no layer is below.
        weight: (K, C, height, width), mV.
        window: where each neuron looks.

    Returns:
        sum over samples and positions of gain_i e_ij, (K, C, height, width), stored as layers store their weights; sum
        over i of credit_i w_ij e_ij, (B, inputs), or (B, 0) without credit.
    """
    gradient, errors = torch.zeros_like(weight), [gain.new_zeros(0, 0 if credit is None else window.inputs)]
    for b in range(len(gain)):
        images = _images(spikes_in[b : b + 1], window, weight.dtype)
        traces = readout(rule, spikes[b : b + 1], window.neurons, lif, weight.dtype)
        wanted = _maps(traces * gain[b], window)
        gradient += _by_weight(images, wanted, weight, window)
        if credit is not None:
            errors.append(_weighted(images, traces * credit[b], weight, window))
    return tap_by_tap(gradient), torch.cat(errors) if credit is not None else gain.new_zeros(len(gain), 0)


def pool_backward(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, credit: Tensor, window: Window) -> Tensor:
    """Sum over the pool's neurons i that see input j of credit_i e_ij, (B, inputs). Arguments as `conv_backward`'s."""
    ones, errors = _ones(window, credit.device, credit.dtype), [credit.new_zeros(0, window.inputs)]
    for b in range(len(credit)):
        images = _images(spikes_in[b : b + 1], window, credit.dtype)
        traces = readout(rule, spikes[b : b + 1], window.neurons, lif, credit.dtype)
        errors.append(_weighted(images, traces * credit[b], ones, window))
    return torch.cat(errors)


# ---- STBP -----------------------------------------------------------------------------------------------------------


def stbp_conv_forward(
    spikes_in: Tensor, weight: Tensor, bias: Tensor | None, window: Window, neuron: Stbp
) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate a convolution of STBP's neurons over the spikes, averaged over squares first where `window.pool` > 1.

    Args:
        spikes_in: bits (B, T, W) of the C * rows * columns inputs; no synaptic delay.
        weight: (K, C, height, width).
        bias: (K,), one for all neurons of a kernel, or None.
        window: where each neuron looks.
        neuron: parameters.

    Returns:
        bits of the spikes (B, T, W); firing counts (B, N); membrane potentials u (B, T, N) before the reset.
    """
    images = functional.avg_pool2d(_images(spikes_in, window, weight.dtype), window.pool)
    drive = functional.conv2d(images, weight, bias, **_moves(window))
    spikes, membrane = stbp_scan(drive.reshape(*spikes_in.shape[:2], window.neurons), None, neuron)
    return pack(spikes), spikes.sum(dim=1), membrane


def stbp_conv_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    window: Window,
    neuron: Stbp,
    wants_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagate through the steps of a convolution.

    Args:
        grad_spikes: (B, T, N), dL/do as it comes from the layer above.
        spikes_in, spikes, membrane, weight, window, neuron: of `stbp_conv_forward`.
        wants_input: whether a layer is below.

    Returns:
        dL/d(input spikes) (B, T, inputs), or (B, 0, 0) if not wanted; dL/dW (K, C, height, width), stored as layers
        store their weights; dL/db (K,).
    """
    own = unpack(spikes, window.neurons, membrane.dtype)
    grad_u = stbp_scan_backward(grad_spikes, own, membrane, None, neuron)
    gradient, below = torch.zeros_like(weight), [grad_u.new_zeros(0, 0, 0)]
    for b in range(len(grad_u)):
        images = functional.avg_pool2d(_images(spikes_in[b : b + 1], window, weight.dtype), window.pool)
        errors = _maps(grad_u[b], window)
        gradient += _by_weight(images, errors, weight, window)
        if wants_input:
            pooled = _by_input(images, errors, weight, window)
            below.append(_spread(pooled, window).reshape(1, -1, window.inputs))
    grad_in = torch.cat(below[1:]) if wants_input else grad_u.new_zeros(len(grad_u), 0, 0)
    return grad_in, tap_by_tap(gradient), _maps(grad_u, window).sum(dim=(0, 2, 3))


# ---- parts ----------------------------------------------------------------------------------------------------------


def tap_by_tap(weight: Tensor) -> Tensor:
    """The same values (K, C, height, width) stored as layers store them, the kernels of a tap side by side."""
    return weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def _moves(window: Window) -> dict[str, Any]:
    return {"stride": window.stride, "padding": window.padding}


def _images(spikes: Tensor, window: Window, dtype: torch.dtype) -> Tensor:
    """Bits (B, T, W) of the inputs as images (B * T, C, rows, columns) of 0 and 1."""
    return unpack(spikes, window.inputs, dtype).reshape(-1, window.channels, window.rows, window.columns)


def _maps(values: Tensor, window: Window) -> Tensor:
    """Values of the neurons (..., N) as images (X, K, out_rows, out_columns)."""
    return values.reshape(-1, window.kernels, window.out_rows, window.out_columns)


def _ones(window: Window, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.ones(window.channels, 1, window.height, window.width, device=device, dtype=dtype)


def _groups(weight: Tensor, window: Window) -> int:
    """1 for the weights of a convolution; for a pool's ones, which see one channel each, the number of channels."""
    return window.channels // weight.shape[1]


def _drive(images: Tensor, weight: Tensor, window: Window, batch: int) -> Tensor:
    """Weighted spikes (B, T, N) of images (B * T, C, rows, columns)."""
    maps = functional.conv2d(images, weight, groups=_groups(weight, window), **_moves(window))
    return maps.reshape(batch, -1, window.neurons)


def _weighted(images: Tensor, credit: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Sum over steps of the spikes (T, C, rows, columns) times what the credit (T, N) sends down to them, (1, I)."""
    return (images * _by_input(images, _maps(credit, window), weight, window)).sum(dim=0).reshape(1, -1)


def _by_weight(images: Tensor, errors: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Derivative of the sum of errors times drive by the weights."""
    gradient: Tensor = conv2d_weight(images, list(weight.shape), errors, **_moves(window))  # type: ignore[no-untyped-call]
    return gradient


def _by_input(images: Tensor, errors: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Derivative of the sum of errors times drive by the images: the transposed convolution of the errors."""
    options = {"groups": _groups(weight, window), **_moves(window)}
    gradient: Tensor = conv2d_input(list(images.shape), weight, errors, **options)  # type: ignore[no-untyped-call]
    return gradient


def _spread(pooled: Tensor, window: Window) -> Tensor:
    """The gradient of averaged images as that of the images: each square's among its pixels, 0 beyond the squares."""
    side = window.pool
    spread = pooled.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3) / side**2
    return functional.pad(spread, (0, window.columns - spread.shape[3], 0, window.rows - spread.shape[2]))
