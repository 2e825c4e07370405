"""What an inference costs: against sums over single spikes and synapses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun import encoders
from snnrun.data import Split
from snnrun.encoders import Stored
from snnrun.kernels import pack, reference, unpack
from snnrun.network import Network
from snnrun.network.model import Model, Scores
from snnrun.rules import Hm2Bp, LeeRule, SlayerRule, StbpRule, StRsbp
from snnrun.rules.base import spread
from snnrun.run import artifacts
from snnrun.train import cost, firing, neurobench, presentations, synapses
from snnrun.train.neurobench import NeuroBench, Operations

SAMPLES, STEPS, INPUTS = 70, 30, 9  # more than one batch of an evaluation


def network(rule: str, **options: Any) -> Network:
    rules: dict[str, Any] = {
        "strsbp": lambda: StRsbp(v_th=[0.3], **options),
        "hm2bp": lambda: Hm2Bp(v_th=[0.3], **options),
        "stbp": lambda: StbpRule(v_th=[0.3], connectivity="two_sided", **options),
        "slayer": lambda: SlayerRule(v_th=[1.0], tau_s=3.0, init_scale=2.0, **options),
        "lee": lambda: LeeRule(v_th=[0.5], **options),
    }
    topology = "7-6" if rule == "lee" else "7-R6"
    return Network(rules[rule](), inputs=INPUTS, topology=topology, outputs=4, seed=1)


@pytest.fixture(scope="module")
def split() -> Split:
    spikes = torch.rand(SAMPLES, STEPS, INPUTS, generator=torch.Generator().manual_seed(0)) < 0.3
    return Split(pack(spikes).numpy(), np.zeros(SAMPLES, np.int64), np.arange(SAMPLES))


def recorded(net: Network, split: Split) -> firing.Firing:
    return firing.record(net, split, Stored(0), torch.device("cpu"))


def every_spike(net: Network, split: Split) -> dict[str, int]:
    """Synaptic operations by layer: for each spike of each sample, a walk over all pairs of neurons."""
    bits = torch.from_numpy(split.samples)
    trains = [unpack(bits, INPUTS), *(unpack(t.spikes, t.counts.shape[1]) for t in net(bits).layers)]
    operations = dict.fromkeys(net.layer_names, 0)
    for number, (name, layer) in enumerate(zip(net.layer_names, net.layers, strict=True)):
        before, own = trains[number], trains[number + 1]
        neurons = own.shape[2]
        if isinstance(net.rule, LeeRule):
            inhibited = net.rule.inhibition > 0
        else:
            inhibited = name == "output" and getattr(net.rule, "lateral", 0) > 0
        for _, _, _ in before.nonzero().tolist():
            operations[name] += sum(1 for _ in range(neurons))
        for _, _, pre in own.nonzero().tolist():
            for post in range(neurons):
                if layer.recurrent_mask is not None:
                    operations[name] += int(layer.recurrent_mask[post, pre])
                elif inhibited:
                    operations[name] += post != pre
    return operations


@pytest.mark.parametrize(
    ("rule", "options"),
    [*((rule, {}) for rule in ("strsbp", "hm2bp", "stbp", "slayer", "lee")), ("lee", {"inhibition": 0.0})],
)
def test_operations_are_those_of_every_spike_and_synapse(rule: str, options: dict[str, Any], split: Split) -> None:
    net = network(rule, **options)
    fired = recorded(net, split)
    spent = cost.cost(net, fired)
    expected = every_spike(net, split)
    assert all(count > 0 for count in expected.values())
    assert {name: layer.operations for name, layer in spent.layers.items()} == pytest.approx(
        {name: count / SAMPLES for name, count in expected.items()}, abs=1e-12
    )
    activity = net(torch.from_numpy(split.samples))
    assert spent.spikes == pytest.approx(sum(t.counts.sum().item() for t in activity.layers) / SAMPLES)
    assert spent.energy_nj == pytest.approx(sum(expected.values()) / SAMPLES * 0.9e-3)
    assert (fired.predicted == activity.output.counts.argmax(dim=1).numpy()).all()


def test_updates_are_counted_by_the_neuron_model(split: Split) -> None:
    """17 neurons: two state variables with a synapse, one without; STBP's biases are additions. SLAYER has filters.

    The 13 hidden ones may adapt, which is one variable more.
    """
    whole = {}
    every: tuple[tuple[str, dict[str, Any]], ...] = (
        *(("strsbp", {}), ("stbp", {}), ("stbp", {"bias": False})),
        *(("slayer", {}), ("slayer", {"refractory": "alpha"}), ("lee", {})),
        ("stbp", {"adaptation": "threshold"}),
    )
    for rule, options in every:
        net = network(rule, **options)
        spent = cost.cost(net, recorded(net, split))
        whole[rule, *options] = 1e3 * (spent.energy_with_updates_nj - spent.energy_nj)
    assert whole["strsbp",] == pytest.approx(2 * 17 * STEPS * 4.6)
    assert whole["stbp",] == pytest.approx(17 * STEPS * (4.6 + 0.9))
    assert whole["stbp", "adaptation"] == pytest.approx((13 + 17) * STEPS * 4.6 + 17 * STEPS * 0.9)
    assert whole["stbp", "bias"] == whole["lee",] == pytest.approx(17 * STEPS * 4.6)
    assert whole["slayer",] == pytest.approx(3 * 17 * STEPS * 4.6)
    assert whole["slayer", "refractory"] == pytest.approx(4 * 17 * STEPS * 4.6)


def test_a_dense_network_of_the_same_shape(split: Split) -> None:
    net = network("strsbp")
    spent = cost.cost(net, recorded(net, split))
    assert spent.ann_macs == 9 * 7 + 7 * 6 + 6 * 6 + 6 * 4
    assert spent.ann_energy_nj == pytest.approx(spent.ann_macs * 4.6e-3)


def test_without_inhibition_the_output_has_no_recurrent_synapses(split: Split) -> None:
    net = network("strsbp", lateral=0.0)
    assert synapses.fan_out(net.layers[2], net.rule).recurrent is None
    spent = cost.cost(net, recorded(net, split))
    assert spent.layers["output"].operations == pytest.approx(4 * spent.layers["hidden2"].spikes)


def test_inhibition_within_a_step_is_of_the_last_step_too(split: Split) -> None:
    """In NeuroBench's figures: what acts one step later than its spike has none after the last."""
    net = network("lee")
    fired = recorded(net, split)
    assert all(last.any() for last in fired.last.values())
    ours, spent = neurobench.measure(net, fired), cost.cost(net, fired)
    assert ours.operations is not None
    assert ours.operations.effective_acs == pytest.approx(spent.operations)
    assert ours.operations.dense == STEPS * (9 * 7 + 7 * 7 + 7 * 6 + 6 * 6 + 6 * 4 + 4 * 4)


def test_only_dense_layers_of_lee_inhibit() -> None:
    net = Network(LeeRule(v_th=[0.4]), inputs=81, topology="4C3-P2-10", outputs=3, image=(1, 9, 9))
    recurrent = [synapses.fan_out(layer, net.rule).recurrent for layer in net.layers]
    assert [None if fan is None else fan.tolist() for fan in recurrent] == [None, [9] * 10, [2] * 3]


def test_a_part_of_the_samples_is_spread_over_all(split: Split) -> None:
    assert firing.spread(split, 7).tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert firing.spread(split, 1000).tolist() == list(range(SAMPLES))
    net = network("stbp")
    chosen = np.array([69, 3])
    few = firing.record(net, split, Stored(0), torch.device("cpu"), positions=chosen)
    assert few.samples == 2
    assert (few.predicted == recorded(net, split).predicted[chosen]).all()


def test_what_is_said_and_recorded() -> None:
    layer = cost.LayerCost(neurons=5, spikes=2.0, operations=2e6, updates=1000, bias_additions=0, ann_macs=50)
    figures = NeuroBench(100, 0.0, 0.9, None)
    spent = cost.Cost(samples=3, steps=10, input_spikes=1.0, layers={"output": layer}, neurobench=figures)
    assert str(spent) == (
        "2 spikes, 2,000,000 synaptic operations: 1.8 µJ (1.8 µJ with the neurons' updates); "
        "a dense ANN's pass 50 MAC, 0.23 nJ"
    )
    assert spent.metrics()["cost/spikes_output"] == 2.0
    assert spent.metrics()["cost/activation_sparsity"] == 0.9
    assert spent.as_dict()["neurobench"]["footprint"] == 100
    assert spent.as_dict()["layers"]["output"]["operations"] == 2e6


@pytest.mark.parametrize("rule", ["strsbp", "stbp"])
@pytest.mark.parametrize("topology", ["2C3p1-P2-3C2", "3C2s2-4", "P2-4", "P2-2C2"])
def test_synapses_of_windows_are_those_that_carry_a_spike(rule: str, topology: str) -> None:
    """A spike of one input reaches the neurons whose drive it changes; averages are looked through."""
    rules: dict[str, Any] = {"strsbp": StRsbp(v_th=[0.3]), "stbp": StbpRule(v_th=[0.3], bias=False)}
    net = Network(rules[rule], inputs=25, topology=topology, outputs=3, seed=1, image=(1, 5, 5))
    sizes = [net.inputs, *net.sizes]
    for number, layer in enumerate(net.layers):
        window = layer.kind.window
        found = synapses.fan_out(layer, net.rule).forward
        assert len(found) == sizes[number]
        reached = torch.zeros(sizes[number])
        one = torch.eye(sizes[number])
        if window is not None:
            reached = (reference.drive(one, layer.weight.detach(), window) != 0).sum(dim=1)
            macs = window.neurons * window.height * window.width * (1 if layer.kind.pool else window.channels)
        else:
            weight = layer.weight.detach()
            whole = weight if layer.kind.average is None else spread(weight, layer.kind.average)
            reached = (one @ whole.T != 0).sum(dim=1)
            macs = weight.numel()
        assert found.tolist() == reached.tolist()
        assert synapses.dense_operations(layer) == (0 if layer.kind.pool else macs)


# ---- NeuroBench: its own package is in test_neurobench.py -----------------------------------------------------------


def test_presentations_add_up(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many of NeuroBench's operations, the same shares."""
    net = network("stbp")
    once = neurobench.measure(net, recorded(net, split))
    monkeypatch.setattr(presentations, "check_draws", lambda *_: None)
    twice = neurobench.measure(net, firing.record(net, split, Stored(0), torch.device("cpu"), number=2))
    assert once.operations is not None
    assert twice.operations == Operations(0.0, 2 * once.operations.effective_acs, 2 * once.operations.dense)
    assert (twice.activation_sparsity, twice.footprint) == (once.activation_sparsity, once.footprint)


def test_rates_are_those_of_one_presentation(split: Split, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net, found = network("stbp"), []
    monkeypatch.setattr(presentations, "check_draws", lambda *_: None)
    for number in (1, 3):
        fired = firing.record(net, split, Stored(0), torch.device("cpu"), number=number)
        rates, _ = artifacts.activity(fired, cost.cost(net, fired), "case", tmp_path)
        found.append(rates.arguments[0])
    assert found[0].keys() == found[1].keys() == {"input", "hidden1", "hidden2", "output"}
    for name, rate in found[0].items():
        assert rate.any()
        np.testing.assert_allclose(found[1][name], rate)


class Unknown(Model):
    """A model of one's own that has multiply-accumulates and names no connections."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.layer_names, self.sizes, self.layer = 64, ["output"], [4], nn.Linear(64, 4)

    chain = "64-4"

    def forward(self, inputs: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Scores:
        return Scores(self.layer(inputs[:, 0]))

    def sample_loss(self, outcome: Any, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def layout(self) -> dict[str, dict[str, Any]]:
        return {"output": {"inputs": 64, "neurons": 4, "recurrent": False}}

    def macs(self, passes: float) -> dict[str, float]:
        return {"output": 256.0}


def test_what_is_not_known_is_not_a_figure() -> None:
    pixels = Split(np.ones((3, 1, 64), np.float32), np.zeros(3, np.int64), np.arange(3))
    model = Unknown()
    ours = neurobench.measure(model, firing.record(model, pixels, encoders.build("none", seed=0), torch.device("cpu")))
    assert ours == NeuroBench(4 * 260, None, None, None)
    assert ours.metrics() == {"cost/footprint_bytes": 1040.0}
    assert ours.as_dict()["synaptic_operations"] is None
    assert str(ours) == (
        "footprint 1.04 kB, activation sparsity of no activities, operations unknown, since the model names no "
        "connections"
    )


def test_the_figures_are_said_and_recorded() -> None:
    ours = NeuroBench(2_500_000, 0.25, 0.975, Operations(0.0, 1234.5, 5e6))
    assert str(ours) == (
        "footprint 2.5 MB, connection sparsity 0.2500, activation sparsity 0.9750, "
        "effective 0 MAC and 1,234 AC of 5,000,000 dense"
    )
    assert ours.as_dict()["synaptic_operations"] == {"effective_macs": 0.0, "effective_acs": 1234.5, "dense": 5e6}
    assert ours.metrics() == {
        "cost/footprint_bytes": 2.5e6,
        "cost/connection_sparsity": 0.25,
        "cost/activation_sparsity": 0.975,
        "cost/effective_macs": 0.0,
        "cost/effective_acs": 1234.5,
        "cost/dense_operations": 5e6,
    }
