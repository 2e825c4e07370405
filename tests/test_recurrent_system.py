"""Recurrent layers: the system that the rules solve, and the slopes of e_ij, against brute-force sums."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rules import INPUTS, SMALL, STEPS, batch, spsp, train

from snnrun.kernels import Lif, unpack
from snnrun.kernels import reference as kernels
from snnrun.rules import Hm2Bp, LayerKind, LayerWeights, SpikeTrain, StRsbp
from snnrun.rules.slope_table import random_trains, slope_table


@pytest.mark.parametrize("neurons", [6, INPUTS])
@pytest.mark.parametrize("solve", ["paper", "authors"])
@given(st.integers(0, 10_000), st.sampled_from(["none", "table", "counts"]), st.booleans())
@settings(max_examples=8)
def test_the_recurrent_error_is_that_of_the_inverted_system(solve, neurons, seed, slope, self_coupling):
    """delta^k = P^T delta^{k+1} with P = (Omega - Theta)^-1 Phi (eq. 13), by explicit loops and an inverse.

    The authors' P is reshape(reshape(Phi, (I, N)) (Omega - Theta)^-1, (N, I)).
    """
    generator = torch.Generator().manual_seed(seed)
    rule = StRsbp(v_th=[2.0], slope=slope, self_coupling=self_coupling, silent_ratio=0.3, solve=solve, **SMALL)
    kind = LayerKind(0, output=False, recurrent=True)
    weights = rule.initialise(kind, INPUTS, neurons, generator)
    for name in ("weight", "recurrent_weight"):
        setattr(weights, name, getattr(weights, name).double())
    spikes, _ = batch(1, seed)
    bits, counts, *_ = train(spikes, torch.float64)
    counts.requires_grad_()
    weights.weight.requires_grad_()
    output = rule.layer(kind, weights, SpikeTrain(bits, counts), None)
    error = torch.randn(1, neurons, generator=generator, dtype=torch.float64)
    output.counts.backward(error)

    v = rule.v_th[0]
    w, wr = weights.weight.detach(), weights.recurrent_weight
    own = unpack(output.spikes, neurons)
    readout = kernels.strsbp_readout(own, rule.lif(kind), torch.float64)
    e, er = spsp(readout, spikes)[0], spsp(readout, own)[0]
    n_in, n = counts[0].detach(), output.counts[0].detach()
    table = slope_table(rule.tau_m, rule.tau_s, rule.t_ref, STEPS, rule.slope_rows)
    rows = len(table)

    def derivative(n_pre: float, n_post: float) -> float:
        c = table[int(min(max(n_pre, 1), rows)) - 1]
        x = min(max(n_post, 1), rows)
        return float(4 * c[0] * x**3 + 3 * c[1] * x**2 + 2 * c[2] * x + c[3])

    def ratio(effect: float, pre: float, post: float) -> float:
        return rule.silent_ratio if pre == 0 or post == 0 else float(effect / pre)

    system, phi = (torch.zeros(neurons, size, dtype=torch.float64) for size in (neurons, INPUTS))
    for i in range(neurons):
        slopes = sum(w[i, j] * derivative(n_in[j], n[i]) for j in range(INPUTS))
        slopes += sum(wr[i, p] * derivative(n[p], n[i]) for p in range(neurons))
        total = (w[i] @ e[i] + wr[i] @ er[i]) / max(float(n[i]), 1.0)
        system[i, i] = {"none": 1.0, "table": 1 - float(slopes) / v, "counts": 1 / (1 + float(total) / v)}[slope]
        for p in range(neurons):
            if i != p or self_coupling:
                system[i, p] -= wr[i, p] * ratio(er[i, p], n[p], n[i]) / v
        for j in range(INPUTS):
            phi[i, j] = w[i, j] * ratio(e[i, j], n_in[j], n[i])
    inverse = torch.linalg.inv(system)
    P = (phi.reshape(INPUTS, neurons) @ inverse).reshape(neurons, INPUTS) if solve == "authors" else inverse @ phi
    expected = P.T @ (error[0] / v)
    torch.testing.assert_close(counts.grad[0], expected, rtol=1e-7, atol=1e-9)


def test_hm2bp_takes_one_turn_of_credit_around_the_loop():
    rule = Hm2Bp(v_th=[1.0], **SMALL)
    kind = LayerKind(0, output=False, recurrent=True)
    weights = rule.initialise(kind, INPUTS, 6, torch.Generator().manual_seed(0))
    spikes, _ = batch(1)
    bits, counts, *_ = train(spikes)
    counts.requires_grad_()
    output = rule.layer(kind, weights, SpikeTrain(bits, counts), None)
    error = torch.linspace(-1, 1, 6)[None]
    output.counts.backward(error)
    own = unpack(output.spikes, 6)
    readout = kernels.hm2bp_readout(own, rule.lif(kind))
    phi = weights.weight * rule.ratio(spsp(readout, spikes), output.counts, counts)[0]
    theta = weights.recurrent_weight * rule.ratio(spsp(readout, own), output.counts, output.counts)[0]
    credit = error[0] + theta.T @ error[0]
    torch.testing.assert_close(counts.grad[0], phi.T.detach() @ credit.detach())


def test_hm2bp_learns_through_silent_neurons():
    """A silent post-neuron has the effect 0.1 on active inputs: the gradient that brings it back."""
    rule = Hm2Bp(v_th=[1e6], lateral=0.0, **SMALL)
    weight = torch.ones(2, 3).requires_grad_()
    spikes = torch.zeros(1, 20, 3, dtype=torch.uint8)
    spikes[0, 3, :2] = 1
    kind = LayerKind(0, output=False, recurrent=False)
    output = rule.layer(kind, LayerWeights(weight), train(spikes), None)
    output.counts.backward(torch.tensor([[1e6, 0.0]]))
    # delta = 1, sigma = 0.5 * 3 / v_th
    torch.testing.assert_close(weight.grad, torch.tensor([[0.1, 0.1, 0.0], [0.0, 0.0, 0.0]]), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_a_silent_neuron_passes_a_share_of_the_error_down_in_hm2bp(ratio):
    rule = Hm2Bp(v_th=[1e6], lateral=0.0, silent_ratio=ratio, **SMALL)
    spikes = torch.zeros(1, 20, 3, dtype=torch.uint8)
    spikes[0, 3, :2] = 1
    bits, counts, *_ = train(spikes)
    counts.requires_grad_()
    kind = LayerKind(0, output=False, recurrent=False)
    output = rule.layer(kind, LayerWeights(torch.ones(2, 3)), SpikeTrain(bits, counts), None)
    output.counts.backward(torch.tensor([[1e6, 0.0]]))  # delta = 1, 0
    torch.testing.assert_close(counts.grad, torch.full((1, 3), ratio))


def test_slope_sum_equals_the_sum_over_pairs():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(10, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    n_in = torch.tensor([[0.0, 1.0, 10.0, 25.0]], dtype=torch.float64)
    n = torch.tensor([[0.0, 3.0, 12.0]], dtype=torch.float64)
    slopes = kernels.slope_sum(table, n_in, weight, None, n)
    for i in range(3):
        total = 0.0
        for j, row in enumerate((0, 0, 9, 9)):
            c = table[row]
            total += weight[i, j] * (4 * c[0] * n[0, i] ** 3 + 3 * c[1] * n[0, i] ** 2 + 2 * c[2] * n[0, i] + c[3])
        assert slopes[0, i].item() == pytest.approx(float(total))


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "expected"), [(100, (0.317, 0.077, -0.052)), (50, (0.448, 0.024, -0.117))])
def test_the_authors_table_is_reproduced(rows, expected):
    """Derivatives at n_in = 10 of the tables that the authors ship, within the error of 1,000 random draws."""
    c = slope_table(64.0, 8.0, 2, 400, rows, authors_clock=True)[9]
    for n, value in zip((5, 20, 50), expected, strict=True):
        derivative = float(4 * c[0] * n**3 + 3 * c[1] * n**2 + 2 * c[2] * n + c[3])
        assert derivative == pytest.approx(value, abs=0.006)


def test_the_table_fits_the_mean_over_random_pairs():
    """The factorised mean equals the mean over explicit pairs of trains."""
    generator = torch.Generator().manual_seed(1)
    likelihood = torch.ones(100, dtype=torch.float64)
    lif = Lif(20.0, 4.0, 2, 1.0)
    direct = torch.zeros(16, dtype=torch.float64)
    for _ in range(20):
        pre = random_trains(likelihood, 16, 2, generator)[:, 7]  # n_in = 8
        post = random_trains(likelihood, 16, 2, generator)
        readout = kernels.strsbp_readout(post.transpose(1, 2), lif, torch.float64)
        direct += torch.einsum("btn,bt->n", readout, pre.double()) / 2000
    n = torch.arange(1, 17, dtype=torch.float64)
    fitted = slope_table(20.0, 4.0, 2, 100, 16)[7] @ n ** torch.arange(4, -1, -1)[:, None]
    assert (fitted - direct).abs().max() < 0.05 * direct.max()


def test_random_trains_keep_their_distance_and_grow():
    trains = random_trains(torch.ones(50, dtype=torch.float64), 12, 2, torch.Generator().manual_seed(0))
    assert torch.equal(trains.sum(2), torch.arange(1, 13).expand(len(trains), 12))
    for lag in (1, 2):
        assert (trains[:, :, lag:] & trains[:, :, :-lag]).sum() == 0
    assert (trains[:, 1:] >= trains[:, :-1]).all()
