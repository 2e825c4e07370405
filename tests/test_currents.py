"""Currents instead of spikes: against loops on floats of 64 bits, and what must hold whatever the numbers are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import simulation as by_hand
import torch
from torch import Tensor

from snnrun import kernels
from snnrun.compiled import parallel
from snnrun.errors import UsageError
from snnrun.kernels import Window
from snnrun.kernels.checks import currents as checks
from snnrun.network import Network
from snnrun.rules import Currents, Hm2Bp, LayerKind, LayerWeights, Rule, StbpRule, StRsbp
from snnrun.rules.stbp import spread

STEPS, SAMPLES, INPUTS, NEURONS = 30, 3, 8, 6
SMALL = {"desired": 8.0, "undesired": 1.0, "margin": 1.0, "tau_m": 20.0}
RULES: dict[str, Rule] = {
    "strsbp": StRsbp(v_th=[0.7], **SMALL),
    "strsbp-counts": StRsbp(v_th=[0.7], slope="counts", **SMALL),
    "hm2bp": Hm2Bp(v_th=[0.7], **SMALL),
    "stbp": StbpRule(v_th=[0.5], decay=0.6),
}
BACKENDS = {"reference": torch.float64, "cpu": torch.float32}
WINDOW = Window(2, 3, 4, 3, 2, 2)
DENSE, CONVOLVED = LayerKind(0, False, False), LayerKind(0, False, False, WINDOW)


def drawn(count: int, inputs: int, seed: int = 0) -> Tensor:
    """Currents of which a third are 0, exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(SAMPLES, count, inputs, generator=generator)
    return torch.where(torch.rand(inputs, generator=generator) < 0.3, 0.0, 0.4 * values).double()


def by_step(values: Tensor) -> np.ndarray:
    """The current of each step, (B, T, I)."""
    return values.numpy()[:, [t * values.shape[1] // STEPS for t in range(STEPS)]]


def by_loops(
    rule: Rule, seen, weight: np.ndarray, bias: np.ndarray, values: np.ndarray, error: np.ndarray, slack: float
):
    """Spikes (T, N) and the weight gradient of one sample."""
    if isinstance(rule, StbpRule):
        spikes, membrane = by_hand.stbp_forward(seen, weight, bias, values, rule.v_th[0], rule.decay)
        above = np.tile(error, (STEPS, 1))
        return spikes, by_hand.stbp_backward(
            seen, weight, values, spikes, membrane, above, rule.v_th[0], rule.decay, "rectangle", 1.0
        )[0]
    neuron = by_hand.Neuron(rule.v_th[0], rule.tau_m, rule.tau_s, rule.t_ref)
    spikes, _ = by_hand.fire(seen, weight, values, neuron, None, slack)
    if isinstance(rule, Hm2Bp):
        return spikes, by_hand.hm2bp_backward(seen, weight, values, spikes, error, neuron)[0]
    gradient, _, _ = by_hand.strsbp_backward(seen, weight, values, spikes, error, neuron, silent=0.0)
    if rule.slope == "counts":  # 1 / D_i = 1 + (1 / v_th) sum_j w_ij e_ij / n_i, for each neuron
        e, n = by_hand.effects("strsbp", seen, values, spikes, neuron), spikes.sum(0)
        gradient = np.zeros(weight.shape)
        for i, synapses in enumerate(seen):
            a = sum(weight[key] * e[i][s] for s, (_, key) in enumerate(synapses))
            for s, (_, key) in enumerate(synapses):
                gradient[key] += error[i] / neuron.v_th * e[i][s] * (1 + a / neuron.v_th / max(n[i], 1))
    return spikes, gradient


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 7, STEPS])
@pytest.mark.parametrize("kind", [DENSE, CONVOLVED], ids=["dense", "convolution"])
@pytest.mark.parametrize("name", RULES)
def test_a_layer_is_that_of_loops(name, kind, count, backend):
    """Spikes are the same and weight gradients to 1e-5 of the largest."""
    kernels.use(backend)
    rule, dtype, dense = RULES[name], BACKENDS[backend], kind.window is None
    inputs = INPUTS if dense else WINDOW.inputs
    seen = by_hand.dense(NEURONS, inputs) if dense else by_hand.convolution(2, 3, 4, 3, 2)
    shape = (NEURONS, inputs) if dense else (3, 2, 2, 2)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator).double() * 1.5
    bias = torch.rand(shape[0], generator=generator).double() * 0.1 if name == "stbp" else torch.zeros(shape[0])
    values, error = drawn(count, inputs), torch.randn(SAMPLES, len(seen), generator=generator).double()

    leaf = weight.to(dtype, copy=True).requires_grad_()
    weights = LayerWeights(leaf, bias=bias.to(dtype) if name == "stbp" else None)
    train = rule.layer(kind, weights, Currents(values.to(dtype), STEPS), None)
    (train.counts * error.to(dtype)).sum().backward()

    spikes, expected = kernels.unpack(train.spikes, len(seen)).numpy(), np.zeros(shape)
    by_neuron = np.repeat(bias.numpy(), len(seen) // len(bias))
    for b in range(SAMPLES):
        own, gradient = by_loops(
            rule, seen, weight.numpy(), by_neuron, by_step(values)[b], error[b].numpy(), 1e-6 if dense else 0.0
        )
        assert np.array_equal(own, spikes[b])
        expected += gradient
    assert spikes.any()
    assert np.abs(expected).max() > 0.01
    assert np.abs(leaf.grad.double().numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def outcome(net: Network, inputs: Tensor | Currents) -> tuple[list[Tensor], list[Tensor]]:
    """Bits of the spikes of every layer, and all gradients."""
    net.zero_grad()
    activity = net(inputs, torch.arange(SAMPLES))
    net.rule.sample_loss(activity.output, torch.arange(SAMPLES)).mean().backward()
    return [train.spikes for train in activity.layers], [parameter.grad.clone() for parameter in net.parameters()]


TOPOLOGIES = {"7": None, "R9-5": None, "3C2-P2-6": (1, 4, 6), "P2-R5": (1, 4, 6), "": None}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("name", RULES)
def test_currents_of_0_and_1_are_spikes(name, topology, backend):
    """All that comes after the drive is the same, recurrent layers and pools included."""
    kernels.use(backend)
    net = Network(RULES[name], inputs=24, topology=topology, outputs=3, image=TOPOLOGIES[topology]).to(
        BACKENDS[backend]
    )
    spikes = torch.rand(SAMPLES, STEPS, 24, generator=torch.Generator().manual_seed(0)) < 0.3
    (trains, gradients), (others, derived) = outcome(net, spikes), outcome(net, Currents(spikes.float(), STEPS))
    assert trains[0].any()
    assert all(torch.equal(a, b) for a, b in zip(trains, others, strict=True))
    for a, b in zip(gradients, derived, strict=True):
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()


@pytest.mark.parametrize("name", RULES)
def test_a_constant_current_is_one_that_does_not_change(name):
    kernels.use("cpu")
    net = Network(RULES[name], inputs=9, topology="R20", outputs=3)
    values = drawn(1, 9).float()
    once, often = (Currents(values.expand(-1, count, -1), STEPS) for count in (1, STEPS))
    (trains, gradients), (others, derived) = outcome(net, once), outcome(net, often)
    assert all(torch.equal(a, b) for a, b in zip(trains, others, strict=True))
    for a, b in zip(gradients, derived, strict=True):
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()


@pytest.mark.parametrize("name", RULES)
def test_threads_and_the_batch_change_nothing(name):
    kernels.use("cpu")
    net = Network(RULES[name], inputs=9, topology="70-R20", outputs=3)
    values = drawn(4, 9).float()
    trains, gradients = outcome(net, Currents(values, STEPS))
    for threads in (2, 3):
        parallel.set_threads(threads)
        others, derived = outcome(net, Currents(values, STEPS))
        assert all(torch.equal(a, b) for a, b in zip([*trains, *gradients], [*others, *derived], strict=True))
    with torch.no_grad():
        alone = [net(Currents(values[[b]], STEPS)).output.spikes for b in range(SAMPLES)]
    assert torch.equal(torch.cat(alone), trains[-1])


@pytest.mark.parametrize("case", checks.CASES, ids=str)
def test_the_compiled_kernels_are_the_reference(case):
    from snnrun.kernels import cpu

    results = [check(cpu, "cpu", case, **options) for check, variants in checks.CHECKS for options in variants]
    assert [result for result in results if not result.passed] == []


def test_weights_after_an_average_pool_are_spread():
    """The first layer of STBP behind a pool gets the mean of each square of currents."""
    rule = RULES["stbp"]
    net = Network(rule, inputs=24, topology="P2-5", outputs=3, image=(1, 4, 6)).double()
    values = 6 * drawn(1, 24)
    spread_over = Network(rule, inputs=24, topology="5", outputs=3).double()
    state = net.state_dict()
    state["layers.0.weight"] = spread(net.layers[0].weight.detach(), net.layers[0].kind.average)
    spread_over.load_state_dict(state)
    with torch.no_grad():
        a, b = (each(Currents(values, STEPS)) for each in (net, spread_over))
    assert all(torch.equal(x.spikes, y.spikes) for x, y in zip(a.layers, b.layers, strict=True))
    assert a.layers[0].counts.any()


def test_inputs_that_do_not_fit_are_refused():
    net = Network(RULES["strsbp"], inputs=4, topology="5", outputs=3)
    for shape, steps in ((2, 1, 5), 9), ((2, 4), 9), ((2, 10, 4), 9), ((2, 0, 4), 9):
        with pytest.raises(ValueError, match="do not fit a network of 4 inputs"):
            net(Currents(torch.rand(shape), steps))
    with pytest.raises(ValueError, match=r"spikes are 0 or 1.*Currents"):
        net(torch.full((2, 9, 4), 0.5))
    table = Network(StRsbp(v_th=[1.0], slope="table"), inputs=4, topology="5", outputs=3)
    with pytest.raises(UsageError, match=r"model.slope=table counts input spikes.*none or counts"):
        table(Currents(torch.rand(2, 1, 4), 9))

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(StRsbp):
        refuses_currents = Rule.refuses_currents

    with pytest.raises(UsageError, match=r"takes spikes alone.*encoder=regular"):
        Network(Other(v_th=[1.0]), inputs=4, topology="5", outputs=3)(Currents(torch.rand(2, 1, 4), 9))


@pytest.mark.parametrize("name", ["strsbp", "stbp"])
@torch.no_grad()
def test_an_exported_network_takes_currents(name):
    net = Network(RULES[name], inputs=8, topology="9-R8", outputs=4)
    given = Currents(drawn(1, 8).float(), STEPS)
    program = torch.export.export(net, (given,))
    assert torch.equal(program.module()(given).output.counts, net(given).output.counts)
