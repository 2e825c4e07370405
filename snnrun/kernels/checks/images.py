"""Checks of a backend's kernels of layers over images. `checks` runs them and says what may differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnrun.kernels import reference
from snnrun.kernels.checks.comparison import NEAR_THRESHOLD, CheckResult, compare, compare_spikes, to_device
from snnrun.kernels.neuron import Lif, Stbp, Window
from snnrun.kernels.packed import pack

_SHIFTS = (0.0, -NEAR_THRESHOLD, NEAR_THRESHOLD)


class Case(NamedTuple):
    """A layer over images: samples, steps, the window, the neuron of the spike-train-level rules, the seed."""

    batch: int
    steps: int
    window: Window
    lif: Lif
    seed: int = 0


# One pixel; oblong images, kernels and strides with padding; more kernels than lanes; the papers' layers on smaller
# images; pixels that no window reaches; rows slightly longer than whole vectors; a single step; strips that differ.
CASES = (
    Case(2, 30, Window(1, 1, 1, 1, 1, 1), Lif(20.0, 8.0, 2, 0.5)),
    Case(3, 40, Window(2, 7, 9, 5, 2, 3, 2, 1), Lif(5.0, 4.0, 3, 1.0), seed=1),
    Case(2, 65, Window(3, 6, 6, 33, 3, 3, 1, 1), Lif(20.0, 8.0, 1, 2.0), seed=2),
    Case(1, 70, Window(1, 14, 14, 15, 5, 5), Lif(64.0, 8.0, 2, 5.0), seed=3),
    Case(1, 40, Window(15, 8, 8, 40, 5, 5), Lif(64.0, 8.0, 2, 10.0), seed=4),
    Case(2, 20, Window(2, 8, 7, 3, 2, 2, 3), Lif(20.0, 8.0, 0, 1.0), seed=5),
    Case(1, 1, Window(1, 8, 8, 4, 3, 3), Lif(20.0, 8.0, 2, 1.0), seed=6),
    Case(1, 25, Window(1, 9, 28, 2, 3, 3, 2, 1), Lif(20.0, 8.0, 2, 1.0), seed=7),
    Case(3, 30, Window(2, 2, 20, 13, 1, 4, 3), Lif(20.0, 8.0, 2, 1.0), seed=8),
    Case(2, 3, Window(1, 3, 97, 2, 2, 5, 1, 2), Lif(20.0, 8.0, 1, 0.5), seed=9),
)


class Data:
    """Random tensors for a case, on the CPU, in float64 with the values of float32."""

    def __init__(self, case: Case, window: Window) -> None:
        self.window = window
        self._generator = torch.Generator().manual_seed(case.seed)
        self._size = (case.batch, case.steps)
        inputs = window.channels * window.height * window.width
        self.weight = self.normal(window.kernels, window.channels, window.height, window.width) * math.sqrt(4 / inputs)
        self.bias = self.normal(window.kernels)
        self.spikes_in, self.spikes = self._trains(window.inputs), self._trains(window.neurons)
        self.gain, self.credit = self.normal(case.batch, window.neurons), self.normal(case.batch, window.neurons)

    def normal(self, *shape: int) -> Tensor:
        """Draw from the normal distribution."""
        return torch.randn(shape, generator=self._generator).double()

    def _trains(self, neurons: int) -> Tensor:
        batch, steps = self._size
        rate = torch.rand(batch, 1, neurons, generator=self._generator) ** 2
        rate[0, 0, 0] = 0.0
        return pack(torch.rand(batch, steps, neurons, generator=self._generator) < rate)


def pool_of(window: Window) -> Window:
    """A pool over the image of a window."""
    size = min(2, window.rows, window.columns)
    return Window(window.channels, window.rows, window.columns, window.channels, size, size, max(1, window.stride))


def averaged(window: Window) -> Window:
    """The window after averages over 2 x 2. The image has a row and a column too many, and is larger if needed."""
    same = window._replace(rows=window.rows // 2 * 2 + 1, columns=window.columns // 2 * 2 + 1, pool=2)
    if min(same.out_rows, same.out_columns) > 1:
        return same
    return window._replace(rows=2 * window.rows + 1, columns=2 * window.columns + 1, pool=2)


def check_conv_forward(backend: Any, device: str, case: Case) -> CheckResult:
    """Spikes and counts of a convolution."""
    data = Data(case, case.window)
    arguments = (data.spikes_in, data.weight, data.window)
    spikes, counts = backend.conv_forward(*to_device(device, *arguments), case.lif)
    expected = [reference.conv_forward(*arguments, _shifted(case.lif, shift))[0] for shift in _SHIFTS]
    return compare_spikes("conv_forward", spikes, counts, expected, recurrent=False)[0]


def check_pool_forward(backend: Any, device: str, case: Case) -> CheckResult:
    """Spikes and counts of a spiking pool."""
    data = Data(case, pool_of(case.window))
    spikes, counts = backend.pool_forward(*to_device(device, data.spikes_in), data.window, case.lif)
    expected = [
        reference.pool_forward(data.spikes_in, data.window, _shifted(case.lif, shift), torch.float64)[0]
        for shift in _SHIFTS
    ]
    return compare_spikes("pool_forward", spikes, counts, expected, recurrent=False)[0]


def check_conv_activation(backend: Any, device: str, case: Case, rule: str) -> CheckResult:
    """Total post-synaptic potential."""
    data = Data(case, case.window)
    arguments = (data.spikes_in, data.spikes, data.weight, data.window)
    actual = backend.conv_activation(rule, case.lif, *to_device(device, *arguments))
    return compare(f"conv_activation {rule}", (actual, reference.conv_activation(rule, case.lif, *arguments)))


def check_conv_backward(backend: Any, device: str, case: Case, rule: str) -> CheckResult:
    """Weight gradient and the error of the layer below; then the gradient alone; then both with a slope of the gain."""
    data = Data(case, case.window)
    pairs: list[tuple[Tensor, Tensor]] = []
    for credit, slope in ((data.credit, None), (None, None), (data.credit, 0.1 * data.gain.flip(1))):
        arguments = (data.spikes_in, data.spikes, data.gain, credit, data.weight, data.window, slope)
        actual = backend.conv_backward(rule, case.lif, *to_device(device, *arguments))
        pairs += zip(actual, reference.conv_backward(rule, case.lif, *arguments), strict=True)
    return compare(f"conv_backward {rule}", *pairs)


def check_pool_backward(backend: Any, device: str, case: Case, rule: str) -> CheckResult:
    """Error of the layer below a spiking pool."""
    data = Data(case, pool_of(case.window))
    arguments = (data.spikes_in, data.spikes, data.credit, data.window)
    actual = backend.pool_backward(rule, case.lif, *to_device(device, *arguments))
    return compare(f"pool_backward {rule}", (actual, reference.pool_backward(rule, case.lif, *arguments)))


def check_stbp_conv_forward(backend: Any, device: str, case: Case, neuron: Stbp, average: bool) -> CheckResult:
    """Spikes, counts and membranes of STBP's convolution, with and without averages before it."""
    data = Data(case, averaged(case.window) if average else case.window)
    arguments = (data.spikes_in, data.weight, data.bias, data.window)
    spikes, counts, membrane = backend.stbp_conv_forward(*to_device(device, *arguments), neuron)
    results = [reference.stbp_conv_forward(*arguments, neuron._replace(v_th=neuron.v_th + shift)) for shift in _SHIFTS]
    name = "stbp_conv_forward" + _average(average)
    outcome, excused = compare_spikes(name, spikes, counts, [result[0] for result in results], recurrent=False)
    u, wanted = (torch.where(excused, 0.0, tensor.double().cpu()) for tensor in (membrane, results[0][2]))
    membranes = compare(name, (u, wanted))
    return outcome._replace(
        passed=outcome.passed and membranes.passed, error=membranes.error, note=outcome.note or membranes.note
    )


def check_stbp_conv_backward(backend: Any, device: str, case: Case, neuron: Stbp, average: bool) -> CheckResult:
    """All gradients, for an incoming gradient that differs from step to step and for one that does not."""
    data = Data(case, averaged(case.window) if average else case.window)
    shape = (case.batch, case.steps, data.window.neurons)
    membrane, by_step = data.normal(*shape), data.normal(*shape)
    pairs: list[tuple[Tensor, Tensor]] = []
    for above, wants_input in ((by_step, True), (data.gain[:, None].expand(shape), False)):
        arguments = (above, data.spikes_in, data.spikes, membrane, data.weight, data.window)
        actual = backend.stbp_conv_backward(*to_device(device, *arguments), neuron, wants_input)
        pairs += zip(actual, reference.stbp_conv_backward(*arguments, neuron, wants_input), strict=True)
    return compare("stbp_conv_backward" + _average(average), *pairs)


def _shifted(lif: Lif, shift: float) -> Lif:
    return lif._replace(v_th=lif.v_th + shift)


def _average(average: bool) -> str:
    return " after averages" if average else ""


_NEURON = Stbp(0.5, 0.5, "polynomial", 0.7)
_RULES: list[dict[str, Any]] = [{"rule": "strsbp"}, {"rule": "hm2bp"}]
_STBP: list[dict[str, Any]] = [{"neuron": _NEURON, "average": average} for average in (False, True)]
CHECKS: list[tuple[Callable[..., CheckResult], list[dict[str, Any]]]] = [
    (check_conv_forward, [{}]),
    (check_pool_forward, [{}]),
    (check_conv_activation, _RULES),
    (check_conv_backward, _RULES),
    (check_pool_backward, _RULES),
    (check_stbp_conv_forward, _STBP),
    (check_stbp_conv_backward, _STBP),
]
