"""SLAYER against the paper's equations, spike by spike in plain loops, and its options."""

from __future__ import annotations

import math

import pytest
import torch
from connections import make_it_fire, synapses

from snnrun import kernels
from snnrun.errors import UsageError
from snnrun.kernels import pack, unpack
from snnrun.network import Network
from snnrun.rules import SlayerRule, SpikeTrain

STEPS = 22
BASE = {"v_th": [1.0], "tau_s": 3.0, "tau_r": 1.5, "desired": 9.0, "undesired": 1.0, "init_scale": 1.5}


class Paper:
    """A network by the equations: responses a = eps * s, potentials u = W a + nu * s, errors delta = rho (eps . e)."""

    def __init__(self, net: Network, spikes: torch.Tensor, label: int) -> None:
        self.net, self.rule, self.label = net, net.rule, label
        self.eps = [t / self.rule.tau_s * math.exp(1 - t / self.rule.tau_s) for t in range(2 * STEPS)]
        self.trains = [spikes.T.tolist()]  # by layer, neuron, step
        self.responses: list[list[list[float]]] = []
        self.potentials: list[list[list[float]]] = []
        self.lists = synapses(net)
        for layer, found in zip(net.layers, self.lists, strict=True):
            self._forward(layer, found)

    def _nu(self, t: int) -> float:
        rule = self.rule
        shape = (
            math.exp(-t / rule.tau_r)
            if rule.refractory == "exponential"
            else t / rule.tau_r * math.exp(1 - t / rule.tau_r)
        )
        return -rule.refractory_scale * rule.v_th[0] * shape

    def _weight(self, layer, place: tuple[int, ...]) -> float:
        return 1.1 * self.rule.v_th[0] if layer.kind.pool else layer.weight[place].item()

    def _delay(self, layer, j: int) -> int:
        return 0 if layer.delay is None else math.floor(layer.delay[j].item())

    def _filtered(self, train: list[float], delay: int = 0) -> list[float]:
        return [
            sum(self.eps[t - f - delay] for f in range(STEPS) if train[f] and t - f - delay >= 0) for t in range(STEPS)
        ]

    def _forward(self, layer, found) -> None:
        before = self.trains[-1]
        a = [self._filtered(train, self._delay(layer, j)) for j, train in enumerate(before)]
        neurons = layer.kind.window.neurons if layer.kind.window else len(layer.weight)
        u = [[0.0] * STEPS for _ in range(neurons)]
        s = [[0.0] * STEPS for _ in range(neurons)]
        for synapse in found:
            for t in range(STEPS):
                u[synapse.post][t] += self._weight(layer, synapse.place) * a[synapse.pre][t]
        for t in range(STEPS):
            for i in range(neurons):
                u[i][t] += sum(self._nu(t - f) for f in range(t) if s[i][f])
                if layer.recurrent_weight is not None:
                    for p in range(neurons):
                        w = layer.recurrent_weight[i, p].item()
                        u[i][t] += w * sum(self.eps[t - f] for f in range(t) if s[p][f])
                if u[i][t] >= self.rule.v_th[0]:
                    s[i][t] = 1.0
        self.responses.append(a)
        self.potentials.append(u)
        self.trains.append(s)

    def gradients(self) -> dict[str, torch.Tensor]:
        net, rule = self.net, self.rule
        grads = {name: torch.zeros_like(parameter) for name, parameter in net.named_parameters()}
        start, stop = rule.count_from, rule.count_to or STEPS
        e = [[0.0] * STEPS for _ in range(net.sizes[-1])]
        for i, train in enumerate(self.trains[-1]):
            wanted = rule.desired if i == self.label else rule.undesired
            for t in range(start, stop):
                e[i][t] = (sum(train[start:stop]) - wanted) / (stop - start)
        delays = [0] * net.sizes[-1]  # of the outputs' own response
        for number in range(len(net.layers) - 1, -1, -1):
            e, delays = self._backward(number, e, delays, grads)
        return grads

    def _backward(self, number: int, e, delays, grads):
        layer, rule, v_th = self.net.layers[number], self.rule, self.rule.v_th[0]
        u, a, reach = self.potentials[number], self.responses[number], self.rule.surrogate_width * self.rule.v_th[0]
        neurons = len(u)
        own, delta = [row[:] for row in e], [[0.0] * STEPS for _ in range(neurons)]
        loop = layer.recurrent_weight
        from_loop = [[0.0] * STEPS for _ in range(neurons)]  # the error of the undelayed response to the loop
        for t in range(STEPS - 1, -1, -1):
            for i in range(neurons):
                correlated = sum(self.eps[k - delays[i]] * own[i][t + k] for k in range(delays[i], STEPS - t)) + sum(
                    self.eps[k] * from_loop[i][t + k] for k in range(STEPS - t)
                )
                rho = rule.surrogate_height / reach * math.exp(-abs(u[i][t] - v_th) / reach)
                delta[i][t] = rho * correlated
            if loop is not None:
                for p in range(neurons):
                    from_loop[p][t] = sum(loop[i, p].item() * delta[i][t] for i in range(neurons))
        name = f"layers.{number}."
        below = [[0.0] * STEPS for _ in range(len(a))]
        for synapse in self.lists[number]:
            for t in range(STEPS):
                below[synapse.pre][t] += self._weight(layer, synapse.place) * delta[synapse.post][t]
                if not layer.kind.pool:
                    grads[name + "weight"][synapse.place] += delta[synapse.post][t] * a[synapse.pre][t]
        if loop is not None:
            for i in range(neurons):
                for p in range(neurons):
                    response = self._filtered(self.trains[number + 1][p])
                    total = sum(delta[i][t] * response[t] for t in range(STEPS))
                    grads[name + "recurrent_weight"][i, p] = total * bool(layer.recurrent_mask[i, p])
        if layer.delay is not None:
            for j, row in enumerate(a):
                change = [row[t] - (row[t - 1] if t else 0.0) for t in range(STEPS)]
                grads[name + "delay"][j] = -sum(below[j][t] * change[t] for t in range(STEPS))
        return below, [self._delay(layer, j) for j in range(len(a))]


CASES = {
    "dense": ("5-4", {}, None),
    "delays": ("5-4", {"delays": True, "refractory": "alpha"}, None),
    "recurrent": ("R5-4", {"delays": True, "surrogate_width": 0.6}, None),
    "counted": ("4", {"count_from": 6, "count_to": 17, "surrogate_height": 2.0}, None),
    "images": ("2C2-P2-2C2", {}, (1, 6, 5)),
    "images, delays": ("2C3s2p1-P2s1-3", {"delays": True}, (2, 5, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_spikes_and_gradients_are_the_papers(case):
    """Of the whole network, in float64: every spike, and the gradient of each weight and delay."""
    topology, options, image = CASES[case]
    rule = SlayerRule(**BASE | options)
    inputs = 6 if image is None else math.prod(image)
    net = Network(rule, inputs=inputs, topology=topology, outputs=3, seed=2, image=image).double()
    generator = torch.Generator().manual_seed(1)
    spikes = (torch.rand(1, STEPS, inputs, generator=generator) < 0.3).double()
    with torch.no_grad():
        for layer in net.layers:
            if layer.delay is not None:
                layer.delay.mul_(4.0)  # from none to three steps
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
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-9, atol=1e-12)


def test_a_delay_moves_spikes_by_whole_steps_and_drops_those_that_come_too_late():
    net = Network(SlayerRule(**BASE | {"delays": True}), inputs=3, topology="", outputs=1)
    plain = Network(SlayerRule(**BASE), inputs=3, topology="", outputs=1)
    spikes = torch.zeros(1, 12, 3)
    spikes[0, :, 0], spikes[0, 2, 1], spikes[0, ::3, 2] = 1, 1, 1
    moved = torch.zeros_like(spikes)
    moved[0, 2:, 0], moved[0, 2, 1] = spikes[0, :-2, 0], 1
    with torch.no_grad():
        net.layers[0].delay.copy_(torch.tensor([2.9, 0.2, 1e9]))
        for each in (net, plain):
            each.layers[0].weight.fill_(2.0)
    assert torch.equal(net(spikes).output.spikes, plain(moved).output.spikes)


def test_delays_stay_at_or_above_0():
    net = Network(SlayerRule(**BASE | {"delays": True}), inputs=3, topology="4", outputs=2)
    with torch.no_grad():
        net.layers[1].delay.copy_(torch.tensor([-0.5, 0.0, 2.0, -3.0]))
    net.constrain()
    assert net.layers[1].delay.tolist() == [0.0, 0.0, 2.0, 0.0]
    assert net.synapses() == 3 * 4 + 4 * 2 + 3 + 4


def test_the_loss_is_half_the_squared_error_of_the_counts_over_the_counted_steps():
    rule = SlayerRule(**BASE | {"count_from": 5, "count_to": 15})
    spikes = torch.zeros(1, STEPS, 2)
    spikes[0, :12, 0] = spikes[0, 14:, 1] = 1  # 7 and 1 of them counted
    output = SpikeTrain(pack(spikes), spikes.sum(1))
    assert rule.sample_loss(output, torch.tensor([0])).item() == pytest.approx(0.5 * ((7 - 9) ** 2 + 0) / 10)


def test_counting_must_begin_before_it_ends():
    net = Network(SlayerRule(**BASE | {"count_from": 12}), inputs=2, topology="", outputs=2)
    output = net(torch.ones(1, 12, 2)).output
    with pytest.raises(UsageError, match=r"model.count_from: 12 is not before step 12.*number of steps"):
        net.rule.sample_loss(output, torch.tensor([0]))


def test_the_cpu_kernels_train_delays_and_pools_as_the_reference():
    grads = []
    generator = torch.Generator().manual_seed(0)
    spikes, labels = pack(torch.rand(3, 30, 128, generator=generator) < 0.3), torch.tensor([0, 1, 2])
    for backend in ("reference", "cpu"):
        kernels.use(backend)
        rule = SlayerRule(**BASE | {"delays": True})
        net = Network(rule, inputs=128, topology="3C3-P2-5", outputs=3, image=(2, 8, 8))
        rule.sample_loss(net(spikes, labels).output, labels).mean().backward()
        grads.append([parameter.grad for parameter in net.parameters()])
    for expected, actual in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
