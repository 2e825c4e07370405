"""The rules: what must hold of a gradient whatever the numbers are, and losses and targets by brute force."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from snnrun.kernels import Lif, pack
from snnrun.kernels import reference as kernels
from snnrun.network import Network
from snnrun.rules import RULES, Hm2Bp, LayerWeights, LeeRule, SlayerRule, SpikeTrain, StbpRule, StRsbp

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
