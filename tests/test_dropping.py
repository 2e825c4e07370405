"""Spikes that get lost in training: which, what the rules make of what is left, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rules import CLASSES, INPUTS, RULE_CASES, STEPS, Step, batch, train

from snnrun import cli
from snnrun.errors import UsageError
from snnrun.kernels import cpu, pack, reference, unpack
from snnrun.network import Network
from snnrun.rules import Currents, SpikeTrain, StbpRule, StRsbp
from snnrun.rules.dropping import drop
from snnrun.train.training import sample_keys

MASK = (1 << 64) - 1
NAMES = ("strsbp", "strsbp-table", "hm2bp", "stbp", "slayer", "lee")
KEYS = torch.from_numpy(sample_keys(3, 2, np.arange(6)))


def lost(key: int, number: int, share: float) -> bool:
    """SplitMix64's word `number` (from 0) of a stream, in whole numbers."""
    x = (key + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return ((x ^ (x >> 31)) & 0xFFFFFFFF) < round(share * 2**32)


@pytest.mark.parametrize("backend", [reference, cpu])
@pytest.mark.parametrize(("steps", "neurons"), [(3, 5), (2, 70)])
def test_the_places_that_lose_their_spike_are_those_of_the_definition(backend, steps, neurons):
    keys = torch.tensor([0, -5, 2**61 + 1])
    spikes = (torch.rand(3, steps, neurons, generator=torch.Generator().manual_seed(0)) < 0.6).float()
    left = unpack(backend.thin(pack(spikes), keys, 0.4), neurons)
    gradient = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1))
    through = backend.thin_gradient(gradient, keys, 0.4)
    width = 64 * (-(-neurons // 64))
    for (b, t, n), spike in np.ndenumerate(spikes.numpy()):
        stays = not lost(int(keys[b]) & MASK, t * width + n, 0.4)
        assert left[b, t, n] == (spike and stays)
        assert through[b, t, n] == (gradient[b, t, n] if stays else 0.0)


@given(st.floats(0.05, 0.95), st.integers(0, 2**32))
@settings(max_examples=10)
def test_a_binomial_share_is_lost(share, seed):
    spikes = torch.ones(4, 50, 100, dtype=torch.uint8)
    keys = torch.from_numpy(sample_keys(seed, 1, np.arange(4)))
    left = int(unpack(reference.thin(pack(spikes), keys, share), 100).sum())
    assert abs(left - 20_000 * (1 - share)) < 6 * (20_000 * share * (1 - share)) ** 0.5


def made(name: str, topology: str = "9-R8", **options: float) -> Network:
    rule = dataclasses.replace(RULE_CASES[name], **options)
    topology = topology if rule.recurrent_layers else topology.replace("R", "")
    return Network(rule, inputs=INPUTS, topology=topology, outputs=CLASSES, seed=3).double()


def gradients(net: Network, spikes, labels, keys) -> list[torch.Tensor]:
    net.zero_grad()
    net.sample_loss(net(spikes, labels, keys), labels).mean().backward()
    return [parameter.grad.clone() for parameter in net.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_with_lost_inputs_is_that_of_the_trains_that_are_left(name):
    """Of a network with the weights that drive it meanwhile, times their derivative."""
    spikes, labels = batch()
    net, plain = made(name, drop_inputs=0.25), made(name)
    actual = gradients(net, spikes, labels, KEYS)
    with torch.no_grad():
        plain.layers[0].weight /= 0.75
    own = torch.from_numpy(np.stack([stream_key(int(key), 0) for key in KEYS]).view(np.int64))
    expected = gradients(plain, unpack(reference.thin(pack(spikes), own, 0.25), INPUTS), labels, None)
    expected[0] /= 0.75
    torch.testing.assert_close(actual, expected)
    assert not torch.equal(actual[0], gradients(made(name), spikes, labels, KEYS)[0])


def stream_key(key: int, number: int) -> np.uint64:
    """The key of a stream of its own."""
    x = (key + 0x9E3779B97F4A7C15 * (number + 1)) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return np.uint64(x ^ (x >> 31))


@pytest.mark.parametrize("name", ["strsbp", "hm2bp", "lee"])
def test_a_hidden_layer_gets_the_error_of_what_is_left_times_the_share_that_is_left(name):
    """For the rules on counts, layer by layer: the second is run on the thinned train, as a leaf."""
    spikes, labels = batch()
    net, plain = made(name, "9", drop_hidden=0.3), made(name, "9")
    actual = gradients(net, spikes, labels, KEYS)
    first, second = plain.layers
    hidden = plain.rule.layer(first.kind, first.weights(), train(spikes, torch.float64), None)
    own = torch.from_numpy(np.stack([stream_key(int(key), 1) for key in KEYS]).view(np.int64))
    bits = reference.thin(hidden.spikes, own, 0.3)
    counts = unpack(bits, 9).double().sum(1).requires_grad_()
    weights = second.weights()
    weights.weight = weights.weight / 0.7
    link = None if hidden.link is None else hidden.link.detach().requires_grad_()
    output = plain.rule.layer(second.kind, weights, SpikeTrain(bits, counts, link), labels)
    plain.rule.sample_loss(output, labels).mean().backward()
    kept = torch.where(hidden.counts > 0, counts / hidden.counts.clamp(min=1), 0.7).detach()
    assert 0 < kept.mean() < 1
    backward = [hidden.counts] if link is None else [hidden.counts, hidden.link]
    torch.autograd.backward(backward, [counts.grad * kept] if link is None else [counts.grad * kept, link.grad])
    torch.testing.assert_close(actual, [parameter.grad for parameter in plain.parameters()])


def test_stbp_with_lost_spikes_equals_automatic_differentiation():
    net = Network(
        StbpRule(v_th=[0.5], drop_inputs=0.2, drop_hidden=0.4), inputs=INPUTS, topology="9", outputs=CLASSES, seed=3
    ).double()
    spikes, labels = batch()
    actual = gradients(net, spikes, labels, KEYS)
    outputs = list(spikes.double().unbind(1))
    net.zero_grad()
    for number, (layer, share, size) in enumerate(zip(net.layers, (0.2, 0.4), (INPUTS, 9), strict=True)):
        own = np.stack([stream_key(int(key), number) for key in KEYS]).view(np.int64)
        stays = reference.thin_gradient(torch.ones(6, STEPS, size, dtype=torch.float64), torch.from_numpy(own), share)
        neuron = net.rule.neuron(layer.kind)
        u = o = torch.zeros(6, len(layer.weight), dtype=torch.float64)
        for t, arriving in enumerate(outputs):
            u = u * neuron.decay * (1 - o) + (arriving * stays[:, t]) @ (layer.weight / (1 - share)).T + layer.bias
            o = Step.apply(u, neuron)
            outputs[t] = o
    wanted = torch.nn.functional.one_hot(labels, CLASSES)
    (0.5 * (wanted - sum(outputs) / STEPS).square().sum(dim=1)).mean().backward()
    torch.testing.assert_close(actual, [parameter.grad for parameter in net.parameters()])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_the_mean_of_its_samples_and_evaluation_loses_nothing(name):
    spikes, labels = batch()
    net = made(name, drop_inputs=0.2, drop_hidden=0.2)
    whole = gradients(net, spikes, labels, KEYS)
    single = [gradients(net, spikes[k : k + 1], labels[k : k + 1], KEYS[k : k + 1]) for k in range(6)]
    for actual, *parts in zip(whole, *single, strict=True):
        torch.testing.assert_close(actual, torch.stack(parts).mean(dim=0))
    with torch.no_grad():
        assert torch.equal(net(spikes).scores, made(name)(spikes).scores)
        assert not torch.equal(net(spikes, labels, KEYS).layers[0].spikes, net(spikes).layers[0].spikes)


@pytest.mark.parametrize(("inputs", "hidden"), [(0.5, 0.0), (0.0, 0.5), (0.25, 0.5)])
@pytest.mark.parametrize("name", ["strsbp", "stbp"])
def test_over_a_skip_connection_each_train_loses_its_own_share(name, inputs, hidden, monkeypatch):
    """The input's spikes by drop_inputs wherever they go, with the weights of its columns alone divided."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    spikes, labels = batch()
    net = made(name, "9-8+1", drop_inputs=inputs, drop_hidden=hidden)
    layer = type(net.rule).layer

    def watched(self, kind, weights, arriving, own_labels):
        seen.append((arriving.counts.detach(), weights.weight.detach()))
        return layer(self, kind, weights, arriving, own_labels)

    monkeypatch.setattr(type(net.rule), "layer", watched)
    fired, whole = net(spikes, labels, KEYS).layers[0].counts.detach(), spikes.float().sum(1).double()
    (first, _), (joint, weight), _ = seen
    from_hidden, from_input = joint[:, :9], joint[:, 9:]
    for left, all_, share in ((first, whole, inputs), (from_input, whole, inputs), (from_hidden, fired, hidden)):
        assert (left <= all_).all()
        assert torch.equal(left, all_) is (share == 0.0)
    assert torch.equal(first, from_input) is (inputs == 0.0), "each layer loses spikes of its own"
    own = net.layers[1].weight.detach()
    torch.testing.assert_close(weight[:, :9], own[:, :9] / (1 - hidden))
    torch.testing.assert_close(weight[:, 9:], own[:, 9:] / (1 - inputs))


def test_layers_lose_other_spikes_and_a_pool_gets_all():
    spikes = torch.ones(6, 20, 9, dtype=torch.uint8)
    rule = StRsbp(v_th=[1.0])
    net = Network(rule, inputs=9, topology="9", outputs=3)
    given, weights = train(spikes), net.layers[0].weights()
    one, two = (drop([given], [0.5], weights, KEYS, number, False)[0][0] for number in (0, 1))
    assert not torch.equal(one.spikes, two.spikes)
    assert torch.equal(one.counts, unpack(one.spikes, 9).float().sum(1))
    image = {"inputs": 36, "outputs": 3, "image": (1, 6, 6)}
    rule = dataclasses.replace(rule, drop_hidden=0.5)
    pooled, plain = (Network(r, topology="2C3-P2-5", **image) for r in (rule, StRsbp(v_th=[1.0])))
    dense = (torch.rand(6, 40, 36, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    with torch.no_grad():
        some, all_ = pooled(dense, None, KEYS), plain(dense)
    assert some.counts[0].any()
    assert all(torch.equal(some.layers[k].spikes, all_.layers[k].spikes) for k in (0, 1))
    assert not torch.equal(some.layers[2].spikes, all_.layers[2].spikes)


def test_what_has_no_spikes_to_lose_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = StRsbp(v_th=[1.0], drop_inputs=0.1)
    with pytest.raises(UsageError, match=r"model.drop_inputs: the first layer of P2-5 is a pool"):
        Network(rule, inputs=16, topology="P2-5", outputs=3, image=(1, 4, 4))
    net = Network(rule, inputs=4, topology="5", outputs=3)
    with pytest.raises(UsageError, match=r"model.drop_inputs: currents have no spikes"):
        net(Currents(torch.ones(1, 1, 4), 10), torch.tensor([0]), KEYS[:1])
    common = ["train", "tracking=none", f"outputs={tmp_path}", "data.limit=20"]
    for more, says in (
        (["encoder=direct", "model.drop_inputs=0.1"], "model.drop_inputs: encoder=direct makes currents"),
        (["model.drop_hidden=1"], "model.drop_hidden: 1 is out of range"),
    ):
        assert cli.main([*common, *more]) == 2
        assert says in capsys.readouterr().err
