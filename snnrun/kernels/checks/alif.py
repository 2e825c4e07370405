"""Checks of a backend's kernels for STBP's adaptive neurons. `checks` runs them and says what may differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from snnrun.kernels import reference
from snnrun.kernels.checks import currents
from snnrun.kernels.checks.comparison import NEAR_THRESHOLD, CheckResult, compare, compare_spikes, to_device
from snnrun.kernels.neuron import Alif, Stbp

_SHIFTS = (0.0, -NEAR_THRESHOLD, NEAR_THRESHOLD)


def alif_of(neurons: int, strength: float, dtype: torch.dtype = torch.float64) -> Alif:
    """Neurons each of which has constants of its own, with the values of float32."""
    generator = torch.Generator().manual_seed(neurons)
    decay, rho = torch.rand(2, neurons, generator=generator).mul(0.7).add(0.15).to(dtype).unbind()
    return Alif(decay, rho, strength)


def check_alif_scan(
    backend: Any, device: str, case: currents.Case, neuron: Stbp, strength: float, recurrent: bool
) -> CheckResult:
    """Spikes, counts and both membranes, then the gradients for an error that differs by step and one that does not."""
    data = currents.Data.of(case)
    loop = 0.1 * data.recurrent.dense(case.neurons) if recurrent else None
    alif, drive = alif_of(case.neurons, strength), reference.current_drive(data.values, data.weight)
    there = Alif(*to_device(device, *alif))
    name = f"alif_scan {neuron.surrogate}" + (" recurrent" if recurrent else "")
    results = [
        # The strength is in thresholds: what it adds stays.
        reference.alif_scan(
            drive, loop, alif._replace(strength=strength * neuron.v_th / (neuron.v_th + shift)),
            neuron._replace(v_th=neuron.v_th + shift), case.steps,
        )
        for shift in _SHIFTS
    ]  # fmt: skip
    spikes, counts, *membranes = backend.alif_scan(*to_device(device, drive, loop), there, neuron, case.steps)
    outcome, excused = compare_spikes(name, spikes, counts, [result[0] for result in results], recurrent)
    pairs: list[tuple[Tensor, Tensor]] = []
    for membrane, exact in zip(membranes, results[0][2:], strict=True):
        if exact.numel():
            pairs.append((torch.where(excused, 0.0, membrane.double().cpu()), torch.where(excused, 0.0, exact)))
    effective = data.membrane - 0.3 * data.membrane.abs() if strength else data.membrane.new_empty(0, 0, 0)
    for above in (data.above, data.like[:, None].expand(data.above.shape)):
        arguments = (above, data.spikes, data.membrane, effective, loop)
        actual = backend.alif_scan_backward(*to_device(device, *arguments), there, neuron)
        pairs += zip(actual, reference.alif_scan_backward(*arguments, alif, neuron), strict=True)
    floats = compare(name, *pairs)
    return outcome._replace(
        passed=outcome.passed and floats.passed, error=floats.error, note=outcome.note or floats.note
    )


CHECKS: list[tuple[Callable[..., CheckResult], list[dict[str, Any]]]] = [
    (
        check_alif_scan,
        [
            {"neuron": neuron, "strength": strength, "recurrent": recurrent}
            for neuron, strength in (
                (Stbp(0.5, 0.2), 1.8),
                (Stbp(0.5, 0.5, "polynomial", 0.7, exponential_reset=True), 0.0),
                (Stbp(0.3, 0.6, "sigmoid", 0.5, strict=True), 0.7),
                (Stbp(1.0, 0.2, "gaussian", 1.5, temporal_gradient=False), 1.8),
            )
            for recurrent in (False, True)
        ],
    ),
]
