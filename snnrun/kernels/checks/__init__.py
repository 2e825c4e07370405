"""Checks of a backend's kernels against the reference in float64, on any device, with fixed seeds.

Floats may differ by 1e-5 of the largest entry. Spikes must be the reference's until a membrane of the reference is
within 1e-4 mV of the threshold, that is, until a threshold so much lower or higher changes the spikes. After that, the
rest of this train may differ; in a recurrent layer, every train of this sample may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnrun.kernels import reference
from snnrun.kernels.checks import alif, currents, images, neurons
from snnrun.kernels.checks.comparison import NEAR_THRESHOLD, TOLERANCE, CheckResult, compare, compare_spikes, to_device
from snnrun.kernels.neuron import Lif, Stbp, Synapses
from snnrun.kernels.packed import pack, unpack

_SYNAPSES = 30  # of a neuron, recurrent
# mV. From 16 on, the distance between float32 numbers is larger than the slack.
THRESHOLDS = (5.0, 17.3, 20.0, 32.0, 33.0, 40.0, 64.0, 100.0, 1000.0, 1000.1)


class Case(NamedTuple):
    """A layer to check: samples, steps, inputs, neurons; the neuron of the spike-train-level rules; the seed."""

    batch: int
    steps: int
    inputs: int
    neurons: int
    lif: Lif
    seed: int = 0


# One word of bits and several, full and partly filled; steps beyond HM2-BP's window of 4 tau_m; refractory periods.
CASES = (
    Case(3, 40, 20, 10, Lif(20.0, 8.0, 2, 1.0)),
    Case(2, 60, 64, 65, Lif(5.0, 4.0, 3, 2.0), seed=1),
    Case(5, 2, 1, 1, Lif(20.0, 8.0, 0, 0.5), seed=2),
    Case(1, 500, 70, 128, Lif(64.0, 8.0, 1, 2.0), seed=3),
    Case(4, 60, 200, 800, Lif(64.0, 8.0, 2, 5.0), seed=4),
)


class Data(NamedTuple):
    """Random tensors for a case, on the CPU, in float64 with the values of float32."""

    spikes_in: Tensor  # bits (B, T, W) of the inputs, from silent to dense
    spikes: Tensor  # bits of the layer itself, independent of the inputs
    counts: Tensor
    weight: Tensor
    recurrent: Synapses  # all in a small layer
    gain: Tensor
    credit: Tensor

    def loop(self, scale: float) -> Tensor:
        """The recurrent weights as a matrix, whose spectral radius is about `scale`."""
        return self.recurrent.dense(self.counts.shape[1]) * (scale / math.sqrt(_SYNAPSES))

    @classmethod
    def of(cls, case: Case) -> Data:
        """Draw them."""
        generator = torch.Generator().manual_seed(case.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).double()

        def trains(neurons: int) -> Tensor:
            rate = torch.rand(case.batch, 1, neurons, generator=generator) ** 2
            rate[0, 0, 0] = 0.0
            return torch.rand(case.batch, case.steps, neurons, generator=generator) < rate

        own = trains(case.neurons)
        mask = torch.rand(case.neurons, case.neurons, generator=generator) < _SYNAPSES / case.neurons
        pre, post = mask.T.nonzero().T.contiguous().unbind()
        return cls(
            pack(trains(case.inputs)), pack(own), own.sum(dim=1).double(),
            normal(case.neurons, case.inputs) * math.sqrt(20 / case.inputs), Synapses(normal(len(pre)), pre, post),
            normal(case.batch, case.neurons), normal(case.batch, case.neurons),
        )  # fmt: skip


# ---- spike-train-level rules ----------------------------------------------------------------------------------------


def check_lif_forward(backend: Any, device: str, case: Case, recurrent: bool) -> CheckResult:
    """Spikes and counts of a layer."""
    data = Data.of(case)
    synapses = data.recurrent if recurrent else None
    spikes, counts = backend.lif_forward(*to_device(device, data.spikes_in, data.weight, synapses), case.lif)
    expected = [
        reference.lif_forward(data.spikes_in, data.weight, synapses, case.lif._replace(v_th=case.lif.v_th + shift))[0]
        for shift in (0.0, -NEAR_THRESHOLD, NEAR_THRESHOLD)
    ]
    return compare_spikes("lif_forward" + _loop(recurrent), spikes, counts, expected, recurrent)[0]


def check_threshold(backend: Any, device: str, case: Case, recurrent: bool) -> CheckResult:
    """Which neurons fire if one input spike takes the membrane exactly to the threshold, or a few roundings off it."""
    spikes_in = pack(torch.tensor([1, 0, 0])[None, :, None])
    none, first = torch.zeros(1).double(), torch.zeros(1, dtype=torch.int64)
    synapses = Synapses(none, first, first) if recurrent else None
    differing = 0
    for v_th in THRESHOLDS:
        weight = v_th * torch.tensor([[1.0], [1.0 + 2**-18], [1.0 - 2**-18]]).double()
        lif = case.lif._replace(tau_s=1.0, v_th=v_th)
        spikes, _ = backend.lif_forward(*to_device(device, spikes_in, weight, synapses), lif)
        expected, _ = reference.lif_forward(spikes_in, weight, synapses, lif)
        differing += int((unpack(spikes.cpu(), len(weight)) != unpack(expected, len(weight))).sum())
    return CheckResult("lif_forward at threshold" + _loop(recurrent), differing == 0, differing=differing)


def check_count_spikes(backend: Any, device: str, case: Case) -> CheckResult:
    """Firing counts of bits."""
    data = Data.of(case)
    counts = backend.count_spikes(*to_device(device, data.spikes), case.neurons)
    return compare("count_spikes", (counts, data.counts))


def check_thin(backend: Any, device: str, case: Case) -> CheckResult:
    """Which spikes are left, and the gradient of these places."""
    data, keys = Data.of(case), torch.arange(case.batch) * 2**55 - 2**60
    left = backend.thin(*to_device(device, data.spikes, keys), 0.3).cpu()
    expected = reference.thin(data.spikes, keys, 0.3)
    gradient = data.gain[:, None].expand(-1, case.steps, -1)
    result = compare(
        "thin",
        (
            backend.thin_gradient(*to_device(device, gradient, keys), 0.3),
            reference.thin_gradient(gradient, keys, 0.3),
        ),
    )
    differing = int((unpack(left, case.neurons) != unpack(expected, case.neurons)).sum())
    return result._replace(passed=result.passed and not differing, differing=differing)


def check_delays(backend: Any, device: str, case: Case) -> CheckResult:
    """Trains that come later and earlier, and the errors of both."""
    data, last = Data.of(case), case.steps - 1
    steps = (torch.arange(case.inputs) * 7) % (2 * last + 1) - last
    errors = torch.linspace(-1, 1, case.steps, dtype=data.weight.dtype)[:, None] * data.weight[0]
    errors = errors.expand(case.batch, -1, -1)
    result = compare(
        "delays",
        (backend.advanced(*to_device(device, errors, steps)), reference.advanced(errors, steps)),
        (
            backend.delay_errors(*to_device(device, data.spikes_in, steps, errors)),
            reference.delay_errors(data.spikes_in, steps, errors),
        ),
    )
    late, expected = (
        backend.delayed(*to_device(device, data.spikes_in, steps)).cpu(),
        reference.delayed(data.spikes_in, steps),
    )
    differing = int((unpack(late, case.inputs) != unpack(expected, case.inputs)).sum())
    return result._replace(passed=result.passed and not differing, differing=differing)


def check_spsp_activation(backend: Any, device: str, case: Case, rule: str) -> CheckResult:
    """Total post-synaptic potential."""
    data = Data.of(case)
    arguments = (data.spikes_in, data.spikes, data.weight)
    actual = backend.spsp_activation(rule, case.lif, *to_device(device, *arguments))
    return compare(f"spsp_activation {rule}", (actual, reference.spsp_activation(rule, case.lif, *arguments)))


def check_spsp_backward(backend: Any, device: str, case: Case, rule: str) -> CheckResult:
    """Weight gradient and the error of the layer below; then the gradient alone; then both with a slope of the gain."""
    data = Data.of(case)
    pairs: list[tuple[Tensor, Tensor]] = []
    for credit, slope in ((data.credit, None), (None, None), (data.credit, 0.1 * data.gain.flip(1))):
        arguments = (data.spikes_in, data.spikes, data.gain, credit, data.weight, slope)
        actual = backend.spsp_backward(rule, case.lif, *to_device(device, *arguments))
        pairs += zip(actual, reference.spsp_backward(rule, case.lif, *arguments), strict=True)
    return compare(f"spsp_backward {rule}", *pairs)


def check_recurrent_spsp(backend: Any, device: str, case: Case, rule: str) -> CheckResult:
    """S-PSPs of the recurrent synapses."""
    data = Data.of(case)
    actual = backend.recurrent_spsp(rule, case.lif, *to_device(device, data.spikes, data.recurrent), case.neurons)
    expected = reference.recurrent_spsp(rule, case.lif, data.spikes, data.recurrent, case.neurons, torch.float64)
    return compare(f"recurrent_spsp {rule}", (actual, expected))


def check_coupling(backend: Any, device: str, case: Case) -> CheckResult:
    """Theta, with and without a ratio for silent pairs, and the gradient of the recurrent weights."""
    data = Data.of(case)
    e = reference.recurrent_spsp("strsbp", case.lif, data.spikes, data.recurrent, case.neurons, torch.float64)
    arguments = (e, data.counts, data.recurrent)
    pairs = []
    for silent_ratio in (0.0, 0.5):
        actual = backend.coupling(*to_device(device, *arguments), case.lif.v_th, silent_ratio)
        pairs.append((actual, reference.coupling(*arguments, case.lif.v_th, silent_ratio)))
    gradient = backend.recurrent_gradient(*to_device(device, e, data.gain, data.recurrent))
    pairs.append((gradient, reference.recurrent_gradient(e, data.gain, data.recurrent)))
    return compare("coupling", *pairs)


def check_slope_sum(backend: Any, device: str, case: Case) -> CheckResult:
    """The sums of a table's slopes, with and without recurrent synapses, at counts within the table and beyond it."""
    data = Data.of(case)
    counts_in = reference.count_spikes(data.spikes_in, case.inputs, torch.float64)
    generator = torch.Generator().manual_seed(case.seed)
    table = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    pairs = []
    for recurrent, counts in ((None, data.counts + 20.5), (data.recurrent, data.counts)):
        arguments = (counts_in, data.weight, recurrent, counts)
        actual = backend.slope_sum(table.to(device), *to_device(device, *arguments))
        pairs.append((actual, reference.slope_sum(table, *arguments)))
    return compare("slope_sum", *pairs)


def check_coupling_solve(
    backend: Any, device: str, case: Case, self_coupling: bool, radius: float, name: str = "coupling_solve"
) -> CheckResult:
    """The residual of the coupled system, with a theta whose spectral radius is about `radius`.

    The error is the residual as a share of the residual that rounding the matrix could cause. If the system is nearly
    singular, no solution is more exact than that.
    """
    data = Data.of(case)
    size = radius / math.sqrt(len(data.recurrent.pre) / case.neurons)  # theta's entries, independent normal
    e = torch.randn(case.batch, len(data.recurrent.pre), generator=torch.Generator().manual_seed(case.seed))
    theta, diagonal = (size * e).double(), 1.0 + 0.1 * data.credit.tanh()
    arguments = (theta, data.recurrent, diagonal, data.gain)
    x = backend.coupling_solve(*to_device(device, *arguments), self_coupling).double().cpu()
    matrix = reference.system(theta, data.recurrent, diagonal, self_coupling)
    residual = torch.einsum("blp,bl->bp", matrix, x) - data.gain
    allowed = torch.einsum("blp,bl->bp", matrix.abs(), x.abs()).amax(1) + data.gain.abs().amax(1)
    error = (residual.abs().amax(1) / allowed).max().item()
    return CheckResult(name, error <= TOLERANCE, error)


# ---- STBP -----------------------------------------------------------------------------------------------------------


def check_stbp_forward(backend: Any, device: str, case: Case, neuron: Stbp, recurrent: bool) -> CheckResult:
    """Spikes, counts and membranes of a layer."""
    data = Data.of(case)
    loop = data.loop(1.0) if recurrent else None
    arguments = (data.spikes_in, data.weight, data.credit[0], loop)
    spikes, counts, membrane = backend.stbp_forward(*to_device(device, *arguments), neuron)
    results = [
        reference.stbp_forward(*arguments, neuron._replace(v_th=neuron.v_th + shift))
        for shift in (0.0, -NEAR_THRESHOLD, NEAR_THRESHOLD)
    ]
    expected = [result[0] for result in results]
    name = "stbp_forward" + _loop(recurrent)
    outcome, excused = compare_spikes(name, spikes, counts, expected, recurrent)
    u, wanted = (torch.where(excused, 0.0, tensor.double().cpu()) for tensor in (membrane, results[0][2]))
    membranes = compare(name, (u, wanted))
    return outcome._replace(
        passed=outcome.passed and membranes.passed, error=membranes.error, note=outcome.note or membranes.note
    )


def check_stbp_backward(backend: Any, device: str, case: Case, neuron: Stbp, recurrent: bool) -> CheckResult:
    """All gradients, for an incoming gradient that differs from step to step and for one that does not."""
    data = Data.of(case)
    loop = data.loop(0.3) if recurrent else None
    generator = torch.Generator().manual_seed(case.seed)
    shape = (case.batch, case.steps, case.neurons)
    membrane, by_step = (torch.randn(shape, generator=generator).double() for _ in range(2))
    pairs: list[tuple[Tensor, Tensor]] = []
    same = data.gain[:, None].expand(shape)
    for above, wants_input, near_in in ((by_step, True, None), (same, False, None), (same, True, data.spikes_in)):
        arguments = (above, data.spikes_in, data.spikes, membrane, data.weight, loop)
        [near] = to_device(device, near_in)
        actual = backend.stbp_backward(*to_device(device, *arguments), neuron, wants_input, True, near)
        pairs += zip(actual, reference.stbp_backward(*arguments, neuron, wants_input, True, near_in), strict=True)
    return compare(f"stbp_backward {neuron.surrogate}" + _loop(recurrent), *pairs)


# ---- all of them ----------------------------------------------------------------------------------------------------

NEURONS = (
    Stbp(0.5, 0.2, "rectangle"),
    Stbp(0.5, 0.5, "polynomial", 0.7, exponential_reset=True),
    Stbp(0.3, 0.6, "sigmoid", 0.5, strict=True),
    Stbp(1.0, 0.2, "gaussian", 1.5, temporal_gradient=False),
)

_RULES: list[dict[str, Any]] = [{"rule": "strsbp"}, {"rule": "hm2bp"}]
_READOUTS = [{"rule": each["rule"] + by} for each in _RULES for by in ("", "_by_tau_m", "_by_tau_s")]
_LOOPS: list[dict[str, Any]] = [{"recurrent": False}, {"recurrent": True}]
_STBP: list[dict[str, Any]] = [{"neuron": neuron, **loop} for neuron in NEURONS for loop in _LOOPS]
# The series converges for half of the systems.
_SYSTEMS: list[dict[str, Any]] = [
    {"self_coupling": own, "radius": radius, "name": name}
    for radius, name in ((0.3, "coupling_solve"), (2.0, "coupling_solve divergent"))
    for own in (True, False)
]
CHECKS: list[tuple[Callable[..., CheckResult], list[dict[str, Any]]]] = [
    (check_lif_forward, _LOOPS),
    (check_threshold, _LOOPS),
    (check_count_spikes, [{}]),
    (check_thin, [{}]),
    (check_delays, [{}]),
    (check_spsp_activation, _READOUTS),
    (check_spsp_backward, _RULES),
    (check_recurrent_spsp, _READOUTS),
    (check_coupling, [{}]),
    (check_slope_sum, [{}]),
    (check_coupling_solve, _SYSTEMS),
    (check_stbp_forward, _STBP),
    (check_stbp_backward, _STBP),
]


def run_checks(backend: Any, device: str = "cpu", cases: Sequence[Case] = CASES) -> list[CheckResult]:
    """Run every check of a backend's module; returns one result per name, the worst of its cases.

    `cases` are those of dense layers; layers over images, and those that get currents, have their own.
    """
    results: dict[str, CheckResult] = {}
    groups: list[tuple[Any, Sequence[Any]]] = [
        (CHECKS, cases),
        (currents.CHECKS, currents.CASES),
        (alif.CHECKS, currents.CASES),
        (images.CHECKS, images.CASES),
        (neurons.CHECKS, images.CASES),
    ]
    for checks, its_cases in groups:
        for check, variants in checks:
            for options in variants:
                for case in its_cases:
                    result = _attempt(check, backend, device, case, options)
                    results[result.name] = _worse(results.get(result.name), result)
    return list(results.values())


def _attempt(check: Callable[..., CheckResult], backend: Any, device: str, case: Any, options: Any) -> CheckResult:
    try:
        result = check(backend, device, case, **options)
    except Exception as error:  # from a compiler or driver; the other kernels are still worth checking
        name = check.__name__.removeprefix("check_")
        result = CheckResult(name, False, math.nan, note=f"{type(error).__name__}: {error}")
    return result if result.passed else result._replace(note=f"{result.note or 'differs'} ({case}, {options})")


def _worse(before: CheckResult | None, now: CheckResult) -> CheckResult:
    if before is None:
        return now
    return CheckResult(
        now.name,
        before.passed and now.passed,
        before.error if math.isnan(before.error) else max(now.error, before.error),
        before.differing + now.differing,
        before.near + now.near,
        before.note or now.note,
    )


def _loop(recurrent: bool) -> str:
    return " recurrent" if recurrent else ""
