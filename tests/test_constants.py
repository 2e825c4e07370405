"""Constants of neurons that are trained: their derivatives, their bounds, and how they are moved."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_engine import RULES, Notes, run
from test_rules import CLASSES, INPUTS, RULE_CASES, batch
from torch import Tensor
from trained_runs import values

from snnrun import cli, kernels
from snnrun.errors import UsageError
from snnrun.kernels import Lif, pack, reference, unpack
from snnrun.kernels.reference.time import hm2bp_kernel, hm2bp_kernel_slope
from snnrun.network import Network
from snnrun.rules import Hm2Bp, StbpRule, StRsbp
from snnrun.run import experiment, pretrained
from snnrun.train.optimiser import Optimiser

# A window of HM2-BP's kernel, 4 tau_m, that no step of a finite difference moves by a whole step.
TAUS = {"tau_m": 20.1, "tau_s": 5.3}
ALL: dict[str, Any] = {"v_th": [1.0], "revive": False, "margin": 0.0, "train_constants": "all", **TAUS}


def trains(steps: int, neurons: int, t_ref: int) -> Tensor:
    spikes = (torch.rand(3, steps, neurons, generator=torch.Generator().manual_seed(steps)) < 0.2).to(torch.uint8)
    spikes[:, :, 0] = 0
    for t in range(steps):
        for lag in range(1, min(t_ref, t) + 1):
            spikes[:, t] &= 1 - spikes[:, t - lag]
    return spikes


def varied(net: Network, seed: int = 0) -> Network:
    """The network with constants away from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for constant in net.apart():
            constant.copy_(torch.rand(constant.shape, generator=generator) * 0.4 + 0.8)
    return net


@pytest.mark.parametrize("by", ["tau_m", "tau_s"])
@pytest.mark.parametrize("rule", ["strsbp", "hm2bp"])
@pytest.mark.parametrize(("steps", "t_ref", "tau_m"), [(60, 2, 20.1), (200, 2, 9.3), (150, 0, 11.2), (30, 3, 30.3)])
def test_the_slope_of_a_readout_is_its_derivative(rule, by, steps, t_ref, tau_m):
    spikes, h = pack(trains(steps, 9, t_ref)), 1e-5
    lif = Lif(tau_m, 4.7, t_ref, 1.0)
    low, high = (lif._replace(**{by: getattr(lif, by) + step}) for step in (-h, h))
    after, before = (reference.readout(rule, spikes, 9, each, torch.float64) for each in (high, low))
    slope = reference.readout(f"{rule}_by_{by}", spikes, 9, lif, torch.float64)
    assert slope.abs().max() > 1e-3
    torch.testing.assert_close(slope, (after - before) / (2 * h), rtol=1e-6, atol=1e-9)


def test_the_slope_of_the_kernel_is_its_derivative():
    lif, h = Lif(17.3, 6.1, 2, 1.0), 1e-5
    for by in ("tau_m", "tau_s"):
        low, high = (hm2bp_kernel(90, lif._replace(**{by: getattr(lif, by) + step}))[0] for step in (-h, h))
        torch.testing.assert_close(hm2bp_kernel_slope(90, lif, by), (high - low) / (2 * h), rtol=1e-6, atol=1e-9)


def _activation(
    rule: str, before: Tensor, own: Tensor, weight: Tensor, loop: Tensor, fixed: Tensor, ratio: Tensor, lif: Lif
) -> Tensor:
    """sum_j w_ij / r_i e_ij of the first sample, the recurrent synapses' and those of the inhibition included, (N,)."""
    r = ratio[:, None]
    e, e_own = (reference.spsp(rule, lif, trains, own, like)[0] for trains, like in ((before, weight), (own, loop)))
    return (weight / r * e).sum(1) + ((loop / r + fixed) * e_own).sum(1)


@pytest.mark.parametrize(
    "rule",
    [
        StRsbp(**ALL), StRsbp(slope="counts", **ALL), StRsbp(thresholds_by="layer", **ALL), Hm2Bp(**ALL),
        Hm2Bp(thresholds_by="layer", lateral=0.0, **ALL),
    ],
)  # fmt: skip
def test_the_derivatives_of_a_spike_train_rule_are_those_of_its_rate_equation(rule):
    """n = (1 / v_th) sum_j w_ij / r_i e_ij(tau) by finite differences, times the gain that the rule gives to weights.

    The gain is dE/dw'_ij / e_ij of any synapse, and the spikes are given.
    """
    net = varied(Network(rule, inputs=INPUTS, topology="9-R8", outputs=CLASSES, seed=3).double())
    spikes, labels = batch(1)
    activity = net(spikes, labels)
    net.sample_loss(activity, labels).sum().backward()
    seen = 0
    for number, (layer, own) in enumerate(zip(net.layers, activity.layers, strict=True)):
        before = pack(spikes) if number == 0 else activity.layers[number - 1].spikes
        given, lif = layer.weights(), rule.lif(layer.kind, layer.weights())
        assert given.threshold is not None
        assert given.tau_m is not None
        assert given.tau_s is not None
        weight = given.weight.detach()
        loop = torch.zeros(len(weight), len(weight), dtype=torch.float64)
        inhibition = -rule.lateral * (1 - torch.eye(len(weight), dtype=torch.float64)) if layer.kind.output else loop
        if given.recurrent_weight is not None:
            loop = given.recurrent_weight.detach()

        trained = partial(_activation, rule.spsp, before, own.spikes, weight, loop, inhibition)
        e = reference.spsp(rule.spsp, lif, before, own.spikes, weight)[0]
        synapse = e.argmax(dim=1, keepdim=True)
        fired = e.gather(1, synapse) > 0
        ratio = given.threshold.detach()
        by_weight = layer.weight.grad.gather(1, synapse) * ratio[:, None]
        gain = torch.where(fired, by_weight / e.gather(1, synapse).clamp(min=1e-9), 0.0)[:, 0]
        h = 1e-5
        for name in ("tau_m", "tau_s"):
            low, high = (lif._replace(**{name: getattr(lif, name) + step}) for step in (-h, h))
            slope = (gain * (trained(ratio, high) - trained(ratio, low))).sum() / (2 * h)
            initial, found = getattr(rule, name), getattr(layer, name).grad
            torch.testing.assert_close(found, (slope * initial).reshape(1), rtol=1e-5, atol=1e-9)
        slope = gain * (trained(ratio + h, lif) - trained(ratio - h, lif)) / (2 * h)
        found = layer.threshold.grad
        # The weight gradient of a silent neuron is HM2-BP's constant, which is none of the rate equation.
        alive = own.counts[0] > 0 if rule.thresholds_by == "neuron" else torch.tensor([bool((own.counts > 0).all())])
        wanted = slope if rule.thresholds_by == "neuron" else slope.sum().reshape(1)
        torch.testing.assert_close(found[alive], wanted[alive], rtol=1e-5, atol=1e-9)
        seen += int((gain != 0).sum())
    assert seen > 8


@pytest.mark.parametrize("name", ["strsbp-constants", "hm2bp-constants", "stbp-constants"])
@pytest.mark.parametrize("topology", ["9-R8", "3C2-P2-R8"])
def test_the_compiled_loops_give_the_same(name, topology):
    shape: dict[str, Any] = {"inputs": INPUTS, "topology": topology, "outputs": CLASSES, "image": (1, 3, 4), "seed": 3}
    spikes, labels = batch()
    found = {}
    for backend in ("reference", "cpu"):
        kernels.use(backend)
        net = varied(Network(RULE_CASES[name], **shape))
        activity = net(spikes, labels)
        net.sample_loss(activity, labels).sum().backward()
        found[backend] = [train.spikes for train in activity.layers], [p.grad for p in net.parameters()]
        assert (
            net.layers[0].weights().weight.stride() == net.rule.at_thresholds(net.layers[0].weights()).weight.stride()
        )
    for ours, theirs in zip(*(found[each][0] for each in found), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(*(found[each][1] for each in found), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", [StRsbp(v_th=[0.75]), Hm2Bp(v_th=[0.75]), StbpRule(v_th=[0.75])])
def test_a_trained_threshold_is_the_threshold(rule):
    """The spikes are those of a network that has it from the start; a power of 2 rounds nothing."""
    trained = dataclasses.replace(rule, train_constants="thresholds", thresholds_by="layer")
    if hasattr(rule, "lateral"):
        rule, trained = (dataclasses.replace(each, lateral=0.0) for each in (rule, trained))
    first, other = (
        Network(each, inputs=INPUTS, topology="9-R8", outputs=CLASSES, seed=3).double()
        for each in (trained, dataclasses.replace(rule, v_th=[0.375]))
    )
    with torch.no_grad():
        for constant in first.apart():
            constant.fill_(0.5)
    spikes, _ = batch()
    for mine, theirs in zip(first(spikes).layers, other(spikes).layers, strict=True):
        assert torch.equal(unpack(mine.spikes, 1), unpack(theirs.spikes, 1))
    assert first(spikes).output.counts.any()
    assert all(value == 0.375 for name, value in first.figures().items() if name.startswith("v_th"))


def test_constants_begin_where_the_neuron_is():
    spikes, _ = batch()
    for name in ("strsbp", "hm2bp", "stbp"):
        kernels.use("cpu")
        rules = [dataclasses.replace(RULE_CASES[name], train_constants=which) for which in ("none", "all")]
        first, second = (Network(rule, inputs=INPUTS, topology="9-R8", outputs=CLASSES, seed=3) for rule in rules)
        assert not first.apart()
        for mine, theirs in zip(first(spikes).layers, second(spikes).layers, strict=True):
            assert torch.equal(mine.spikes, theirs.spikes)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_constants_have_a_rate_of_their_own_and_do_not_decay(optimizer):
    weight, constant = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    for decoupled in (False, True):
        made = Optimiser([(weight, None), (constant, None)], optimizer, 0.0, 0.1, decoupled, {constant: 0.5})
        plain = torch.nn.Parameter(constant.detach().clone())
        alone = Optimiser([(plain, None)], optimizer, 0.0)
        before = weight.detach().clone()
        for parameter in (weight, constant, plain):
            parameter.grad = torch.full((3,), 0.25)
        made.norm(None), alone.norm(None)
        made.step(0.1), alone.step(0.05)
        assert torch.equal(constant, plain)
        assert (weight < before).all()
        assert made.state().keys() >= {f"{k}/exp_avg" for k in (0, 1) if optimizer == "adam"}


@pytest.mark.parametrize("rule", ["strsbp", "hm2bp", "stbp"])
def test_constants_stay_in_their_range_and_the_run_says_where_they_ended(rule):
    notes = Notes()
    rule = dataclasses.replace(
        RULES[rule], train_constants="all", constants_lr=30.0, constants_range=1.5, thresholds_by="layer"
    )
    result = run(rule, notes=notes, epochs=3)
    told = [message for message in notes.warnings if "at the end of the range" in message]
    assert len(told) == len(set(told)) > 2
    assert re.search("Layer hidden1, trained (v_th|tau_m): it is at the end of the range from", "".join(told))
    for metrics in result.history:
        for name, value in metrics.items():
            kind, _, layer = name.partition("/")
            if kind in ("v_th", "tau_m", "tau_s") and layer:
                initial = 1.0 / (1.0 - rule.decay) if hasattr(rule, "decay") else getattr(rule, kind, 0.0)
                initial = rule.v_th[0] if kind == "v_th" else initial
                assert initial / 1.5001 <= value <= initial * 1.5001
    assert {"v_th/hidden1", "v_th/output", "tau_m/hidden1"} <= result.history[0].keys()


def test_time_constants_never_meet():
    rule = Hm2Bp(v_th=[1.0], tau_m=12.0, tau_s=9.0, train_constants="time_constants", constants_range=10.0)
    net = Network(rule, inputs=4, topology="3", outputs=2)
    with torch.no_grad():
        for layer in net.layers:
            layer.tau_m.fill_(0.0), layer.tau_s.fill_(9.0)
    net.constrain()
    lif = rule.lif(net.layers[0].kind, net.layers[0].weights())
    assert lif.tau_s < math.sqrt(108.0) < lif.tau_m
    assert len(net.at_bounds()) == 4
    with pytest.raises(UsageError, match="too near to one another"):
        dataclasses.replace(rule, tau_s=11.5)


@pytest.mark.parametrize("decay", [0.0, 0.2, 0.995])
def test_a_membrane_keeps_something_and_forgets_something(decay):
    rule = StbpRule(v_th=[1.0], decay=decay, train_constants="all", constants_range=1e6)
    net = Network(rule, inputs=4, topology="3", outputs=2)
    found = []
    for value in (1e-9, 1e9):
        with torch.no_grad():
            net.layers[0].tau_m.fill_(value)
        net.constrain()
        found.append(rule.decays(net.layers[0].weights()).item())
    assert found == pytest.approx([min(decay, 0.01), max(decay, 0.99)], abs=1e-6)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.slope=table"], "model.slope=table is a table for fixed time constants"),
        (["model.tau_m=8.5"], "model.tau_m=8.5 and model.tau_s=8 are too near to one another"),
        (["model.constants_range=1"], "model.constants_range: 1 is out of range"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_made(overrides, says, tmp_path, capsys):
    arguments = ["train", "model.train_constants=all", f"outputs={tmp_path}", "tracking=none", *overrides]
    assert cli.main(arguments) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rule", ["strsbp", "stbp"])
def test_a_run_with_constants_is_evaluated_and_gives_its_weights_to_another(rule, tmp_path: Path, capsys):
    """Its constants too. A run without gives its weights to one with, whose constants begin at the beginning."""
    config = values(rule)
    config["train"] |= {"epochs": 1, "average": "ema", "decoupled_decay": True, "weight_decay": 0.5}
    config["model"] = config["model"] | {"train_constants": "all"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    experiment.run(config, tmp_path, command=["test"])
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "", "it would warn of another accuracy than recorded"
    own = {key: value for key, value in config["model"].items() if key not in ("name", "network")}
    shape: dict[str, Any] = {"inputs": 64, "topology": config["model"]["network"], "outputs": 10}
    made = type(RULE_CASES[rule])
    same, none = Network(made(**own), **shape), Network(made(**own | {"train_constants": "none"}), **shape)
    note = pretrained.take(same, str(tmp_path / "last.safetensors"), tmp_path, tmp_path / "new")
    assert "Nothing is drawn" in note
    assert any((constant != 1).any() for constant in same.apart())
    with pytest.raises(UsageError, match=re.escape("threshold (30,)")):
        pretrained.take(none, str(tmp_path / "last.safetensors"), tmp_path, tmp_path / "new")
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in none.state_dict().items()}, tmp_path / "plain.safetensors")
    fresh = Network(made(**own), **shape, seed=9)
    pretrained.take(fresh, str(tmp_path / "plain.safetensors"), tmp_path, tmp_path / "new")
    assert torch.equal(fresh.layers[1].weight, none.layers[1].weight)
    assert all((constant == 1).all() for constant in fresh.apart())


@pytest.mark.parametrize("rule", [StRsbp(v_th=[1.0]), StbpRule(v_th=[0.5])])
def test_pytorch_exports_trained_constants_but_the_time_constants_of_a_spike_train_rule(rule):
    spikes, _ = batch()
    for which in ("thresholds", "time_constants"):
        net = Network(dataclasses.replace(rule, train_constants=which), inputs=INPUTS, topology="9", outputs=CLASSES)
        net.requires_grad_(False)
        if which == "thresholds" or isinstance(rule, StbpRule):
            exported = torch.export.export(net, (pack(spikes),))
            assert torch.equal(exported.module()(pack(spikes)).output.counts, net(spikes).output.counts)
        else:
            with pytest.raises(UsageError, match=re.escape("torch.export: the operators take time constants")):
                torch.export.export(net, (pack(spikes),))


def test_frozen_layers_and_pools_keep_their_constants():
    rule = StRsbp(v_th=[1.0], train_constants="all", frozen=["conv1"])
    net = Network(rule, inputs=16, topology="3C3-P2-4", outputs=2, image=(1, 4, 4))
    assert len(net.apart()) == 6
    assert {name.partition("/")[2] for name in net.figures()} == {"hidden3", "output"}
    assert not [name for name, _ in net.layers[1].named_parameters()]
    assert net.layers[2].threshold.shape == (4,)
    assert net.layers[0].threshold.shape == (3,), "one for each kernel"
    assert net.synapses() == 4 * 3 + 4 * 2 + 4 + 2 + 2 * 2
