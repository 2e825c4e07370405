"""The reference kernels of layers over images: convolutions, spiking pools, and STBP's convolutions.

The drive of a convolution is the weighted spikes of a step. It is linear in the weights and in the spikes, so the
S-PSPs need no sum over pairs. With the readout r_i(t) of an output neuron (see `reference`)

    sum_i gain_i e_ij           the weight gradient       is the derivative of sum_it gain_i r_i(t) drive_i(t) by w
    sum_i credit_i w_ij e_ij    the weighted error below  is sum_t s_j(t) (transposed convolution of credit r(t))_j

and nothing of size (outputs x receptive field x time) is stored. To save memory, samples are taken one by one.

Weights are (K, C, height, width), mV, of a cross-correlation (nothing is flipped), stored tap by tap with the kernels
innermost: `weight.permute(1, 2, 3, 0)` is contiguous. `window` says where they look; see `neuron.Window`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from snnrun.kernels.neuron import Lif, Stbp, Window, slack_threshold
from snnrun.kernels.packed import pack, unpack
from snnrun.kernels.reference.time import lif_scan, readout, stbp_scan, stbp_scan_backward

# ---- the linear maps ------------------------------------------------------------------------------------------------


def drive(inputs: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Weighted sums (..., N) of inputs (..., I), which are first averaged over squares if `window.pool` > 1."""
    maps = functional.conv2d(
        _averaged(inputs, window),
        weight,
        stride=window.stride,
        padding=window.padding,
        groups=_groups(weight, window),
    )
    return maps.reshape(*inputs.shape[:-1], window.neurons)


def drive_by_weight(inputs: Tensor, errors: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Derivative by the weights, in their shape, of the sum of errors (..., N) times the drive of inputs (..., I)."""
    images, maps = _averaged(inputs, window), _maps(errors, window)
    gradient: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        images, list(weight.shape), maps, stride=window.stride, padding=window.padding
    )
    return gradient


def drive_by_input(errors: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Derivative by the inputs, (..., I), of the sum of errors (..., N) times the drive."""
    maps, side = _maps(errors, window), window.pool
    shape = [len(maps), window.channels, window.rows // side, window.columns // side]
    images: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
        shape, weight, maps, stride=window.stride, padding=window.padding, groups=_groups(weight, window)
    )
    if side > 1:  # each square's share to its pixels, 0 to those beyond the squares
        images = images.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3) / side**2
        images = functional.pad(images, (0, window.columns - images.shape[3], 0, window.rows - images.shape[2]))
    return images.reshape(*errors.shape[:-1], window.inputs)


def pool_weight(window: Window, like: Tensor) -> Tensor:
    """The weights of a spiking pool, (C, 1, height, width): 1 for each input of its window in one channel."""
    return torch.ones(window.channels, 1, window.height, window.width, device=like.device, dtype=like.dtype)


def tap_by_tap(weight: Tensor) -> Tensor:
    """The same values (K, C, height, width), stored as layers store them: the kernels of a tap are side by side."""
    return weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def _averaged(inputs: Tensor, window: Window) -> Tensor:
    """Inputs (..., I) as the images (X, C, rows, columns) that the window moves over."""
    images = inputs.reshape(-1, window.channels, window.rows, window.columns)
    return functional.avg_pool2d(images, window.pool) if window.pool > 1 else images


def _maps(values: Tensor, window: Window) -> Tensor:
    """Values of the neurons (..., N) as images (X, K, out_rows, out_columns)."""
    return values.reshape(-1, window.kernels, window.out_rows, window.out_columns)


def _groups(weight: Tensor, window: Window) -> int:
    """1 for the weights of a convolution. A pool's see one channel each: the number of channels."""
    return window.channels // weight.shape[1]


# ---- spike-train-level rules ----------------------------------------------------------------------------------------


def conv_forward(spikes_in: Tensor, weight: Tensor, window: Window, lif: Lif) -> tuple[Tensor, Tensor]:
    """Simulate a convolution of leaky integrate-and-fire neurons.

    Args:
        spikes_in: bits (B, T, W) of the C * rows * columns inputs.
        weight: (K, C, height, width), mV.
        window: where each neuron looks.
        lif: neuron parameters. As in the authors' code, convolutions fire above `v_th` itself, unlike dense layers.

    Returns:
        bits of the spikes (B, T, W), none at step 0; firing counts (B, N).
    """
    driven = drive(unpack(spikes_in, window.inputs, weight.dtype), weight, window)
    spikes = lif_scan(driven, None, lif, lif.v_th)
    return pack(spikes), spikes.sum(dim=1).to(weight.dtype)


def pool_forward(
    spikes_in: Tensor, window: Window, lif: Lif, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Simulate a spiking pool: each neuron sums its window of one channel with weight 1. Returns as `conv_forward`."""
    inputs = unpack(spikes_in, window.inputs, dtype)
    driven = drive(inputs, pool_weight(window, inputs), window)
    spikes = lif_scan(driven, None, lif, slack_threshold(lif.v_th, driven.dtype))
    return pack(spikes), spikes.sum(dim=1).to(dtype)


def conv_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Total post-synaptic potential a_i = sum_j w_ij e_ij over each neuron's window, (B, N); also for a pool."""
    driven = drive(unpack(spikes_in, window.inputs, weight.dtype), weight, window)
    return (readout(rule, spikes, window.neurons, lif, weight.dtype) * driven).sum(dim=1)


def conv_backward(
    rule: str,
    lif: Lif,
    spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor | None,
    credit: Tensor | None,
    weight: Tensor,
    window: Window,
    gain_slope: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The two sums that a spike-train-level backward pass of a convolution needs.

    Args:
        rule: the rule that defines the S-PSP, `strsbp` or `hm2bp`.
        lif: neuron parameters; `v_th` is not used.
        spikes_in, spikes: bits (B, T, W) of the inputs and of the layer's N neurons.
        gain: (B, N), multiplies e_ij in the weight gradient; None if nobody trains the weights.
        credit: (B, N), multiplies w_ij e_ij in the error of the layer below; None if no error goes below.
        weight: (K, C, height, width), mV.
        window: where each neuron looks.
        gain_slope: (B, N); with it the gain is gain + gain_slope a, a as from `conv_activation`. It needs a gain.

    Returns:
        sum over samples and positions of gain_i e_ij, (K, C, height, width), stored as layers store their weights, or
        (0, 0, 0, 0) without gain; sum over i of credit_i w_ij e_ij, (B, inputs), or (B, 0) without credit; gain +
        gain_slope a, (B, N), or (B, 0) without slope.
    """
    whole = spikes.new_zeros(len(spikes), 0, dtype=weight.dtype)
    if gain_slope is not None:
        assert gain is not None, "a slope of no gain"
        gain = whole = gain + gain_slope * conv_activation(rule, lif, spikes_in, spikes, weight, window)
    gradient, errors = torch.zeros_like(weight) if gain is not None else weight.new_zeros(0, 0, 0, 0), []
    for b in range(len(spikes)):
        trains = unpack(spikes_in[b : b + 1], window.inputs, weight.dtype)
        traces = readout(rule, spikes[b : b + 1], window.neurons, lif, weight.dtype)
        if gain is not None:
            gradient += drive_by_weight(trains, traces * gain[b], weight, window)
        if credit is not None:
            errors.append((trains * drive_by_input(traces * credit[b], weight, window)).sum(dim=1))
    error = torch.cat(errors) if errors else weight.new_zeros(len(spikes), 0)
    return tap_by_tap(gradient), error, whole


def pool_backward(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, credit: Tensor, window: Window) -> Tensor:
    """For each input j, the sum of credit_i e_ij over the neurons i that see it, (B, inputs). See `conv_backward`."""
    errors = []
    for b in range(len(credit)):
        trains = unpack(spikes_in[b : b + 1], window.inputs, credit.dtype)
        traces = readout(rule, spikes[b : b + 1], window.neurons, lif, credit.dtype)
        errors.append((trains * drive_by_input(traces * credit[b], pool_weight(window, credit), window)).sum(dim=1))
    return torch.cat(errors)


# ---- STBP -----------------------------------------------------------------------------------------------------------


def stbp_conv_forward(
    spikes_in: Tensor, weight: Tensor, bias: Tensor | None, window: Window, neuron: Stbp
) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate a convolution of STBP's neurons over the spikes, first averaged over squares if `window.pool` > 1.

    Args:
        spikes_in: bits (B, T, W) of the C * rows * columns inputs; no synaptic delay.
        weight: (K, C, height, width).
        bias: (K,), one for all neurons of a kernel, or None.
        window: where each neuron looks.
        neuron: parameters.

    Returns:
        bits of the spikes (B, T, W); firing counts (B, N); membrane potentials u (B, T, N) before the reset.
    """
    driven = drive(unpack(spikes_in, window.inputs, weight.dtype), weight, window)
    if bias is not None:
        driven = driven + bias.repeat_interleave(window.neurons // window.kernels)
    spikes, membrane = stbp_scan(driven, None, neuron)
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
    wants_weight: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagate through the steps of a convolution.

    Args:
        grad_spikes: (B, T, N), dL/do from the layer above.
        spikes_in, spikes, membrane, weight, window, neuron: as in `stbp_conv_forward`.
        wants_input: whether the layer below needs its gradient.
        wants_weight: whether the layer's own weights and biases need theirs.

    Returns:
        dL/d(input spikes) (B, T, inputs), or (B, 0, 0) if not wanted; dL/dW (K, C, height, width), stored as layers
        store their weights; dL/db (K,). Those of weights that are not wanted have no entries.
    """
    own = unpack(spikes, window.neurons, membrane.dtype)
    grad_u = stbp_scan_backward(grad_spikes, own, membrane, None, neuron)
    gradient, below = torch.zeros_like(weight), []
    for b in range(len(grad_u)):
        if wants_weight:
            inputs = unpack(spikes_in[b : b + 1], window.inputs, weight.dtype)
            gradient += drive_by_weight(inputs, grad_u[b : b + 1], weight, window)
        if wants_input:
            below.append(drive_by_input(grad_u[b : b + 1], weight, window))
    grad_in = torch.cat(below) if wants_input else grad_u.new_zeros(len(grad_u), 0, 0)
    if not wants_weight:
        return grad_in, grad_u.new_zeros(0, 0, 0, 0), grad_u.new_zeros(0)
    grad_bias = grad_u.sum(dim=(0, 1)).reshape(window.kernels, -1).sum(dim=1)
    return grad_in, tap_by_tap(gradient), grad_bias
