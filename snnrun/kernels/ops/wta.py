"""The kernels of the integrate-and-fire neurons of Lee et al. 2016 as operators. They work as those of `ops`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnrun.kernels import ops
from snnrun.kernels.neuron import Window, Wta
from snnrun.kernels.ops import fake, operator
from snnrun.kernels.packed import words

_Three = tuple[Tensor, Tensor, Tensor]


@operator
def _wta_forward(
    spikes_in: Tensor, weight: Tensor, threshold: Tensor, tau_m: float, t_ref: float, inhibition: float
) -> tuple[Tensor, Tensor, Tensor]:
    result: _Three = ops.backend.wta_forward(spikes_in, weight, threshold, Wta(tau_m, t_ref, inhibition))
    return result


@fake("wta_forward")
def _(spikes_in: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _of_layer(spikes_in, weight.shape[0], weight)


def wta_forward(spikes_in: Tensor, weight: Tensor, threshold: Tensor, neuron: Wta) -> _Three:
    """See `reference.wta_forward`."""
    result: _Three = _wta_forward(spikes_in, weight, threshold, *neuron)
    return result


@operator
def _wta_conv_forward(
    spikes_in: Tensor,
    weight: Tensor,
    threshold: Tensor,
    window: Sequence[int],
    tau_m: float,
    t_ref: float,
    inhibition: float,
) -> tuple[Tensor, Tensor, Tensor]:
    result: _Three = ops.backend.wta_conv_forward(
        spikes_in, weight, threshold, Window(*window), Wta(tau_m, t_ref, inhibition)
    )
    return result


@fake("wta_conv_forward")
def _(
    spikes_in: Tensor, weight: Tensor, _threshold: Tensor, window: Sequence[int], *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _of_layer(spikes_in, Window(*window).neurons, weight)


def wta_conv_forward(spikes_in: Tensor, weight: Tensor, threshold: Tensor, window: Window, neuron: Wta) -> _Three:
    """See `reference.wta_conv_forward`."""
    result: _Three = _wta_conv_forward(spikes_in, weight, threshold, list(window), *neuron)
    return result


@operator
def _trace(
    spikes: Tensor, neurons: int, tau_m: float, t_ref: float, inhibition: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    result: Tensor = ops.backend.trace(spikes, neurons, Wta(tau_m, t_ref, inhibition), dtype)
    return result


@fake("trace")
def _(
    spikes: Tensor, neurons: int, _tau_m: float, _t_ref: float, _share: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    return spikes.new_empty(spikes.shape[0], neurons, dtype=dtype)


def trace(spikes: Tensor, neurons: int, neuron: Wta, dtype: torch.dtype = torch.float32) -> Tensor:
    """See `reference.trace`."""
    result: Tensor = _trace(spikes, neurons, *neuron, dtype)
    return result


def _of_layer(spikes_in: Tensor, neurons: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Empty bits, counts and traces of a layer."""
    batch, steps = spikes_in.shape[:2]
    bits = spikes_in.new_empty(batch, steps, words(neurons))
    return bits, like.new_empty(batch, neurons), like.new_empty(batch, neurons)
