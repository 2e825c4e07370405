"""Skip connections: how they are written, what a layer gets by them, and that errors come back to every source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_by_hand import run_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rules import CLASSES, INPUTS, RULE_CASES, STEPS, Step, batch, gradients, network

from snnrun import cli
from snnrun.ann.cnn import Cnn
from snnrun.ann.mlp import widths
from snnrun.data import Split
from snnrun.encoders import Stored
from snnrun.errors import UsageError
from snnrun.kernels import join, pack, reference, unpack
from snnrun.network import Network
from snnrun.network.topology import LayerSpec, parse_topology, plan
from snnrun.nir.graph import delay as delay_of
from snnrun.nir.graph import graph_of
from snnrun.record.description import Description
from snnrun.rules import Currents, Hm2Bp, LeeRule, StbpRule, StRsbp
from snnrun.train import cost, firing

RULES = ("strsbp", "strsbp-table", "hm2bp", "stbp", "slayer-delays")
IMAGE = {"inputs": 36, "outputs": 3, "image": (1, 6, 6)}


# ---- how they are written -------------------------------------------------------------------------------------------


def test_a_skip_is_read_as_the_places_before_the_predecessor():
    assert parse_topology("400-R400+1-7+2+1") == [
        LayerSpec(400),
        LayerSpec(400, True, (1,)),
        LayerSpec(7, False, (2, 1)),
    ]
    layers = plan("400-R300+1-7+2+1", inputs=784, outputs=10, image=None, average_pools=False)
    assert [layer.kind.sources for layer in layers] == [(-1,), (0, -1), (1, -1, 0), (2,)]
    assert [layer.columns for layer in layers] == [784, 400 + 784, 300 + 784 + 400, 7]


@pytest.mark.parametrize(
    ("topology", "pools", "message"),
    [
        ("400+1", False, r"'400\+1' is the first layer, and nothing comes before the input, .* Write 400\."),
        ("9-R8+2", False, r"\+2 of 'R8\+2' leads back beyond the input, which is 1 place before .* Write R8\+1\."),
        ("9-8-8+7", False, r"\+7 of '8\+7' leads back beyond the input, which is 2 places before .* Write 8\+2\."),
        ("9-8+1+1", False, r"'8\+1\+1' names the same layer twice"),
        ("2C3-3C3+1", False, r"'3C3\+1' has a skip connection, which leads into dense layers alone. Write 3C3\."),
        ("2C3-P2+1", False, r"'P2\+1' has a skip connection, which leads into dense layers alone. Write P2\."),
        ("9-8+", False, r"cannot read '8\+'.* such as 400-R400\+1"),
        ("9-8+0", False, r"cannot read '8\+0'"),
        ("2C3-P2-9+1", True, r"'9\+1' follows an average pool, .* Write 9, or put a dense layer between"),
    ],
)  # fmt: skip
def test_a_wrong_skip_is_one_message(topology, pools, message):
    with pytest.raises(UsageError, match=r"^model\.network: " + message) as error:
        plan(topology, **IMAGE, average_pools=pools)
    assert "\n" not in str(error.value)


def test_models_without_skips_refuse_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["train", "model=lee", "model.network=9-8+1", "tracking=none", f"outputs={tmp_path}"])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert "'8+1' has a skip connection, and this model has none. Write 8," in error
    for make in (lambda: Cnn(network="8C3-9-8+1"), lambda: widths("9-8+1", "mlp")):
        with pytest.raises(UsageError, match=r"model.network: '8\+1'"):
            make()
    with pytest.raises(UsageError, match=r"'8\+1' has a skip connection, and this model has none. Write 8,"):
        Network(LeeRule(v_th=[1.0]), inputs=5, topology="9-8+1", outputs=3)


def test_currents_cannot_skip():
    net = Network(StRsbp(v_th=[1.0]), inputs=4, topology="5-6+1", outputs=3)
    with pytest.raises(UsageError, match="a skip connection brings the input's spikes, and this input has currents"):
        net(Currents(torch.ones(1, 1, 4), 10))
    assert Network(StRsbp(v_th=[1.0]), inputs=4, topology="5-6-7+1", outputs=3)(Currents(torch.ones(1, 1, 4), 10))


# ---- what a layer gets ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 130), min_size=1, max_size=4), st.integers(0, 1000))
@settings(max_examples=25)
def test_joined_bits_are_those_of_the_trains_side_by_side(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    trains = [(torch.rand(2, 3, size, generator=generator) < 0.5).to(torch.uint8) for size in sizes]
    assert torch.equal(join([pack(train) for train in trains], sizes), pack(torch.cat(trains, dim=2)))


def skipping(name: str, topology: str = "70-R8-9+1+2") -> Network:
    return network(RULE_CASES[name], topology)


@pytest.mark.parametrize("name", RULES)
def test_with_weights_of_0_a_skip_changes_no_spike(name):
    net, plain = skipping(name), network(RULE_CASES[name], "70-R8-9")
    spikes, _ = batch()
    with torch.no_grad():
        for own, other in zip(net.layers, plain.layers, strict=True):
            for key, value in other.named_parameters():
                mine = dict(own.named_parameters())[key]
                if mine.shape == value.shape:
                    mine.copy_(value)
                else:
                    before = value.shape[-1]
                    mine[..., before:] = 0
                    mine[..., :before] = value
        assert net(spikes).output.counts.any()
        for with_skip, without in zip(net(spikes).layers, plain(spikes).layers, strict=True):
            assert torch.equal(with_skip.spikes, without.spikes)
        net.layers[2].weight[:, 8:] = 1.0
        assert not torch.equal(net(spikes).layers[2].spikes, plain(spikes).layers[2].spikes)


@torch.no_grad()
def test_a_pool_and_a_convolution_can_be_skipped_from():
    net = Network(StRsbp(v_th=[0.3]), topology="2C3-P2-5+1-6+3", **IMAGE)
    spikes = (torch.rand(3, 40, 36, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    found = net(spikes)
    sources = [unpack(found.spikes[1], 8), unpack(found.spikes[0], 32)]
    weights = net.layers[2].weights()
    alone = reference.lif_forward(
        pack(torch.cat(sources, dim=2)), weights.weight, None, net.rule.lif(net.layers[2].kind)
    )
    assert torch.equal(alone[0], found.spikes[2])
    assert net.layout()["hidden4"] == {
        "inputs": 5 + 36, "neurons": 6, "recurrent": False, "sources": ["hidden3", "input"],
    }  # fmt: skip


def test_initial_weights_are_scaled_by_all_inputs():
    net = Network(StbpRule(v_th=[0.5]), inputs=12, topology="9-8+1", outputs=3)
    assert net.layers[1].weight.shape == (8, 9 + 12)
    torch.testing.assert_close(net.layers[1].weight.norm(dim=1), torch.ones(8))


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_a_batch_gives_the_mean_of_its_samples(name):
    net = skipping(name, "9-R8-7+1+2")
    spikes, labels = batch()
    together = gradients(net, spikes, labels)
    assert all(gradient.any() for gradient in together[:3])
    singles = [gradients(net, spikes[[b]], labels[[b]]) for b in range(len(labels))]
    for whole, *parts in zip(together, *singles, strict=True):
        torch.testing.assert_close(whole, torch.stack(parts).mean(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("surrogate", ["rectangle", "sigmoid"])
def test_stbp_with_skips_equals_automatic_differentiation(surrogate):
    rule = StbpRule(v_th=[0.5], connectivity="two_sided", surrogate=surrogate)
    net = network(rule, "70-R9-8+1+2")
    spikes, labels = batch()
    actual = gradients(net, spikes, labels)
    net.zero_grad()
    outputs = [list(spikes.double().unbind(1))]
    for layer in net.layers:
        neuron = net.rule.neuron(layer.kind)
        u = o = torch.zeros(len(spikes), len(layer.weight), dtype=torch.float64)
        own = []
        for t in range(STEPS):
            arriving = torch.cat([outputs[number + 1][t] for number in layer.kind.sources], dim=1)
            u = u * neuron.decay * (1 - o) + arriving @ layer.weight.T + layer.bias
            if layer.recurrent_weight is not None:
                u = u + o @ (layer.recurrent_weight * layer.recurrent_mask).T
            o = Step.apply(u, neuron)
            own.append(o)
        outputs.append(own)
    wanted = torch.nn.functional.one_hot(labels, CLASSES)
    (0.5 * (wanted - sum(outputs[-1]) / STEPS).square().sum(dim=1)).mean().backward()
    torch.testing.assert_close(actual, [parameter.grad for parameter in net.parameters()])


@pytest.mark.parametrize("rule", [StRsbp, Hm2Bp])
def test_gradients_are_finite_differences_of_the_rate_equation(rule):
    """n = a / v_th, a_i = sum_j w_ij (e_ij + (e_ij / n_j) dn_j): each S-PSP grows with its pre-neuron's count.

    HM2-BP's factor 1 + sigma and its constants for silent neurons are left out, since no rate equation has them.
    """
    v_th = 0.6
    how = {"silent_effect": 0.0, "silent_ratio": 0.0} if rule is Hm2Bp else {}
    net = network(rule(v_th=[v_th], lateral=0.0, revive=False, tau_m=20.0, **how), "9-8-7+1+2")
    spikes, _ = batch(1)
    weight = torch.linspace(-1, 1, CLASSES, dtype=torch.float64)
    found = net(spikes, torch.tensor([0]))
    assert all(counts.any() for counts in found.counts)
    (found.scores @ weight).sum().backward()
    trains = [
        spikes[0].double(),
        *(unpack(bits, n)[0].double() for bits, n in zip(found.spikes, net.sizes, strict=True)),
    ]
    effects = []
    for layer, own in zip(net.layers, trains[1:], strict=True):
        arriving = torch.cat([trains[number + 1] for number in layer.kind.sources], dim=1)
        readout = reference.readout(net.rule.spsp, pack(own[None]), own.shape[1], net.rule.lif(layer.kind), own.dtype)[
            0
        ]
        effects.append((readout.T @ arriving, arriving.sum(dim=0)))

    def rate(weights: list[torch.Tensor]) -> float:
        counts = [trains[0].sum(dim=0)]
        for layer, (e, before), w in zip(net.layers, effects, weights, strict=True):
            change = torch.cat([counts[number + 1] for number in layer.kind.sources]) - before
            here = torch.where(before > 0, e / before.clamp(min=1), 0.0) * change
            a = ((w - layer.weight.detach()) * e).sum(dim=1) + (w * here).sum(dim=1)
            counts.append(trains[len(counts)].sum(dim=0) + a / v_th)
        return float(counts[-1] @ weight)

    weights = [layer.weight.detach() for layer in net.layers]
    for number, layer in enumerate(net.layers):
        sigma = 0.0
        if rule is Hm2Bp:
            e, n = effects[number][0], trains[number + 1].sum(dim=0)
            silent = 0.5 * layer.weight.detach().sum(dim=1)
            sigma = torch.where(n > 0, (layer.weight.detach() * e).sum(dim=1) / n.clamp(min=1), silent) / v_th
        gradient = layer.weight.grad / (1 + torch.as_tensor(sigma).reshape(-1, 1))
        for i, j in [(0, 0), (1, 5), (2, layer.weight.shape[1] - 1), (2, layer.weight.shape[1] // 2)]:
            ends = []
            for step in (1e-4, -1e-4):
                moved = [w.clone() for w in weights]
                moved[number][i, j] += step
                ends.append(rate(moved))
            assert gradient[i, j].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-6, abs=1e-9)


def test_the_cpu_kernels_train_skips_as_the_reference():
    from snnrun import kernels

    spikes, labels = batch()
    for name in ("strsbp", "stbp"):
        results = []
        for backend in ("reference", "cpu"):
            kernels.use(backend)
            net = Network(RULE_CASES[name], inputs=INPUTS, topology="70-R8-9+1", outputs=CLASSES, seed=3)
            results.append((net(spikes).output.spikes, gradients(net, spikes, labels)))
        kernels.use("reference")
        assert torch.equal(results[0][0], results[1][0])
        for expected, actual in zip(results[0][1], results[1][1], strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


# ---- what a network with skips costs, is exported as, and leaves -----------------------------------------------------


def test_operations_are_those_of_every_spike_and_synapse():
    net = Network(StRsbp(v_th=[0.3]), inputs=9, topology="7-R6-5+2", outputs=4, seed=1)
    spikes = (torch.rand(5, 30, 9, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.uint8)
    split = Split(pack(spikes).numpy(), np.zeros(5, np.int64), np.arange(5))
    spent = cost.cost(net, firing.record(net, split, Stored(0), torch.device("cpu")))
    found = net(spikes)
    arriving = 5 * (found.counts[1].sum() + spikes.sum()).item()
    assert spent.layers["hidden3"].operations == pytest.approx(arriving / 5)
    assert spent.layers["hidden3"].ann_macs == 5 * (6 + 9)


ABOUT = Description("digits", "recorded", "", "image", (5, 4), tuple("abc"), 40, {})
EXPORTED = {"stbp": StbpRule(v_th=[0.5]), "strsbp": StRsbp(v_th=[0.6], t_ref=0), "hm2bp": Hm2Bp(v_th=[0.6], t_ref=0)}


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("topology", ["9-8+1", "9-R8+1-7+1+2"])
def test_nirs_own_equations_give_our_spikes(name: str, topology: str) -> None:
    pytest.importorskip("nir")
    net = Network(EXPORTED[name], inputs=20, topology=topology, outputs=3, seed=2)
    spikes = torch.rand(8, 40, 20, generator=torch.Generator().manual_seed(1)) < 0.3
    graph, _ = graph_of(net, ABOUT, dt=1e-3)
    delay = delay_of(net)
    assert delay == (0 if name == "stbp" else 2)
    ours = unpack(net(pack(spikes)).output.spikes, 3).numpy().astype(bool)
    theirs = np.zeros_like(ours)
    theirs[:, delay:] = run_graph(graph, spikes[:, : 40 - delay].numpy(), 1e-3)
    assert ours.any()
    assert (ours == theirs).all()


@pytest.mark.filterwarnings("ignore")
def test_spikingjelly_reads_stbps_skips_and_refuses_delays(tmp_path: Path) -> None:
    nir = pytest.importorskip("nir")
    pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    from snnrun.errors import SnnrunError
    from snnrun.nir import check

    bits = pack(torch.rand(8, 40, 20, generator=torch.Generator().manual_seed(1)) < 0.3)
    for name, rule in EXPORTED.items():
        net = Network(rule, inputs=20, topology="9-R8+1-7+2", outputs=3, seed=2)
        path = tmp_path / f"{name}.nir"
        nir.write(str(path), graph_of(net, ABOUT, dt=1e-3)[0])
        how: dict[str, Any] = {"dt": 1e-3, "delay": delay_of(net)}
        if name == "stbp":
            assert check.agreement(net, path, bits, torch.zeros(8), **how).same_spikes > 0.99
            continue
        with pytest.raises(SnnrunError, match=r"SpikingJelly does not take this graph.*Delay"):
            check.agreement(net, path, bits, torch.zeros(8), **how)


@pytest.mark.slow
def test_a_run_trains_them_and_says_what_each_layer_gets(tmp_path: Path) -> None:
    from snnrun.record import run_folder
    from snnrun.run import trained

    command = ["train", "model=stbp", "model.network=12-R10+1", "data.limit=60", "train.epochs=1", "tracking=none"]
    assert cli.main([*command, f"outputs={tmp_path}"]) == 0
    run = run_folder.find("last", tmp_path)
    about = json.loads((run.path / "network.json").read_text())["layers"]
    assert about["hidden2"] == {"inputs": 12 + 64, "neurons": 10, "recurrent": True, "sources": ["hidden1", "input"]}
    assert about["hidden1"] == {"inputs": 64, "neurons": 12, "recurrent": False}
    own = trained.load(run.path, run.values())
    assert own.network.chain == "64-12-R10+1-10"
