"""The kernels of SLAYER's spike response neurons as operators of PyTorch. They work as those of `ops`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnrun.kernels import ops
from snnrun.kernels.neuron import Srm, Window
from snnrun.kernels.ops import by_input, fake, operator
from snnrun.kernels.ops.images import tap_by_tap
from snnrun.kernels.packed import words

_Three = tuple[Tensor, Tensor, Tensor]


@operator
def _srm_forward(
    spikes_in: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    v_th: float,
    tau_s: float,
    tau_r: float,
    alpha: bool,
    scale: float,
    height: float,
    width: float,
) -> tuple[Tensor, Tensor, Tensor]:
    neuron = Srm(v_th, tau_s, tau_r, alpha, scale, height, width)
    result: _Three = ops.backend.srm_forward(spikes_in, weight, recurrent_weight, neuron)
    return result


@fake("srm_forward")
def _(spikes_in: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _of_layer(spikes_in, weight.shape[0], weight)


def srm_forward(spikes_in: Tensor, weight: Tensor, recurrent_weight: Tensor | None, neuron: Srm) -> _Three:
    """See `reference.srm_forward`."""
    result: _Three = _srm_forward(spikes_in, weight, recurrent_weight, *neuron)
    return result


@operator
def _srm_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    wants_input: bool,
    wants_weight: bool,
    v_th: float,
    tau_s: float,
    tau_r: float,
    alpha: bool,
    scale: float,
    height: float,
    width: float,
) -> tuple[Tensor, Tensor, Tensor]:
    neuron = Srm(v_th, tau_s, tau_r, alpha, scale, height, width)
    result: _Three = ops.backend.srm_backward(
        grad_spikes, spikes_in, spikes, membrane, weight, recurrent_weight, neuron, wants_input, wants_weight
    )
    return result


@fake("srm_backward")
def _(
    grad_spikes: Tensor,
    _spikes_in: Tensor,
    _spikes: Tensor,
    _membrane: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    wants_input: bool,
    wants_weight: bool,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps = grad_spikes.shape[:2]
    return (
        weight.new_empty((batch, steps, weight.shape[1]) if wants_input else (batch, 0, 0)),
        by_input(weight) if wants_weight else weight.new_empty(0, 0),
        by_input(recurrent_weight) if wants_weight and recurrent_weight is not None else weight.new_empty(0, 0),
    )


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
) -> _Three:
    """See `reference.srm_backward`."""
    result: _Three = _srm_backward(
        grad_spikes, spikes_in, spikes, membrane, weight, recurrent_weight, wants_input, wants_weight, *neuron
    )
    return result


@operator
def _srm_conv_forward(
    spikes_in: Tensor,
    weight: Tensor,
    window: Sequence[int],
    v_th: float,
    tau_s: float,
    tau_r: float,
    alpha: bool,
    scale: float,
    height: float,
    width: float,
) -> tuple[Tensor, Tensor, Tensor]:
    neuron = Srm(v_th, tau_s, tau_r, alpha, scale, height, width)
    result: _Three = ops.backend.srm_conv_forward(spikes_in, weight, Window(*window), neuron)
    return result


@fake("srm_conv_forward")
def _(spikes_in: Tensor, weight: Tensor, window: Sequence[int], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _of_layer(spikes_in, Window(*window).neurons, weight)


def srm_conv_forward(spikes_in: Tensor, weight: Tensor, window: Window, neuron: Srm) -> _Three:
    """See `reference.srm_conv_forward`."""
    result: _Three = _srm_conv_forward(spikes_in, weight, list(window), *neuron)
    return result


@operator
def _srm_conv_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    membrane: Tensor,
    weight: Tensor,
    window: Sequence[int],
    wants_input: bool,
    wants_weight: bool,
    v_th: float,
    tau_s: float,
    tau_r: float,
    alpha: bool,
    scale: float,
    height: float,
    width: float,
) -> tuple[Tensor, Tensor]:
    neuron = Srm(v_th, tau_s, tau_r, alpha, scale, height, width)
    result: tuple[Tensor, Tensor] = ops.backend.srm_conv_backward(
        grad_spikes, spikes_in, membrane, weight, Window(*window), neuron, wants_input, wants_weight
    )
    return result


@fake("srm_conv_backward")
def _(
    grad_spikes: Tensor,
    _spikes_in: Tensor,
    _membrane: Tensor,
    weight: Tensor,
    window: Sequence[int],
    wants_input: bool,
    wants_weight: bool,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    batch, steps = grad_spikes.shape[:2]
    below = (batch, steps, Window(*window).inputs) if wants_input else (batch, 0, 0)
    return weight.new_empty(below), tap_by_tap(weight) if wants_weight else weight.new_empty(0, 0, 0, 0)


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
    """See `reference.srm_conv_backward`."""
    result: tuple[Tensor, Tensor] = _srm_conv_backward(
        grad_spikes, spikes_in, membrane, weight, list(window), wants_input, wants_weight, *neuron
    )
    return result


@operator
def _srm_pool_forward(
    spikes_in: Tensor,
    window: Sequence[int],
    gain: float,
    v_th: float,
    tau_s: float,
    tau_r: float,
    alpha: bool,
    scale: float,
    height: float,
    width: float,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    neuron = Srm(v_th, tau_s, tau_r, alpha, scale, height, width)
    result: _Three = ops.backend.srm_pool_forward(spikes_in, Window(*window), gain, neuron, dtype)
    return result


@fake("srm_pool_forward")
def _(
    spikes_in: Tensor,
    window: Sequence[int],
    _gain: float,
    _v_th: float,
    _tau_s: float,
    _tau_r: float,
    _alpha: bool,
    _scale: float,
    _height: float,
    _width: float,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    return _of_layer(spikes_in, Window(*window).neurons, spikes_in.new_empty(0, dtype=dtype))


def srm_pool_forward(
    spikes_in: Tensor, window: Window, gain: float, neuron: Srm, dtype: torch.dtype = torch.float32
) -> _Three:
    """See `reference.srm_pool_forward`."""
    result: _Three = _srm_pool_forward(spikes_in, list(window), gain, *neuron, dtype)
    return result


@operator
def _srm_pool_backward(
    grad_spikes: Tensor,
    membrane: Tensor,
    window: Sequence[int],
    gain: float,
    v_th: float,
    tau_s: float,
    tau_r: float,
    alpha: bool,
    scale: float,
    height: float,
    width: float,
) -> Tensor:
    neuron = Srm(v_th, tau_s, tau_r, alpha, scale, height, width)
    result: Tensor = ops.backend.srm_pool_backward(grad_spikes, membrane, Window(*window), gain, neuron)
    return result


@fake("srm_pool_backward")
def _(grad_spikes: Tensor, membrane: Tensor, window: Sequence[int], *_: Any) -> Tensor:
    return membrane.new_empty(*grad_spikes.shape[:2], Window(*window).inputs)


def srm_pool_backward(grad_spikes: Tensor, membrane: Tensor, window: Window, gain: float, neuron: Srm) -> Tensor:
    """See `reference.srm_pool_backward`."""
    result: Tensor = _srm_pool_backward(grad_spikes, membrane, list(window), gain, *neuron)
    return result


def _of_layer(spikes_in: Tensor, neurons: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Empty bits, counts and membranes of a layer."""
    batch, steps = spikes_in.shape[:2]
    bits = spikes_in.new_empty(batch, steps, words(neurons))
    return bits, like.new_empty(batch, neurons), like.new_empty(batch, steps, neurons)
