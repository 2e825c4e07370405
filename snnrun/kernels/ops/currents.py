"""The kernels of a first layer that gets currents as operators of PyTorch. They work as those of `ops`."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrun.kernels import ops
from snnrun.kernels.neuron import Lif, Stbp, Synapses
from snnrun.kernels.ops import fake, operator
from snnrun.kernels.packed import words


@operator
def _current_drive(values: Tensor, weight: Tensor) -> Tensor:
    drive: Tensor = ops.backend.current_drive(values, weight)
    return drive


@fake("current_drive")
def _(values: Tensor, weight: Tensor) -> Tensor:
    return weight.new_empty(*values.shape[:2], weight.shape[0])


def current_drive(values: Tensor, weight: Tensor) -> Tensor:
    """See `reference.currents.current_drive`."""
    drive: Tensor = _current_drive(values, weight)
    return drive


@operator
def _lif_driven(
    drive: Tensor,
    recurrent_weight: Tensor | None,
    pre: Tensor | None,
    post: Tensor | None,
    tau_m: float,
    tau_s: float,
    t_ref: int,
    v_th: float,
    steps: int,
    slack: bool,
) -> tuple[Tensor, Tensor]:
    recurrent = None
    if recurrent_weight is not None and pre is not None and post is not None:
        recurrent = Synapses(recurrent_weight, pre, post)
    result: tuple[Tensor, Tensor] = ops.backend.lif_driven(
        drive, recurrent, Lif(tau_m, tau_s, t_ref, v_th), steps, slack
    )
    return result


@fake("lif_driven")
def _(
    drive: Tensor,
    _weight: Tensor | None,
    _pre: Tensor | None,
    _post: Tensor | None,
    _tau_m: float,
    _tau_s: float,
    _t_ref: int,
    _v_th: float,
    steps: int,
    _slack: bool,
) -> tuple[Tensor, Tensor]:
    return _bits(drive, steps), drive.new_empty(drive.shape[0], drive.shape[2])


def lif_driven(drive: Tensor, recurrent: Synapses | None, lif: Lif, steps: int, slack: bool) -> tuple[Tensor, Tensor]:
    """See `reference.currents.lif_driven`."""
    result: tuple[Tensor, Tensor] = _lif_driven(drive, *(recurrent or (None, None, None)), *lif, steps, slack)
    return result


@operator
def _readout_sums(
    rule: str, spikes: Tensor, like: Tensor, tau_m: float, tau_s: float, t_ref: int, v_th: float, count: int
) -> Tensor:
    sums: Tensor = ops.backend.readout_sums(rule, Lif(tau_m, tau_s, t_ref, v_th), spikes, like, count)
    return sums


@fake("readout_sums")
def _(
    _rule: str, _spikes: Tensor, like: Tensor, _tau_m: float, _tau_s: float, _t_ref: int, _v_th: float, count: int
) -> Tensor:
    return like.new_empty(like.shape[0], count, like.shape[1])


def readout_sums(rule: str, lif: Lif, spikes: Tensor, like: Tensor, count: int) -> Tensor:
    """See `reference.currents.readout_sums`."""
    sums: Tensor = _readout_sums(rule, spikes, like, *lif, count)
    return sums


@operator
def _stbp_driven(
    drive: Tensor,
    recurrent_weight: Tensor | None,
    v_th: float,
    decay: float,
    surrogate: str,
    width: float,
    strict: bool,
    exponential_reset: bool,
    temporal_gradient: bool,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    neuron = Stbp(v_th, decay, surrogate, width, strict, exponential_reset, temporal_gradient)
    result: tuple[Tensor, Tensor, Tensor] = ops.backend.stbp_driven(drive, recurrent_weight, neuron, steps)
    return result


@fake("stbp_driven")
def _(
    drive: Tensor,
    _recurrent_weight: Tensor | None,
    _v_th: float,
    _decay: float,
    _surrogate: str,
    _width: float,
    _strict: bool,
    _exponential_reset: bool,
    _temporal_gradient: bool,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, neurons = drive.shape
    return _bits(drive, steps), drive.new_empty(batch, neurons), drive.new_empty(batch, steps, neurons)


def stbp_driven(
    drive: Tensor, recurrent_weight: Tensor | None, neuron: Stbp, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.currents.stbp_driven`."""
    result: tuple[Tensor, Tensor, Tensor] = _stbp_driven(drive, recurrent_weight, *neuron, steps)
    return result


@operator
def _stbp_driven_backward(
    grad_spikes: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    recurrent_weight: Tensor | None,
    v_th: float,
    decay: float,
    surrogate: str,
    width: float,
    strict: bool,
    exponential_reset: bool,
    temporal_gradient: bool,
    count: int,
) -> tuple[Tensor, Tensor]:
    neuron = Stbp(v_th, decay, surrogate, width, strict, exponential_reset, temporal_gradient)
    result: tuple[Tensor, Tensor] = ops.backend.stbp_driven_backward(
        grad_spikes, spikes, membrane, recurrent_weight, neuron, count
    )
    return result


@fake("stbp_driven_backward")
def _(
    grad_spikes: Tensor,
    _spikes: Tensor,
    membrane: Tensor,
    recurrent_weight: Tensor | None,
    _v_th: float,
    _decay: float,
    _surrogate: str,
    _width: float,
    _strict: bool,
    _exponential_reset: bool,
    _temporal_gradient: bool,
    count: int,
) -> tuple[Tensor, Tensor]:
    batch, _, neurons = grad_spikes.shape
    loop = membrane.new_empty(0, 0) if recurrent_weight is None else membrane.new_empty(neurons, neurons).T
    return membrane.new_empty(batch, count, neurons), loop


def stbp_driven_backward(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp, count: int
) -> tuple[Tensor, Tensor]:
    """See `reference.currents.stbp_driven_backward`."""
    result: tuple[Tensor, Tensor] = _stbp_driven_backward(
        grad_spikes, spikes, membrane, recurrent_weight, *neuron, count
    )
    return result


def _bits(drive: Tensor, steps: int) -> Tensor:
    batch, _, neurons = drive.shape
    return drive.new_empty(batch, steps, words(neurons), dtype=torch.int64)
