"""Delays: which spikes come when, the gradient that moves them, and where they are kept, costed, exported, refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from connections import make_it_fire, synapses
from graph_by_hand import run_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rules import CLASSES, INPUTS, SMALL, STEPS, Step, batch, gradients

from snnrun import cli, kernels
from snnrun.errors import UsageError
from snnrun.kernels import cpu, pack, reference, unpack
from snnrun.network import Network
from snnrun.nir.graph import delay as delay_of
from snnrun.nir.graph import graph_of
from snnrun.record.description import Description
from snnrun.rules import Currents, Hm2Bp, StbpRule, StRsbp
from snnrun.train.optimiser import Optimiser

HOW: dict[str, Any] = {"delays": "trained", "max_delay": 9}
RULES = {
    "strsbp": StRsbp(v_th=[1.0], **SMALL, **HOW),
    "strsbp-table": StRsbp(v_th=[1.0], slope="table", solve="authors", **SMALL, **HOW),
    "hm2bp": Hm2Bp(v_th=[1.0], lateral=0.5, **SMALL, **HOW),
    "hm2bp-weights": Hm2Bp(v_th=[1.0], effect_ratio=False, **SMALL, **HOW),
    "stbp": StbpRule(v_th=[0.5], **HOW),
    "stbp-sigmoid": StbpRule(v_th=[0.5], surrogate="sigmoid", connectivity="two_sided", **HOW),
}


def made(name: str, topology: str = "9-R8-7+1", **options: Any) -> Network:
    rule = dataclasses.replace(RULES[name], **options)
    return Network(rule, inputs=INPUTS, topology=topology, outputs=CLASSES, seed=3).double()


def delays_of(net: Network) -> list[torch.Tensor]:
    return [layer.delay for layer in net.layers]


# ---- the kernels ----------------------------------------------------------------------------------------------------


def case(steps: int, inputs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Spikes (2, T, I), delays from before to beyond all steps, errors."""
    generator = torch.Generator().manual_seed(seed)
    spikes = (torch.rand(2, steps, inputs, generator=generator) < 0.4).to(torch.uint8)
    by = torch.randint(-steps - 1, steps + 2, (inputs,), generator=generator)
    return spikes, by, torch.randn(2, steps, inputs, generator=generator)


@pytest.mark.parametrize("backend", [reference, cpu])
@given(st.integers(1, 20), st.sampled_from([1, 5, 63, 64, 65, 130]), st.integers(0, 1000))
@settings(max_examples=20)
def test_each_spike_comes_by_the_definition(backend, steps, inputs, seed):
    spikes, by, errors = case(steps, inputs, seed)
    later, earlier, total = np.zeros(spikes.shape), np.zeros(spikes.shape), np.zeros((2, inputs))
    for b, t, j in np.ndindex(*spikes.shape):
        to = t + int(by[j])
        if 0 <= to < steps:
            later[b, to, j] = spikes[b, t, j]
            earlier[b, t, j] = errors[b, to, j]
        if spikes[b, t, j]:
            total[b, j] += 0.5 * errors[b, to + 1, j] if 0 <= to + 1 < steps else 0.0
            total[b, j] -= 0.5 * errors[b, to - 1, j] if 0 <= to - 1 < steps else 0.0
    assert (unpack(backend.delayed(pack(spikes), by), inputs).numpy() == later).all()
    assert (backend.advanced(errors, by).numpy() == earlier).all()
    np.testing.assert_allclose(backend.delay_errors(pack(spikes), by, errors), total, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 15), st.sampled_from([1, 65]), st.integers(0, 1000))
@settings(max_examples=20)
def test_advancing_errors_is_the_adjoint_of_delaying_and_undoes_it(steps, inputs, seed):
    spikes, by, errors = case(steps, inputs, seed)
    later = unpack(reference.delayed(pack(spikes), by), inputs)
    forth, back = (later * errors).sum(), (spikes * reference.advanced(errors, by)).sum()
    torch.testing.assert_close(forth, back)
    kept = unpack(reference.delayed(pack(later), -by), inputs)
    assert ((kept == 1) <= (spikes == 1)).all()
    assert kept.sum() == later.sum()


# ---- gradients ------------------------------------------------------------------------------------------------------


def interpolated(net: Network, spikes: torch.Tensor, labels: torch.Tensor, above: bool) -> dict[str, torch.Tensor]:
    """Gradients by automatic differentiation of delays between whole steps, from above or from below of a whole one."""
    net.zero_grad()
    trains = [spikes.double()]
    for layer in net.layers:
        arriving = torch.cat([trains[number + 1] for number in layer.kind.sources], dim=2)
        n = layer.delay.detach().round() - (0.0 if above else 1.0)
        f = layer.delay - layer.delay.detach() + (0.0 if above else 1.0)
        arriving = (1 - f) * _moved(arriving, n) + f * _moved(arriving, n + 1)
        neuron, own = net.rule.neuron(layer.kind), []
        u = o = torch.zeros(len(spikes), len(layer.weight), dtype=torch.float64)
        for t in range(STEPS):
            u = u * neuron.decay * (1 - o) + arriving[:, t] @ layer.weight.T + layer.bias
            if layer.recurrent_weight is not None:
                u = u + o @ (layer.recurrent_weight * layer.recurrent_mask).T
            o = Step.apply(u, neuron)
            own.append(o)
        trains.append(torch.stack(own, dim=1))
    wanted = torch.nn.functional.one_hot(labels, CLASSES)
    (0.5 * (wanted - trains[-1].mean(dim=1)).square().sum(dim=1)).mean().backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


def _moved(values: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    columns = []
    for j, steps in enumerate(by.int().tolist()):
        column, kept = torch.zeros_like(values[:, :, j]), max(0, values.shape[1] - abs(steps))
        if steps >= 0:
            column = torch.cat([column[:, :steps], values[:, :kept, j]], dim=1)
        else:
            column = torch.cat([values[:, -steps:, j], column[:, :-steps]], dim=1)
        columns.append(column)
    return torch.stack(columns, dim=2)


@pytest.mark.parametrize("name", ["stbp", "stbp-sigmoid"])
def test_stbps_gradient_is_that_of_interpolated_delays_from_both_sides(name):
    net = made(name)
    with torch.no_grad():
        net.layers[0].delay[:3] = torch.tensor([0.0, STEPS - 2, STEPS + 5])
    spikes, labels = batch()
    spikes[:, [1, -3, -1]] = 1
    actual = dict(zip(dict(net.named_parameters()), gradients(net, spikes, labels), strict=True))
    above, below = (interpolated(net, spikes, labels, side) for side in (True, False))
    for key, gradient in actual.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, 0.5 * (above[key] + below[key]), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(above["layers.1.delay"], below["layers.1.delay"])


@pytest.mark.parametrize("name", ["strsbp", "hm2bp"])
@pytest.mark.parametrize("topology", ["9-8+1", "9-R8"])
def test_the_gradient_is_a_finite_difference_of_the_rate_equation(name, topology):
    """Of a step later and a step earlier: n = a / v_th, a_i = sum_j w_ij (e_ij(D) + (e_ij / n_j) dn_j).

    A recurrent layer solves its linear system; HM2-BP takes one turn around it.
    """
    net = made(name, topology, lateral=0.0, revive=False)
    v_th, spikes, weight = 1.0, batch(1)[0], torch.linspace(-1, 1, CLASSES, dtype=torch.float64)
    found = net(spikes, torch.tensor([0]))
    (found.scores @ weight).sum().backward()
    trains = [spikes, *(unpack(bits, n) for bits, n in zip(found.spikes, net.sizes, strict=True))]
    floor = net.rule.silent_ratio

    def effects(number: int, delay: torch.Tensor) -> torch.Tensor:
        layer = net.layers[number]
        arriving = torch.cat([trains[source + 1] for source in layer.kind.sources], dim=2)
        lif, own = net.rule.lif(layer.kind), pack(trains[number + 1])
        return reference.spsp(net.rule.spsp, lif, reference.delayed(pack(arriving), delay), own, layer.weight.detach())[
            0
        ]

    def rate(moved: int, delay: torch.Tensor) -> float:
        changes = [torch.zeros(INPUTS, dtype=torch.float64)]
        for number, layer in enumerate(net.layers):
            here = layer.delay.detach().round().long()
            e, w = effects(number, here), layer.weight.detach()
            before = torch.cat([trains[source + 1][0].sum(0) for source in layer.kind.sources])
            fired = trains[number + 1][0].sum(0)
            both = (fired > 0)[:, None] & (before > 0)
            ratio = torch.where(both, e / before.clamp(min=1), floor)
            drive = (w * ratio) @ torch.cat([changes[source + 1] for source in layer.kind.sources])
            if number == moved:
                drive = drive + (w * (effects(number, delay) - e)).sum(dim=1)
            change = drive / v_th
            if layer.recurrent_weight is not None:
                own = pack(trains[number + 1])
                lif = net.rule.lif(layer.kind)
                e = reference.spsp(net.rule.spsp, lif, own, own, layer.recurrent_weight.detach())[0]
                both = (fired > 0)[:, None] & (fired > 0)
                theta = layer.recurrent_weight.detach() * torch.where(both, e / fired.clamp(min=1), floor) / v_th
                system = torch.eye(len(fired), dtype=torch.float64) - theta
                change = change + theta @ change if name == "hm2bp" else torch.linalg.solve(system, change)
            changes.append(change)
        return float(changes[-1] @ weight)

    for number, layer in enumerate(net.layers):
        whole = layer.delay.detach().round().long()
        for j in range(0, len(whole), 3):
            one = torch.zeros_like(whole)
            one[j] = 1
            expected = 0.5 * (rate(number, whole + one) - rate(number, whole - one))
            assert layer.delay.grad[j].item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert layer.delay.grad.any()


@pytest.mark.parametrize("rule", ["strsbp", "hm2bp", "stbp"])
def test_a_convolution_delays_as_the_dense_layer_with_its_synapses(rule):
    """Its delays are those of its inputs, an average pool's included."""
    how = {"inputs": 36, "outputs": 3, "seed": 1}
    topology = "2C3p1-P2-3C2" if rule == "stbp" else "2C3p1-3C2"
    net = Network(RULES[rule], topology=topology, image=(1, 6, 6), **how).double()
    generator = torch.Generator().manual_seed(0)
    spikes, labels = (torch.rand(3, 40, 36, generator=generator) < 0.4).to(torch.uint8), torch.tensor([0, 1, 2])
    make_it_fire(net, spikes)
    dense = Network(RULES[rule], topology="-".join(map(str, net.sizes[:-1])), **how).double()
    with torch.no_grad():
        for own, other, found in zip(net.layers, dense.layers, synapses(net), strict=True):
            other.weight.zero_()
            for synapse in found:
                other.weight[synapse.post, synapse.pre] += synapse.share * own.weight[synapse.place]
            assert other.delay.shape == own.delay.shape
            other.delay.copy_(own.delay)
            if own.bias is not None:
                other.bias.copy_(own.bias.repeat_interleave(len(other.bias) // len(own.bias)))
    for actual, expected in zip(net(spikes).layers, dense(spikes).layers, strict=True):
        assert torch.equal(actual.spikes, expected.spikes)
        assert actual.counts.any()
    gradients(net, spikes, labels), gradients(dense, spikes, labels)
    for own, other in zip(net.layers[1:], dense.layers[1:], strict=True):
        torch.testing.assert_close(own.delay.grad, other.delay.grad)
        assert own.delay.grad.any()
    if rule != "hm2bp":  # its factors for silent pairs reach places without a synapse
        torch.testing.assert_close(net.layers[0].delay.grad, dense.layers[0].delay.grad)


@pytest.mark.parametrize("name", RULES)
def test_a_batch_gives_the_mean_of_its_samples(name):
    net = made(name)
    spikes, labels = batch()
    together = gradients(net, spikes, labels)
    singles = [gradients(net, spikes[[b]], labels[[b]]) for b in range(len(labels))]
    for whole, *parts in zip(together, *singles, strict=True):
        torch.testing.assert_close(whole, torch.stack(parts).mean(0), rtol=1e-9, atol=1e-12)
    assert all(layer.delay.grad.any() for layer in net.layers)


@pytest.mark.parametrize("name", ["strsbp", "hm2bp", "stbp", "stbp-sigmoid"])
def test_the_cpu_kernels_train_delays_as_the_reference(name):
    spikes, labels = batch()
    results = []
    for backend in ("reference", "cpu"):
        kernels.use(backend)
        net = Network(RULES[name], inputs=INPUTS, topology="70-R8-9+1", outputs=CLASSES, seed=3)
        results.append((net(spikes).output.spikes, gradients(net, spikes, labels)))
    kernels.use("reference")
    assert torch.equal(results[0][0], results[1][0])
    for expected, actual in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


# ---- what they are and where they go --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["strsbp", "hm2bp", "stbp"])
def test_weights_are_those_without_delays_and_a_delay_of_0_changes_nothing(name):
    spikes, _ = batch()
    net, plain = made(name), made(name, delays="none")
    assert all(delay is None for delay in delays_of(plain))
    for own, other in zip(net.layers, plain.layers, strict=True):
        assert torch.equal(own.weight, other.weight)
        assert 0 <= own.delay.min() < 3 < 6 < own.delay.max() <= 9
    assert not torch.equal(net(spikes).output.spikes, plain(spikes).output.spikes)
    with torch.no_grad():
        for delay in delays_of(net):
            delay.copy_(torch.linspace(-0.5, 0.49, len(delay)))  # rounded to 0
    for own, other in zip(net(spikes).layers, plain(spikes).layers, strict=True):
        assert torch.equal(own.spikes, other.spikes)
    net.constrain()
    assert all(delay.min() >= 0 for delay in delays_of(net))
    assert net.synapses() == plain.synapses() + sum(len(delay) for delay in delays_of(net))


def test_fixed_delays_are_drawn_and_kept_and_not_trained():
    net, trained = made("strsbp", delays="fixed"), made("strsbp")
    spikes, labels = batch()
    gradients(net, spikes, labels)
    for own, other in zip(net.layers, trained.layers, strict=True):
        assert torch.equal(own.delay, other.delay)
        assert "delay" not in dict(own.named_parameters())
    assert net.state_dict().keys() == trained.state_dict().keys()
    assert torch.equal(net(spikes).output.spikes, trained(spikes).output.spikes)
    assert net.apart() == {}
    assert net.synapses() == made("strsbp", delays="none").synapses()
    other = Network(RULES["strsbp"], inputs=INPUTS, topology="9-R8-7+1", outputs=CLASSES, seed=4)
    assert not torch.equal(other.layers[0].delay.double(), net.layers[0].delay)


def test_a_pool_has_no_delays_and_a_frozen_layer_keeps_its_own():
    net = Network(RULES["strsbp"], inputs=36, topology="P2-5", outputs=3, image=(1, 6, 6))
    assert net.layers[0].delay is None
    assert len(net.layers[1].delay) == 9
    frozen = made("stbp", frozen=["hidden1"])
    spikes, labels = batch()
    frozen.rule.sample_loss(frozen(spikes, labels).output, labels).mean().backward()
    assert frozen.layers[0].delay.grad is None
    assert frozen.layers[1].delay.grad.any()
    assert len(frozen.apart()) == 3


@pytest.mark.parametrize("decoupled", [False, True])
def test_delays_move_at_their_own_rate_and_do_not_decay(decoupled):
    weight, delay = (torch.nn.Parameter(torch.full((3,), 2.0)) for _ in range(2))
    optimiser = Optimiser([(weight, None), (delay, None)], "sgd", 0.0, 0.5, decoupled, {delay: 10.0})
    for parameter in (weight, delay):
        parameter.grad = torch.full((3,), 1.0)
    optimiser.norm(None)
    optimiser.step(0.01)
    assert weight.tolist() == pytest.approx([2.0 - 0.01 * (1.0 + 0.5 * 2.0)] * 3)
    assert delay.tolist() == pytest.approx([2.0 - 0.01 * 10.0] * 3)


ABOUT = Description("digits", "recorded", "", "image", (5, 4), tuple("abc"), 40, {})
EXPORTED = {
    "stbp": StbpRule(v_th=[0.5], **HOW),
    "strsbp": StRsbp(v_th=[0.6], t_ref=0, **HOW),
    "hm2bp": Hm2Bp(v_th=[0.6], t_ref=0, **HOW),
}


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("topology", ["9", "9-R8+1-7+2"])
def test_nirs_own_equations_give_our_spikes(name: str, topology: str) -> None:
    pytest.importorskip("nir")
    net = Network(EXPORTED[name], inputs=20, topology=topology, outputs=3, seed=2)
    spikes = torch.rand(8, 40, 20, generator=torch.Generator().manual_seed(1)) < 0.3
    graph, _ = graph_of(net, ABOUT, dt=1e-3)
    lead = delay_of(net)
    ours = unpack(net(pack(spikes)).output.spikes, 3).numpy().astype(bool)
    theirs = np.zeros_like(ours)
    theirs[:, lead:] = run_graph(graph, spikes[:, : 40 - lead].numpy(), 1e-3)
    assert ours.any()
    assert (ours == theirs).all()
    assert graph.nodes["hidden1.delay"].delay.shape == (20,)


def test_what_has_no_spikes_to_delay_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Network(RULES["strsbp"], inputs=4, topology="5", outputs=3)
    with pytest.raises(UsageError, match=r"model\.delays: currents have no spikes to delay"):
        net(Currents(torch.ones(1, 1, 4), 10))
    common = ["train", "tracking=none", f"outputs={tmp_path}", "data.limit=20", "model=stbp", "model.delays=trained"]
    for more, says in (
        (["encoder=direct"], "model.delays: encoder=direct makes currents"),
        (["encoder.steps=15"], "model.max_delay: 20 is not below the 15 steps of a sample"),
    ):
        assert cli.main([*common, *more]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["strsbp", "stbp"])
@torch.no_grad()
def test_an_exported_network_with_delays_and_skips_counts_the_same(name: str) -> None:
    net = Network(RULES[name], inputs=INPUTS, topology="70-R8-7+1", outputs=CLASSES, seed=3)
    spikes, _ = batch()
    program = torch.export.export(net, (spikes,))
    assert torch.ops.snnrun.delayed.default in [node.target for node in program.graph.nodes]
    for actual, expected in zip(program.module()(spikes).layers, net(spikes).layers, strict=True):
        assert torch.equal(actual.spikes, expected.spikes)
