"""The kernels of layers over images as operators of PyTorch. They work as those of `ops` and use the same backend.

An operator takes a window as the list of its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnrun.kernels import ops
from snnrun.kernels.neuron import Lif, Stbp, Window
from snnrun.kernels.ops import fake, operator
from snnrun.kernels.packed import words


def tap_by_tap(weight: Tensor) -> Tensor:
    """A gradient of the weight, stored tap by tap as layers store their weights, in any case."""
    kernels, *taps = weight.shape
    return weight.new_empty(*taps, kernels).permute(3, 0, 1, 2)


# ---- spike-train-level rules ----------------------------------------------------------------------------------------


@operator
def _conv_forward(
    spikes_in: Tensor, weight: Tensor, window: Sequence[int], tau_m: float, tau_s: float, t_ref: int, v_th: float
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = ops.backend.conv_forward(
        spikes_in, weight, Window(*window), Lif(tau_m, tau_s, t_ref, v_th)
    )
    return result


@fake("conv_forward")
def _(spikes_in: Tensor, weight: Tensor, window: Sequence[int], *_: Any) -> tuple[Tensor, Tensor]:
    batch, steps, neurons = *spikes_in.shape[:2], Window(*window).neurons
    return spikes_in.new_empty(batch, steps, words(neurons)), weight.new_empty(batch, neurons)


def conv_forward(spikes_in: Tensor, weight: Tensor, window: Window, lif: Lif) -> tuple[Tensor, Tensor]:
    """See `reference.images.conv_forward`."""
    result: tuple[Tensor, Tensor] = _conv_forward(spikes_in, weight, list(window), *lif)
    return result


@operator
def _pool_forward(
    spikes_in: Tensor,
    window: Sequence[int],
    tau_m: float,
    tau_s: float,
    t_ref: int,
    v_th: float,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = ops.backend.pool_forward(
        spikes_in, Window(*window), Lif(tau_m, tau_s, t_ref, v_th), dtype
    )
    return result


@fake("pool_forward")
def _(
    spikes_in: Tensor,
    window: Sequence[int],
    _tau_m: float,
    _tau_s: float,
    _t_ref: int,
    _v_th: float,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    batch, steps, neurons = *spikes_in.shape[:2], Window(*window).neurons
    counts = spikes_in.new_empty(batch, neurons, dtype=dtype)
    return spikes_in.new_empty(batch, steps, words(neurons)), counts


def pool_forward(
    spikes_in: Tensor, window: Window, lif: Lif, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """See `reference.images.pool_forward`."""
    result: tuple[Tensor, Tensor] = _pool_forward(spikes_in, list(window), *lif, dtype)
    return result


@operator
def _conv_activation(
    rule: str,
    spikes_in: Tensor,
    spikes: Tensor,
    weight: Tensor,
    window: Sequence[int],
    tau_m: float,
    tau_s: float,
    t_ref: int,
    v_th: float,
) -> Tensor:
    lif = Lif(tau_m, tau_s, t_ref, v_th)
    result: Tensor = ops.backend.conv_activation(rule, lif, spikes_in, spikes, weight, Window(*window))
    return result


@fake("conv_activation")
def _(_rule: str, spikes_in: Tensor, _spikes: Tensor, weight: Tensor, window: Sequence[int], *_: Any) -> Tensor:
    return weight.new_empty(spikes_in.shape[0], Window(*window).neurons)


def conv_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor, window: Window) -> Tensor:
    """See `reference.images.conv_activation`."""
    result: Tensor = _conv_activation(rule, spikes_in, spikes, weight, list(window), *lif)
    return result


@operator
def _conv_backward(
    rule: str,
    spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor | None,
    credit: Tensor | None,
    weight: Tensor,
    window: Sequence[int],
    gain_slope: Tensor | None,
    tau_m: float,
    tau_s: float,
    t_ref: int,
    v_th: float,
) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = ops.backend.conv_backward(
        rule, Lif(tau_m, tau_s, t_ref, v_th), spikes_in, spikes, gain, credit, weight, Window(*window), gain_slope
    )
    return result


@fake("conv_backward")
def _(
    _rule: str,
    _spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor | None,
    credit: Tensor | None,
    weight: Tensor,
    window: Sequence[int],
    gain_slope: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, seen = spikes.shape[0], Window(*window)
    gradient = weight.new_empty(0, 0, 0, 0) if gain is None else tap_by_tap(weight)
    below = weight.new_empty(batch, 0 if credit is None else seen.inputs)
    return gradient, below, weight.new_empty(batch, 0 if gain_slope is None else seen.neurons)


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
    """See `reference.images.conv_backward`."""
    result: tuple[Tensor, Tensor, Tensor] = _conv_backward(
        rule, spikes_in, spikes, gain, credit, weight, list(window), gain_slope, *lif
    )
    return result


@operator
def _pool_backward(
    rule: str,
    spikes_in: Tensor,
    spikes: Tensor,
    credit: Tensor,
    window: Sequence[int],
    tau_m: float,
    tau_s: float,
    t_ref: int,
    v_th: float,
) -> Tensor:
    lif = Lif(tau_m, tau_s, t_ref, v_th)
    result: Tensor = ops.backend.pool_backward(rule, lif, spikes_in, spikes, credit, Window(*window))
    return result


@fake("pool_backward")
def _(_rule: str, _spikes_in: Tensor, _spikes: Tensor, credit: Tensor, window: Sequence[int], *_: Any) -> Tensor:
    return credit.new_empty(credit.shape[0], Window(*window).inputs)


def pool_backward(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, credit: Tensor, window: Window) -> Tensor:
    """See `reference.images.pool_backward`."""
    result: Tensor = _pool_backward(rule, spikes_in, spikes, credit, list(window), *lif)
    return result


# ---- STBP -----------------------------------------------------------------------------------------------------------


@operator
def _stbp_conv_forward(
    spikes_in: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    v_th: float,
    decay: float,
    surrogate: str,
    width: float,
    strict: bool,
    exponential_reset: bool,
    temporal_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    neuron = Stbp(v_th, decay, surrogate, width, strict, exponential_reset, temporal_gradient)
    result: tuple[Tensor, Tensor, Tensor] = ops.backend.stbp_conv_forward(
        spikes_in, weight, bias, Window(*window), neuron
    )
    return result


@fake("stbp_conv_forward")
def _(
    spikes_in: Tensor, weight: Tensor, _bias: Tensor | None, window: Sequence[int], *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, neurons = *spikes_in.shape[:2], Window(*window).neurons
    spikes = spikes_in.new_empty(batch, steps, words(neurons))
    return spikes, weight.new_empty(batch, neurons), weight.new_empty(batch, steps, neurons)


def stbp_conv_forward(
    spikes_in: Tensor, weight: Tensor, bias: Tensor | None, window: Window, neuron: Stbp
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.images.stbp_conv_forward`."""
    result: tuple[Tensor, Tensor, Tensor] = _stbp_conv_forward(spikes_in, weight, bias, list(window), *neuron)
    return result


@operator
def _stbp_conv_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    window: Sequence[int],
    wants_input: bool,
    wants_weight: bool,
    v_th: float,
    decay: float,
    surrogate: str,
    width: float,
    strict: bool,
    exponential_reset: bool,
    temporal_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    neuron = Stbp(v_th, decay, surrogate, width, strict, exponential_reset, temporal_gradient)
    result: tuple[Tensor, Tensor, Tensor] = ops.backend.stbp_conv_backward(
        grad_spikes, spikes_in, spikes, membrane, weight, Window(*window), neuron, wants_input, wants_weight
    )
    return result


@fake("stbp_conv_backward")
def _(
    grad_spikes: Tensor,
    _spikes_in: Tensor,
    _spikes: Tensor,
    _membrane: Tensor,
    weight: Tensor,
    window: Sequence[int],
    wants_input: bool,
    wants_weight: bool,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps = grad_spikes.shape[:2]
    below = (batch, steps, Window(*window).inputs) if wants_input else (batch, 0, 0)
    gradient = tap_by_tap(weight) if wants_weight else weight.new_empty(0, 0, 0, 0)
    return weight.new_empty(below), gradient, weight.new_empty(weight.shape[0] if wants_weight else 0)


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
    """See `reference.images.stbp_conv_backward`."""
    result: tuple[Tensor, Tensor, Tensor] = _stbp_conv_backward(
        grad_spikes, spikes_in, spikes, membrane, weight, list(window), wants_input, wants_weight, *neuron
    )
    return result
