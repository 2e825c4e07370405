"""Checks of a backend's kernels of layers that get currents. `checks` runs them and says what may differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnrun.kernels import reference
from snnrun.kernels.checks.comparison import NEAR_THRESHOLD, CheckResult, compare, compare_spikes, to_device
from snnrun.kernels.neuron import Lif, Stbp, Synapses
from snnrun.kernels.packed import pack

_SHIFTS = (0.0, -NEAR_THRESHOLD, NEAR_THRESHOLD)


class Case(NamedTuple):
    """Samples, steps, values of each input, inputs, neurons, the neuron of the spike-train-level rules, the seed."""

    batch: int
    steps: int
    points: int
    inputs: int
    neurons: int
    lif: Lif
    seed: int = 0


# Constant currents, one value a step, equal and unequal shares of the steps.
CASES = (
    Case(3, 40, 1, 20, 10, Lif(20.0, 8.0, 2, 1.0)),
    Case(2, 60, 60, 64, 65, Lif(5.0, 4.0, 3, 2.0), seed=1),
    Case(5, 2, 1, 1, 1, Lif(20.0, 8.0, 0, 0.5), seed=2),
    Case(2, 70, 10, 7, 128, Lif(20.0, 8.0, 1, 1.0), seed=3),
    Case(2, 64, 9, 3, 70, Lif(64.0, 8.0, 2, 1.0), seed=4),
)


class Data(NamedTuple):
    """Random tensors for a case, on the CPU, in float64 with the values of float32."""

    values: Tensor  # some of them 0
    weight: Tensor
    spikes: Tensor  # bits of the layer itself
    like: Tensor
    recurrent: Synapses
    above: Tensor
    membrane: Tensor

    @classmethod
    def of(cls, case: Case) -> Data:
        """Draw them."""
        generator = torch.Generator().manual_seed(case.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).double()

        by_step = (case.batch, case.steps, case.neurons)
        mask = torch.rand(case.neurons, case.neurons, generator=generator) < 10 / case.neurons
        pre, post = mask.T.nonzero().T.contiguous().unbind()
        return cls(
            normal(case.batch, case.points, case.inputs).clamp(min=0), normal(case.neurons, case.inputs),
            pack(torch.rand(by_step, generator=generator) < 0.1), normal(case.batch, case.neurons),
            Synapses(normal(len(pre)), pre, post), normal(*by_step), normal(*by_step),
        )  # fmt: skip


def check_lif_driven(backend: Any, device: str, case: Case, recurrent: bool) -> CheckResult:
    """Drive, spikes and counts of a layer, with and without the slack of the threshold."""
    data = Data.of(case)
    synapses = data.recurrent if recurrent else None
    drive = backend.current_drive(*to_device(device, data.values, data.weight))
    exact = reference.current_drive(data.values, data.weight)
    driven = compare("lif_driven" + _loop(recurrent), (drive, exact))
    if not driven.passed:
        return driven
    slack = case.seed % 2 == 0
    results = [
        reference.lif_driven(exact, synapses, case.lif._replace(v_th=case.lif.v_th + shift), case.steps, slack)
        for shift in _SHIFTS
    ]
    spikes, counts = backend.lif_driven(drive, *to_device(device, synapses), case.lif, case.steps, slack)
    return compare_spikes(driven.name, spikes, counts, [result[0] for result in results], recurrent)[0]


def check_readout_sums(backend: Any, device: str, case: Case, rule: str) -> CheckResult:
    """Sums of the readout over the steps of each value."""
    data = Data.of(case)
    actual = backend.readout_sums(rule, case.lif, *to_device(device, data.spikes, data.like), case.points)
    return compare(
        f"readout_sums {rule}", (actual, reference.readout_sums(rule, case.lif, data.spikes, data.like, case.points))
    )


def check_stbp_driven(backend: Any, device: str, case: Case, neuron: Stbp, recurrent: bool) -> CheckResult:
    """Spikes, counts and membranes, then the gradients."""
    data = Data.of(case)
    loop = 0.1 * data.recurrent.dense(case.neurons) if recurrent else None
    drive = reference.current_drive(data.values, data.weight)
    name = f"stbp_driven {neuron.surrogate}" + _loop(recurrent)
    results = [
        reference.stbp_driven(drive, loop, neuron._replace(v_th=neuron.v_th + shift), case.steps) for shift in _SHIFTS
    ]
    spikes, counts, membrane = backend.stbp_driven(*to_device(device, drive, loop), neuron, case.steps)
    outcome, excused = compare_spikes(name, spikes, counts, [result[0] for result in results], recurrent)
    u, wanted = (torch.where(excused, 0.0, tensor.double().cpu()) for tensor in (membrane, results[0][2]))
    arguments = (data.above, data.spikes, data.membrane, loop)
    gradients = backend.stbp_driven_backward(*to_device(device, *arguments), neuron, case.points)
    exact = reference.stbp_driven_backward(*arguments, neuron, case.points)
    floats = compare(name, (u, wanted), *zip(gradients, exact, strict=True))
    return outcome._replace(
        passed=outcome.passed and floats.passed, error=floats.error, note=outcome.note or floats.note
    )


def _loop(recurrent: bool) -> str:
    return " recurrent" if recurrent else ""


_LOOPS: list[dict[str, Any]] = [{"recurrent": False}, {"recurrent": True}]
CHECKS: list[tuple[Callable[..., CheckResult], list[dict[str, Any]]]] = [
    (check_lif_driven, _LOOPS),
    (check_readout_sums, [{"rule": "strsbp"}, {"rule": "hm2bp"}]),
    (check_stbp_driven, [{"neuron": Stbp(0.5, 0.2), **loop} for loop in _LOOPS]),
]
