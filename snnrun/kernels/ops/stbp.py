"""The kernels of STBP's dense layers as operators of PyTorch. They work as those of `ops`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnrun.kernels import ops
from snnrun.kernels.neuron import Stbp
from snnrun.kernels.ops import by_input, fake, operator
from snnrun.kernels.packed import words


@operator
def _stbp_forward(
    spikes_in: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    recurrent_weight: Tensor | None,
    v_th: float,
    decay: float,
    surrogate: str,
    width: float,
    strict: bool,
    exponential_reset: bool,
    temporal_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    neuron = Stbp(v_th, decay, surrogate, width, strict, exponential_reset, temporal_gradient)
    result: tuple[Tensor, Tensor, Tensor] = ops.backend.stbp_forward(spikes_in, weight, bias, recurrent_weight, neuron)
    return result


@fake("stbp_forward")
def _(spikes_in: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, neurons = *spikes_in.shape[:2], weight.shape[0]
    spikes = spikes_in.new_empty(batch, steps, words(neurons))
    return spikes, weight.new_empty(batch, neurons), weight.new_empty(batch, steps, neurons)


def stbp_forward(
    spikes_in: Tensor, weight: Tensor, bias: Tensor | None, recurrent_weight: Tensor | None, neuron: Stbp
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.stbp_forward`."""
    result: tuple[Tensor, Tensor, Tensor] = _stbp_forward(spikes_in, weight, bias, recurrent_weight, *neuron)
    return result


@operator
def _stbp_near(
    membrane: Tensor,
    v_th: float,
    decay: float,
    surrogate: str,
    width: float,
    strict: bool,
    exponential_reset: bool,
    temporal_gradient: bool,
) -> Tensor:
    neuron = Stbp(v_th, decay, surrogate, width, strict, exponential_reset, temporal_gradient)
    near: Tensor = ops.backend.stbp_near(membrane, neuron)
    return near


@fake("stbp_near")
def _(membrane: Tensor, *_: Any) -> Tensor:
    batch, steps, neurons = membrane.shape
    return membrane.new_empty(batch, steps, words(neurons), dtype=torch.int64)


def stbp_near(membrane: Tensor, neuron: Stbp) -> Tensor:
    """See `reference.stbp_near`."""
    near: Tensor = _stbp_near(membrane, *neuron)
    return near


@operator
def _stbp_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    wants_input: bool,
    wants_weight: bool,
    near_in: Tensor | None,
    v_th: float,
    decay: float,
    surrogate: str,
    width: float,
    strict: bool,
    exponential_reset: bool,
    temporal_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    neuron = Stbp(v_th, decay, surrogate, width, strict, exponential_reset, temporal_gradient)
    result: tuple[Tensor, Tensor, Tensor, Tensor] = ops.backend.stbp_backward(
        grad_spikes, spikes_in, spikes, membrane, weight, recurrent_weight, neuron, wants_input, wants_weight, near_in
    )
    return result


@fake("stbp_backward")
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, steps, neurons = grad_spikes.shape
    return (
        weight.new_empty((batch, steps, weight.shape[1]) if wants_input else (batch, 0, 0)),
        by_input(weight) if wants_weight else weight.new_empty(0, 0),
        weight.new_empty(neurons if wants_weight else 0),
        by_input(recurrent_weight) if wants_weight and recurrent_weight is not None else weight.new_empty(0, 0),
    )


def stbp_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    neuron: Stbp,
    wants_input: bool,
    wants_weight: bool = True,
    near_in: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.stbp_backward`."""
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _stbp_backward(
        grad_spikes, spikes_in, spikes, membrane, weight, recurrent_weight, wants_input, wants_weight, near_in, *neuron
    )
    return result
