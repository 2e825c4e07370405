"""The models without spikes: what they compute, against PyTorch's functions and loops written from the equations."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import CPU, Notes, toy
from torch import Tensor
from torch.nn import functional

from snnrun import encoders
from snnrun.ann.inputs import Bins, lengths
from snnrun.ann.module import uniform
from snnrun.data import Split
from snnrun.errors import UsageError
from snnrun.kernels import pack
from snnrun.models import MODELS
from snnrun.network.model import Model, Signal
from snnrun.train import cost, engine, firing, neurobench
from snnrun.train.engine import Options
from snnrun.train.training import Training, sample_keys

IMAGE = Signal(12, 0, spikes=False, image=(1, 3, 4))
TRAINS = Signal(70, 25, spikes=True)
OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"network": "9-8", "dropout": 0.3},
    "cnn": {"network": "4C2-P1-8", "dropout": 0.3},
    "lstm": {"layers": [9, 8], "bin": 4, "dropout": 0.3},
    "gru": {"layers": [9], "dense": [8], "bin": 4, "dropout": 0.3, "readout": "last"},
    "phased_lstm": {"layers": [9, 8], "bin": 4, "dropout": 0.3},
    "lra": {"network": "9-8", "init_scale": 0.3},
}


def build(name: str, signal: Signal, **options: Any) -> Model:
    return MODELS[name](**{**OPTIONS[name], **options}).build(signal, 3, seed=4)


def batch(signal: Signal, size: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and keys of a batch; trains of different lengths."""
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(size, max(signal.steps, 1), signal.channels, generator=generator)
    if signal.spikes:
        values = (values < 0.3).float()
        for sample in range(size):
            values[sample, signal.steps - 2 * sample :] = 0
        values = pack(values)
    keys = torch.from_numpy(sample_keys(0, 1, np.arange(size)))
    return values, torch.arange(size) % 3, keys


def gradients(model: Model, inputs: Tensor, labels: Tensor, keys: Tensor) -> list[Tensor]:
    """Of the mean loss."""
    model.zero_grad()
    model.sample_loss(model(inputs, labels, keys), labels).mean().backward()
    return [parameter.grad.clone() for parameter, _ in model.trained() if parameter.grad is not None]


# ---- inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 25, None])
def test_bins_hold_the_spikes_of_their_steps(size: int | None) -> None:
    bits, *_ = batch(TRAINS)
    bins = Bins(TRAINS, size)
    spikes = torch.from_numpy(np.unpackbits(bits.numpy().view(np.uint8), axis=2, bitorder="little")[:, :, :70])
    width = size or 25
    wanted = torch.zeros(7, -(-25 // width), 70)
    for step in range(25):
        wanted[:, step // width] += spikes[:, step]
    values = bins(bits)
    assert bins.number == values.shape[1]
    torch.testing.assert_close(values, wanted / width)


def test_a_sample_ends_with_its_last_spike_or_before_its_first_gap() -> None:
    values = torch.zeros(3, 5, 2)
    values[0, 3, 1] = values[1, 0, 0] = 1.0
    assert lengths(values, spikes=True).tolist() == [4, 1, 1]
    values[1, 2:] = torch.nan
    assert lengths(values, spikes=False).tolist() == [5, 2, 5]


def test_inputs_of_another_kind_are_no_inputs() -> None:
    with pytest.raises(ValueError, match="not what this model was made for"):
        build("mlp", IMAGE)(batch(TRAINS)[0])


def test_what_is_not_encoded_stays_what_it_is() -> None:
    encoder = encoders.build("none", seed=0)
    index = np.arange(2)
    pixels = np.array([[0, 255], [51, 102]], np.uint8)
    assert np.array_equal(encoder.encode(pixels, index, 1), np.array([[[0, 1]], [[0.2, 0.4]]], np.float32))
    series = np.random.default_rng(0).random((2, 3, 4), np.float32)
    assert encoder.encode(series, index, 1) is series
    assert encoder.encode(series[:, 0], index, 1).shape == (2, 1, 4)
    bits = np.ones((2, 3, 1), np.int64)
    assert encoder.encode(bits, index, 1) is bits
    with pytest.raises(ValueError, match="want pixels"):
        encoder.encode(series.astype(float), index, 1)


# ---- every model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_a_batch_has_the_mean_gradient_of_its_samples(name: str) -> None:
    signal = TRAINS if name != "cnn" else TRAINS._replace(image=(2, 5, 7))
    model, (inputs, labels, keys) = build(name, signal).double(), batch(signal)
    together = gradients(model, inputs, labels, keys)
    alone = [gradients(model, inputs[k : k + 1], labels[k : k + 1], keys[k : k + 1]) for k in range(7)]
    for whole, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(whole, torch.stack(parts).mean(dim=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_training_that_goes_on_is_bit_for_bit_the_same(name: str) -> None:
    """From the end of an epoch, and from the middle of one; dropout included."""

    def train(start: Any = None, keeper: Any = None, stop: int | None = None) -> engine.Result:
        def at_batch(count: int) -> None:
            if count == stop:
                raise KeyboardInterrupt

        model = MODELS[name](**OPTIONS[name]).build(Signal(6, 0, spikes=False, image=(1, 2, 3)), 3, seed=4)
        options = Options(epochs=3, batch_size=7, lr=0.01, clip_norm=1.0)
        encoder = encoders.build("none", seed=0)
        return engine.train(
            model, toy(), encoder, options, seed=0, device=CPU, observer=Notes(at_batch), keeper=keeper, start=start
        )

    class Kept:
        snapshots: list[engine.Snapshot]

        def __init__(self) -> None:
            self.snapshots = []

        def due(self) -> bool:
            return False

        def keep(self, snapshot: engine.Snapshot) -> None:
            self.snapshots.append(copy.deepcopy(snapshot))  # the optimiser goes on in its tensors

    whole, kept, cut = train(), Kept(), Kept()
    train(keeper=kept)
    train(keeper=cut, stop=13)
    for start in (kept.snapshots[0], cut.snapshots[-1]):
        again = train(start=start)
        assert all(torch.equal(again.last_state[key], value) for key, value in whole.last_state.items())
        assert [entry["train/loss"] for entry in again.history] == [entry["train/loss"] for entry in whole.history]
    assert not any(key.startswith("rate/") for entry in whole.history for key in entry)


@pytest.mark.parametrize("name", OPTIONS)
def test_it_learns_and_says_what_it_is(name: str) -> None:
    signal = Signal(6, 0, spikes=False, image=(1, 2, 3))
    model = MODELS[name](**OPTIONS[name]).build(signal, 3, seed=4)
    dataset, encoder = toy(), encoders.build("none", seed=0)
    result = engine.train(
        model, dataset, encoder, Options(epochs=12, batch_size=5, lr=0.02), seed=0, device=CPU, observer=Notes()
    )
    assert result.history[-1]["test/accuracy"] > 0.9
    assert list(model.layout()) == model.layer_names
    assert [layer["neurons"] for layer in model.layout().values()] == model.sizes
    fired = firing.record(model, dataset.test, encoder, CPU)
    assert not fired.spikes
    assert np.mean(fired.predicted == dataset.test.labels) == result.history[-1]["test/accuracy"]
    spent = cost.spent(model, fired)
    assert isinstance(spent, cost.MacCost)
    assert spent.metrics() == {
        "cost/samples": 21.0,
        "cost/macs": sum(model.macs(fired.passes / 21).values()),
        "cost/mac_energy_nj": pytest.approx(spent.macs * 4.6e-3),
        **spent.neurobench.metrics(),
    }
    assert set(spent.by_layer()) <= set(model.layer_names)


@pytest.mark.parametrize("name", ["lstm", "gru", "phased_lstm"])
def test_steps_after_the_end_of_a_sample_are_not_counted(name: str) -> None:
    """A batch of samples of several lengths has what they have one by one."""
    model = MODELS[name](layers=[6, 5], dense=[4], standardise=True).build(Signal(8, 12, spikes=False), 3, seed=4)
    values = torch.rand(9, 12, 8, generator=torch.Generator().manual_seed(0))
    values[values < 0.5] = 0.0
    model.scale.fit([values])
    values[torch.arange(12) >= 12 - torch.arange(9)[:, None]] = torch.nan

    def measured(values: Tensor) -> tuple[firing.Firing, neurobench.Operations]:
        split = Split(values.numpy(), np.zeros(len(values), np.int64), np.arange(len(values)))
        fired = firing.record(model, split, encoders.build("none", seed=0), CPU)
        operations = neurobench.measure(model, fired).operations
        assert operations is not None
        return fired, operations

    fired, together = measured(values)
    alone = [measured(values[k : k + 1, : 12 - k]) for k in range(9)]
    for figure in ("effective_macs", "dense"):
        whole = sum(getattr(operations, figure) for _, operations in alone)
        assert 9 * getattr(together, figure) == pytest.approx(whole)
    for layer, seen in fired.seen.items():
        assert seen.active == sum(one.seen[layer].active for one, _ in alone), layer
        assert seen.activities == sum(one.seen[layer].activities for one, _ in alone), layer
    assert fired.seen["hidden1"].passes == sum(range(4, 13))


@pytest.mark.parametrize("name", OPTIONS)
def test_the_seed_alone_draws_the_weights(name: str) -> None:
    torch.manual_seed(1)
    one = build(name, IMAGE).state_dict()
    torch.manual_seed(2)
    drawn = torch.rand(1)
    assert all(torch.equal(one[key], value) for key, value in build(name, IMAGE).state_dict().items())
    torch.manual_seed(2)
    assert drawn == torch.rand(1)


# ---- what a model computes of a corpus ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_glorots_weights_are_drawn_where_there_are_weights(name: str) -> None:
    model = build(name, IMAGE, init="glorot")
    for key, value in model.named_parameters():
        if key.endswith("bias"):
            assert not value.any()
        else:
            ins, outs = value[0].numel(), value.shape[0] * value[0, 0].numel()
            bound = math.sqrt(6 / (ins + outs))
            assert 0.8 * bound < value.abs().max() <= bound, key


def test_weights_of_lra_are_drawn_as_asked() -> None:
    """As PyTorch draws a linear layer: error weights are those of a layer from the upper one to the lower."""
    model = MODELS["lra"](network="300-200", init="torch").build(IMAGE, 3, seed=4)
    sizes = {"hidden1": 12, "hidden2": 300, "output": 200}
    for name, inputs in sizes.items():
        assert model.layers[name].weight.detach().abs().max() == pytest.approx(inputs**-0.5, rel=0.05)
    assert model.feedback["hidden2"].shape == (300, 200)
    assert model.feedback["hidden2"].detach().abs().max() == pytest.approx(200**-0.5, rel=0.05)
    normal = MODELS["lra"](network="300-200", init_scale=0.2, feedback_scale=0.4).build(IMAGE, 3, seed=4)
    assert normal.layers["hidden2"].weight.detach().std() == pytest.approx(0.2, rel=0.05)
    assert normal.feedback["hidden2"].detach().std() == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("name", ["mlp", "gru"])
def test_channels_are_scaled_by_the_training_samples(name: str) -> None:
    """Over the steps up to the end of each sample; the scale is part of the state."""
    model, (bits, *_) = build(name, TRAINS, standardise=True, bin=5), batch(TRAINS)
    split = Split(bits.numpy(), np.zeros(7, np.int64), np.arange(7))
    dataset = replace(toy(), kind="spikes", shape=(70,), train=split)
    assert model.study(dataset, encoders.build("none", seed=0), CPU)[0] is dataset
    counts: Any = model.values(bits)  # type: ignore[operator]
    ends = [int(np.flatnonzero(sample.any(axis=1))[-1]) + 1 for sample in counts.numpy()]
    seen = torch.cat([sample[:end] for sample, end in zip(counts, ends, strict=True)])
    scaled: Any = model.scaled(seen)  # type: ignore[operator]
    assert scaled.mean(dim=0).abs().max() < 1e-5
    torch.testing.assert_close(scaled.std(dim=0, correction=0), torch.ones(70))
    assert {"scale.mean", "scale.factor"} < set(model.state_dict())
    again = build(name, TRAINS, standardise=True, bin=5)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(bits).scores, model(bits).scores)


# ---- dropout --------------------------------------------------------------------------------------------------------


def test_what_is_dropped_depends_on_the_sample_and_the_epoch_alone() -> None:
    keys = torch.from_numpy(sample_keys(3, 1, np.arange(400)))
    drawn = uniform(keys, 300, 0)
    assert torch.equal(uniform(keys[5:9], 300, 0), drawn[5:9])
    for other in (uniform(keys, 300, 1), uniform(torch.from_numpy(sample_keys(3, 2, np.arange(400))), 300, 0)):
        assert abs(np.corrcoef(drawn.flatten(), other.flatten())[0, 1]) < 0.01
    assert 0.497 < drawn.mean() < 0.503
    assert torch.histc(drawn, 10, 0, 1).min() > 0.98 * drawn.numel() / 10
    assert drawn.min() >= 0
    assert drawn.max() < 1


def test_dropout_drops_its_share_in_training_alone() -> None:
    model, (inputs, labels, keys) = build("mlp", TRAINS, dropout=0.5), batch(TRAINS)
    assert not torch.equal(model(inputs, labels, keys).scores, model(inputs).scores)
    assert torch.equal(model(inputs).scores, build("mlp", TRAINS, dropout=0.0)(inputs, labels, keys).scores)
    training = Training(model, toy(), encoders.build("none", seed=0), Options(epochs=1), seed=0, device=CPU)
    assert training.network is model


# ---- the multilayer perceptron --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_computes_what_pytorch_computes(activation: str, bias: bool) -> None:
    model, (inputs, labels, _) = build("mlp", IMAGE, activation=activation, bias=bias, dropout=0.0), batch(IMAGE)
    state = model.state_dict()
    values = inputs[:, 0]
    for name in ("hidden1", "hidden2", "output"):
        values = functional.linear(values, state[f"layers.{name}.weight"], state.get(f"layers.{name}.bias"))
        values = values if name == "output" else getattr(torch, activation)(values)
    outcome = model(inputs)
    torch.testing.assert_close(outcome.scores, values)
    wanted = functional.cross_entropy(values, labels, reduction="none")
    torch.testing.assert_close(model.sample_loss(outcome, labels), wanted)


def test_the_numbers_of_weights_are_those_of_the_papers_tables() -> None:
    pixels = Signal(784, 0, spikes=False, image=(1, 28, 28))
    for options, weights in (
        ({"network": "256-256-256-256-256", "bias": False}, 465_408),
        ({"network": "512-512"}, 669_706),
    ):
        assert MODELS["mlp"](**options).build(pixels, 10, 0).synapses() == weights


@pytest.mark.parametrize("network", ["400-R400", "15C5-P2", "x"])
def test_mlp_takes_dense_layers_alone(network: str) -> None:
    with pytest.raises(UsageError, match=r"model\.network"):
        MODELS["mlp"](network=network)
