"""The kernels of STBP's adaptive neurons as operators of PyTorch. They work as those of `ops`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnrun.kernels import ops
from snnrun.kernels.neuron import Alif, Stbp
from snnrun.kernels.ops import fake, operator
from snnrun.kernels.packed import words


@operator
def _alif_scan(
    drive: Tensor,
    recurrent_weight: Tensor | None,
    decay_of_each: Tensor,
    adaptation_decay: Tensor,
    strength: float,
    v_th: float,
    decay: float,
    surrogate: str,
    width: float,
    strict: bool,
    exponential_reset: bool,
    temporal_gradient: bool,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    neuron = Stbp(v_th, decay, surrogate, width, strict, exponential_reset, temporal_gradient)
    alif = Alif(decay_of_each, adaptation_decay, strength)
    result: tuple[Tensor, Tensor, Tensor, Tensor] = ops.backend.alif_scan(drive, recurrent_weight, alif, neuron, steps)
    return result


@fake("alif_scan")
def _(
    drive: Tensor,
    _recurrent_weight: Tensor | None,
    _decay_of_each: Tensor,
    _adaptation_decay: Tensor,
    strength: float,
    _v_th: float,
    _decay: float,
    _surrogate: str,
    _width: float,
    _strict: bool,
    _exponential_reset: bool,
    _temporal_gradient: bool,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, _, neurons = drive.shape
    spikes = drive.new_empty(batch, steps, words(neurons), dtype=torch.int64)
    effective = drive.new_empty((batch, steps, neurons) if strength else (0, 0, 0))
    return spikes, drive.new_empty(batch, neurons), drive.new_empty(batch, steps, neurons), effective


def alif_scan(
    drive: Tensor, recurrent_weight: Tensor | None, alif: Alif, neuron: Stbp, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.alif_scan`."""
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _alif_scan(drive, recurrent_weight, *alif, *neuron, steps)
    return result


@operator
def _alif_scan_backward(
    grad_spikes: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    effective: Tensor,
    recurrent_weight: Tensor | None,
    decay_of_each: Tensor,
    adaptation_decay: Tensor,
    strength: float,
    v_th: float,
    decay: float,
    surrogate: str,
    width: float,
    strict: bool,
    exponential_reset: bool,
    temporal_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    neuron = Stbp(v_th, decay, surrogate, width, strict, exponential_reset, temporal_gradient)
    alif = Alif(decay_of_each, adaptation_decay, strength)
    result: tuple[Tensor, Tensor, Tensor] = ops.backend.alif_scan_backward(
        grad_spikes, spikes, membrane, effective, recurrent_weight, alif, neuron
    )
    return result


@fake("alif_scan_backward")
def _(_grad_spikes: Tensor, _spikes: Tensor, membrane: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    neurons = membrane.shape[2]
    return membrane.new_empty(membrane.shape), membrane.new_empty(neurons), membrane.new_empty(neurons)


def alif_scan_backward(
    grad_spikes: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    effective: Tensor,
    recurrent_weight: Tensor | None,
    alif: Alif,
    neuron: Stbp,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.alif_scan_backward`."""
    result: tuple[Tensor, Tensor, Tensor] = _alif_scan_backward(
        grad_spikes, spikes, membrane, effective, recurrent_weight, *alif, *neuron
    )
    return result
