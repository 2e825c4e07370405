"""The rules: what must hold of a gradient whatever the numbers are, and each option against a brute-force count."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrun.kernels import Lif, pack, unpack
from snnrun.kernels import reference as kernels
from snnrun.network import Network
from snnrun.rules import RULES, Hm2Bp, LayerKind, LayerWeights, LeeRule, SlayerRule, SpikeTrain, StbpRule, StRsbp
from snnrun.rules.base import synapse_index
from snnrun.rules.connectivity import connect, grid
from snnrun.rules.slope_table import random_trains, slope_table

INPUTS, CLASSES, STEPS = 12, 4, 60
SMALL = {"desired": 8.0, "undesired": 1.0, "margin": 1.0, "tau_m": 20.0}
RULE_CASES = {
    "strsbp": StRsbp(v_th=[1.0], **SMALL),
    "strsbp-table": StRsbp(v_th=[1.0], slope="table", regulariser=0.1, **SMALL),
    "strsbp-counts": StRsbp(v_th=[1.0], slope="counts", silent_ratio=0.5, **SMALL),
    "strsbp-authors": StRsbp(
        v_th=[1.0], slope="table", slope_tables="authors", extrapolate_slope=True, solve="authors", silent_ratio=0.5,
        self_coupling=False, connectivity="one_sided", recurrent_init="sign", **SMALL,
    ),
    "hm2bp": Hm2Bp(v_th=[1.0], lateral=0.5, **SMALL),
    "hm2bp-softmax": Hm2Bp(v_th=[1.0], lateral=0.5, loss="softmax", effect_ratio=False, **SMALL),
    "stbp": StbpRule(v_th=[0.5]),
    "sdbp": StbpRule(v_th=[0.5], temporal_gradient=False, reset="exponential", surrogate="sigmoid"),
    "slayer": SlayerRule(v_th=[1.0], tau_s=4.0, desired=20.0, undesired=2.0),
    "slayer-delays": SlayerRule(
        v_th=[1.0], tau_s=4.0, refractory="alpha", desired=20.0, undesired=2.0, delays=True, count_from=9, count_to=50
    ),
    "stbp-softmax": StbpRule(v_th=[0.5], loss="softmax", temperature=2.0, label_smoothing=0.1),
    "slayer-softmax": SlayerRule(v_th=[1.0], tau_s=4.0, loss="softmax", temperature=5.0, label_smoothing=0.1),
    "lee-softmax": LeeRule(v_th=[2.0], loss="softmax", temperature=4.0, label_smoothing=0.1),
    "lee": LeeRule(v_th=[2.0]),
    "strsbp-constants": StRsbp(v_th=[1.0], train_constants="all", slope="counts", **SMALL),
    "hm2bp-constants": Hm2Bp(v_th=[1.0], lateral=0.5, train_constants="all", thresholds_by="layer", **SMALL),
    "stbp-constants": StbpRule(v_th=[0.5], train_constants="all", reset="exponential"),
    "stbp-adaptive": StbpRule(
        v_th=[0.5], adaptation="threshold", tau_adaptation=8.0, train_constants="all", time_constants_by="neuron"
    ),
    "lee-plain": LeeRule(v_th=[2.0], normalise=False, inhibition=0.0, balance=0.0, regulariser=0.0),
}  # fmt: skip


def batch(size: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spikes = (torch.rand(size, STEPS, INPUTS, generator=generator) < 0.3).to(torch.uint8)
    return spikes, torch.arange(size) % CLASSES


def network(rule, topology: str = "9-R8", seed: int = 3) -> Network:
    topology = topology if rule.recurrent_layers else topology.replace("R", "")
    return Network(rule, inputs=INPUTS, topology=topology, outputs=CLASSES, seed=seed).double()


def gradients(net: Network, spikes, labels) -> list[torch.Tensor]:
    net.zero_grad()
    activity = net(spikes, labels)
    net.rule.sample_loss(activity.output, labels).mean().backward()
    return [parameter.grad.clone() for parameter in net.parameters()]


def train(spikes: torch.Tensor, dtype: torch.dtype = torch.float32) -> SpikeTrain:
    """What a layer gets of spikes (B, T, N)."""
    return SpikeTrain(pack(spikes), spikes.sum(1).to(dtype))


def spsp(readout: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
    """S-PSP of every pair (B, N, I) from a readout and the spikes of the inputs (B, T, I)."""
    return torch.einsum("bti,btj->bij", readout, spikes.to(readout.dtype))


@pytest.fixture(params=RULE_CASES, ids=str)
def rule(request):
    return RULE_CASES[request.param]


def test_the_table_of_rules_is_complete():
    assert {type(case) for case in RULE_CASES.values()} == set(RULES.values())


def test_a_batch_gives_the_mean_of_its_samples(rule):
    net = network(rule)
    spikes, labels = batch()
    together = gradients(net, spikes, labels)
    singles = [gradients(net, spikes[[b]], labels[[b]]) for b in range(len(labels))]
    for whole, *parts in zip(together, *singles, strict=True):
        torch.testing.assert_close(whole, torch.stack(parts).mean(0), rtol=1e-9, atol=1e-12)


def test_the_gradient_reaches_every_parameter(rule):
    net = network(rule)
    grads = gradients(net, *batch())
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert all(grad.abs().max() > 0 for grad in grads)


def test_two_equal_passes_are_equal(rule):
    """No state is left behind in the network."""
    net = network(rule)
    spikes, labels = batch()
    first, second = net(spikes, labels), net(spikes, labels)
    for a, b in zip(first.layers, second.layers, strict=True):
        assert torch.equal(a.spikes, b.spikes)


def test_evaluation_needs_no_labels_and_fires_the_same(rule):
    net = network(rule)
    spikes, labels = batch()
    with torch.no_grad():
        assert torch.equal(net(spikes).output.counts, net(spikes, labels).output.counts)


def test_permuting_inputs_permutes_the_gradient(rule):
    net = network(rule, topology="9")
    spikes, labels = batch()
    order = torch.randperm(INPUTS, generator=torch.Generator().manual_seed(1))
    plain = gradients(net, spikes, labels)[0]
    with torch.no_grad():
        net.layers[0].weight.copy_(net.layers[0].weight[:, order])
        if net.layers[0].delay is not None:
            net.layers[0].delay.copy_(net.layers[0].delay[order])
    permuted = gradients(net, spikes[:, :, order], labels)[0]
    torch.testing.assert_close(permuted, plain[:, order], rtol=1e-9, atol=1e-12)


def test_zero_recurrent_weights_equal_a_feed_forward_layer(rule):
    """True of the forward pass, and of the gradient where neither a slope nor the authors' solver sees the zeros."""
    if isinstance(rule, StRsbp):
        rule = dataclasses.replace(rule, slope="none", solve="paper")
    if not rule.recurrent_layers:
        pytest.skip("no recurrence")
    recurrent, plain = network(rule, "R8"), network(rule, "8")
    plain.layers[0].weight.data = recurrent.layers[0].weight.data.clone()
    plain.layers[1].weight.data = recurrent.layers[1].weight.data.clone()
    for a, b in zip(plain.layers, recurrent.layers, strict=True):
        a.delay = b.delay
    recurrent.layers[0].recurrent_weight.data.zero_()
    spikes, labels = batch()
    assert torch.equal(recurrent(spikes).output.spikes, plain(spikes).output.spikes)
    a, b = gradients(recurrent, spikes, labels), gradients(plain, spikes, labels)
    torch.testing.assert_close(a[0], b[0], rtol=1e-9, atol=1e-12)


def test_absent_synapses_stay_absent(rule):
    if not hasattr(rule, "connectivity"):
        pytest.skip("no recurrence")
    net = network(dataclasses.replace(rule, connectivity="one_sided"))
    gradients(net, *batch())
    net.add_weight_penalty()
    layer = net.layers[1]
    assert (layer.recurrent_weight.grad[~layer.recurrent_mask] == 0).all()
    assert (layer.recurrent_weight[~layer.recurrent_mask] == 0).all()


# ---- loss and targets -----------------------------------------------------------------------------------------------


def test_error_is_the_difference_outside_the_margin():
    """Desired 35, undesired 5, margin 5: exactly 5 off counts as none (algorithm: 3.3)."""
    rule = StRsbp(v_th=[1.0])
    counts = torch.tensor([[30.0, 29.0, 10.0, 11.0]], requires_grad=True)
    output = SpikeTrain(pack(torch.zeros(1, 5, 4)), counts)
    rule.sample_loss(output, torch.tensor([1])).sum().backward()
    assert counts.grad.tolist() == [[25.0, -6.0, 0.0, 6.0]]
    counts.grad = None
    loss = rule.sample_loss(output, torch.tensor([0])).sum()
    loss.backward()
    assert counts.grad.tolist() == [[0.0, 24.0, 0.0, 6.0]]
    assert loss.item() == 0.5 * (24**2 + 6**2)


def test_without_revival_a_silent_label_gets_no_gradient():
    spikes = torch.zeros(1, STEPS, INPUTS, dtype=torch.uint8)
    spikes[0, 1] = 1
    for revive in (True, False):
        net = network(StRsbp(v_th=[50.0], lateral=0.0, revive=revive, **SMALL), topology="")
        grad = gradients(net, spikes, torch.tensor([2]))[0]
        assert bool(grad[2].abs().max() > 0) is revive


@pytest.mark.parametrize("cls", [StRsbp, Hm2Bp])
def test_lateral_share_is_the_first_order_echo(cls):
    """L_i = 1 / (1 - s^2 sum_{l != i} r_li x_l r_il x_i), neuron by neuron; a silent label counts as active."""
    rule = cls(v_th=[20.0], lateral=3.0, **SMALL)
    lif = Lif(20.0, 8.0, 2, 20.0)
    own = (torch.rand(3, STEPS, 5, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.uint8)
    own[0, :, 1] = own[1, :, 4] = 0
    bits, counts, *_ = train(own, torch.float64)
    labels = torch.tensor([1, 2, 0])
    pairs = rule.inhibition(LayerWeights(torch.zeros(5, INPUTS, dtype=torch.float64)))
    share = rule.lateral_share(bits, counts, labels, lif, pairs)
    e = spsp(kernels.readout(rule.spsp, bits, 5, lif, torch.float64), own)
    for b, label in enumerate(labels):
        x = [1 / 20.0 if counts[b, i] > 0 or i == label else 0.0 for i in range(5)]
        for i in range(5):
            echo = 0.0
            for other in set(range(5)) - {i}:
                if counts[b, i] > 0 and counts[b, other] > 0:
                    forth, back = e[b, other, i] / counts[b, i], e[b, i, other] / counts[b, other]
                else:
                    forth = back = rule.silent_ratio
                echo += forth * x[other] * back * x[i]
            assert share[b, i].item() == pytest.approx(1 / (1 - 9.0 * float(echo)))
    assert (share - 1).abs().max() > 0.01


def test_stbp_loss_is_half_the_squared_distance_of_rates():
    spikes = torch.zeros(1, 10, 2)
    spikes[0, :4, 0] = 1
    label = torch.tensor([0])
    squared, mean = StbpRule(v_th=[1.0]), StbpRule(v_th=[1.0], loss="mean_squared")
    assert squared.sample_loss(train(spikes), label).item() == pytest.approx(0.5 * 0.6**2)
    assert mean.sample_loss(train(spikes), label).item() == pytest.approx(0.5 * 0.6**2)


class Step(torch.autograd.Function):
    """A step function with the derivative of `surrogate`."""

    @staticmethod
    def forward(ctx, u, neuron):
        ctx.save_for_backward(u)
        ctx.neuron = neuron
        return (u >= neuron.v_th).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * kernels.surrogate(ctx.saved_tensors[0], ctx.neuron), None


@pytest.mark.parametrize("topology", ["70-9", "R70-R9"])
def test_stbp_equals_automatic_differentiation_through_the_whole_network(topology):
    """The error of a hidden layer comes from the layer above step by step, and from a loss on its counts."""
    net = network(StbpRule(v_th=[0.5], connectivity="two_sided"), topology)
    spikes, labels = batch()
    activity = net(spikes, labels)
    weight = torch.linspace(-1, 1, 9, dtype=torch.float64)
    loss = net.rule.sample_loss(activity.output, labels).sum() + (activity.layers[1].counts @ weight).sum()
    loss.backward()
    actual = [parameter.grad for parameter in net.parameters()]

    net.zero_grad()
    outputs = list(spikes.double().unbind(1))
    counts = []
    for layer in net.layers:
        neuron = net.rule.neuron(layer.kind)
        u = o = torch.zeros(len(spikes), len(layer.weight), dtype=torch.float64)
        for t, arriving in enumerate(outputs):
            u = u * neuron.decay * (1 - o) + arriving @ layer.weight.T + layer.bias
            if layer.recurrent_weight is not None:
                u = u + o @ (layer.recurrent_weight * layer.recurrent_mask).T
            o = Step.apply(u, neuron)
            outputs[t] = o
        counts.append(sum(outputs))
    assert torch.equal(counts[-1].float(), activity.output.counts.float())
    wanted = torch.nn.functional.one_hot(labels, CLASSES)
    (0.5 * (wanted - counts[-1] / STEPS).square().sum() + (counts[1] @ weight).sum()).backward()
    torch.testing.assert_close(actual, [parameter.grad for parameter in net.parameters()])


# ---- the recurrent system and the slopes ----------------------------------------------------------------------------


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


# ---- initialisation -------------------------------------------------------------------------------------------------


def test_two_sided_connectivity_has_the_density_of_the_rule():
    """4,387 synapses are the mean for 400 neurons without the authors' wrap-around."""
    counts = [int(connect(400, "two_sided", torch.Generator().manual_seed(s))[0].sum()) for s in range(20)]
    assert sum(counts) / 20 == pytest.approx(4387, rel=0.04)


def test_one_sided_connectivity_has_no_loops():
    mask, _ = connect(400, "one_sided", torch.Generator().manual_seed(0))
    assert not mask.tril(-1).any(), "a synapse runs from a higher to a lower neuron, or to itself"
    assert mask.diagonal().any()
    assert int(mask.sum()) == pytest.approx(1322, rel=0.15)


@pytest.mark.parametrize("neurons", [1, 7, 12, 100, 135, 400, 800, 997])
def test_grids_hold_every_neuron(neurons):
    a, b, c = grid(neurons)
    assert a * b * c == neurons


def test_initial_weights():
    kind = LayerKind(0, output=False, recurrent=True)
    generator = torch.Generator().manual_seed(0)
    uniform = StRsbp(v_th=[1.0], init_scale=0.5).initialise(kind, 200, 100, generator)
    assert 0.49 < uniform.weight.abs().max() <= 0.5
    sign = StRsbp(v_th=[1.0], recurrent_init="sign").initialise(kind, 20, 100, generator)
    assert set(sign.recurrent_weight.unique().tolist()) == {-1.0, 0.0, 1.0}
    fixed = StRsbp(v_th=[1.0], init="fixed", init_fixed_inputs=5).initialise(kind, 200, 10, generator)
    assert ((fixed.weight != 0).sum(1) <= 5).all()
    assert set(fixed.weight.unique().tolist()) == {-1.0, 0.0, 1.0}
    stbp = StbpRule(v_th=[1.0]).initialise(kind, 200, 10, generator)
    torch.testing.assert_close(stbp.weight.norm(dim=1), torch.ones(10))


def test_the_error_of_stbp_survives_many_steps_of_loops():
    """Where loops began with norm 1 it was 4e10 here, and infinite over the steps of speech."""
    layers = network(StbpRule(v_th=(0.5,), decay=0.9), "9-R100", seed=0)
    spikes = pack((torch.rand(2, 400, 9, generator=torch.Generator().manual_seed(0)) < 0.1).to(torch.uint8))
    norms = [gradient.norm() for gradient in gradients(layers, spikes, torch.tensor([0, 1]))]
    assert max(norms) < 1e3
    assert min(norms) > 0


def test_regulariser_by_hand():
    """L b (w / W) exp(b (q - 1)) with q the mean square of w / W."""
    rule = StRsbp(v_th=[1.0], regulariser=10.0, regulariser_beta=0.04, weight_limit=8.0)
    kind = LayerKind(0, output=False, recurrent=False)
    factor = rule.weight_penalty(kind, LayerWeights(torch.tensor([[8.0, -16.0]])))
    torch.testing.assert_close(factor, 10 * 0.04 / 8 * torch.tensor([0.04 * (2.5 - 1)]).exp())
    assert StRsbp(v_th=[1.0]).weight_penalty(kind, LayerWeights(torch.ones(1, 2))) is None


@pytest.mark.parametrize(("fan_in", "sizes"), [("own", [5, 4, 3]), ("authors", [10, 10, 10])])
def test_the_regulariser_counts_the_synapses_that_exist(fan_in, sizes):
    """Three inputs and 2, 1 or 0 recurrent synapses; in the authors' code I + 1 and all six of the layer's."""
    rule = StRsbp(v_th=[1.0], regulariser=10.0, regulariser_beta=0.4, regulariser_fan_in=fan_in)
    net = Network(rule, inputs=3, topology="R3", outputs=2)
    layer = net.layers[0]
    mask = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    if fan_in == "authors":
        mask = ~torch.eye(3, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    layer.recurrent_mask.copy_(mask)
    layer.recurrent_pre, layer.recurrent_post = synapse_index(mask)
    layer.recurrent_weight.data.copy_(torch.where(mask, torch.randn(3, 3, generator=generator), 0.0))
    weight, recurrent = layer.weight.detach(), layer.recurrent_weight.detach()
    q = ((weight / 8).square().sum(1) + (recurrent / 8).square().sum(1)) / torch.tensor(sizes)
    expected = 10 * 0.4 / 8 * torch.exp(0.4 * (q - 1))
    layer.weight.grad, layer.recurrent_weight.grad = torch.ones(3, 3), torch.ones(3, 3)
    net.add_weight_penalty()
    torch.testing.assert_close(layer.weight.grad, 1 + expected[:, None] * weight)
    torch.testing.assert_close(layer.recurrent_weight.grad, 1 + expected[:, None] * recurrent)
