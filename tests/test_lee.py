"""Backpropagation on membrane potentials against its equations, synapse by synapse in plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from connections import make_it_fire, synapses

from snnrun import kernels
from snnrun.errors import UsageError
from snnrun.kernels import pack, unpack
from snnrun.network import Network
from snnrun.nir import graph
from snnrun.rules import LeeRule, SlayerRule, SpikeTrain

STEPS = 25


class Paper:
    """A network of a sample by the equations; potentials, errors and factors one by one."""

    def __init__(self, net: Network, spikes: torch.Tensor, label: int) -> None:
        self.net, self.rule, self.label = net, net.rule, label
        self.trains = [spikes.T.tolist()]
        self.lists = synapses(net)
        for layer, found in zip(net.layers, self.lists, strict=True):
            self._forward(layer, found)

    def _thresholds(self, layer) -> list[float]:
        window = layer.kind.window
        first = self.rule.initial_threshold(layer.kind, layer.weight[0].numel())
        return [
            first * layer.threshold[i if window is None else i // (window.neurons // window.kernels)].item()
            for i in range(len(layer.weight) if window is None else window.neurons)
        ]

    def _strength(self, layer) -> float:
        return self.rule.inhibition if layer.kind.window is None else 0.0

    def _forward(self, layer, found) -> None:
        th, before = self._thresholds(layer), self.trains[-1]
        v, last = [0.0] * len(th), [-math.inf] * len(th)
        trains = [[0.0] * STEPS for _ in th]
        for t in range(STEPS):
            arriving = [0.0] * len(th)
            for s in found:
                arriving[s.post] += s.share * layer.weight[s.place].item() * before[s.pre][t]
            for i in range(len(th)):
                open_ = min(1.0, ((t - last[i]) / self.rule.t_ref) ** 2) if self.rule.t_ref else 1.0
                v[i] = max(v[i] * math.exp(-1 / self.rule.tau_m) + open_ * arriving[i], -th[i])
                if v[i] >= th[i]:
                    v[i] -= th[i]
                    trains[i][t] = 1.0
            for i in range(len(th)):
                others = sum(trains[j][t] for j in range(len(th)) if j != i)
                v[i] = max(v[i] - self._strength(layer) * th[i] * others, -th[i])
                if trains[i][t]:
                    last[i] = t
        self.trains.append(trains)

    def _trace(self, train: list[float]) -> float:
        return sum(math.exp(-(STEPS - 1 - t) / self.rule.tau_m) for t in range(STEPS) if train[t])

    def gradients(self) -> dict[str, torch.Tensor]:
        net = self.net
        grads = {name: torch.zeros_like(parameter) for name, parameter in net.named_parameters()}
        counts = [sum(train) for train in self.trains[-1]]
        e = [n / max(1.0, *counts) - (i == self.label) for i, n in enumerate(counts)]
        for number in range(len(net.layers) - 1, -1, -1):
            e = self._backward(number, e, grads)
        return grads

    def _backward(self, number: int, e: list[float], grads) -> list[float]:
        layer, rule, found = self.net.layers[number], self.rule, self.lists[number]
        th, own, before = self._thresholds(layer), self.trains[number + 1], self.trains[number]
        neurons, inputs = len(th), len(before)
        active = [i for i in range(neurons) if layer.kind.output or any(own[i])]
        c = rule.efficacy * self._strength(layer)
        # a + c (sum of the others' a) = s / th, among the neurons that fire: d(a)/d(s) by a matrix and its inverse.
        system = torch.eye(len(active), dtype=torch.float64) * (1 - c) + c
        jacobian = torch.linalg.inv(system) / torch.tensor([th[i] for i in active], dtype=torch.float64)
        sent = torch.tensor([e[i] for i in active], dtype=torch.float64) @ jacobian
        delta = [0.0] * neurons
        for place, i in enumerate(active):
            delta[i] = sent[place].item()
        x, a = [self._trace(train) for train in before], [self._trace(train) for train in own]
        kernels_, side = len(layer.weight), round(found[0].share ** -0.5)
        m_all = layer.weight[0].numel()  # M
        if rule.normalise:
            rms = math.sqrt(sum(th[i] ** -2 for i in active) / len(active))
            delta = [value / rms for value in delta]
            reached = len(active) * m_all / (inputs / side**2)
            seen = sum(1 for value in x if value) / inputs * m_all * (neurons // kernels_)
            to_error = side**2 * math.sqrt(m_all / max(1.0, reached))
            to_weight = math.sqrt(kernels_ / max(1.0, seen))
            to_threshold = math.sqrt(kernels_ / (max(1.0, seen) * m_all))
        else:
            to_error = to_weight = to_threshold = 1.0
        first = rule.initial_threshold(layer.kind, m_all)
        below, name = [0.0] * inputs, f"layers.{number}."
        for s in found:
            grads[name + "weight"][s.place] += to_weight * delta[s.post] * s.share * x[s.pre]
            below[s.pre] += to_error * delta[s.post] * s.share * layer.weight[s.place].item()
        counts = [sum(train) for train in own]
        for i in range(neurons):
            kernel = i // (neurons // kernels_)
            others = sum(a) - a[i]
            grads[name + "threshold"][kernel] -= first * to_threshold * delta[i] * (a[i] + c * others)
            share = first * rule.balance * kernels_ / (neurons // kernels_)
            grads[name + "threshold"][kernel] -= share * (counts[i] - sum(counts) / neurons)
        return below


CASES = {
    "dense": ("7-6", {"balance": 0.01}, None),
    "plain": ("7-6", {"normalise": False, "t_ref": 4.0, "inhibition": 0.0, "balance": 0.0}, None),
    "refractory": ("7", {"t_ref": 3.0, "tau_m": 8.0, "inhibition": 0.3, "efficacy": 0.9}, None),
    "images": ("3C2-P2-4C2-5", {"balance": 0.02}, (2, 6, 7)),
    "average last": ("3C2p1-P2", {}, (1, 5, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_spikes_and_gradients_are_the_papers(case):
    """Of the whole network, in float64: every spike, and the gradient of each weight and threshold."""
    topology, options, image = CASES[case]
    rule = LeeRule(v_th=[1.5], **options)
    inputs = 8 if image is None else math.prod(image)
    net = Network(rule, inputs=inputs, topology=topology, outputs=3, seed=5, image=image).double()
    generator = torch.Generator().manual_seed(4)
    spikes = (torch.rand(1, STEPS, inputs, generator=generator) < 0.4).double()
    spikes[:, :, 1] = 0
    with torch.no_grad():
        for layer in net.layers:
            layer.threshold.mul_(0.6 + torch.rand(layer.threshold.shape, generator=generator))

    make_it_fire(net, spikes)
    label = torch.tensor([1])
    activity = net(spikes, label)
    rule.sample_loss(activity.output, label).sum().backward()
    paper = Paper(net, spikes[0], 1)
    for train, wanted in zip(activity.layers, paper.trains[1:], strict=True):
        fired = unpack(train.spikes, len(wanted))[0].T
        assert fired.tolist() == wanted
        assert 0 < fired.sum() < fired.numel()
    wanted = paper.gradients()
    for name, parameter in net.named_parameters():
        assert wanted[name].any(), name
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-8, atol=1e-11)


def test_weights_decay_exponentially_in_their_square_sum():
    """The derivative of lambda/2 exp(beta (sum w^2 - 1)), by automatic differentiation, also of a kernel."""
    rule = LeeRule(v_th=[3.0], regulariser=0.03, regulariser_beta=2.0)
    net = Network(rule, inputs=25, topology="2C3-4", outputs=3, image=(1, 5, 5)).double()
    wanted = []
    for layer in net.layers:
        layer.weight.data *= 1.3
        square = layer.weight.flatten(1).square().sum(1)
        expected = torch.autograd.grad((0.015 * torch.exp(2.0 * (square - 1))).sum(), layer.weight)[0]
        layer.weight.grad = torch.zeros_like(layer.weight)
        wanted.append(expected)
    net.add_weight_penalty()
    for layer, expected in zip(net.layers, wanted, strict=True):
        torch.testing.assert_close(layer.weight.grad, expected)


def test_what_a_threshold_would_fall_below_its_bound_is_added_to_the_weights():
    rule = LeeRule(v_th=[4.0], least_threshold=0.5)
    net = Network(rule, inputs=12, topology="", outputs=3)
    layer = net.layers[0]
    assert layer.threshold.tolist() == [1.0] * 3
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.threshold.copy_(torch.tensor([0.25, 0.5, 5.0]))
    net.constrain()
    assert layer.threshold.tolist() == [0.5, 0.5, 5.0]
    added = torch.tensor([0.25 * 4.0 * math.sqrt(3 / 12), 0.0, 0.0])
    torch.testing.assert_close(layer.weight, before + added[:, None])
    assert net.synapses() == 12 * 3 + 3


def test_thresholds_do_not_decay_as_weights_do():
    net = Network(LeeRule(v_th=[4.0]), inputs=12, topology="5", outputs=3)
    assert net.apart() == {layer.threshold: 1.0 for layer in net.layers}


def test_thresholds_are_balanced_in_proportion_to_a_samples_weight():
    """Two samples of weight 1/2 move them as the mean of both."""
    net = Network(LeeRule(v_th=[1.0], balance=0.1), inputs=6, topology="5", outputs=2).double()
    spikes = (torch.rand(2, 20, 6, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    labels = torch.tensor([0, 1])
    found = []
    for part in ([0], [1], [0, 1]):
        net.zero_grad()
        net.rule.sample_loss(net(spikes[part], labels[part]).output, labels[part]).mean().backward()
        found.append(net.layers[0].threshold.grad.clone())
    torch.testing.assert_close(found[2], (found[0] + found[1]) / 2)


def test_silent_outputs_have_an_error_too():
    net = Network(LeeRule(v_th=[100.0]), inputs=4, topology="", outputs=3)
    output = net(torch.ones(1, 5, 4)).output
    assert not output.counts.any()
    net.rule.sample_loss(output, torch.tensor([2])).sum().backward()
    assert (net.layers[0].weight.grad[2] < 0).all()
    counts = torch.tensor([[4.0, 2.0, 0.0]], requires_grad=True)
    net.rule.sample_loss(SpikeTrain(pack(torch.zeros(1, 5, 3)), counts), torch.tensor([2])).sum().backward()
    assert counts.grad.tolist() == [[1.0, 0.5, -1.0]]


def test_recurrent_layers_are_refused(capsys):
    with pytest.raises(UsageError, match=r"model.network: R30 is recurrent.*Write 30"):
        Network(LeeRule(v_th=[3.0]), inputs=4, topology="20-R30", outputs=2)
    from snnrun import cli

    assert cli.main(["train", "model=lee", "model.network=R30", "tracking=none"]) == 2
    assert "model.network: R30 is recurrent" in capsys.readouterr().err


@pytest.mark.parametrize("rule", [LeeRule(v_th=[3.0]), SlayerRule(v_th=[1.0])], ids=["lee", "slayer"])
def test_a_graph_of_these_neurons_is_refused(rule):
    net = Network(rule, inputs=4, topology="3", outputs=2)
    with pytest.raises(UsageError, match=r"neurons of (LeeRule|SlayerRule) are not mapped to NIR. Use --format saf"):
        graph.graph_of(net, None, dt=1e-3)


def test_the_cpu_kernels_have_the_references_gradients():
    grads = []
    generator = torch.Generator().manual_seed(0)
    spikes, labels = pack(torch.rand(3, 30, 128, generator=generator) < 0.3), torch.tensor([0, 1, 2])
    for backend in ("reference", "cpu"):
        kernels.use(backend)
        rule = LeeRule(v_th=[1.5])
        net = Network(rule, inputs=128, topology="3C3-P2-70", outputs=3, image=(2, 8, 8))
        rule.sample_loss(net(spikes, labels).output, labels).mean().backward()
        grads.append([parameter.grad for parameter in net.parameters()])
    for expected, actual in zip(*grads, strict=True):
        assert expected.any()
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
