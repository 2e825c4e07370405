"""The gpu kernels of dense layers against the reference: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_revive import check_gradients
from triton_here import DEVICE, MARKS, gpu, guarded, interpreter  # noqa: F401

from snnrun import kernels
from snnrun.kernels import Lif, Stbp, Synapses, checks, pack, reference
from snnrun.kernels.checks import Case, currents
from snnrun.kernels.checks import alif as alif_checks
from snnrun.network import Network
from snnrun.rules import Hm2Bp, StbpRule, StRsbp

pytestmark = MARKS

lifs = st.builds(
    Lif,
    tau_m=st.sampled_from([2.6, 20.0]),  # the window of 4 tau_m is 10.4 steps, or longer than the trains
    tau_s=st.sampled_from([2.0, 8.0]),
    t_ref=st.integers(0, 3),
    v_th=st.sampled_from([0.5, 2.0]),
)
seeds = st.integers(0, 2**31)
rules = st.sampled_from(["strsbp", "hm2bp"])


def cases(steps: int, neurons: int) -> st.SearchStrategy[Case]:
    return st.builds(
        Case, st.integers(1, 2), st.integers(2, steps), st.integers(1, 70), st.integers(1, neurons), lifs, seeds
    )


stbp_neurons = st.builds(
    Stbp,
    v_th=st.sampled_from([0.3, 1.0]),
    decay=st.sampled_from([0.2, 0.6]),
    surrogate=st.sampled_from(["rectangle", "polynomial", "sigmoid", "gaussian"]),
    width=st.sampled_from([0.5, 1.0, 2.5]),
    strict=st.booleans(),
    exponential_reset=st.booleans(),
    temporal_gradient=st.booleans(),
)


def assert_passes(result: checks.CheckResult) -> None:
    assert result.passed, result


@given(cases(16, 70), st.booleans())
@settings(deadline=None, max_examples=10)
def test_spikes_are_the_references(case, recurrent):
    assert_passes(checks.check_lif_forward(gpu, DEVICE, case, recurrent))


@pytest.mark.parametrize("recurrent", [False, True])
def test_spikes_at_the_threshold_are_the_references(recurrent):
    assert_passes(checks.check_threshold(gpu, DEVICE, checks.CASES[0], recurrent))


@given(cases(25, 70), rules)
@settings(deadline=None, max_examples=10)
def test_sums_over_pairs_are_the_references(case, rule):
    assert_passes(checks.check_spsp_activation(gpu, DEVICE, case, rule))
    assert_passes(checks.check_spsp_backward(gpu, DEVICE, case, rule))


@given(cases(25, 20), rules)
@settings(deadline=None, max_examples=8)
def test_recurrent_sums_are_the_references(case, rule):
    assert_passes(checks.check_recurrent_spsp(gpu, DEVICE, case, rule))
    assert_passes(checks.check_coupling(gpu, DEVICE, case))
    assert_passes(checks.check_count_spikes(gpu, DEVICE, case))


@given(cases(2, 12), st.booleans(), st.sampled_from([0.2, 2.0]))
@settings(deadline=None, max_examples=6)
def test_coupled_systems_are_solved(case, self_coupling, radius):
    """The larger radius is where the series diverges and elimination has to do it."""
    assert_passes(checks.check_coupling_solve(gpu, DEVICE, case, self_coupling, radius))


@given(cases(12, 70), stbp_neurons, st.booleans())
@settings(deadline=None, max_examples=10)
def test_stbp_forward_is_the_references(case, neuron, recurrent):
    assert_passes(checks.check_stbp_forward(gpu, DEVICE, case, neuron, recurrent))


@given(cases(12, 20), stbp_neurons, st.booleans())
@settings(deadline=None, max_examples=10)
def test_stbp_backward_is_the_references(case, neuron, recurrent):
    assert_passes(checks.check_stbp_backward(gpu, DEVICE, case, neuron, recurrent))


@pytest.mark.parametrize("options", alif_checks.CHECKS[0][1], ids=lambda each: each["neuron"].surrogate)
def test_adaptive_neurons_are_the_references(options):
    for case in (currents.Case(2, 12, 12, 6, 5, SMALL.lif), currents.Case(2, 6, 2, 6, 70, SMALL.lif)):
        assert_passes(alif_checks.check_alif_scan(gpu, DEVICE, case, **options))


@pytest.mark.usefixtures("guarded")
def test_kernels_touch_only_what_they_are_given():
    lif = Lif(2.6, 2.0, 2, 1.0)
    for check, variants in checks.CHECKS:
        for options in variants[:2]:
            assert_passes(check(gpu, DEVICE, Case(2, 12, 6, 5, lif), **options))
    for options in alif_checks.CHECKS[0][1][:4]:
        assert_passes(alif_checks.check_alif_scan(gpu, DEVICE, currents.Case(2, 12, 12, 6, 65, lif), **options))
    for check in (checks.check_lif_forward, checks.check_spsp_backward, checks.check_stbp_backward):
        options = dict(checks.CHECKS)[check][-1]
        assert_passes(check(gpu, DEVICE, Case(2, 4, 6, 65, lif), **options))


def test_long_silences_do_not_overflow():
    """exp(steps / tau_s) is beyond float32 here."""
    case = Case(1, 220, 3, 2, Lif(2.6, 2.0, 2, 1.0))
    assert_passes(checks.check_recurrent_spsp(gpu, DEVICE, case, "hm2bp"))


def test_systems_of_one_batch_are_told_apart():
    """One that converges, one that diverges, one that is singular; and the pivots matter: the diagonal is 0."""
    pre, post = torch.tensor([[0, 1], [1, 0]], device=DEVICE)
    synapses = Synapses(torch.ones(2, device=DEVICE), pre, post)
    theta = torch.tensor([[0.1, 0.2], [3.0, -2.0], [1.0, 1.0], [2.0, 4.0]], device=DEVICE)
    diagonal = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0]], device=DEVICE)
    right = torch.tensor([[1.0, 2.0]] * 4, device=DEVICE)
    with np.errstate(all="ignore"):  # the interpreter computes in NumPy
        x = gpu.coupling_solve(theta, synapses, diagonal, right)
    expected = reference.coupling_solve(theta, synapses, diagonal, right)
    torch.testing.assert_close(x[[0, 1, 3]], expected[[0, 1, 3]])
    assert not x[2].isfinite().all()


def test_a_layer_without_synapses_or_samples():
    lif, nothing = Lif(20.0, 8.0, 2, 1.0), torch.zeros(0, dtype=torch.int64, device=DEVICE)
    synapses = Synapses(torch.zeros(0, device=DEVICE), nothing, nothing)
    spikes = torch.ones(2, 5, 1, dtype=torch.int64, device=DEVICE)
    assert gpu.recurrent_spsp("strsbp", lif, spikes, synapses, 3).shape == (2, 0)
    right = torch.ones(2, 3, device=DEVICE)
    assert torch.equal(gpu.coupling_solve(right[:, :0], synapses, right, right), right)
    assert gpu.lif_forward(spikes[:0], torch.ones(3, 1, device=DEVICE), None, lif)[1].shape == (0, 3)


def test_only_float32():
    spikes, weight = torch.zeros(1, 3, 1, dtype=torch.int64, device=DEVICE), torch.ones(2, 2, device=DEVICE).double()
    with pytest.raises(ValueError, match=r"float32, not torch\.float64"):
        gpu.lif_forward(spikes, weight, None, Lif(20.0, 8.0, 2, 1.0))
    with pytest.raises(ValueError, match="'bptt'"):
        gpu.readout("bptt", spikes, 2, Lif(20.0, 8.0, 2, 1.0))
    with pytest.raises(ValueError, match="'triangle'"):
        gpu.surrogate_constants(Stbp(0.5, 0.2, "triangle"))


@pytest.mark.parametrize(
    "rule",
    [
        StRsbp(v_th=[0.5], tau_m=20.0, slope="counts", lateral=0.5, desired=8.0, undesired=1.0, margin=0.0),
        Hm2Bp(v_th=[0.5], tau_m=5.0, desired=8.0, undesired=1.0, margin=0.0),
        StbpRule(v_th=[0.3], decay=0.4),
    ],
    ids=["strsbp", "hm2bp", "stbp"],
)
def test_a_whole_network_has_the_references_gradients(rule, monkeypatch):
    generator = torch.Generator().manual_seed(2)
    spikes = pack(torch.rand(2, 24, 12, generator=generator) < 0.3)
    results = []
    for backend, device in ((reference, "cpu"), (gpu, DEVICE)):
        monkeypatch.setattr(kernels.ops, "backend", backend)
        net = Network(rule, inputs=12, topology="10-R8", outputs=3, seed=1).to(device)
        labels = torch.tensor([0, 2], device=device)
        activity = net(spikes.to(device), labels)
        rule.sample_loss(activity.output, labels).mean().backward()
        results.append(([train.spikes.cpu() for train in activity.layers], [p.grad.cpu() for p in net.parameters()]))
    (expected_spikes, expected), (fired, gradients) = results
    assert all(torch.equal(a, b) for a, b in zip(fired, expected_spikes, strict=True))
    for actual, wanted in zip(gradients, expected, strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(actual, wanted, rtol=0.0, atol=1e-5 * wanted.abs().max().item())


# ---- the checks themselves ------------------------------------------------------------------------------------------

SMALL = Case(2, 25, 6, 5, Lif(5.0, 4.0, 2, 1.0))


def test_all_checks_pass_for_the_reference_itself():
    """In float32: rounding alone comes near no tolerance."""
    results = checks.run_checks(reference, DEVICE, checks.CASES[:3])
    assert all(result.passed for result in results), results
    assert all(result.error < checks.TOLERANCE / 2 for result in results), results
    names = [result.name for result in results]
    assert {"lif_forward", "lif_forward recurrent", "coupling_solve divergent", "stbp_backward gaussian"} < set(names)
    assert {"conv_forward", "pool_backward hm2bp", "stbp_conv_backward after averages"} < set(names)
    assert len(names) == len(set(names))


def test_checks_fail_for_wrong_kernels():
    def no_spikes(spikes_in, weight, recurrent, lif):
        spikes, counts = reference.lif_forward(spikes_in, weight, recurrent, lif._replace(v_th=1e9))
        return spikes, counts

    def raises(*_):
        raise RuntimeError("no such device")

    backend = SimpleNamespace(**vars(reference))
    backend.count_spikes = lambda *arguments: kernels.count_spikes(*arguments) * (1 + 1e-4)
    backend.lif_forward, backend.coupling = no_spikes, raises
    backend.coupling_solve = lambda *arguments: reference.coupling_solve(*arguments) * float("nan")
    results = {result.name: result for result in checks.run_checks(backend, "cpu", [SMALL])}
    failed = {name for name, result in results.items() if not result.passed}
    assert failed == {
        *("lif_forward", "lif_forward recurrent", "lif_forward at threshold", "lif_forward at threshold recurrent"),
        *("count_spikes", "coupling", "coupling_solve", "coupling_solve divergent"),
    }
    assert results["lif_forward"].differing > 0
    assert results["count_spikes"].error == pytest.approx(1e-4, rel=0.1)
    assert "RuntimeError: no such device" in results["coupling"].note
    assert "batch=2" in results["coupling"].note


@pytest.mark.parametrize("cls", [StRsbp, Hm2Bp])
def test_a_silent_label_learns_in_runs_of_any_length(cls, monkeypatch):
    monkeypatch.setattr(kernels.ops, "backend", gpu)
    check_gradients(cls, (1, 5, 20, 104), DEVICE)


# ---- compilation, for what the interpreter lets pass ----------------------------------------------------------------


SCANS = {"strsbp_scan", "hm2bp_scan", "stbp_scan_backward"}
KERNELS = {
    "dense": {"lif_scan", "stbp_scan", "synapse_scan", "sum_at_spikes", "coupling_sweeps", "coupling_elimination"},
    "adaptive": {"alif_scan", "alif_scan_backward"},
    "images": {
        *("conv_lif_scan", "stbp_conv_scan"),
        *("conv_activation", "conv_gradient", "conv_error", "conv_error_by_step"),
    },
}


@pytest.mark.launches
@pytest.mark.parametrize("group", KERNELS)
@pytest.mark.parametrize("architecture", [80])
def test_every_kernel_compiles(architecture, group, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(checks.__file__).parents[2])}
    script = str(Path(__file__).with_name("compile_kernels.py"))
    done = subprocess.run(
        [sys.executable, "-W", "error", script, str(architecture), group],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(done.stdout.split()) == KERNELS[group] | (set() if group == "adaptive" else SCANS)
