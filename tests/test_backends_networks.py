"""Whole networks by the cpu kernels against the reference: the same gradients, whatever the batch and the threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import assert_close
from torch import Tensor

from snnrun import encoders, kernels
from snnrun.compiled import parallel
from snnrun.data import Dataset, Split
from snnrun.kernels import pack
from snnrun.kernels.cpu.arrays import LARGE, pieces_of
from snnrun.network import Network
from snnrun.rules import Hm2Bp, LeeRule, SlayerRule, StbpRule, StRsbp
from snnrun.train import engine, hardware

CPU = torch.device("cpu")


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
