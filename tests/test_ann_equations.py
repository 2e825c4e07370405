"""The models without spikes against PyTorch's own functions and against loops written from the papers' equations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_ann import IMAGE, TRAINS, batch, build, gradients
from torch import Tensor, nn
from torch.nn import functional

from snnrun import rules
from snnrun.ann.inputs import Bins, lengths
from snnrun.errors import UsageError
from snnrun.models import MODELS
from snnrun.network import Network
from snnrun.network.model import Model, Signal

SERIES = Signal(4, 6, spikes=False)


def series(size: int = 5) -> tuple[Tensor, Tensor]:
    """Values over time of samples with 6, 5, ... steps, and labels."""
    values = torch.rand(size, 6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for sample in range(size):
        values[sample, 6 - sample :] = torch.nan
    return values, torch.arange(size) % 3


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


# ---- what PyTorch computes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_layers_are_those_of_pytorch_sample_by_sample(name: str, readout: str, bias: bool) -> None:
    options: dict[str, Any] = {"layers": [5, 4], "dense": [6], "readout": readout, "bias": bias, "dropout": 0.0}
    model = build(name, SERIES, **options).double()
    own = {"lstm": nn.LSTM, "gru": nn.GRU}[name](4, 5, bias=bias, batch_first=True).double()
    behind = {"lstm": nn.LSTM, "gru": nn.GRU}[name](5, 4, bias=bias, batch_first=True).double()
    state = model.state_dict()
    for layer, part in ((own, "hidden1"), (behind, "hidden2")):
        layer.load_state_dict({key: state[f"layers.{part}.{key}"] for key in layer.state_dict()})
    values, labels = series()
    scores, ends = model(values, labels).scores, model(values, labels).passes
    assert ends.tolist() == [6, 5, 4, 3, 2]
    for sample, steps in enumerate(ends.tolist()):
        states = behind(own(values[sample : sample + 1, :steps])[0])[0][0]
        read = states[-1] if readout == "last" else states.mean(dim=0)
        dense = torch.relu(functional.linear(read, state["layers.hidden3.weight"], state["layers.hidden3.bias"]))
        wanted = functional.linear(dense, state["layers.output.weight"], state["layers.output.bias"])
        torch.testing.assert_close(scores[sample], wanted)


@pytest.mark.parametrize("name", ["lstm", "gru", "phased_lstm"])
def test_what_follows_the_end_of_a_sample_makes_no_difference(name: str) -> None:
    """Neither steps that a longer sample of the batch has, nor silence after the last spike."""
    model, (values, _) = build(name, SERIES).double(), series()
    alone = torch.cat([model(values[k : k + 1, : 6 - k]).scores for k in range(5)])
    torch.testing.assert_close(model(values).scores, alone)
    spiking, (bits, *_) = build(name, TRAINS).double(), batch(TRAINS)
    longer = torch.cat([bits, bits.new_zeros(len(bits), 40, bits.shape[2])], dim=1)
    torch.testing.assert_close(spiking(longer).scores, spiking(bits).scores)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_an_image_is_read_row_by_row(name: str) -> None:
    signal = Signal(24, 0, spikes=False, image=(2, 3, 4))
    model = build(name, signal)
    images = torch.rand(2, 1, 24)
    rows = images.reshape(2, 2, 3, 4).transpose(1, 2).reshape(2, 3, 8)
    assert model.layout()["hidden1"]["inputs"] == 8
    assert torch.equal(model(images).scores, build(name, Signal(8, 3, spikes=False))(rows).scores)


def test_a_forget_gate_begins_open() -> None:
    for forget, wanted in ((1.0, 1.0), (None, None)):
        state = build("lstm", SERIES, forget_bias=forget).state_dict()
        total = state["layers.hidden1.bias_ih_l0"][9:18] + state["layers.hidden1.bias_hh_l0"][9:18]
        assert (total == wanted).all() if wanted else total.abs().max() <= 2 / 3


# ---- the twin of a spiking network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["average", "max"])
def test_cnn_computes_what_pytorch_computes(pool: str) -> None:
    signal = Signal(2 * 10 * 9, 0, spikes=False, image=(2, 10, 9))
    model = MODELS["cnn"](network="4C3p1-P2-3C2-P3s1-6", pool=pool, activation="tanh").build(signal, 3, 0)
    state = {key.removeprefix("layers."): value for key, value in model.state_dict().items()}
    take: Any = functional.avg_pool2d if pool == "average" else functional.max_pool2d
    images = torch.rand(3, 1, signal.channels, generator=torch.Generator().manual_seed(0))
    values = images.reshape(3, 2, 10, 9)
    values = take(torch.tanh(functional.conv2d(values, state["conv1.weight"], state["conv1.bias"], padding=1)), 2)
    values = torch.tanh(functional.conv2d(values, state["conv3.weight"], state["conv3.bias"]))
    values = take(values, 3, 1).flatten(1)
    values = torch.tanh(functional.linear(values, state["hidden5.weight"], state["hidden5.bias"]))
    wanted = functional.linear(values, state["output.weight"], state["output.bias"])
    torch.testing.assert_close(model(images).scores, wanted)


@pytest.mark.parametrize("topology", ["15C5-P2-40C5-P2-300", "12C5-P2-64C5-P2", "8C3s2p1-P3s2-20"])
def test_cnn_has_the_layers_and_the_weights_of_its_spiking_twin(topology: str) -> None:
    signal = Signal(784, 0, spikes=False, image=(1, 28, 28))
    twin = MODELS["cnn"](network=topology, bias=False).build(signal, 10, 0)
    biased = MODELS["cnn"](network=topology).build(signal, 10, 0)
    spiking = Network(rules.StRsbp(v_th=[1.0]), inputs=784, topology=topology, outputs=10, image=(1, 28, 28))
    assert (twin.layer_names, twin.sizes, twin.chain) == (spiking.layer_names, spiking.sizes, spiking.chain)
    assert twin.synapses() == spiking.synapses()
    kernels = sum(len(value) for key, value in biased.state_dict().items() if key.endswith("bias"))
    assert biased.synapses() == spiking.synapses() + kernels


def test_cnn_multiplies_a_kernel_at_each_of_its_positions() -> None:
    signal = Signal(784, 0, spikes=False, image=(1, 28, 28))
    macs = MODELS["cnn"]().build(signal, 10, 0).macs(1.0)
    assert macs == {
        **{"conv1": 15 * 25 * 24**2, "pool2": 0, "conv3": 40 * 15 * 25 * 8**2, "pool4": 0},
        **{"hidden5": 640 * 300, "output": 3000},
    }


def test_cnn_sees_how_often_the_inputs_fire() -> None:
    signal = TRAINS._replace(image=(2, 5, 7))
    model, (bits, *_) = build("cnn", signal), batch(TRAINS)
    rates = Bins(TRAINS, None)(bits)
    seen = build("cnn", Signal(70, 0, spikes=False, image=(2, 5, 7)))(rates)
    assert torch.equal(model(bits).scores, seen.scores)


# ---- Phased LSTM ----------------------------------------------------------------------------------------------------


def time_gate(time: float, period: float, shift: float, share: float, leak: float) -> float:
    phase = ((time - shift) % period) / period
    if phase < share / 2:
        return 2 * phase / share
    return 2 - 2 * phase / share if phase < share else leak * phase


def phased_layer(state: dict[str, Any], values: Any, interval: float, leak: float) -> np.ndarray:
    """Outputs (T, H) of one sample (T, N): unit by unit, as the module's equations have it."""
    size = len(state["log_period"])
    c, h, outputs = [0.0] * size, [0.0] * size, []
    for step, x in enumerate(values):
        old_c, old_h = list(c), list(h)
        for j in range(size):
            drive = [
                state["bias"][gate * size + j]
                + sum(state["weight_ih"][gate * size + j][n] * x[n] for n in range(len(x)))
                + sum(state["weight_hh"][gate * size + j][n] * old_h[n] for n in range(size))
                for gate in range(4)
            ]
            period = math.exp(state["log_period"][j])
            k = time_gate(step * interval, period, state["shift"][j], state["open"][j], leak)
            peephole = state["peephole"]
            gate_in = sigmoid(drive[0] + peephole[0][j] * old_c[j])
            forget = sigmoid(drive[1] + peephole[1][j] * old_c[j])
            new_c = forget * old_c[j] + gate_in * math.tanh(drive[2])
            new_h = sigmoid(drive[3] + peephole[2][j] * new_c) * math.tanh(new_c)
            c[j], h[j] = k * new_c + (1 - k) * old_c[j], k * new_h + (1 - k) * old_h[j]
        outputs.append(list(h))
    return np.array(outputs)


def phased() -> Model:
    options = {"layers": [5, 4], "dropout": 0.0, "readout": "last", "leak": 0.05, "open": 0.4}
    model = build("phased_lstm", SERIES, **options, period_least=2.0, period_most=9.0)
    return model.double()


def test_time_gates_do_not_decay_as_weights_do() -> None:
    model = phased()
    names = {name for name, parameter in model.named_parameters() if parameter in set(model.apart())}
    assert {name.rpartition(".")[2] for name in names} == {"log_period", "shift", "open"}
    assert len(names) == 3 * sum(name.endswith("log_period") for name, _ in model.named_parameters())


@pytest.mark.parametrize("training", [True, False])
def test_phased_lstm_computes_its_equations(training: bool) -> None:
    model, (values, labels) = phased(), series()
    scores = model(values, labels if training else None).scores
    for sample in range(5):
        states: Any = values[sample, : 6 - sample].numpy()
        for name in ("hidden1", "hidden2"):
            state = {
                key.removeprefix(f"layers.{name}."): value.tolist()
                for key, value in model.state_dict().items()
                if key.startswith(f"layers.{name}.")
            }
            states = phased_layer(state, states, 1.0, 0.05 if training else 0.0)
        wanted = functional.linear(torch.tensor(states[-1]), *model.layers["output"].parameters())
        torch.testing.assert_close(scores[sample], wanted)


def test_the_gradients_of_phased_lstm_are_those_of_differences() -> None:
    """Of every weight, period, shift and opening."""
    model, (values, labels) = phased(), series()

    def loss() -> float:
        with torch.no_grad():
            return float(model.sample_loss(model(values, labels), labels).mean())

    found = gradients(model, values, labels, torch.zeros(5, dtype=torch.int64))
    for (parameter, _), gradient in zip(model.trained(), found, strict=True):
        flat = parameter.data.view(-1)
        for place in range(0, len(flat), max(1, len(flat) // 4)):
            kept, sides = flat[place].item(), []
            for change in (1e-6, -1e-6):
                flat[place] = kept + change
                sides.append(loss())
            flat[place] = kept
            assert gradient.view(-1)[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_a_period_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.period_most: 2 is less than model\.period_least, 5"):
        MODELS["phased_lstm"](period_least=5.0, period_most=2.0)


# ---- LRA-E ----------------------------------------------------------------------------------------------------------


def lra_updates(
    weights: list[Any], feedback: list[Any], x: Any, label: int, beta: float
) -> tuple[list[Any], list[Any]]:
    """Delta W and e of each layer for one sample, neuron by neuron."""
    drives, activities = [], [list(x)]
    for weight in weights:
        drives.append([sum(w * z for w, z in zip(row, activities[-1], strict=True)) for row in weight])
        activities.append([math.tanh(h) for h in drives[-1]])
    total = sum(math.exp(h) for h in drives[-1])
    errors = [[math.exp(h) / total - (k == label) for k, h in enumerate(drives[-1])]]
    for above in range(len(weights) - 1, 0, -1):
        error = []
        for i, h in enumerate(drives[above - 1]):
            moved = h - beta * sum(feedback[above - 1][i][j] * errors[0][j] for j in range(len(errors[0])))
            error.append(math.tanh(h) - math.tanh(moved))
        errors.insert(0, error)
    updates = [[[e * z for z in activity] for e in error] for error, activity in zip(errors, activities, strict=False)]
    return updates, errors


@pytest.mark.parametrize("bias", [False, True])
def test_lra_computes_its_equations(bias: bool) -> None:
    model = build("lra", IMAGE, gamma=0.7, beta=0.3, bias=bias).double()
    inputs, labels, keys = batch(IMAGE)
    found = dict(zip([key for key, _ in model.named_parameters()], gradients(model, inputs, labels, keys), strict=True))
    names = model.layer_names
    weights = [model.layers[name].weight.tolist() for name in names]
    feedback = [model.feedback[name].tolist() for name in names[1:]]
    samples = [
        lra_updates(weights, feedback, x, label, 0.3)
        for x, label in zip(inputs[:, 0].double().tolist(), labels.tolist(), strict=True)
    ]
    for number, name in enumerate(names):
        wanted = torch.tensor([updates[number] for updates, _ in samples], dtype=torch.float64).mean(dim=0)
        torch.testing.assert_close(found[f"layers.{name}.weight"], wanted)
        if number:
            torch.testing.assert_close(found[f"feedback.{name}"], 0.7 * wanted.T)
        if bias:
            errors = torch.tensor([errors[number] for _, errors in samples], dtype=torch.float64)
            torch.testing.assert_close(found[f"layers.{name}.bias"], errors.mean(dim=0))


def test_lra_counts_the_weights_that_an_inference_has() -> None:
    pixels = Signal(784, 0, spikes=False, image=(1, 28, 28))
    model = MODELS["lra"]().build(pixels, 10, 0)
    assert model.synapses() == 465_408
    assert sum(model.macs(1.0).values()) == 465_408
    assert sum(parameter.numel() for parameter, _ in model.trained()) > 465_408


# ---- cost and bad input ---------------------------------------------------------------------------------------------


def test_a_recurrent_model_multiplies_at_each_step_and_reads_once() -> None:
    signal = Signal(64, 100, spikes=True)
    macs = MODELS["gru"](layers=[200, 200], dense=[100]).build(signal, 11, 0).macs(7.5)
    assert macs == {
        **{"hidden1": 7.5 * 3 * 200 * 264, "hidden2": 7.5 * 3 * 200 * 400},
        **{"hidden3": 20_000, "output": 1100},
    }
    assert MODELS["lstm"](layers=[5]).build(signal, 11, 0).macs(2.0)["hidden1"] == 2 * 4 * 5 * 69


@pytest.mark.parametrize("name", ["lstm", "gru", "phased_lstm"])
def test_a_recurrent_model_needs_time(name: str) -> None:
    with pytest.raises(UsageError, match="over time or at images row by row"):
        build(name, Signal(12, 0, spikes=False))
    with pytest.raises(UsageError, match="at least one recurrent layer"):
        MODELS[name](layers=[])


def test_cnn_needs_images_and_convolutions() -> None:
    with pytest.raises(UsageError, match="looks at images"):
        build("cnn", TRAINS)
    with pytest.raises(UsageError, match="has no convolution"):
        build("cnn", IMAGE, network="30-20")
    with pytest.raises(UsageError, match="'R30' is recurrent"):
        MODELS["cnn"](network="3C2-R30")


def test_lengths_of_a_batch_are_at_least_one() -> None:
    assert lengths(torch.zeros(2, 3, 1), spikes=True).tolist() == [1, 1]
