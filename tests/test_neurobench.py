"""NeuroBench's metrics, against its own package on twins with the same weights and the same spikes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from snnrun import encoders
from snnrun.data import Split
from snnrun.encoders import Direct, Stored
from snnrun.kernels import pack, unpack
from snnrun.models import MODELS
from snnrun.network import Layer, Network
from snnrun.network.model import Model, Scores, Signal
from snnrun.rules import Currents, Hm2Bp, LeeRule, SlayerRule, StbpRule, StRsbp
from snnrun.rules.base import spread
from snnrun.train import cost, firing, neurobench, presentations
from snnrun.train.neurobench import NeuroBench, Operations

pytest.importorskip("neurobench", reason="needs neurobench, which the dev extra has for Python 3.11 alone")
snn = pytest.importorskip("snntorch", reason="needs snntorch, which comes with neurobench")
from neurobench.benchmarks import Benchmark  # noqa: E402
from neurobench.metrics.static import ConnectionSparsity, Footprint  # noqa: E402
from neurobench.metrics.workload import ActivationSparsity, SynapticOperations  # noqa: E402
from neurobench.models import NeuroBenchModel, SNNTorchModel, TorchModel  # noqa: E402

SAMPLES, STEPS, BATCH = 70, 12, 35  # ours are evaluated in batches of 64
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


# ---- twins ----------------------------------------------------------------------------------------------------------


class Replay(nn.Module):
    """Neurons that fire as others have fired, (S, T, N)."""

    def __init__(self, spikes: Tensor) -> None:
        super().__init__()
        self.spikes, self.first, self.step = spikes, 0, -1

    def forward(self, drive: Tensor) -> Tensor:
        self.step += 1
        if self.step == self.spikes.shape[1]:
            self.first, self.step = self.first + BATCH, 0
        return self.spikes[self.first : self.first + len(drive), self.step]


class Images(nn.Module):
    """A convolution of flat inputs."""

    def __init__(self, convolution: nn.Conv2d, rows: int, columns: int) -> None:
        super().__init__()
        self.convolution, self.shape = convolution, (convolution.in_channels, rows, columns)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.convolution(inputs.reshape(-1, *self.shape)).flatten(1)


def given(module: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor | None = None, fixed: bool = False) -> nn.Module:
    """The layer with these weights; those that are fixed are not stored."""
    if fixed:
        del module.weight
        module.weight = weight
    else:
        module.weight = nn.Parameter(weight)
    module.bias = None if bias is None else nn.Parameter(bias)
    return module


def linear(weight: Tensor, bias: Tensor | None = None, fixed: bool = False) -> nn.Module:
    return given(nn.Linear(*reversed(weight.shape)), weight, bias, fixed)


def forward_twin(layer: Layer, folded: bool) -> nn.Module:
    """The feed-forward connections of a layer. An average pool before them is part of the weights if `folded`."""
    weight, window, bias = layer.weight.detach(), layer.kind.window, layer.bias
    if window is None:
        average = layer.kind.average if folded else None
        return linear(weight if average is None else spread(weight, average), bias)
    side = window.pool if folded else 1
    weight = weight.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3) / side**2
    convolution = nn.Conv2d(
        window.channels, window.kernels, weight.shape[2:], window.stride * side, window.padding * side,
        groups=window.channels if layer.kind.pool else 1,
    )  # fmt: skip
    return Images(given(convolution, weight, bias, fixed=layer.kind.pool), window.rows, window.columns)


class Twin(nn.Module):
    """A network whose neurons are these modules. It runs if `folded`; else it stores what the network does."""

    def __init__(self, net: Network, neurons: list[nn.Module], folded: bool = True) -> None:
        super().__init__()
        self.forwards = nn.ModuleList(forward_twin(layer, folded) for layer in net.layers)
        self.recurrents, self.neurons = nn.ModuleDict(), nn.ModuleList(neurons)
        for number, layer in enumerate(net.layers):
            if layer.threshold is not None:
                self.register_parameter(f"threshold{number}", layer.threshold)
            if layer.recurrent_weight is not None:
                self.recurrents[str(number)] = linear(layer.recurrent_weight.detach())
                self.register_buffer(f"mask{number}", layer.recurrent_mask)
            elif layer.kind.output and getattr(net.rule, "lateral", 0):
                size = len(layer.weight)
                self.recurrents[str(number)] = linear(-net.rule.lateral * (1 - torch.eye(size)), fixed=True)
        self.sources = [layer.kind.sources for layer in net.layers]

    def reset(self) -> None:
        self.before: list[Tensor] = []
        for neurons in self.neurons:
            if hasattr(neurons, "reset_mem"):
                neurons.reset_mem()

    def forward(self, inputs: Tensor, first: Tensor | None = None) -> tuple[Tensor, None]:
        """A step. `first`: the drive of the first layer by currents."""
        inputs, trains = inputs.flatten(1), []
        for number, (forward, neurons) in enumerate(zip(self.forwards, self.neurons, strict=True)):
            if number or first is None:
                arrived = [inputs if k < 0 else trains[k] for k in self.sources[number]]
                drive = forward(torch.cat(arrived, dim=1))
            else:
                drive = first
            if str(number) in self.recurrents:
                own = self.before[number] if self.before else torch.zeros_like(drive)
                drive = drive + self.recurrents[str(number)](own)
            trains.append(neurons(drive))
        self.before = trains
        return trains[-1], None


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


def test_presentations_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many operations, the same shares."""
    net, spikes = network("stbp", "7-R6"), spikes_of(64)
    once, _ = measured(net, pack(spikes).numpy(), Stored(0))
    monkeypatch.setattr(presentations, "check_draws", lambda *_: None)
    split = Split(pack(spikes).numpy(), np.zeros(SAMPLES, np.int64), np.arange(SAMPLES))
    twice = neurobench.measure(net, firing.record(net, split, Stored(0), CPU, number=2))
    assert once.operations is not None
    assert twice.operations == Operations(0.0, 2 * once.operations.effective_acs, 2 * once.operations.dense)
    assert (twice.activation_sparsity, twice.footprint) == (once.activation_sparsity, once.footprint)


# ---- liquids --------------------------------------------------------------------------------------------------------


class LiquidTwin(nn.Module):
    """Liquids of replayed spikes with dense weights, and a readout of states (S, F)."""

    def __init__(self, wires: list[tuple[Tensor, Tensor]], trains: list[Tensor], states: Tensor, out: Tensor) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(linear(inputs) for inputs, _ in wires)
        self.around = nn.ModuleList(linear(around) for _, around in wires)
        self.neurons = nn.ModuleList(Replay(train) for train in trains)
        self.readout, self.states, self.first = linear(out) if len(out) else None, states, 0

    def forward(self, batch: Tensor) -> Tensor:
        own = [torch.zeros(len(batch), len(around.weight)) for around in self.around]
        for step in range(STEPS):
            channels = batch[:, step].split([inputs.in_features for inputs in self.inputs], dim=1)
            parts = zip(self.inputs, self.around, self.neurons, channels, own, strict=True)
            own = [neurons(inputs(seen) + around(spikes)) for inputs, around, neurons, seen, spikes in parts]
        if self.readout is not None:
            self.readout(self.states[self.first : self.first + len(batch)])
            self.first += len(batch)
        return own[0]


def over_liquids(twin: LiquidTwin) -> NeuroBenchModel:
    model = TorchModel(twin)
    model.add_activation_module(Replay)
    return model


def dense(weight: Tensor, pre: Tensor, post: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.zeros(shape).index_put((post, pre), weight)


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


class LstmTwin(nn.Module):
    """PyTorch's cell in a loop; the package does not know its layer."""

    def __init__(self, layer: nn.LSTM, output: nn.Linear) -> None:
        super().__init__()
        self.cell, self.output = nn.LSTMCell(layer.input_size, layer.hidden_size), output
        for name, value in layer.named_parameters():
            setattr(self.cell, name.removesuffix("_l0"), value)

    def forward(self, values: Tensor) -> Tensor:
        state = (torch.zeros(len(values), self.cell.hidden_size),) * 2
        mean = 0.0
        for value in values.unbind(dim=1):
            state = self.cell(value, state)
            mean = mean + state[0] / values.shape[1]
        return self.output(mean)


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


@pytest.mark.parametrize("name", ["lstm", "gru", "phased_lstm"])
def test_steps_after_the_end_of_a_sample_are_not_counted(name: str) -> None:
    """A batch of samples of several lengths has what they have one by one."""
    signal = Signal(64, STEPS, spikes=False)
    model = without_spikes(name, signal, layers=[6, 5], dense=[4], standardise=True)
    values = spikes_of(64)[:9] * torch.rand(9, STEPS, 64)
    model.scale.fit([values])
    for sample in range(9):
        values[sample, STEPS - sample :] = torch.nan
    none = encoders.build("none", seed=0)
    together, fired = measured(model, values.numpy(), none)
    alone = [measured(model, values[k : k + 1, : STEPS - k].numpy(), none) for k in range(9)]
    assert together.operations is not None
    for figure in ("effective_macs", "dense"):
        whole = sum(getattr(one.operations, figure) for one, _ in alone)
        assert 9 * getattr(together.operations, figure) == pytest.approx(whole)
    for layer, seen in fired.seen.items():
        assert seen.active == sum(one.seen[layer].active for _, one in alone), layer
        assert seen.activities == sum(one.seen[layer].activities for _, one in alone), layer
    assert fired.seen["hidden1"].passes == sum(range(4, 13))


# ---- what is said ---------------------------------------------------------------------------------------------------


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
    ours, _ = measured(Unknown(), pixels().numpy(), encoders.build("none", seed=0))
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
