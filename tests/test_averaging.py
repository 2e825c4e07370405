"""Weights averaged on the way of a training."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from test_checkpoint import Collector
from test_engine import CPU, RULES, Notes, run, toy
from trained_runs import values

from snnrun import cli, encoders
from snnrun.errors import UsageError
from snnrun.network import Network
from snnrun.rules import StbpRule
from snnrun.run import checkpoint, experiment, resume, trained
from snnrun.train import engine
from snnrun.train.averaging import Average
from snnrun.train.options import Options
from snnrun.train.training import Training


def network(seed: int = 0) -> Network:
    return Network(StbpRule(v_th=[0.5]), inputs=6, topology="4-R5", outputs=3, seed=seed)


def moved(net: Network, number: int) -> dict[str, torch.Tensor]:
    """Give the weights new values; returns a copy."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_exponential_average_is_its_closed_form(decay):
    """a_n is the sum of (1 - d_k) w_k times the product of the later d's, with 1 - d_0 = 1."""
    net = network()
    average = Average(net, Options(epochs=1, average="ema", average_decay=decay))
    assert average.model is None
    states = []
    for number in range(6):
        states.append(moved(net, number))
        average.after_update()
        average.after_epoch(number)  # this is for the other average
    d = [0.0, *(min(decay, (1 + n) / (10 + n)) for n in range(1, 6))]
    assert average.model is not None
    for name, found in average.model.named_parameters():
        expected = sum(states[k][name] * (1 - d[k]) * math.prod(d[k + 1 :]) for k in range(6))
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad
    assert average.model.layers[0].weight.stride() == net.layers[0].weight.stride(), "as the loops want it"
    assert all(torch.equal(net.state_dict()[name], value) for name, value in states[-1].items()), "the weights stay"


def test_the_stochastic_average_is_the_mean_over_its_epochs():
    net = network()
    options = Options(epochs=8, average="swa", swa_start=0.5)
    average, states = Average(net, options), []
    for epoch in range(8):
        states.append(moved(net, epoch))
        average.after_update()
        average.after_epoch(epoch)
        average.after_epoch(epoch)  # as a training does that was stopped after the first time
        assert (average.model is None) == (epoch < 4)
        assert average.number == max(0, epoch - 3)
    assert average.model is not None
    for name, found in average.model.named_parameters():
        torch.testing.assert_close(found, torch.stack([state[name] for state in states[4:]]).mean(dim=0))


def test_the_rate_of_the_stochastic_average_is_constant_from_its_start():
    cosine = Options(epochs=8, lr=1.0)
    kept, given = (Options(epochs=8, lr=1.0, average="swa", swa_start=0.75, swa_lr=rate) for rate in (None, 0.3))
    assert kept.first_averaged == given.first_averaged == 6
    for epoch, progress in ((0, 0.0), (3, 0.42), (5, 0.749)):
        assert kept.learning_rate(epoch, progress) == given.learning_rate(epoch, progress)
        assert kept.learning_rate(epoch, progress) == cosine.learning_rate(epoch, progress)
    for epoch, progress in ((6, 0.75), (6, 0.86), (7, 0.99)):
        assert kept.learning_rate(epoch, progress) == cosine.learning_rate(6, 0.75)
        assert given.learning_rate(epoch, progress) == 0.3
    assert Options(epochs=1, average="swa", swa_start=0.99).first_averaged == 0, "the last epoch is always in it"
    shares = {(100, 0.29): 29, (100, 0.57): 57, (50, 0.58): 29, (8, 0.99): 7}
    found = {key: Options(epochs=key[0], average="swa", swa_start=key[1]).first_averaged for key in shares}
    assert found == shares, "rounding makes it no epoch earlier"


def test_the_figures_of_trained_constants_are_those_of_the_average():
    rule = dataclasses.replace(RULES["stbp"], train_constants="all", constants_lr=10.0)
    result = run(rule, average="ema", average_decay=0.9)
    kept = Network(rule, inputs=6, topology="10", outputs=3)
    kept.load_state_dict(result.last_state)
    figures = kept.figures()
    assert "tau_m/hidden1" in figures
    assert {key: result.history[-1][key] for key in figures} == figures


@pytest.mark.parametrize("rise", [{"warmup_epochs": 5}, {"schedule": "onecycle"}])
def test_averaging_that_would_keep_a_rate_on_its_rise_is_refused(rise):
    with pytest.raises(UsageError, match=r"train\.swa_start: 0\.2 of 10 epochs lies within the rise"):
        Options(epochs=10, average="swa", swa_start=0.2, **rise)
    Options(epochs=10, average="swa", swa_start=0.5, **rise)
    Options(epochs=10, average="swa", swa_start=0.2, swa_lr=0.01, **rise)


def test_an_average_of_which_nothing_is_left_is_the_training_without(tmp_path):
    """A decay of 0 takes the weights themselves. The training itself is never changed by an exponential average."""
    plain, averaged = run(epochs=2), run(epochs=2, average="ema", average_decay=0.0)
    assert [m["test/accuracy"] for m in plain.history] == [m["test/accuracy"] for m in averaged.history]
    assert all(torch.equal(plain.last_state[key], averaged.last_state[key]) for key in plain.last_state)
    slow = run(epochs=2, average="ema", average_decay=0.9)
    assert [m["train/loss"] for m in plain.history] == [m["train/loss"] for m in slow.history]
    assert not torch.equal(plain.last_state["layers.0.weight"], slow.last_state["layers.0.weight"])


def test_what_is_evaluated_chosen_and_kept_is_the_average(tmp_path):
    """The weights in the checkpoint go on; those beside it are the average, whose accuracy the history has."""
    net, keeper, dataset = network(), Collector(), toy()
    encoder = encoders.build("bernoulli", seed=0, steps=20)
    options = Options(epochs=3, batch_size=12, lr=0.05, average="ema", average_decay=0.95)
    result = engine.train(net, dataset, encoder, options, seed=0, device=CPU, observer=Notes(), keeper=keeper)
    (tmp_path / "state.safetensors").write_bytes(keeper.files[-1])
    kept = checkpoint.load(tmp_path)
    assert kept is not None
    tensors = kept.snapshot.tensors
    for key, value in result.last_state.items():
        assert torch.equal(tensors[f"average/{key}"], value)
    assert torch.equal(tensors["network/layers.0.weight"], net.state_dict()["layers.0.weight"])
    assert not torch.equal(tensors["network/layers.0.weight"], tensors["average/layers.0.weight"])
    checkpoint.Keeper(tmp_path, None, {}, pytest.fail).keep(kept.snapshot)
    net.load_state_dict(trained.read(tmp_path / "last.safetensors"))
    again = Training(net, dataset, encoder, Options(epochs=1), seed=0, device=CPU)
    predicted = engine.evaluation.predict(again.network, dataset.test, encoder, CPU)
    assert (predicted == dataset.test.labels).mean() == result.history[-1]["test/accuracy"]


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_a_run_says_that_it_averages_and_its_evaluation_is_of_the_average(
    average: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = values("stbp")
    config["train"] |= {"epochs": 2, "average": average, "swa_start": 0.0, "average_decay": 0.9}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    experiment.run(config, tmp_path, command=["test"])
    when = "after every update" if average == "ema" else "from epoch 1 on"
    assert f"Weights are averaged {when} (train.average={average})" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["evaluate", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.err == "", "it would warn of another accuracy than recorded"
    assert "best weights" in said.out


@pytest.mark.parametrize(
    ("given", "usual"),
    [
        ("average=swa", "average=none"),
        ("optimizer=adamw", "optimizer=adam"),
        ("weight_decay=0.1", "weight_decay=0.0"),
        ("clip_norm=1.0", "clip_norm=null"),
        ("boosting=true", "boosting=false"),
    ],
)
def test_what_is_done_to_updates_is_refused_of_a_model_that_learns_by_itself(
    given: str, usual: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("train", "model=spilinc", "data.limit=20", f"train.{given}", "tracking=none", f"outputs={tmp_path}"),
        *("hardware.kernels=reference", "encoder.steps=10"),
    ]
    assert cli.main(arguments) == 2
    key = given.partition("=")[0]
    assert f"train.{key}: model=spilinc learns by itself, without an optimiser. Set train.{usual}." in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ({"schedule": "onecycle"}, "train.schedule=onecycle stretches the learning rate over the epochs"),
        ({"schedule": "constant", "average": "swa"}, "train.average=swa begins at a share of the epochs"),
        ({"schedule": "constant", "average": "ema", "warmup_epochs": 1.0}, None),
    ],
)
def test_a_run_whose_rate_or_average_follows_its_length_is_not_trained_longer(train, says):
    before, now = {"train": train | {"epochs": 3}}, {"train": train | {"epochs": 5}}
    if says is None:
        resume.check(before, now, [{}] * 3)
        return
    with pytest.raises(UsageError, match=re.escape(f"train.epochs: 3 -> 5: {says}")):
        resume.check(before, now, [{}] * 3)
