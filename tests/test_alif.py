"""STBP's neurons that adapt or have time constants of their own: derivatives, backends, where they begin."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_constants import varied
from test_rules import CLASSES, INPUTS, batch, network
from torch import Tensor
from torch.nn import functional

from snnrun import kernels
from snnrun.compiled import parallel
from snnrun.kernels import Alif, Stbp, cpu, pack, reference, unpack
from snnrun.kernels.checks import alif as checks
from snnrun.kernels.checks import currents
from snnrun.network import Network
from snnrun.rules import Currents, SpikeTrain, StbpRule

ADAPTIVE: dict[str, Any] = {
    "v_th": [0.5],
    "decay": 0.6,
    "surrogate": "polynomial",
    "surrogate_width": 0.5,
    "adaptation": "threshold",
    "tau_adaptation": 5.0,
    "train_constants": "all",
}


class Step(torch.autograd.Function):
    """The step function with a polynomial surrogate of width a."""

    @staticmethod
    def forward(ctx, u, v_th, a):
        ctx.save_for_backward(u)
        ctx.how = v_th, a
        return (u >= v_th).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        [u] = ctx.saved_tensors
        v_th, a = ctx.how
        return grad * (math.sqrt(a) / 2 - a / 4 * (u - v_th).abs()).clamp(min=0.0), None, None


def drive_of(layer: Any, x: Tensor) -> Tensor:
    """Weighted inputs (B, T, N) of a layer, its thresholds trained; biases included."""
    weight, bias = layer.weight / layer.threshold.reshape(-1, *[1] * (layer.weight.dim() - 1)), layer.bias
    if (window := layer.kind.window) is None:
        if layer.kind.average is not None:
            side = layer.kind.average
            maps = x.reshape(-1, side.channels, side.rows, side.columns)
            x = functional.avg_pool2d(maps, side.height).reshape(*x.shape[:2], -1)
        return x @ weight.T + bias / layer.threshold
    maps = x.reshape(-1, window.channels, window.rows, window.columns)
    return functional.conv2d(maps, weight, bias / layer.threshold).reshape(*x.shape[:2], -1)


def by_autograd(rule: StbpRule, net: Network, x: Tensor) -> Tensor:
    """Counts of the output from inputs (B, T, I), in plain PyTorch, from the equations alone."""
    for layer in net.layers:
        drive = drive_of(layer, x)
        neurons = drive.shape[2]
        tau_m = layer.tau_m.repeat_interleave(neurons // len(layer.tau_m)) / (1.0 - rule.decay)
        decay, strength, rho = 1.0 - 1.0 / tau_m, 0.0, torch.zeros(())
        if (tau := layer.tau_adaptation) is not None:
            strength = rule.adaptation_strength
            rho = 1.0 - 1.0 / (tau.repeat_interleave(neurons // len(tau)) * rule.tau_adaptation)
        u = o = a = torch.zeros_like(drive[:, 0])
        out = []
        for t in range(drive.shape[1]):
            kept = decay * torch.exp(-o / decay) if rule.reset == "exponential" else decay * (1.0 - o)
            u, a = u * kept + drive[:, t], rho * a + (1.0 - rho) * o
            if layer.recurrent_weight is not None:
                u = u + o @ (layer.recurrent_weight / layer.threshold[:, None]).T
            o = Step.apply(u - rule.v_th[0] * strength * a, rule.v_th[0], rule.surrogate_width)
            out.append(o)
        x = torch.stack(out, dim=1)
    return x.sum(dim=1)


@pytest.mark.parametrize("adaptation", ["threshold", "none"])
@pytest.mark.parametrize(
    ("topology", "reset", "by", "by_currents"),
    [
        ("9-R8", "hard", "neuron", False),
        ("9-R8", "exponential", "layer", True),
        ("3C2-P2-R8", "hard", "neuron", False),
        ("R9-8", "exponential", "neuron", False),
        ("2C2-8", "hard", "layer", True),
    ],
)
def test_the_derivatives_are_those_of_autograd(topology, reset, by, by_currents, adaptation):
    rule = StbpRule(reset=reset, time_constants_by=by, **ADAPTIVE | {"adaptation": adaptation})
    shape: dict[str, Any] = {"inputs": INPUTS, "topology": topology, "outputs": CLASSES, "image": (1, 3, 4)}
    net = varied(Network(rule, seed=3, **shape).double())
    with torch.no_grad():
        for layer in net.layers:
            layer.bias.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(1))
    spikes, labels = batch()
    given = Currents(spikes.double()[:, ::20].contiguous(), spikes.shape[1]) if by_currents else spikes
    shown = given.values.repeat_interleave(20, dim=1) if isinstance(given, Currents) else spikes.double()
    net.sample_loss(net(given, labels), labels).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net.zero_grad()
    counts = by_autograd(rule, net, shown)
    assert torch.equal(counts, net(given).output.counts)
    rule.sample_loss(SpikeTrain(pack(torch.zeros(len(counts), spikes.shape[1], 1)), counts), labels).sum().backward()
    assert ("layers.0.tau_adaptation" in found) == (adaptation == "threshold")
    assert "layers.2.tau_adaptation" not in found, "outputs do not adapt"
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12, msg=name)
        assert found[name].abs().max() > 0, name


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["9-R70", "3C2-P2-R8"])
@pytest.mark.parametrize("surrogate", ["rectangle", "gaussian"])
def test_the_compiled_loops_give_the_same_by_any_number_of_threads(topology, surrogate):
    rule = StbpRule(time_constants_by="neuron", **ADAPTIVE | {"surrogate": surrogate})
    shape: dict[str, Any] = {"inputs": INPUTS, "topology": topology, "outputs": CLASSES, "image": (1, 3, 4), "seed": 3}
    spikes, labels = batch(9)
    found = {}
    for backend, threads in (("reference", 1), ("cpu", 1), ("cpu", 2), ("cpu", 3)):
        kernels.use(backend)
        parallel.set_threads(threads)
        net = varied(Network(rule, **shape))
        activity = net(spikes, labels)
        net.sample_loss(activity, labels).sum().backward()
        found[backend, threads] = [train.spikes for train in activity.layers], [p.grad for p in net.parameters()]
    parallel.set_threads(1)
    for ours, theirs in zip(*(found[each, 1][0] for each in ("cpu", "reference")), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(*(found[each, 1][1] for each in ("cpu", "reference")), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for threads in (2, 3):
        for ours, theirs in zip(found["cpu", threads][1], found["cpu", 1][1], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("options", checks.CHECKS[0][1], ids=lambda each: each["neuron"].surrogate)
@pytest.mark.parametrize("case", currents.CASES)
def test_the_compiled_loops_are_the_references(options, case):
    result = checks.check_alif_scan(cpu, "cpu", case, **options)
    assert result.passed, result


@given(st.integers(1, 3), st.integers(1, 20), st.sampled_from([1, 16, 65, 130]), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_spikes_at_the_threshold_are_the_references(batch_size, steps, neurons, strict, loop):
    """Eighths and halves of them are exact, and often exactly the threshold: no neuron may differ."""
    generator = torch.Generator().manual_seed(steps * neurons)
    drive = torch.randint(-4, 7, (batch_size, steps, neurons), generator=generator) / 8
    recurrent = torch.randint(-2, 3, (neurons, neurons), generator=generator) / 8 if loop else None
    alif = Alif(torch.full((neurons,), 0.5), torch.full((neurons,), 0.5), 1.0)
    arguments = (drive, recurrent, alif, Stbp(0.5, 0.0, strict=strict), steps)
    for actual, expected in zip(cpu.alif_scan(*arguments), reference.alif_scan(*arguments), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("topology", ["9-R8", "3C2-P2-R8"])
def test_neurons_begin_as_those_of_the_layer_and_its_gradient_is_the_sum_of_theirs(topology):
    spikes, labels = batch()
    found = {}
    for by in ("layer", "neuron"):
        rule = StbpRule(v_th=[0.5], decay=0.6, train_constants="time_constants", time_constants_by=by)
        shape: dict[str, Any] = {"inputs": INPUTS, "topology": topology, "outputs": CLASSES, "image": (1, 3, 4)}
        net = Network(rule, seed=3, **shape).double()
        activity = net(spikes, labels)
        net.sample_loss(activity, labels).sum().backward()
        found[by] = net, activity
    for ours, theirs in zip(*(found[by][1].layers for by in found), strict=True):
        assert torch.equal(ours.spikes, theirs.spikes)
    for one, each in zip(*(found[by][0].layers for by in found), strict=True):
        torch.testing.assert_close(one.weight.grad, each.weight.grad, rtol=1e-6, atol=1e-9)
        assert len(each.tau_m) == len(each.weight)
        torch.testing.assert_close(one.tau_m.grad, each.tau_m.grad.sum().reshape(1), rtol=1e-6, atol=1e-9)


def test_adaptation_makes_a_neuron_fire_less_and_less():
    """With a constant input that fires a plain neuron in every step, by the recursion in three lines of Python."""
    rule = StbpRule(v_th=[0.5], decay=0.0, adaptation="threshold", tau_adaptation=4.0, adaptation_strength=3.0)
    net = Network(rule, inputs=1, topology="1", outputs=1)
    with torch.no_grad():
        net.layers[0].weight.fill_(1.0), net.layers[0].bias.zero_()
    fired = unpack(net(torch.ones(1, 40, 1)).layers[0].spikes, 1)[0, :, 0].tolist()
    a, o, wanted = 0.0, 0.0, []
    for _ in range(40):
        a = 0.75 * a + 0.25 * o
        o = float(0.5 * (1.0 + 3.0 * a) <= 1.0)
        wanted.append(o)
    assert fired == wanted
    assert 4 < sum(fired) < 30


def test_pytorch_exports_adaptive_neurons_with_time_constants_of_their_own():
    spikes, _ = batch()
    net = Network(StbpRule(time_constants_by="neuron", **ADAPTIVE), inputs=INPUTS, topology="9", outputs=CLASSES)
    net.requires_grad_(False)
    exported = torch.export.export(net, (pack(spikes),))
    assert torch.equal(exported.module()(pack(spikes)).output.counts, net(spikes).output.counts)


def test_an_adaptation_stays_an_adaptation():
    rule = StbpRule(**ADAPTIVE | {"constants_range": 1e6})
    net = network(rule)
    for value, tau in ((1e-9, 1.0 / 0.99), (1e9, 1e4)):
        with torch.no_grad():
            net.layers[0].tau_adaptation.fill_(value)
        net.constrain()
        assert net.figures()["tau_adaptation/hidden1"] == pytest.approx(tau)
        assert net.layers[2].tau_adaptation is None
