"""The rules on convolutions and pools: each layer against a brute-force count, and what must hold of whole networks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from images_by_hand import hm2bp_convolution, hm2bp_pool, strsbp_layer
from test_image_kernels import Layer, windows

from snnrun import data
from snnrun.errors import UsageError
from snnrun.kernels import Window, pack, reference, unpack
from snnrun.network import Network
from snnrun.rules import Hm2Bp, LayerKind, LayerWeights, LeeRule, Rule, SlayerRule, SpikeTrain, StbpRule, StRsbp
from snnrun.rules.base import spread
from snnrun.rules.slope_table import slope_table

SMALL = {"desired": 8.0, "undesired": 1.0, "margin": 1.0, "tau_m": 20.0}
STEPS = 25


class Run:
    """One layer run and its rule's backward pass, for an error dE/dn drawn at random; all of it double."""

    def __init__(self, rule: Rule, window: Window, seed: int, pool: bool = False) -> None:
        self.layer = Layer(window, seed, STEPS)
        self.rule, self.window = rule, window
        kind = LayerKind(0, output=False, recurrent=False, window=window, pool=pool)
        weight = reference.pool_weight(window, torch.ones(()).double()) if pool else self.layer.weight
        self.weight = weight.requires_grad_(not pool)
        self.counts_in = self.layer.spikes_in.sum(1).double().requires_grad_()
        train = SpikeTrain(pack(self.layer.spikes_in), self.counts_in)
        output = rule.layer(kind, LayerWeights(self.weight), train, None)
        self.layer.spikes = unpack(output.spikes, window.neurons)
        self.error = self.layer.gain
        output.counts.backward(self.error)
        self.lif = rule.lif(kind)

    def check(self, by_hand) -> None:
        """`by_hand(spikes_in, spikes, weight, error)` gives the gradient, or None, and the error below of a sample."""
        total, w = 0.0, self.window
        for b in range(2):
            error = self.error[b].reshape(w.kernels, w.out_rows, w.out_columns).numpy()
            gradient, below = by_hand(self.layer.images(b), self.layer.maps(b), self.weight.detach().numpy(), error)
            np.testing.assert_allclose(self.counts_in.grad[b].numpy(), below.ravel(), rtol=1e-8, atol=1e-9)
            total = total if gradient is None else total + gradient
        if self.weight.requires_grad:
            np.testing.assert_allclose(self.weight.grad.numpy(), total, rtol=1e-8, atol=1e-9)


seeds = st.integers(0, 2**31)
thresholds = st.sampled_from([0.1, 0.5, 1e6])  # at the last all are silent


@settings(max_examples=40)
@given(windows(), thresholds, seeds)
def test_hm2bp_convolution_by_hand(window, v_th, seed):
    for silent_ratio in (0.0, 1.0):
        run = Run(Hm2Bp(v_th=[v_th], silent_ratio=silent_ratio, **SMALL), window, seed)
        run.check(
            lambda *sample, run=run: hm2bp_convolution(*sample, window, run.lif, silent_ratio=run.rule.silent_ratio)
        )


@settings(max_examples=40)
@given(windows(pool=True), thresholds, seeds)
def test_hm2bp_pool_by_hand(window, v_th, seed):
    for silent_ratio in (0.0, 1.0):
        run = Run(Hm2Bp(v_th=[v_th], silent_ratio=silent_ratio, **SMALL), window, seed, pool=True)
        run.check(
            lambda sin, s, _, error, run=run: (None, hm2bp_pool(sin, s, error, window, run.lif, run.rule.silent_ratio))
        )


@settings(max_examples=20)
@given(windows(), thresholds, seeds)
def test_strsbp_convolution_by_hand(window, v_th, seed):
    for silent_ratio in (0.0, 0.5):
        run = Run(StRsbp(v_th=[v_th], silent_ratio=silent_ratio, **SMALL), window, seed)
        run.check(lambda *sample, run=run: strsbp_layer(*sample, window, run.lif, silent_ratio=run.rule.silent_ratio))


@pytest.mark.parametrize("pool", [False, True])
@settings(max_examples=15)
@given(data=st.data(), v_th=thresholds, seed=seeds)
def test_strsbp_slopes_by_hand(pool, data, v_th, seed):
    """The diagonal D_i, from the fitted table and from the sample, of convolutions and of pools."""
    window = data.draw(windows(pool=pool))
    for slope in ("none", "counts", "table"):
        rule = StRsbp(v_th=[v_th], slope=slope, extrapolate_slope=True, silent_ratio=0.25, slope_rows=8, **SMALL)
        run = Run(rule, window, seed, pool)
        table = slope_table(20.0, 8.0, 2, STEPS, 8).numpy() if slope == "table" else None
        run.check(
            lambda sin, s, weight, error, run=run, table=table, slope=slope: strsbp_layer(
                *(sin, s, None if pool else weight, error, window, run.lif),
                silent_ratio=0.25,
                table=table,
                counts=slope == "counts",
            )
        )


@settings(max_examples=20)
@given(windows(), thresholds, seeds)
def test_the_authors_convolution_by_hand(window, v_th, seed):
    """HM2-BP's without 1 + sigma, and with the ratio 0.5 for silent pairs."""
    run = Run(StRsbp(v_th=[v_th], convolution="authors", slope="table", slope_rows=8, **SMALL), window, seed)
    run.check(
        lambda *sample: hm2bp_convolution(*sample, window, run.lif, silent_ratio=0.5, with_sigma=False),
    )


@settings(max_examples=20)
@given(windows(pool=True), thresholds, seeds)
def test_the_authors_pool_by_hand(window, v_th, seed):
    run = Run(StRsbp(v_th=[v_th], convolution="authors", silent_ratio=0.5, **SMALL), window, seed, pool=True)
    run.check(lambda sin, s, _, error: (None, hm2bp_pool(sin, s, error, window, run.lif, silent_ratio=0.0)))


def test_a_pool_without_effect_ratio_hands_its_error_back_in_equal_parts():
    window = Window(1, 4, 4, 1, 2, 2, 2)
    run = Run(Hm2Bp(v_th=[0.1], effect_ratio=False, **SMALL), window, 0, pool=True)
    expected = run.error.reshape(2, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2).reshape(2, 16) / 4
    torch.testing.assert_close(run.counts_in.grad, expected)


# ---- whole networks -------------------------------------------------------------------------------------------------

IMAGE, CLASSES = (2, 7, 6), 3
RULES = {
    "strsbp": StRsbp(v_th=[0.4], **SMALL),
    "strsbp-table": StRsbp(v_th=[0.4], slope="table", regulariser=0.1, **SMALL),
    "strsbp-counts": StRsbp(v_th=[0.4], slope="counts", silent_ratio=0.5, **SMALL),
    "strsbp-authors": StRsbp(v_th=[0.4], convolution="authors", connectivity="full", **SMALL),
    "hm2bp": Hm2Bp(v_th=[0.4], lateral=0.5, connectivity="full", **SMALL),
    "stbp": StbpRule(v_th=[0.3]),
    "slayer": SlayerRule(v_th=[1.0], tau_s=3.0, desired=12.0, undesired=1.0, delays=True),
    "lee": LeeRule(v_th=[1.5]),
}
TOPOLOGIES = ["3C3-P2-R8", "P2-3C2p1-6", "2C3s2-3C2x1", "3C2-P2-4C2p1-P2"]


def batch(size: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spikes = (torch.rand(size, 40, 2 * 7 * 6, generator=generator) < 0.4).to(torch.uint8)
    return spikes, torch.arange(size) % CLASSES


def network(rule: Rule, topology: str, seed: int = 3) -> Network:
    topology = topology if rule.recurrent_layers else topology.replace("R", "")
    net = Network(rule, inputs=84, topology=topology, outputs=CLASSES, seed=seed, image=IMAGE).double()
    with torch.no_grad():  # the few inputs of a small window would leave it silent
        for layer in net.layers:
            layer.weight.add_(0.0 if layer.kind.pool or isinstance(rule, StbpRule) else 0.3)
    return net


def gradients(net: Network, spikes, labels) -> list[torch.Tensor]:
    net.zero_grad()
    activity = net(spikes, labels)
    net.rule.sample_loss(activity.output, labels).mean().backward()
    return [parameter.grad.clone() for parameter in net.parameters()]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_parameter_gets_a_gradient(name, topology):
    net = network(RULES[name], topology)
    for (title, _), gradient in zip(net.named_parameters(), gradients(net, *batch()), strict=True):
        assert gradient.isfinite().all()
        assert gradient.any(), title


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_batch_gives_the_mean_of_its_samples(name, topology):
    net = network(RULES[name], topology)
    spikes, labels = batch()
    together = gradients(net, spikes, labels)
    alone = [gradients(net, spikes[b : b + 1], labels[b : b + 1]) for b in range(len(labels))]
    for parts, whole in zip(zip(*alone, strict=True), together, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), whole, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", sorted({*RULES} - {"strsbp-authors"}))
def test_a_convolution_that_covers_the_image_trains_as_a_dense_layer(name):
    rule = RULES[name]
    conv, dense = network(rule, "5C7x6-4"), network(rule, "5-4")
    dense.layers[0].weight.data = conv.layers[0].weight.data.flatten(1)
    if isinstance(rule, LeeRule):  # which has no inhibition in convolutions
        rule = dataclasses.replace(rule, inhibition=0.0)
        conv.rule = dense.rule = rule
    for a, b in zip(conv.layers, dense.layers, strict=True):
        b.delay = a.delay
    for net in (conv, dense):  # no membrane meets a threshold exactly, where convolutions differ
        assert net(*batch()).layers[0].counts.any()
    for ours, theirs in zip(gradients(conv, *batch()), gradients(dense, *batch()), strict=True):
        torch.testing.assert_close(ours.reshape(theirs.shape), theirs, rtol=1e-6, atol=1e-9)


def test_an_average_pool_before_a_dense_layer_is_pytorchs():
    """And a convolution over the whole pooled image, with ragged rows and columns that no square holds."""
    generator = torch.Generator().manual_seed(0)
    average = Window(2, 7, 5, 2, 3, 3, 3)
    weight = torch.randn(4, average.neurons, generator=generator, dtype=torch.float64)
    images = torch.rand(6, 2, 7, 5, generator=generator, dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(images, 3).flatten(1) @ weight.T
    torch.testing.assert_close(images.flatten(1) @ spread(weight, average).T, expected)
    window = Window(2, 7, 5, 4, 2, 1, pool=3)
    torch.testing.assert_close(reference.drive(images.flatten(1), weight.reshape(4, 2, 2, 1), window), expected)


def test_stbp_averages_twice_as_over_squares_of_both_sizes():
    rule = StbpRule(v_th=[0.3])
    twice, once = network(rule, "P2-P3-4"), network(rule, "P6-4")
    assert twice.layer_names == ["hidden1", "output"]
    spikes, _ = batch()
    assert torch.equal(twice(spikes).layers[0].spikes, once(spikes).layers[0].spikes)


def test_a_trained_step_keeps_weights_tap_by_tap():
    net = Network(StRsbp(v_th=[0.4], **SMALL), inputs=84, topology="3C3-P2", outputs=3, image=IMAGE)
    optimizer = torch.optim.Adam(net.parameters())
    net.rule.sample_loss(net(*batch()).output, batch()[1]).sum().backward()
    optimizer.step()
    net.load_state_dict({name: value.clone().contiguous() for name, value in net.state_dict().items()})
    assert net.layers[0].weight.permute(1, 2, 3, 0).is_contiguous()
    assert list(net.state_dict()) == ["layers.0.weight", "layers.2.weight"]


def test_regulariser_of_a_kernel_by_hand():
    """q of a kernel is the mean square of its C h w weights / W; pools have none."""
    rule = StRsbp(v_th=[1.0], regulariser=10.0, regulariser_beta=0.4, regulariser_fan_in="authors")
    window = Window(2, 4, 4, 3, 2, 2)
    weight = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    kind = LayerKind(0, output=False, recurrent=False, window=window)
    factor = rule.weight_penalty(kind, LayerWeights(weight))
    for k in range(3):
        q = (weight[k] / 8).square().sum() / 8
        torch.testing.assert_close(factor[k], 10 * 0.4 / 8 * torch.exp(0.4 * (q - 1)))
    assert rule.weight_penalty(kind._replace(pool=True), LayerWeights(weight)) is None
    net = Network(rule, inputs=84, topology="3C3-P2", outputs=3, image=IMAGE)
    net.rule.sample_loss(net(*batch()).output, batch()[1]).sum().backward()
    before = net.layers[0].weight.grad.clone()
    net.add_weight_penalty()
    assert (net.layers[0].weight.grad != before).all()


def test_initial_kernels():
    generator = torch.Generator().manual_seed(0)
    kind = LayerKind(0, output=False, recurrent=False, window=Window(2, 9, 9, 40, 5, 5))
    assert 0.49 < Hm2Bp(v_th=[1.0]).initialise(kind, 50, 40, generator).weight.abs().max() <= 0.5
    assert 0.98 < StRsbp(v_th=[1.0]).initialise(kind, 50, 40, generator).weight.abs().max() <= 1.0
    net = Network(StbpRule(v_th=[1.0]), inputs=84, topology="4C3", outputs=3, image=IMAGE)
    torch.testing.assert_close(net.layers[0].weight.flatten(1).norm(dim=1), torch.ones(4))
    assert net.layers[0].bias.shape == (4,)


def test_too_many_thresholds_for_a_rule_whose_pools_have_none():
    with pytest.raises(UsageError, match=r"4 thresholds for the 3 layers of .* \(average pools have none\)"):
        Network(StbpRule(v_th=[1.0] * 4), inputs=84, topology="4C3-P2-5", outputs=3, image=IMAGE)
    with pytest.raises(UsageError, match=r"3 thresholds for the 4 layers of .* \(pools are layers too\)"):
        Network(StRsbp(v_th=[1.0] * 3), inputs=84, topology="4C3-P2-5", outputs=3, image=IMAGE)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "lr"), [("strsbp", 0.01), ("hm2bp", 0.01), ("stbp", 0.003)])
def test_a_small_cnn_learns_the_digits(rule, lr):
    """Two passes over 400 images, then the 360 test images: chance is 10 %."""
    digits = data.load("digits", limit=400)
    targets = {"desired": 20.0, "undesired": 2.0, "margin": 2.0}
    rules = {
        "strsbp": StRsbp(v_th=[1.0, 1.0, 3.0, 5.0], **targets),
        "hm2bp": Hm2Bp(v_th=[1.0, 1.0, 3.0, 5.0], **targets),
        "stbp": StbpRule(v_th=[0.5]),
    }
    net = Network(rules[rule], inputs=64, topology="8C3-P2-30", outputs=10, image=digits.image)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    steps, brightest = (20, 1.0) if rule == "stbp" else (100, 0.5)

    def encoded(images: torch.Tensor) -> torch.Tensor:
        chance = brightest * images[:, None].float() / 255
        return (torch.rand(len(images), steps, 64, generator=generator) < chance).to(torch.uint8)

    samples, labels = torch.from_numpy(digits.train.samples), torch.from_numpy(digits.train.labels)
    for chosen in torch.cat([torch.randperm(400, generator=generator) for _ in range(2)]).split(10):
        optimizer.zero_grad()
        activity = net(encoded(samples[chosen]), labels[chosen])
        net.rule.sample_loss(activity.output, labels[chosen]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        predicted = net(encoded(torch.from_numpy(digits.test.samples))).output.counts.argmax(1)
    assert (predicted == torch.from_numpy(digits.test.labels)).float().mean() > 0.5
