"""Checks of a backend's kernels for the neurons of SLAYER and of Lee et al. `checks` runs them on its own cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from snnrun.kernels import reference
from snnrun.kernels.checks import images
from snnrun.kernels.checks.comparison import NEAR_THRESHOLD, CheckResult, compare, compare_spikes, to_device
from snnrun.kernels.neuron import Srm, Wta

_SHIFTS = (0.0, -NEAR_THRESHOLD, NEAR_THRESHOLD)
_POOL_GAIN = 1.1


def check_srm_forward(backend: Any, device: str, case: images.Case, neuron: Srm) -> CheckResult:
    """Spikes, counts and membranes of a dense layer without and with a loop, a convolution and a pool."""
    data, pool = images.Data(case, case.window), images.Data(case, images.pool_of(case.window))
    weight = data.weight.flatten(1)[:, :1].expand(-1, data.window.inputs) + data.normal(1, data.window.inputs)
    loop, pooled = 0.3 * data.normal(len(weight), len(weight)), (pool.window, _POOL_GAIN * neuron.v_th)
    bits = pool.spikes_in
    return _worst(
        _compare_membranes("srm_forward", backend, device, neuron, (data.spikes_in, weight, None)),
        _compare_membranes("srm_forward", backend, device, neuron, (data.spikes_in, weight, loop), recurrent=True),
        _compare_membranes("srm_conv_forward", backend, device, neuron, (data.spikes_in, data.weight, data.window)),
        _compare_membranes("srm_pool_forward", backend, device, neuron, (bits, *pooled), last=(torch.float64,)),
    )


def _compare_membranes(
    name: str,
    backend: Any,
    device: str,
    neuron: Srm,
    arguments: Sequence[Any],
    last: tuple[Any, ...] = (),
    recurrent: bool = False,
) -> CheckResult:
    spikes, counts, membrane = getattr(backend, name)(*to_device(device, *arguments), neuron)
    results = [
        getattr(reference, name)(*arguments, neuron._replace(v_th=neuron.v_th + shift), *last) for shift in _SHIFTS
    ]
    outcome, excused = compare_spikes("srm_forward", spikes, counts, [result[0] for result in results], recurrent)
    u, wanted = (torch.where(excused, 0.0, tensor.double().cpu()) for tensor in (membrane, results[0][2]))
    membranes = compare(name, (u, wanted))
    passed = outcome.passed and membranes.passed
    return outcome._replace(passed=passed, error=membranes.error, note=outcome.note or membranes.note)


def check_srm_backward(backend: Any, device: str, case: images.Case, neuron: Srm) -> CheckResult:
    """All gradients of a dense layer without and with a loop, a convolution and a pool."""
    data, pool = images.Data(case, case.window), images.Data(case, images.pool_of(case.window))
    shape = (case.batch, case.steps, data.window.neurons)
    above, membrane = data.normal(*shape), data.normal(*shape)
    weight = data.normal(data.window.neurons, data.window.inputs)
    pairs: list[tuple[Tensor, Tensor]] = []
    for loop, wants in ((None, True), (0.1 * data.normal(shape[2], shape[2]) / shape[2], False)):
        arguments = (above, data.spikes_in, data.spikes, membrane, weight, loop)
        actual = backend.srm_backward(*to_device(device, *arguments), neuron, wants)
        pairs += zip(actual, reference.srm_backward(*arguments, neuron, wants), strict=True)
    image = (above, data.spikes_in, membrane, data.weight, data.window)
    actual = backend.srm_conv_backward(*to_device(device, *image), neuron, True)
    pairs += zip(actual, reference.srm_conv_backward(*image, neuron, True), strict=True)
    maps = pool.normal(2, case.batch, case.steps, pool.window.neurons)
    pooled = (pool.window, _POOL_GAIN, neuron)
    below = backend.srm_pool_backward(*to_device(device, *maps), *pooled)
    pairs.append((below, reference.srm_pool_backward(maps[0], maps[1], *pooled)))
    return compare("srm_backward", *pairs)


def check_wta_forward(backend: Any, device: str, case: images.Case, neuron: Wta) -> CheckResult:
    """Spikes, counts and traces of a dense layer with inhibition and of a convolution after averages."""
    data, averaged = images.Data(case, case.window), images.Data(case, images.averaged(case.window))
    weight = data.normal(data.window.kernels, data.window.inputs)
    threshold = 1.0 + data.normal(data.window.kernels).abs()
    lone = neuron._replace(inhibition=0.0)
    return _worst(
        _compare_traces("wta_forward", backend, device, neuron, (data.spikes_in, weight, threshold)),
        _compare_traces(
            "wta_conv_forward", backend, device, lone,
            (averaged.spikes_in, averaged.weight, threshold, averaged.window),
        ),
        _compare_input_trace(backend, device, data, neuron),
    )  # fmt: skip


def _compare_traces(name: str, backend: Any, device: str, neuron: Wta, arguments: Sequence[Any]) -> CheckResult:
    spikes, counts, traces = getattr(backend, name)(*to_device(device, *arguments), neuron)
    first, weight, threshold, *rest = arguments
    results = [getattr(reference, name)(first, weight, threshold + shift, *rest, neuron) for shift in _SHIFTS]
    recurrent = bool(neuron.inhibition)
    outcome, excused = compare_spikes("wta_forward", spikes, counts, [result[0] for result in results], recurrent)
    certain = ~excused.any(dim=1)
    left = compare(name, (traces.double().cpu() * certain, results[0][2] * certain))
    passed = outcome.passed and left.passed
    return outcome._replace(passed=passed, error=left.error, note=outcome.note or left.note)


def _compare_input_trace(backend: Any, device: str, data: images.Data, neuron: Wta) -> CheckResult:
    inputs = data.window.inputs
    actual = backend.trace(*to_device(device, data.spikes_in), inputs, neuron)
    return compare("wta_forward", (actual, reference.trace(data.spikes_in, inputs, neuron, torch.float64)))


def _worst(*results: CheckResult) -> CheckResult:
    """The first that did not pass, else the one with the largest error; the differing spikes of all."""
    worst = min(results, key=lambda result: (result.passed, -result.error))
    return worst._replace(
        differing=sum(result.differing for result in results), near=sum(result.near for result in results)
    )


_SRM: list[dict[str, Any]] = [
    {"neuron": neuron} for neuron in (Srm(1.0, 5.0, 1.0), Srm(2.0, 3.0, 2.0, True, 1.5, 2.0, 0.7))
]
_WTA: list[dict[str, Any]] = [{"neuron": neuron} for neuron in (Wta(20.0, 1.0, 0.4), Wta(8.0, 3.0))]
CHECKS: list[tuple[Callable[..., CheckResult], list[dict[str, Any]]]] = [
    (check_srm_forward, _SRM),
    (check_srm_backward, _SRM),
    (check_wta_forward, _WTA),
]
