"""How a backend's results are compared with the reference's; see `checks` for what may differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnrun.kernels.neuron import Synapses
from snnrun.kernels.packed import pack, unpack

TOLERANCE = 1e-5
NEAR_THRESHOLD = 1e-4  # mV


class CheckResult(NamedTuple):
    """Outcome of one check.

    `error` is the worst deviation as a share of the largest entry. `differing` counts the spikes that differ from the
    reference's. `near` counts those of the reference that change with a threshold 1e-4 mV lower or higher. `note` says
    what went wrong.
    """

    name: str
    passed: bool
    error: float = 0.0
    differing: int = 0
    near: int = 0
    note: str = ""


def to_device(device: str, *values: Any) -> Iterable[Any]:
    """The values on the device, floats as float32."""
    for value in values:
        if isinstance(value, Synapses):
            yield Synapses(*to_device(device, *value))
        elif isinstance(value, Tensor):
            yield value.to(device, torch.float32 if value.is_floating_point() else value.dtype)
        else:
            yield value


def compare(name: str, *pairs: tuple[Tensor, Tensor]) -> CheckResult:
    """Compare results (actual, expected) of one function."""
    worst = 0.0
    for actual, expected in pairs:
        if actual.shape != expected.shape:
            return CheckResult(name, False, math.nan, note=f"{tuple(actual.shape)} is not {tuple(expected.shape)}")
        if expected.numel():
            difference = (actual.double().cpu() - expected).abs().max()
            # Python's max could lose a NaN.
            worst = torch.maximum(torch.tensor(worst), difference / expected.abs().max().clamp(min=1e-6)).item()
    return CheckResult(name, worst <= TOLERANCE, worst)


def compare_spikes(
    name: str, spikes: Tensor, counts: Tensor, expected: Sequence[Tensor], recurrent: bool
) -> tuple[CheckResult, Tensor]:
    """Compare bits with the reference's at, below and above the threshold; also returns which (B, T, N) may differ."""
    neurons = counts.shape[1]
    fired, exact, low, high = (unpack(bits.cpu(), neurons).bool() for bits in (spikes, *expected))
    near, differing = low != high, fired != exact
    begins = near.any(dim=2, keepdim=True) if recurrent else near
    excused = begins.cumsum(dim=1) > 0
    note = ""
    if not torch.equal(counts.cpu(), fired.sum(dim=1).to(counts.dtype)):
        note = "the counts are not those of the spikes"
    elif not torch.equal(pack(fired), spikes.cpu()):
        note = "bits are set beyond the last neuron"
    passed = not note and not (differing & ~excused).any()
    return CheckResult(name, passed, 0.0, int(differing.sum()), int(near.sum()), note), excused.expand_as(fired)
