"""The cpu kernels against the reference: the same spikes, the same sums, the same bits whatever the threads."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from kernel_cases import CASES, LIFS, SEEDS, SIZES, assert_close, assert_same_spikes, case, single, thresholds

from snnrun import kernels
from snnrun.compiled import parallel
from snnrun.kernels import Lif, Synapses, checks, cpu, pack, reference, unpack
from snnrun.rules.base import synapse_index

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
