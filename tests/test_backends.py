"""The cpu kernels against the reference: the same spikes, the same sums, the same bits whatever the threads."""

from __future__ import annotations

import itertools
import math
import platform
import resource
import sys
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnrun import encoders, kernels
from snnrun.compiled import parallel
from snnrun.data import Dataset, Split
from snnrun.errors import UsageError
from snnrun.kernels import Lif, Stbp, Synapses, checks, cpu, pack, reference, unpack
from snnrun.kernels.cpu import arrays, stbp
from snnrun.kernels.cpu.arrays import LARGE, pieces_of
from snnrun.network import Network
from snnrun.rules import Hm2Bp, LeeRule, SlayerRule, StbpRule, StRsbp
from snnrun.rules.base import synapse_index
from snnrun.train import engine, hardware

# Loops work on 16, 32, 64 and 128 neurons and on words of 64 neurons or steps.
SIZES = st.one_of(st.integers(1, 20), st.sampled_from([33, 63, 64, 65, 100, 128, 130, 200]))
STEPS = st.one_of(st.integers(1, 70), st.sampled_from([1, 2, 63, 64, 65, 130]))
LIFS = st.builds(
    Lif,
    tau_m=st.sampled_from([2.6, 5.0, 20.0, 64.0]),  # HM2-BP's window of 4 tau_m is 10.4 steps at the least
    tau_s=st.sampled_from([4.0, 8.0]),
    t_ref=st.integers(0, 3),
    v_th=st.sampled_from([0.5, 2.0]),
)
SEEDS = st.integers(0, 2**31)
NEAR = 1e-4  # mV
CPU = torch.device("cpu")


class Case(NamedTuple):
    """Random tensors of a layer, in float64 with the values of float32."""

    spikes_in: Tensor  # bits of the inputs
    spikes: Tensor  # bits of the layer itself, at rates of their own
    counts: Tensor
    weight: Tensor
    recurrent: Synapses
    gain: Tensor
    credit: Tensor

    @property
    def neurons(self) -> int:
        return len(self.weight)


def case(
    batch: int, steps: int, inputs: int, neurons: int, rate: float, density: float, seed: int, silent: bool = False
) -> Case:
    """Trains from silent to firing at every step about `rate`; synapses, with self-connections, of about `density`.

    `silent`: the gains and credits of half of the samples are 0, and half of the neurons of each sample do not fire.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).double()

    def trains(size: int) -> Tensor:
        rates = torch.rand(batch, 1, size, generator=generator) ** (1 / rate - 1) if rate else torch.zeros(1, 1, 1)
        if 0 < rate < 1:
            rates[0, 0, 0], rates[-1, 0, -1] = 0.0, 1.0
        return torch.rand(batch, steps, size, generator=generator) < rates

    own = trains(neurons)
    if silent:
        own &= torch.rand(batch, 1, neurons, generator=generator) < 0.5
    pre, post = synapse_index(torch.rand(neurons, neurons, generator=generator) < density)
    recurrent = Synapses(normal(len(pre)) * math.sqrt(6 / max(6, neurons * density)), pre, post)
    some = torch.arange(batch)[:, None] % 2 == 0 if silent else torch.ones(batch, 1)
    return Case(
        pack(trains(inputs)), pack(own), own.sum(1).double(), normal(neurons, inputs) * math.sqrt(20 / (20 + inputs)),
        recurrent, normal(batch, neurons) * some, normal(batch, neurons) * some,
    )  # fmt: skip


CASES = st.builds(
    case,
    batch=st.integers(1, 9),
    steps=STEPS,
    inputs=SIZES,
    neurons=SIZES,
    rate=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=SEEDS,
    silent=st.booleans(),
)


def single(*values: Any) -> list[Any]:
    """The values with floats as float32."""
    converted: list[Any] = []
    for value in values:
        if isinstance(value, Synapses):
            value = Synapses(*single(*value))
        elif isinstance(value, Tensor) and value.is_floating_point():
            value = value.float()
        converted.append(value)
    return converted


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """1e-5 of the largest entry."""
    assert actual.shape == expected.shape
    assert actual.dtype == torch.float32
    scale = expected.abs().max().clamp(min=1e-6).item() if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0.0, atol=1e-5 * scale)


def assert_same_spikes(
    bits: Tensor, counts: Tensor, exact: Tensor, low: Tensor, high: Tensor, recurrent: bool
) -> Tensor:
    """Compare bits with the reference's; returns where they must be the same, (B, T, N).

    A neuron may differ from the step on at which a threshold 1e-4 mV lower or higher changes the reference's spikes:
    there its membrane stands that near to the threshold. In a recurrent layer so may its whole sample.
    """
    neurons = counts.shape[1]
    fired, wanted, below, above = (unpack(packed, neurons) for packed in (bits, exact, low, high))
    assert torch.equal(bits, pack(fired)), "bits are set beyond the last neuron"
    assert torch.equal(counts, fired.sum(1).float()), "the counts are not those of the spikes"
    near = (below != above).cummax(dim=1).values
    if recurrent:
        near = near.any(dim=2, keepdim=True).expand_as(near)
    differ = fired != wanted
    if differ.any():
        event("spikes differ, all of them near the threshold" if not (differ & ~near).any() else "spikes are wrong")
    assert not (differ & ~near).any()
    return ~near


def thresholds(neuron: Any) -> list[Any]:
    """The neuron, and with its threshold a little lower and higher."""
    return [neuron._replace(v_th=neuron.v_th + shift) for shift in (0.0, -NEAR, NEAR)]


# ---- spikes ---------------------------------------------------------------------------------------------------------


@given(CASES, LIFS, st.booleans())
@settings(max_examples=120)
def test_spikes_are_the_references(layer, lif, loop):
    recurrent = layer.recurrent if loop else None
    spikes, counts = cpu.lif_forward(*single(layer.spikes_in, layer.weight, recurrent), lif)
    expected = [reference.lif_forward(layer.spikes_in, layer.weight, recurrent, near)[0] for near in thresholds(lif)]
    assert_same_spikes(spikes, counts, *expected, loop)


@given(CASES)
@settings(max_examples=60)
def test_counts_are_the_references(layer):
    counts = cpu.count_spikes(layer.spikes, layer.neurons)
    assert counts.dtype == torch.float32
    assert torch.equal(counts, layer.counts.float())


@given(
    st.builds(
        case,
        batch=st.integers(1, 5),
        steps=st.integers(1, 10),
        inputs=SIZES,
        neurons=SIZES,
        rate=st.sampled_from([0.3, 1.0]),
        density=st.sampled_from([0.0, 0.3]),
        seed=SEEDS,
    ),
    st.sampled_from([17, 64, 150, 400]),
    LIFS,
    st.sampled_from([None, 1.0, 4.0]),
)
@settings(max_examples=60)
def test_spikes_long_after_the_input_are_the_references(layer, silence, lif, loop):
    """The simulation of a sample ends early where nothing can fire any more, and no sooner."""
    spikes_in = torch.nn.functional.pad(layer.spikes_in, (0, 0, 0, silence))
    recurrent = None
    if loop is not None:  # excitation that keeps itself going
        recurrent = layer.recurrent._replace(weight=layer.recurrent.weight.abs() * loop)
    spikes, counts = cpu.lif_forward(*single(spikes_in, layer.weight, recurrent), lif)
    expected = [reference.lif_forward(spikes_in, layer.weight, recurrent, near)[0] for near in thresholds(lif)]
    assert_same_spikes(spikes, counts, *expected, loop is not None)
    if spikes[:, -10:].any():
        event("fires until the end")


@pytest.mark.parametrize(("tau_m", "tau_s"), [(64.0, 8.0), (64.0, 64.0), (200.0, 100.0), (5.0, 4.0)])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_late_spike_is_not_lost(tau_m, tau_s, share):
    """One input spike at step 0 and a threshold just below the peak of the membrane that it leads to."""
    u, a, course = 0.0, 1.0, []
    for _ in range(400):
        u = u * (1 - 1 / tau_m) + a / tau_s
        a *= 1 - 1 / tau_s
        course.append(u)
    lif = Lif(tau_m, tau_s, 1, share * max(course))
    spikes_in = torch.zeros(2, 401, 1)
    spikes_in[:, 0] = 1
    weight = torch.tensor([[1.0], [0.99]])
    spikes, _ = cpu.lif_forward(pack(spikes_in), weight, None, lif)
    assert torch.equal(spikes, reference.lif_forward(pack(spikes_in), weight.double(), None, lif)[0])
    first = 1 + next(t for t, value in enumerate(course) if value > lif.v_th - 1e-6)
    assert unpack(spikes, 2)[0, :, 0].nonzero()[0].item() == first


@pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_spikes_at_the_threshold_are_those_of_float64(backend, recurrent):
    """Also where float32 has no number 1e-6 below it."""
    result = checks.check_threshold(backend, "cpu", checks.CASES[0], recurrent)
    assert result.passed, result
    assert max(checks.THRESHOLDS) > 1000


def test_a_loop_keeps_firing_after_the_input():
    """Two neurons that excite each other, one that excites itself, and one that fires only with the input."""
    spikes_in = torch.zeros(1, 500, 1)
    spikes_in[0, :3] = 1
    recurrent = Synapses(torch.tensor([40.0, 40.0, 40.0]), torch.tensor([0, 1, 2]), torch.tensor([1, 0, 2]))
    weight, lif = torch.tensor([[20.0], [0.0], [20.0], [20.0]]), Lif(20.0, 8.0, 2, 5.0)
    spikes, counts = cpu.lif_forward(pack(spikes_in), weight, recurrent, lif)
    assert torch.equal(spikes, reference.lif_forward(pack(spikes_in), *single(weight, recurrent), lif)[0])
    assert (unpack(spikes, 4)[0, -20:].sum(0) > 0).tolist() == [True, True, True, False]
    assert 0 < counts[0, 3] < 20


# ---- sums over pairs ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(CASES, LIFS, st.sampled_from(["strsbp", "hm2bp"]))
@settings(max_examples=100)
def test_sums_over_pairs_are_the_references(layer, lif, rule):
    for credit, slope in itertools.product((layer.credit, None), (None, layer.gain)):
        weight = layer.weight if slope is None else layer.weight.abs()  # so that gain and slope do not cancel
        arguments = (layer.spikes_in, layer.spikes, layer.gain, credit, weight, slope)
        results = cpu.spsp_backward(rule, lif, *single(*arguments))
        for actual, expected in zip(results, reference.spsp_backward(rule, lif, *arguments), strict=True):
            assert_close(actual, expected)


@given(CASES, LIFS, st.sampled_from(["strsbp", "hm2bp"]))
@settings(max_examples=100)
def test_s_psps_are_the_references(layer, lif, rule):
    """Each by itself: the gradient of one sample for a gain of 1, and the activation by one positive weight."""
    spikes_in, spikes = layer.spikes_in[:1], layer.spikes[:1]
    ones = torch.ones_like(layer.weight)
    e = reference.spsp_backward(rule, lif, spikes_in, spikes, ones[:1, :1].expand(1, len(ones)), None, ones)[0]
    actual, _, _ = cpu.spsp_backward(rule, lif, spikes_in, spikes, torch.ones(1, len(ones)), None, ones.float())
    assert_close(actual, e)
    assert_close(cpu.spsp_activation(rule, lif, spikes_in, spikes, ones.float()), e.sum(1)[None])


@given(CASES, LIFS, st.sampled_from(["strsbp", "hm2bp"]))
@settings(max_examples=100)
def test_activations_are_the_references(layer, lif, rule):
    arguments = (layer.spikes_in, layer.spikes, layer.weight)
    actual = cpu.spsp_activation(rule, lif, *single(*arguments))
    assert_close(actual, reference.spsp_activation(rule, lif, *arguments))


@given(CASES, LIFS, st.sampled_from(["strsbp", "hm2bp"]))
@settings(max_examples=30)
def test_a_batch_without_errors_has_no_gradient(layer, lif, rule):
    nothing = torch.zeros_like(layer.gain)
    arguments = single(layer.spikes_in, layer.spikes, nothing, nothing, layer.weight)
    gradient, error, _ = cpu.spsp_backward(rule, lif, *arguments)
    assert gradient.shape == layer.weight.shape
    assert error.shape == (len(layer.gain), layer.weight.shape[1])
    assert not gradient.any()
    assert not error.any()


# ---- recurrent layers -----------------------------------------------------------------------------------------------


@given(CASES, LIFS, st.sampled_from(["strsbp", "hm2bp"]))
@settings(max_examples=100)
def test_recurrent_s_psps_are_the_references(layer, lif, rule):
    recurrent, neurons = layer.recurrent, layer.neurons
    e = cpu.recurrent_spsp(rule, lif, *single(layer.spikes, recurrent), neurons)
    assert_close(e, reference.recurrent_spsp(rule, lif, layer.spikes, recurrent, neurons, torch.float64))


@given(CASES, LIFS, st.sampled_from([0.0, 0.5]))
@settings(max_examples=60)
def test_couplings_are_the_references(layer, lif, silent_ratio):
    e = reference.recurrent_spsp("strsbp", lif, layer.spikes, layer.recurrent, layer.neurons, torch.float64)
    arguments = (e, layer.counts, layer.recurrent)
    theta = cpu.coupling(*single(*arguments), lif.v_th, silent_ratio)
    assert_close(theta, reference.coupling(*arguments, lif.v_th, silent_ratio))
    gradient = cpu.recurrent_gradient(*single(e, layer.gain, layer.recurrent))
    assert_close(gradient, reference.recurrent_gradient(e, layer.gain, layer.recurrent))


@given(CASES, st.booleans(), st.integers(1, 9))
@settings(max_examples=60)
def test_sums_of_slopes_are_the_references(layer, looped, rows):
    """Exactly in float64, but for the order of sums: the weights are float32 in both."""
    table = torch.randn(rows, 5, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    counts_in = kernels.count_spikes(layer.spikes_in, layer.weight.shape[1])
    arguments = single(counts_in, layer.weight, layer.recurrent if looped else None, layer.counts)
    slopes = cpu.slope_sum(table, *arguments)
    assert slopes.dtype == torch.float64
    expected = reference.slope_sum(table, *arguments)
    torch.testing.assert_close(slopes, expected, rtol=1e-11, atol=1e-11 * max(1.0, float(expected.abs().max())))


@given(CASES, st.booleans(), st.sampled_from([0.3, 3.0]))
@settings(max_examples=80)
def test_recurrent_systems_are_solved(layer, self_coupling, radius):
    """Up to what rounding the matrix' entries does to the residual; a large theta makes the sweeps diverge."""
    recurrent, neurons = layer.recurrent, layer.neurons
    size = radius / math.sqrt(max(1.0, len(recurrent.pre) / neurons))
    generator = torch.Generator().manual_seed(neurons)
    theta = torch.randn(len(layer.gain), len(recurrent.pre), generator=generator).double() * size
    diagonal = 1.0 + 0.1 * layer.credit.tanh()
    x = cpu.coupling_solve(*single(theta, recurrent, diagonal, layer.gain), self_coupling).double()
    assert x.isfinite().all()
    matrix = reference.system(theta, recurrent, diagonal, self_coupling)
    residual = torch.einsum("blp,bl->bp", matrix, x) - layer.gain
    rounding = torch.einsum("blp,bl->bp", matrix.abs(), x.abs()).amax(1) + layer.gain.abs().amax(1)
    assert (residual.abs().amax(1) <= 1e-5 * rounding).all()
    assert not x[(layer.gain == 0).all(1)].any()


@pytest.mark.parametrize("threads", [1, 4])
def test_systems_that_the_sweeps_cannot_solve_go_to_the_reference(threads, monkeypatch):
    """Also from several threads at once, and a singular one gives values that are not finite."""
    parallel.set_threads(threads)
    solved = []
    real = reference.coupling_solve
    monkeypatch.setattr(reference, "coupling_solve", lambda *args: solved.append(1) or real(*args))
    generator = torch.Generator().manual_seed(0)
    pre, post = synapse_index(~torch.eye(30, dtype=torch.bool))
    theta = torch.randn(12, len(pre), generator=generator)
    theta[::3] *= 0.02
    recurrent, ones = Synapses(torch.zeros(len(pre)), pre, post), torch.ones(12, 30)
    x = cpu.coupling_solve(theta, recurrent, ones, ones)
    assert len(solved) == 8
    assert_close(x, real(theta.double(), recurrent, ones.double(), ones.double()))
    assert torch.get_num_threads() == 1
    pair = Synapses(torch.zeros(2), torch.tensor([0, 1]), torch.tensor([1, 0]))
    singular = cpu.coupling_solve(torch.ones(1, 2), pair, torch.ones(1, 2), torch.tensor([[1.0, 2.0]]))
    assert not singular.isfinite().any()


# ---- STBP -----------------------------------------------------------------------------------------------------------

STBPS = st.builds(
    Stbp,
    v_th=st.sampled_from([0.3, 1.0]),
    decay=st.sampled_from([0.2, 0.6, 0.9]),
    surrogate=st.sampled_from(["rectangle", "polynomial", "sigmoid", "gaussian"]),
    width=st.sampled_from([0.5, 1.0, 2.5]),
    strict=st.booleans(),
    exponential_reset=st.booleans(),
    temporal_gradient=st.booleans(),
)


def matrix_of(layer: Case) -> Tensor:
    """Recurrent weights as STBP has them, (N, N), of a spectral radius about 1."""
    dense = layer.recurrent.dense(layer.neurons)
    return dense / max(1.0, math.sqrt(len(layer.recurrent.pre) / layer.neurons))


@given(CASES, STBPS, st.booleans(), st.booleans())
@settings(max_examples=120)
def test_stbp_spikes_and_membranes_are_the_references(layer, neuron, loop, bias):
    arguments = (
        layer.spikes_in, layer.weight, layer.credit[0] if bias else None, matrix_of(layer) if loop else None
    )  # fmt: skip
    spikes, counts, membrane = cpu.stbp_forward(*single(*arguments), neuron)
    expected = [reference.stbp_forward(*arguments, near) for near in thresholds(neuron)]
    exact, low, high = (result[0] for result in expected)
    same = assert_same_spikes(spikes, counts, exact, low, high, loop)
    assert_close(torch.where(same, membrane, 0.0), torch.where(same, expected[0][2], 0.0))


@given(st.integers(1, 4), st.integers(1, 14), SIZES, SIZES, st.booleans(), st.booleans(), SEEDS)
@settings(max_examples=60)
def test_stbp_spikes_at_the_threshold_are_the_references(batch, steps, inputs, neurons, strict, loop, seed):
    """Sums of eighths and halves of them are exact, and often exactly the threshold: no neuron may differ."""
    generator = torch.Generator().manual_seed(seed)
    spikes_in = pack(torch.rand(batch, steps, inputs, generator=generator) < 0.2)
    weight, bias = (torch.randint(-4, 5, shape, generator=generator) / 8 for shape in ((neurons, inputs), (neurons,)))
    recurrent = torch.randint(-2, 3, (neurons, neurons), generator=generator) / 8 if loop else None
    neuron = Stbp(0.5, 0.5, strict=strict)
    arguments = (spikes_in, weight, bias, recurrent, neuron)
    for actual, expected in zip(cpu.stbp_forward(*arguments), reference.stbp_forward(*arguments), strict=True):
        assert torch.equal(actual, expected)


@given(CASES, STBPS, st.booleans(), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=120)
def test_stbp_gradients_are_the_references(layer, neuron, loop, wants_input, by_counts, some):
    """For an error that differs by step, and for one of the counts, which is the same at each and takes no memory."""
    shape = (*layer.spikes.shape[:2], layer.neurons)
    generator = torch.Generator().manual_seed(shape[1])
    membrane, above = torch.randn(2, *shape, generator=generator).double().unbind()
    if by_counts:
        above = layer.gain[:, None].expand(shape)
    arguments = (above, layer.spikes_in, layer.spikes, membrane, layer.weight, matrix_of(layer) if loop else None)
    near_in = layer.spikes_in if some else None
    results = cpu.stbp_backward(*single(*arguments), neuron, wants_input, True, near_in)
    expected = reference.stbp_backward(*arguments, neuron, wants_input, True, near_in)
    for actual, wanted in zip(results, expected, strict=True):
        assert_close(actual, wanted)


def test_stbp_gradients_over_many_steps_are_those_of_autograd():
    """In several parts of the batch, for any number of threads the same bits: every input spike's and weight's."""
    torch.manual_seed(0)
    batch, steps, inputs, neurons = 5, 130, 70, 37
    rates = torch.where(torch.arange(inputs) % 7 == 0, 0.9, 0.1)  # some are silent more seldom than they fire
    neuron, spikes_in = Stbp(0.5, 0.9), pack(torch.rand(batch, steps, inputs) < rates)
    weight, loop = torch.randn(neurons, inputs) / 4, torch.randn(neurons, neurons) / 8
    spikes, _, membrane = cpu.stbp_forward(spikes_in, weight, None, loop, neuron)
    above, near_in = torch.randn(batch, steps, neurons), pack(torch.rand(batch, steps, inputs) < 0.3)
    results = []
    for number, floats in ((1, stbp.TRACE), (2, 1), (3, 2 * steps * 48)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stbp, "TRACE", floats)
            parallel.set_threads(number)
            results.append(
                cpu.stbp_backward(above, spikes_in, spikes, membrane, weight, loop, neuron, True, True, near_in)
            )
    parallel.set_threads(1)
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))
    inputs_, own = unpack(spikes_in, inputs, torch.double), unpack(spikes, neurons, torch.double)
    leaves = [value.double().requires_grad_() for value in (inputs_, weight, torch.zeros(neurons), loop)]
    u, o, ahead = torch.zeros(batch, neurons).double(), torch.zeros(batch, neurons).double(), []
    for t in range(steps):  # the spikes as they were, with the gradient of a ramp of width 1 around the threshold
        drive = leaves[0][:, t] @ leaves[1].T + leaves[2] + o @ leaves[3].T
        u = drive if t == 0 else u * 0.9 * (1 - o) + drive
        near = ((membrane[:, t] - neuron.v_th).abs() < 0.5).double()
        o = own[:, t] + near * (u - u.detach())
        ahead.append(o)
    expected = torch.autograd.grad((torch.stack(ahead, 1) * above).sum(), leaves)
    wanted = [reference.only_near(expected[0], near_in), *expected[1:]]
    for actual, exact in zip(results[0], wanted, strict=True):
        assert_close(actual, exact)


@pytest.mark.parametrize("steps", [1, 2, 3, 19, 20, 63, 64, 65, 130])
def test_inputs_are_listed_from_the_side_with_fewer_steps(steps):
    """For every number of spikes: the row of an input that usually fires costs one more."""
    fires = torch.rand(3, steps, steps + 1).argsort(1) < torch.arange(steps + 1)
    times, first, usual = arrays.sort_exceptions(pack(fires), steps + 1)
    for b, j in itertools.product(range(3), range(steps + 1)):
        often = bool(usual[b, j // 64] >> np.uint64(j % 64) & np.uint64(1))
        assert often == (steps - j + 1 < j)
        assert times[first[b, j] : first[b, j + 1]].tolist() == (fires[b, :, j] != often).nonzero().flatten().tolist()


def test_stbp_neurons_near_the_threshold_are_the_references():
    membrane = torch.cat([torch.linspace(-2, 3, 131).repeat(2, 3, 1), torch.tensor([0.5, 1.0]).repeat(2, 3, 1)], 2)
    for surrogate in ("rectangle", "polynomial", "sigmoid", "gaussian"):
        neuron = Stbp(0.5, 0.5, surrogate, 0.7)
        near = cpu.stbp_near(membrane, neuron)
        assert torch.equal(near, reference.stbp_near(membrane, neuron))
        assert (unpack(near, 133).float().mean() < 1) == neuron.bounded


# ---- whole networks -------------------------------------------------------------------------------------------------

RULES = {
    "strsbp": StRsbp(v_th=[2.0], tau_m=20.0),
    "strsbp-authors": StRsbp(v_th=[2.0], tau_m=20.0, slope="table", silent_ratio=0.5, solve="authors"),
    "strsbp-diagonal": StRsbp(v_th=[2.0], tau_m=20.0, solve="diagonal"),
    "strsbp-counts": StRsbp(v_th=[2.0], tau_m=20.0, slope="counts", self_coupling=False),
    "hm2bp": Hm2Bp(v_th=[2.0], tau_m=20.0, lateral=0.5),
    "stbp": StbpRule(v_th=[0.5]),
    "sdbp": StbpRule(v_th=[0.5], temporal_gradient=False, reset="exponential", surrogate="sigmoid", bias=False),
    "slayer": SlayerRule(v_th=[1.0], tau_s=4.0, desired=20.0, undesired=2.0),
    "lee": LeeRule(v_th=[2.0]),
}
THREE = ["strsbp", "hm2bp", "stbp"]


def batch(size: int, steps: int = 60, inputs: int = 70) -> tuple[Tensor, Tensor]:
    """Bits of the input from silent to dense, and labels."""
    generator = torch.Generator().manual_seed(2)
    rate = torch.rand(size, 1, inputs, generator=generator) ** 2
    rate[0, 0, 0] = 0.0
    return pack(torch.rand(size, steps, inputs, generator=generator) < rate), torch.arange(size) % 4


def learn(net: Network, spikes: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Spikes of every layer and gradients of every parameter."""
    net.zero_grad()
    activity = net(spikes, labels)
    net.rule.sample_loss(activity.output, labels).mean().backward()
    return [train.spikes for train in activity.layers], [parameter.grad for parameter in net.parameters()]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_whole_network_has_the_references_gradients(rule):
    results = []
    for name in ("reference", "cpu"):
        kernels.use(name)
        results.append(
            learn(
                Network(rule, inputs=70, topology="130-R65-20" if rule.recurrent_layers else "130-65-20", outputs=4),
                *batch(9),
            )
        )
    (spikes_a, grads_a), (spikes_b, grads_b) = results
    assert all(torch.equal(a, b) for a, b in zip(spikes_a, spikes_b, strict=True))
    assert all(bits.any() for bits in spikes_a)
    for a, b in zip(grads_a, grads_b, strict=True):
        assert_close(b, a)
        assert a.any()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("size", [2, 7])
def test_a_batch_gives_the_mean_of_its_samples(rule, size):
    kernels.use("cpu")
    # With other seeds a denominator of the table's slope comes near 0, and float32 has no five digits of its inverse.
    net = Network(rule, inputs=70, topology="130-R65-20" if rule.recurrent_layers else "130-65-20", outputs=4, seed=1)
    spikes, labels = batch(size)
    together = learn(net, spikes, labels)
    singles = [learn(net, spikes[[b]], labels[[b]]) for b in range(size)]
    for whole, *parts in zip(together[0], *(single[0] for single in singles), strict=True):
        assert torch.equal(whole, torch.cat(parts))
    for whole, *parts in zip(together[1], *(single[1] for single in singles), strict=True):
        assert_close(whole, torch.stack(parts).double().mean(0))


@pytest.mark.parametrize("rule", THREE)
def test_a_large_batch_has_the_references_gradient(rule):
    """Added up in more parts."""
    results = []
    for name in ("reference", "cpu"):
        kernels.use(name)
        net = Network(RULES[rule], inputs=70, topology="40-R30", outputs=4)
        results.append(learn(net, *batch(LARGE + 6, steps=40)))
    (spikes_a, grads_a), (spikes_b, grads_b) = results
    assert all(torch.equal(a, b) for a, b in zip(spikes_a, spikes_b, strict=True))
    for a, b in zip(grads_a, grads_b, strict=True):
        assert_close(b, a)
        assert a.any()


@given(
    st.lists(st.booleans(), min_size=1, max_size=300), st.integers(1, 20), st.sampled_from([1, 2, 3, 8]), st.booleans()
)
def test_the_pieces_of_a_gradient_cover_each_sample_and_word_once(wanted, words, threads, whole):
    parallel.set_threads(threads)
    pieces, parts = pieces_of(np.array(wanted), words, whole)
    assert not whole or {*map(tuple, pieces[:, 1:3].tolist())} == {(0, words)}
    covered = np.zeros((len(wanted), words), int)
    for _, low, high, start, stop in pieces:
        covered[start:stop, low:high] += 1
    assert (covered == 1).all()
    assert {*pieces[:, 0].tolist()} == set(range(parts))
    parallel.set_threads(1)
    alone, as_many = pieces_of(np.array(wanted), words)
    assert parts == as_many
    assert {*map(tuple, pieces[:, [0, 3, 4]].tolist())} == {*map(tuple, alone[:, [0, 3, 4]].tolist())}


@pytest.mark.parametrize("rule", THREE)
def test_a_batch_whose_errors_are_all_zero_has_no_gradient(rule):
    kernels.use("cpu")
    net = Network(RULES[rule], inputs=70, topology="20-R20", outputs=4)
    activity = net(*batch(5))
    (activity.output.counts * 0.0).sum().backward()
    assert all(not parameter.grad.any() for parameter in net.parameters())


@pytest.mark.parametrize("rule", THREE)
@pytest.mark.parametrize(("topology", "size"), [("200-R130", 19), ("100-R20-R20", 19), ("100-R20", LARGE + 6)])
def test_the_bits_do_not_depend_on_the_threads(rule, topology, size):
    """Encoder, spikes, gradients: partial sums are by sample number."""
    images = np.random.default_rng(0).integers(0, 256, (size, 300)).astype(np.uint8)
    labels = torch.arange(size) % 10
    results = []
    for number in (1, 2, 4):
        hardware.set_up("cpu", threads=number, backend="cpu")
        bits = encoders.build("poisson", seed=0, steps=90, attenuation=4).encode(images, np.arange(size), 1)
        net = Network(RULES[rule], inputs=300, topology=topology, outputs=10)
        spikes, grads = learn(net, torch.from_numpy(bits), labels)
        results.append([torch.from_numpy(bits), *spikes, *grads])
    for threaded in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], threaded, strict=True))
    assert all(result.any() for result in results[0])


@pytest.mark.parametrize("rule", THREE)
def test_a_training_does_not_depend_on_the_threads(rule):
    rng = np.random.default_rng(0)
    splits = [Split(rng.integers(0, 256, (k, 70)).astype(np.uint8), np.arange(k) % 3, np.arange(k)) for k in (21, 6, 6)]
    dataset = Dataset("noise", "image", (7, 10), ("a", "b", "c"), *splits, "0" * 64)
    states = []
    for number in (1, 2, 4):
        hardware.set_up("cpu", threads=number, backend="cpu")
        net = Network(RULES[rule], inputs=70, topology="R70", outputs=3)
        encoder = encoders.build("bernoulli", seed=0, steps=70, attenuation=2)
        options = engine.Options(epochs=2, batch_size=5)
        result = engine.train(net, dataset, encoder, options, seed=0, device=CPU, observer=Silent())
        states.append([*result.last_state.values(), torch.tensor(result.history[-1]["train/loss"])])
    for threaded in states[1:]:
        assert all(torch.equal(a, b) for a, b in zip(states[0], threaded, strict=True))


class Silent:
    """An observer that looks away."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


# ---- the choice of a backend ----------------------------------------------------------------------------------------


def test_the_choice_of_a_backend():
    assert kernels.active() is reference
    assert kernels.use("cpu") == "cpu"
    assert kernels.active() is cpu
    assert kernels.use("reference") == "reference"
    assert kernels.ready(), "the reference has nothing to compile"
    assert kernels.use("auto", "cpu") == "cpu"
    with pytest.raises(UsageError, match=r"hardware\.kernels: the cpu kernels need hardware\.device=cpu"):
        kernels.use("cpu", "cuda")
    with pytest.raises(UsageError, match=r"there is no 'tpu'\. Allowed: auto, reference, cpu, gpu"):
        kernels.use("tpu")
    assert kernels.active() is cpu, "a wrong choice changes nothing"


def test_the_gpu_kernels_need_triton_and_a_gpu(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert kernels.use("auto", "cuda") == "reference"
    with pytest.raises(UsageError, match=r"hardware\.kernels: the gpu kernels need Triton.*snnrun\[gpu\]"):
        kernels.use("gpu", "cuda")
    monkeypatch.setattr(kernels, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match=r"hardware\.kernels: the gpu kernels need hardware\.device=cuda"):
        kernels.use("gpu", "cpu")
    assert kernels.active() is reference
    monkeypatch.setitem(sys.modules, "snnrun.kernels.gpu", stand_in := ModuleType("snnrun.kernels.gpu"))
    monkeypatch.setattr(kernels, "gpu", stand_in, raising=False)
    for name in ("gpu", "auto"):
        kernels.use("reference")
        assert kernels.use(name, "cuda") == "gpu"
        assert kernels.active() is stand_in


def test_compiled_kernels_are_ready_once_they_have_run():
    kernels.use("cpu")
    cpu.lif_forward(torch.zeros(1, 5, 1, dtype=torch.int64), torch.zeros(3, 2), None, Lif(20.0, 8.0, 2, 1.0))
    assert kernels.ready()


def test_the_cpu_kernels_refuse_what_they_cannot_compute():
    layer = case(1, 5, 3, 2, 0.3, 1.0, 0)
    lif = Lif(20.0, 8.0, 2, 1.0)
    with pytest.raises(ValueError, match="float32"):
        cpu.lif_forward(layer.spikes_in, layer.weight, None, lif)
    with pytest.raises(ValueError, match="float64"):
        cpu.recurrent_spsp("strsbp", lif, *single(layer.spikes, layer.recurrent), 2, torch.float64)
    with pytest.raises(ValueError, match="65536 steps"):
        cpu.lif_forward(torch.zeros(1, 65537, 1, dtype=torch.int64), torch.zeros(1, 1), None, lif)


def test_more_spikes_than_32_bits_count_are_refused(monkeypatch):
    monkeypatch.setattr(arrays, "spikes_of", lambda trains: np.full(len(trains), 2**30))
    with pytest.raises(ValueError, match="at most 2,147,483,584 spikes a batch, not 2,147,483,656"):
        arrays.sort_by_neuron(torch.zeros(2, 1, 1, dtype=torch.int64), 1)


def test_more_neurons_than_16_bits_count_are_right_or_refused():
    spikes_in = torch.zeros(1, 30, 65538)
    spikes_in[0, 0, 65537] = 1
    weight = torch.zeros(1, 65538)
    weight[0, 65537 % 2**16] = 100.0
    try:
        counts = cpu.lif_forward(pack(spikes_in), weight, None, Lif(20.0, 8.0, 2, 1.0))[1]
    except ValueError:
        return
    assert counts.item() == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_the_memory_of_a_batch_is_kept_for_the_next():
    """Not given back to the system, which would zero its pages again."""
    kernels.use("cpu")

    def pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        batch = [torch.ones(2**21) for _ in range(20)]  # of 8 MiB, 2048 pages each
        del batch
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages()
    assert min(pages() for _ in range(3)) < 2048
