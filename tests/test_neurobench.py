"""NeuroBench's metrics, against its own package on twins with the same weights and the same spikes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from twins import BATCH, LiquidTwin, LstmTwin, Replay, Twin, dense, linear

from snnrun import encoders
from snnrun.data import Split
from snnrun.encoders import Direct, Stored
from snnrun.kernels import pack, unpack
from snnrun.models import MODELS
from snnrun.network import Network
from snnrun.network.model import Model, Signal
from snnrun.rules import Currents, Hm2Bp, LeeRule, SlayerRule, StbpRule, StRsbp
from snnrun.train import cost, firing, neurobench
from snnrun.train.neurobench import NeuroBench, Operations

pytest.importorskip("neurobench", reason="needs neurobench, which the dev extra has for Python 3.11 alone")
snn = pytest.importorskip("snntorch", reason="needs snntorch, which comes with neurobench")
from neurobench.benchmarks import Benchmark  # noqa: E402
from neurobench.metrics.static import ConnectionSparsity, Footprint  # noqa: E402
from neurobench.metrics.workload import ActivationSparsity, SynapticOperations  # noqa: E402
from neurobench.models import NeuroBenchModel, SNNTorchModel, TorchModel  # noqa: E402

SAMPLES, STEPS = 70, 12  # ours are evaluated in batches of 64
CPU = torch.device("cpu")


def theirs(model: NeuroBenchModel, inputs: Tensor) -> dict[str, Any]:
    """What the package says, over batches of (B, ...)."""
    loader = DataLoader(TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.int64)), batch_size=BATCH)
    metrics = [[Footprint, ConnectionSparsity], [ActivationSparsity, SynapticOperations]]
    found: dict[str, Any] = Benchmark(model, loader, [], [], metrics).run(quiet=True)
    return found


def static(model: nn.Module) -> dict[str, Any]:
    """What it says without running the model."""
    wrapped = TorchModel(model)
    return {"Footprint": Footprint()(wrapped), "ConnectionSparsity": ConnectionSparsity()(wrapped)}


def equal(ours: NeuroBench, found: dict[str, Any]) -> None:
    """They round the connection sparsity."""
    assert ours.operations is not None
    assert ours.connection_sparsity is not None
    operations = found["SynapticOperations"]
    assert ours.operations == Operations(operations["Effective_MACs"], operations["Effective_ACs"], operations["Dense"])
    assert round(ours.connection_sparsity, 4) == found["ConnectionSparsity"]
    assert ours.activation_sparsity == pytest.approx(found["ActivationSparsity"], abs=1e-12)
    assert ours.footprint == found["Footprint"]


class OverTime(NeuroBenchModel):
    """Runs a twin. `each` is the number of steps that a value lasts: the first layer multiplies it once."""

    def __init__(self, net: Twin, each: int = 1, currents: bool = False) -> None:
        super().__init__()
        self.net, self.each, self.currents = net, each, currents
        self.add_activation_module(Replay)

    def __net__(self) -> nn.Module:
        return self.net

    def __call__(self, batch: Tensor) -> Tensor:
        self.net.reset()
        for step in range(batch.shape[1]):
            drive = self.net.forwards[0](batch[:, step]) if self.currents else None
            for _ in range(self.each):
                spikes, _ = self.net(batch[:, step], drive)
        return spikes


def over_liquids(twin: LiquidTwin) -> NeuroBenchModel:
    model = TorchModel(twin)
    model.add_activation_module(Replay)
    return model


def pruned(net: Network) -> Network:
    """With a third of the weights 0."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter[torch.rand(parameter.shape, generator=generator) < 0.3] = 0.0
    return net


def spikes_of(inputs: int, share: float = 0.3) -> Tensor:
    return (torch.rand(SAMPLES, STEPS, inputs, generator=torch.Generator().manual_seed(0)) < share).float()


def measured(model: Model, samples: Any, encoder: Any) -> tuple[NeuroBench, firing.Firing]:
    split = Split(samples, np.zeros(len(samples), np.int64), np.arange(len(samples)))
    fired = firing.record(model, split, encoder, CPU)
    ours = cost.spent(model, fired).neurobench
    assert ours == neurobench.measure(model, fired)
    return ours, fired


# ---- spiking networks -----------------------------------------------------------------------------------------------

RULES: dict[str, Any] = {
    "strsbp": lambda: StRsbp(v_th=[0.05]),
    "hm2bp": lambda: Hm2Bp(v_th=[0.3], lateral=0.0),
    "stbp": lambda: StbpRule(v_th=[0.3], connectivity="two_sided", strict_threshold=True),
    "slayer": lambda: SlayerRule(v_th=[1.0], tau_s=3.0, init_scale=2.0),
    "lee": lambda: LeeRule(v_th=[0.2]),
}


def network(rule: str, topology: str) -> Network:
    return pruned(Network(RULES[rule](), inputs=64, topology=topology, outputs=4, seed=1, image=(1, 8, 8)))


@pytest.mark.parametrize(
    ("rule", "topology"),
    [
        *(("strsbp", "7-6"), ("strsbp", "7-R6"), ("strsbp", "9-R7-6+1"), ("strsbp", "3C3p1-P2-2C2s2-5")),
        *(("hm2bp", "7"), ("slayer", "7-R6"), ("lee", "7-6")),
        *(("stbp", "7-R6"), ("stbp", "2C3p1-P2-3C2-5"), ("stbp", "P2-5")),
    ],
)
def test_a_spiking_network_has_the_figures_of_the_package(rule: str, topology: str) -> None:
    net, spikes = network(rule, topology), spikes_of(64)
    ours, fired = measured(net, pack(spikes).numpy(), Stored(0))
    assert all(total.any() for total in fired.spikes.values())
    activity = net(spikes)
    trains = [unpack(layer.spikes, layer.counts.shape[1]).float() for layer in activity.layers]
    found = theirs(OverTime(Twin(net, [Replay(train) for train in trains])), spikes)
    equal(ours, found | static(Twin(net, [], folded=False)))


@pytest.mark.parametrize("topology", ["7", "7-R6", "2C3p1-P2-3C2-5"])
def test_a_network_of_snntorch_has_the_same_figures(topology: str) -> None:
    """STBP's neuron is its `Leaky`, which fires by itself here."""
    net, spikes = network("stbp", topology), spikes_of(64)
    ours, _ = measured(net, pack(spikes).numpy(), Stored(0))
    neurons = [
        snn.Leaky(beta=net.rule.decay, threshold=0.3, reset_mechanism="zero", reset_delay=False, init_hidden=True)
        for _ in net.layers
    ]
    twin = Twin(net, neurons)
    found = theirs(SNNTorchModel(twin), spikes)
    trains = [unpack(layer.spikes, layer.counts.shape[1]).float() for layer in net(spikes).layers]
    twin.reset()
    for step in range(STEPS):
        twin(spikes[:, step])
        assert all(torch.equal(own, train[:, step]) for own, train in zip(twin.before, trains, strict=True))
    equal(ours, found | static(Twin(net, [], folded=False)))  # its neurons store constants


@pytest.mark.parametrize("topology", ["7-R6", "3C3-P2-5", "P2-5"])
def test_currents_are_multiplied_once_for_each_value(topology: str) -> None:
    net = network("strsbp", topology)
    series = torch.rand(SAMPLES, 3, 64, generator=torch.Generator().manual_seed(0))
    series[series < 0.4] = 0.0
    ours, fired = measured(net, series.numpy(), Direct(0, steps=STEPS, attenuation=1.0))
    assert (fired.currents, fired.steps) == (3, STEPS)
    trains = [unpack(layer.spikes, layer.counts.shape[1]).float() for layer in net(Currents(series, STEPS)).layers]
    assert trains[-1].any()
    twin = OverTime(Twin(net, [Replay(train) for train in trains]), each=STEPS // 3, currents=True)
    equal(ours, theirs(twin, series))
    assert ours.operations is not None
    assert 0 < ours.operations.effective_macs < ours.operations.dense


# ---- liquids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["standard", "none"])
def test_a_liquid_and_its_readout_have_the_figures_of_the_package(normalise: str) -> None:
    """Synapses between some neurons have the weight 0, and some states are 0."""
    options = {"neurons": 40, "threshold": 1.0, "tau_m": 20.0, "readings": 2, "weights": [3.0, 0.0, -2.0, -2.0]}
    lsm = MODELS["lsm"](**options, normalise=normalise).build(Signal(9, STEPS, spikes=True), 3, seed=4)
    torch.nn.init.normal_(lsm.readout, generator=torch.Generator().manual_seed(0))
    spikes = spikes_of(9, 0.1)
    bits = pack(spikes)
    ours, _ = measured(lsm, bits.numpy(), Stored(0))
    trains, _ = lsm.simulate(bits)
    states = lsm.normalised(lsm.respond(bits)[:, 40:])
    assert (states == 0).any()
    around = dense(lsm.recurrent_weight, lsm.recurrent_pre, lsm.recurrent_post, (40, 40))
    twin = LiquidTwin(
        [(lsm.input_weight.clone(), around)], [unpack(trains, 40).float()], states.detach(), lsm.readout.detach()
    )
    equal(ours, theirs(over_liquids(twin), spikes) | {"Footprint": Footprint()(TorchModel(lsm))})


def test_parallel_liquids_have_the_figures_of_the_package() -> None:
    options = {"liquids": 2, "neurons": 30, "threshold": 1.0, "tau_m": 20.0, "weight_max": 1.0}
    model = MODELS["spilinc"](**options).build(Signal(9, STEPS, spikes=True), 3, seed=4)
    model.weight.data[::3] = 0.0  # as STDP leaves them
    spikes = spikes_of(9)
    ours, fired = measured(model, pack(spikes).numpy(), Stored(0))
    assert all(total.any() for total in fired.spikes.values())
    wires, recurrent, edges = model.liquids, model.liquids.recurrent, (0, 4, 9)
    inputs = dense(model.weight.data, wires.pre, wires.post, (60, 9))
    around = dense(recurrent.weight, recurrent.pre, recurrent.post, (60, 60))
    parts = [
        (inputs[n : n + 30, low:high].clone(), around[n : n + 30, n : n + 30].clone())
        for n, (low, high) in zip((0, 30), itertools.pairwise(edges), strict=True)
    ]
    trains = [unpack(train, 30).float() for train in model(pack(spikes)).spikes]
    twin = LiquidTwin(parts, trains, torch.zeros(0), torch.zeros(0))
    equal(ours, theirs(over_liquids(twin), spikes) | {"Footprint": Footprint()(TorchModel(model))})


# ---- models without spikes ------------------------------------------------------------------------------------------

PIXELS = Signal(64, 0, spikes=False, image=(1, 8, 8))


def pixels() -> Tensor:
    values = torch.rand(SAMPLES, 1, 64, generator=torch.Generator().manual_seed(0))
    return values.masked_fill(values < 0.5, 0.0)


def without_spikes(name: str, signal: Signal = PIXELS, **options: Any) -> Model:
    model = MODELS[name](**options).build(signal, 4, seed=4)
    model.layers["hidden1" if "hidden1" in model.layers else "conv1"].apply(prune)
    return model


def prune(layer: nn.Module) -> None:
    for parameter in layer.parameters(recurse=False):
        if parameter.dim() > 1:
            parameter.data[torch.rand(parameter.shape, generator=torch.Generator().manual_seed(3)) < 0.3] = 0.0


@pytest.mark.parametrize("name", ["mlp", "standardised", "lra", "cnn"])
def test_a_model_without_spikes_has_the_figures_of_the_package(name: str) -> None:
    values, scale = pixels(), nn.Identity()
    if name == "cnn":
        model = without_spikes("cnn", network="3C3p1-P2-2C2s2-5")
        conv1, pool, conv2, hidden, output = model.layers.values()
        image = nn.Unflatten(1, (1, 8, 8))
        twin = nn.Sequential(
            *(nn.Flatten(), image, conv1, nn.ReLU(), pool, conv2, nn.ReLU()),
            *(nn.Flatten(), hidden, nn.ReLU(), output),
        )
    else:
        options = {"standardise": True} if name == "standardised" else {}
        model = without_spikes("lra" if name == "lra" else "mlp", network="9-8", **options)
        if name == "standardised":
            scale = model.scale
            scale.fit([values])
        one, two, output = model.layers.values()
        activity = nn.Tanh if name == "lra" else nn.ReLU
        twin = nn.Sequential(scale, nn.Flatten(), one, activity(), two, activity(), output)
    wrapped = TorchModel(twin)
    wrapped.add_activation_module(nn.Tanh)
    ours, _ = measured(model, values.numpy(), encoders.build("none", seed=0))
    equal(ours, theirs(wrapped, values) | {"Footprint": Footprint()(TorchModel(model))})
    assert ours.operations is not None
    assert ours.operations.effective_acs == 0


def test_components_are_a_dense_layer_before_the_others() -> None:
    model, values = MODELS["mlp"](network="9", components=5).build(PIXELS, 4, seed=4), pixels()
    model._components.fit([values.flatten(1)])
    axes = model._components.axes * model._components.scale
    twin = nn.Sequential(nn.Flatten(), linear(axes), model.layers["hidden1"], nn.ReLU(), model.layers["output"])
    with torch.no_grad():
        twin[1].bias = nn.Parameter(-axes @ model._components.mean)
    ours, _ = measured(model, values.numpy(), encoders.build("none", seed=0))
    equal(ours, theirs(TorchModel(twin), values) | {"Footprint": Footprint()(TorchModel(model))})


def test_a_recurrent_model_has_the_products_of_its_weights() -> None:
    """The package adds those of a cell's gates with its state: three a unit and step, two in the first."""
    signal = Signal(64, STEPS, spikes=False)
    model, values = without_spikes("lstm", signal, layers=[6]), spikes_of(64) * torch.rand(SAMPLES, STEPS, 64)
    ours, _ = measured(model, values.numpy(), encoders.build("none", seed=0))
    found = theirs(TorchModel(LstmTwin(model.layers["hidden1"], model.layers["output"])), values)
    assert ours.operations is not None
    of_gates = 6 * (3 * STEPS - 1)
    assert ours.operations.effective_macs == pytest.approx(found["SynapticOperations"]["Effective_MACs"] - of_gates)
    assert ours.operations.dense == STEPS * 4 * 6 * (64 + 6) + 6 * 4
    assert ours.activation_sparsity == 0.0
    zeros = sum(int((layer == 0).sum()) for key, layer in model.layers["hidden1"].named_parameters() if "weight" in key)
    assert ours.connection_sparsity == zeros / (4 * 6 * (64 + 6) + 6 * 4) > 0.2
