"""The liquid state machine and SpiLinC: what they compute, how they are trained, and what they refuse."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_engine import CPU, Notes, toy
from torch import Tensor

from snnrun import cli, encoders
from snnrun.commands import evaluate, predict
from snnrun.compiled import parallel
from snnrun.data import Dataset
from snnrun.encoders import Encoder
from snnrun.errors import UsageError
from snnrun.liquid import Lsm, SpiLinC
from snnrun.liquid.spilinc import Seen
from snnrun.models import MODELS
from snnrun.network.model import LocalModel, Model, Signal
from snnrun.run import build, experiment, states
from snnrun.train import engine
from snnrun.train.engine import Options
from snnrun.train.training import Training

OPTIONS: dict[str, dict[str, Any]] = {
    "lsm": {"neurons": 40, "input_share": 0.5, "threshold": 1.0, "tau_m": 20.0, "readings": 2},
    "spilinc": {
        **{"liquids": 2, "neurons": 40, "input_share": 0.9, "threshold": 1.0, "tau_m": 20.0, "rise": 0.02},
        **{"weight_max": 1.0, "tau_rise": 2000.0},
    },
}
STEPS = 30


def model(name: str, inputs: int = 6, **options: Any) -> Model:
    return MODELS[name](**{**OPTIONS[name], **options}).build(Signal(inputs, STEPS, spikes=True), 3, seed=4)


def encoded() -> tuple[Dataset, Encoder]:
    """The toy's images, with the same spikes at each presentation."""
    encoder = encoders.build("poisson", seed=0, steps=STEPS, frozen=True, attenuation=2.0)
    assert not isinstance(encoder, encoders.RecordingEncoder)
    return toy(), encoder


def inputs_of(dataset: Dataset, encoder: Encoder, size: int = 8) -> tuple[Tensor, Tensor]:
    at = np.arange(size)
    bits = encoder.encode(dataset.train.samples[at], dataset.train.index[at], 0)
    return torch.from_numpy(bits), torch.from_numpy(dataset.train.labels[at])


# ---- the liquid state machine ---------------------------------------------------------------------------------------


def test_a_batch_gives_the_mean_of_its_samples():
    lsm = model("lsm", l2=0.0)
    spikes, labels = inputs_of(*encoded())

    def gradient(at: slice) -> Tensor:
        lsm.zero_grad()
        lsm.sample_loss(lsm(spikes[at]), labels[at]).mean().backward()
        return lsm.readout.grad.clone()

    whole = gradient(slice(None))
    assert whole.any()
    alone = torch.stack([gradient(slice(k, k + 1)) for k in range(len(labels))])
    torch.testing.assert_close(whole, alone.mean(dim=0))


def test_the_readout_is_a_softmax_of_the_normalised_state():
    """With the penalty l2 / 2 |W|^2, against automatic differentiation of the formula."""
    lsm = model("lsm", l2=0.1)
    spikes, labels = inputs_of(*encoded())
    responses = lsm.respond(spikes)
    states_ = responses[:, 40:]
    lsm.standardise(states_.mean(dim=0), states_.std(dim=0))
    torch.nn.init.normal_(lsm.readout, generator=torch.Generator().manual_seed(0))
    lsm.sample_loss(lsm(spikes), labels).mean().backward()
    lsm.add_weight_penalty()
    weight = lsm.readout.detach().clone().requires_grad_()
    z = ((states_ - lsm.mean) / lsm.spread) @ weight.T
    (torch.nn.functional.cross_entropy(z, labels) + 0.05 * weight.square().sum()).backward()
    torch.testing.assert_close(lsm.readout.grad, weight.grad)


def test_kept_states_are_those_of_the_spikes(tmp_path):
    lsm, (dataset, encoder) = model("lsm"), encoded()
    kept, reader = states.kept(lsm, dataset, encoder, {"seed": 4}, tmp_path)
    for part, own in ((dataset.train, kept.train), (dataset.validation, kept.validation), (dataset.test, kept.test)):
        at = np.arange(len(part))[::3]
        values = torch.from_numpy(reader.encode(own.samples[at], own.index[at], 5))
        spikes = torch.from_numpy(encoder.encode(part.samples[at], part.index[at], 5))
        assert torch.equal(lsm(values).scores, lsm(spikes).scores)
        assert torch.equal(lsm(values).counts[0], lsm(spikes).counts[0])
        assert torch.equal(values[:, 0], lsm.respond(spikes))
    [file] = tmp_path.glob("toy_states-*.spikes")
    written = file.stat().st_mtime_ns
    states.kept(model("lsm", l2=0.5, normalise="none"), dataset, encoder, {"seed": 4}, tmp_path)
    assert [each.stat().st_mtime_ns for each in tmp_path.glob("*.spikes")] == [written], "they do not depend on these"
    for other, about in ((model("lsm", readings=3), {"seed": 4}), (lsm, {"seed": 5})):
        states.kept(other, dataset, encoder, about, tmp_path)
    states.kept(lsm, replace(dataset, digest="1" * 64), encoder, {"seed": 4}, tmp_path)
    assert len([*tmp_path.glob("*.spikes")]) == 4


def test_states_that_change_are_not_kept():
    dataset, frozen = encoded()
    fresh = encoders.build("poisson", seed=0, steps=STEPS, frozen=False, attenuation=2.0)
    assert states.can_be_kept(dataset, frozen)
    assert not states.can_be_kept(dataset, fresh)
    assert not states.can_be_kept(replace(dataset, augment=lambda samples, *_: samples), frozen)


@pytest.mark.parametrize("normalise", ["standard", "length", "none"])
def test_states_are_normalised(normalise):
    lsm, (dataset, encoder) = model("lsm", normalise=normalise), encoded()
    assert lsm.mean.shape == ((80,) if normalise == "standard" else (0,))
    if normalise == "standard":
        states.standardise(lsm, dataset.train, encoder)
    responses = lsm.respond(inputs_of(dataset, encoder, 60)[0])[:, 40:]
    state = lsm.normalised(responses)
    if normalise == "standard":
        spread = responses.std(dim=0, correction=0)
        steady = spread > 0.03 * spread.max()
        torch.testing.assert_close(state.mean(dim=0), torch.zeros(80), atol=1e-5, rtol=0)
        torch.testing.assert_close(state.std(dim=0, correction=0)[steady], torch.ones(int(steady.sum())))
        assert (state.abs() < 100).all()
    elif normalise == "length":
        torch.testing.assert_close(state.norm(dim=1), torch.ones(60))
    else:
        assert torch.equal(state, responses)


@pytest.mark.parametrize(
    ("options", "weights"),
    [({"neurons": 2000}, 52_000), ({"neurons": 500}, 13_000), ({"neurons": 50, "readings": 4}, 5_200)],
)
def test_only_the_readout_is_trained(options, weights):
    built = Lsm(**options).build(Signal(78, 700, spikes=True), 26, 0)
    assert built.synapses() == weights
    assert built.chain == f"78-R{options['neurons']}-26"


# ---- SpiLinC --------------------------------------------------------------------------------------------------------


def test_neurons_are_tagged_by_the_class_of_their_largest_mean_response_and_groups_vote():
    responses = torch.tensor([[4.0, 1.0, 0.0, 9.0], [9.0, 0.0, 0.0, 12.0], [3.0, 0.0, 0.0, 2.0]], dtype=torch.float64)
    seen = Seen(responses, torch.zeros(4), torch.tensor([2, 3, 1]))
    groups = seen.groups()  # means: 2, .5, 0, 4.5; 3, 0, 0, 4; 3, 0, 0, 2
    expected = [[0, 0.5, 0, 0.5], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert groups.tolist() == expected
    means = np.array([2 + 3 + 3, 0.5, 0, 4.5 + 4 + 2]) / 3
    relative = seen.groups(relative=True)
    np.testing.assert_allclose(relative, np.array(expected) / np.where(means > 0, means, 1))


def test_the_likelihood_is_that_of_normal_variables():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    responses = torch.rand(60, 5, generator=generator, dtype=torch.float64) + 0.3 * labels[:, None]
    seen = Seen(torch.zeros(3, 5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64), torch.zeros(3, dtype=int))
    for start in (0, 32):
        seen = seen.with_(responses[start : start + 32], labels[start : start + 32])
    weights, bias = seen.likelihood()
    means = torch.stack([responses[labels == k].mean(dim=0) for k in range(3)])
    spread = (responses - means[labels]).square().mean(dim=0).sqrt()
    exact = torch.distributions.Normal(means, spread).log_prob(responses[:, None]).sum(dim=2)
    scores = responses @ weights.T + bias
    torch.testing.assert_close(scores - scores.mean(1, keepdim=True), exact - exact.mean(1, keepdim=True))


def test_each_liquid_sees_a_segment_and_inhibitory_neurons_neither_see_nor_vote():
    spilinc = model("spilinc", inputs=7, liquids=3)
    wires = spilinc.liquids
    assert wires.edges == (0, 2, 5, 7)
    liquid = wires.post // 40
    assert all(
        wires.edges[k] <= j < wires.edges[k + 1] for j, k in zip(wires.pre.tolist(), liquid.tolist(), strict=True)
    )
    assert spilinc.excitatory[wires.post].all()
    assert torch.equal(wires.recurrent.pre // 40, wires.recurrent.post // 40)
    response = spilinc._response(torch.ones(1, 120))
    assert response[0, ~spilinc.excitatory].sum() == 0
    assert float(response.sum()) == pytest.approx(1.0)


def test_the_state_changes_when_a_presentation_is_accepted():
    spilinc, (dataset, encoder) = model("spilinc"), encoded()
    assert isinstance(spilinc, LocalModel)
    spikes, labels = inputs_of(dataset, encoder)
    before = copy.deepcopy(spilinc.state_dict())
    spilinc.present(spikes, labels, 0.01, 1)
    assert all(torch.equal(value, before[name]) for name, value in spilinc.state_dict().items())
    spilinc.accept()
    changed = {name for name, value in spilinc.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"weight", "raised", "responses", "squares", "shown", "epoch"}
    assert spilinc.seen.shown.tolist() == labels.bincount().tolist()
    spilinc.present(spikes, labels, 0.01, 2)
    sums = spilinc.seen.responses.clone()
    spilinc.accept()
    assert torch.equal(spilinc.get_buffer("responses_before"), sums)
    assert spilinc.seen.shown.tolist() == labels.bincount().tolist(), "an epoch begins anew"


def test_learning_does_not_depend_on_threads_or_batches():
    found = []
    for threads, size in ((1, 8), (2, 8), (1, 3)):
        parallel.set_threads(threads)
        spilinc, (dataset, encoder) = model("spilinc"), encoded()
        from snnrun import kernels

        kernels.use("cpu")
        spikes, labels = inputs_of(dataset, encoder)
        for start in range(0, 8, size):
            spilinc.present(spikes[start : start + size], labels[start : start + size], 0.01, 1)
            spilinc.accept()
        found.append(spilinc.state_dict())
    for other in found[1:]:
        assert all(torch.equal(other[name], found[0][name]) for name in ("weight", "raised", "shown"))
        torch.testing.assert_close(other["responses"], found[0]["responses"], rtol=1e-12, atol=1e-12)


# ---- training -------------------------------------------------------------------------------------------------------


class Keeps:
    """Keeps every snapshot."""

    def __init__(self, every_batch: bool) -> None:
        self.snapshots: list[engine.Snapshot] = []
        self.due = lambda: every_batch

    def keep(self, snapshot: engine.Snapshot) -> None:
        self.snapshots.append(copy.deepcopy(snapshot))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_training_learns_and_goes_on_bit_for_bit(name, tmp_path):
    dataset, encoder = encoded()
    options = Options(epochs=3, batch_size=16, lr={"lsm": 0.02, "spilinc": 0.005}[name])

    def train(start: engine.Snapshot | None = None, keeper: Keeps | None = None) -> engine.Result:
        own = model(name)
        seen = dataset, encoder
        if name == "lsm":
            seen = states.kept(own, dataset, encoder, {}, tmp_path)
            states.standardise(own, seen[0].train, seen[1])
        return engine.train(own, *seen, options, seed=1, device=CPU, observer=Notes(), keeper=keeper, start=start)

    keeper = Keeps(every_batch=True)
    whole = train(keeper=keeper)
    assert whole.status == "finished"
    assert whole.history[-1]["test/accuracy"] > 0.6
    assert ("train/loss" in whole.history[0]) == (name == "lsm")
    times = {"time/epoch_s", "time/cpu_s", "time/ms_per_sample", "samples_per_s"}
    for start in (keeper.snapshots[1], keeper.snapshots[6], keeper.snapshots[-1]):
        again = train(start=start)
        assert all(torch.equal(value, whole.last_state[key]) for key, value in again.last_state.items())
        assert [{k: v for k, v in metrics.items() if k not in times} for metrics in again.history] == [
            {k: v for k, v in metrics.items() if k not in times} for metrics in whole.history
        ]


def values(name: str, outputs: Path, **changes: Any) -> dict[str, Any]:
    return {
        "seed": 0,
        "outputs": str(outputs),
        "data": {"name": "digits", "limit": 96, "validation": 0.1, "root": None, "download": False, "shift": 0},
        "encoder": {"name": "poisson", "steps": STEPS, "frozen": True, "attenuation": 2.0},
        "model": {"name": name, **OPTIONS[name]},
        "train": {"epochs": 1, "batch_size": 16, "lr": 0.01},
        "checkpoint": {"every_minutes": None},
        "hardware": {"device": "cpu", "threads": 1, "kernels": "cpu"},
        "tracking": {"kind": "none", "uri": None, "experiment": "snnrun", "run_name": None, "system_metrics": False},
    } | changes


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_is_evaluated_and_predicts_as_it_recorded(name, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    config = values(name, tmp_path)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = experiment.run(config, folder, command=["test"])
    found = evaluate.evaluate(folder, config, weights="last")
    assert found.accuracy == result.summary["test/accuracy_last"]
    assert found.cost.as_dict()["synaptic_operations"] > 0
    assert {path.name for path in folder.glob("*.png")} >= {"raster.png", "rates.png", "cost.png", "curves.png"}
    [prediction] = predict.predict(str(folder), ["test:3"], outputs=tmp_path, weights="last")
    assert sum(share for *_, share in prediction.ranking()) == pytest.approx(1.0)
    assert {count for _, count, _ in prediction.ranking()} == {None}, "votes and probabilities are no spikes"
    assert {"scores", "spikes"} < prediction.as_dict().keys()
    assert {*prediction.as_dict()["scores"][0]} == {"class", "probability"}
    for format_, said in (
        ("nir", "No other format takes it; last.safetensors has"),
        ("onnx", "is for the networks of"),
    ):
        words = ("export", str(folder), "--format", format_, "--weights", "last", "--outputs", str(tmp_path))
        assert cli.main([*words]) == 2
        assert said in capsys.readouterr().err
    assert set(prediction.layers) == {"input", "liquid"} if name == "lsm" else {"input", "liquid1", "liquid2"}
    state = load_file(folder / "last.safetensors")
    assert state.keys() == build.network(config, build.load(config).dataset).state_dict().keys()
    assert bool([*tmp_path.glob("cache/digits_states-*.spikes")]) == (name == "lsm")


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lsm(weights=(1.0, 2.0)), r"model\.weights: 2 numbers\. Allowed: 4"),
        (lambda: SpiLinC(strength=(0.1,) * 5), r"model\.strength: 5 numbers"),
        (lambda: Lsm(input_share=1.5), r"model\.input_share: 1\.5 is out of range"),
        (lambda: Lsm(state="trains"), r"model\.state: 'trains' is not allowed"),  # type: ignore[arg-type]
        (lambda: model("spilinc", liquids=7), r"model\.liquids: 7 for 6 input channels"),
        (lambda: model("lsm", readings=31), r"model\.readings: 31 readings of 30 steps"),
        (lambda: Lsm().build(Signal(6, 0, spikes=False), 3, 0), r"model=lsm: a liquid needs spikes"),
        (lambda: SpiLinC().build(Signal(6, 0, spikes=False), 3, 0), r"model=spilinc: a liquid needs spikes"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_several_processes_cannot_share_spilinc(tmp_path):
    from snnrun.train.distributed import Group

    class Two(Group):
        size = 2

    with pytest.raises(UsageError, match=r"hardware\.processes: model=spilinc learns from one sample after another"):
        build.parts(values("spilinc", tmp_path), Two())


def test_a_wrong_option_is_one_line(capsys):
    assert cli.main(["train", "model=spilinc", "model.weights=[1,2,3]"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_optimiser_without_parameters_moves_nothing():
    dataset, encoder = encoded()
    training = Training(model("spilinc"), dataset, encoder, Options(epochs=1), seed=0, device=CPU)
    assert training.optimiser.state() == {}
    training.optimiser.restore({})
