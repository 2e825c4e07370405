"""Several presentations at evaluation and prediction: other spikes each time, summed scores, summed costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_runs

from snnrun import cli
from snnrun.commands import evaluate, predict
from snnrun.errors import UsageError
from snnrun.run import build, trained
from snnrun.train import firing, presentations

Runs = Callable[[str], Path]
CPU = torch.device("cpu")


def test_scores_spikes_operations_and_steps_are_the_sums_over_the_presentations(digits_run: Runs) -> None:
    run, values = digits_run("strsbp"), trained_runs.values("strsbp")
    one, three = evaluate.evaluate(run, values), evaluate.evaluate(run, values, presentations=3)
    own, inputs = trained.load(run, values), build.load(values)
    split, network = inputs.dataset.test, own.network
    scores, spikes = 0, dict.fromkeys(one.firing.spikes, 0)
    for epoch in (0, presentations.FURTHER + 1, presentations.FURTHER + 2):
        bits = torch.from_numpy(inputs.encoder.encode(split.samples, split.index, epoch))
        with torch.no_grad():
            found = network(bits)
        scores = scores + found.scores.double()
        for name, counts in zip(network.layer_names, found.counts, strict=True):
            spikes[name] += int(counts.sum())
    assert np.array_equal(three.firing.predicted, scores.argmax(dim=1).numpy())
    for name in network.layer_names:
        assert three.firing.spikes[name].sum() == spikes[name]
    assert three.cost.as_dict()["steps"] == 3 * one.cost.as_dict()["steps"] == 180
    for key in ("spikes", "synaptic_operations", "energy_with_updates_nj", "input_spikes"):
        assert three.cost.as_dict()[key] == pytest.approx(3 * one.cost.as_dict()[key], rel=0.02)
        assert three.cost.as_dict()[key] != 3 * one.cost.as_dict()[key] or key == "energy_with_updates_nj"
    assert three.accuracy >= one.accuracy - 0.02
    assert not np.array_equal(three.firing.predicted, one.firing.predicted)


def test_one_presentation_is_that_of_the_run(digits_run: Runs) -> None:
    run, values = digits_run("stbp"), trained_runs.values("stbp")
    one, again = evaluate.evaluate(run, values), evaluate.evaluate(run, values, presentations=1)
    assert np.array_equal(one.firing.predicted, again.firing.predicted)
    assert one.cost.as_dict() == again.cost.as_dict()


def test_the_command_says_how_many(digits_run: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    run = digits_run("strsbp")
    assert cli.main(["evaluate", str(run), "--presentations", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["presentations"], found["samples"], found["cost"]["steps"]) == (2, 360, 120)
    assert cli.main(["evaluate", str(run), "--presentations", "2"]) == 0
    out, err = capsys.readouterr()
    assert "cost of an inference of 2 presentations, 120 steps: " in out
    assert err == "", "no warning of another accuracy than the run's"


def test_a_prediction_is_that_of_the_evaluation(digits_run: Runs) -> None:
    run, values = digits_run("strsbp"), trained_runs.values("strsbp")
    expected = evaluate.evaluate(run, values, presentations=3).firing.predicted
    found = predict.predict(str(run), [f"test:{k}" for k in range(9)], presentations=3)
    assert [each.predicted for each in found] == [str(k) for k in expected[:9]]
    assert all(len(each.layers["output"]) == 180 for each in found)
    [single] = predict.predict(str(run), ["test:0"])
    assert np.array_equal(found[0].layers["input"][:60], single.layers["input"]), "the first is that of every run"


def test_a_model_without_spikes_sees_other_spikes_too(tmp_path: Path) -> None:
    """Its logits are summed, its multiply-accumulates are those of all presentations."""
    values = trained_runs.values("stbp")
    values["model"] = {"name": "mlp", "network": "10", "dropout": 0.0, "activation": "relu", "bias": True}
    values["train"] |= {"epochs": 1}
    trained_runs.train_with(values, tmp_path)
    one, two = evaluate.evaluate(tmp_path, values), evaluate.evaluate(tmp_path, values, presentations=2)
    assert two.cost.as_dict()["macs"] == 2 * one.cost.as_dict()["macs"]
    [found] = predict.predict(str(tmp_path), ["test:3"], presentations=2)
    assert found.scores.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "number", "says"),
    [
        ({"encoder.frozen": True}, 2, "--presentations 2: each presentation of the samples would be the same"),
        ({}, 0, "--presentations 0: a whole number from 1 up is needed"),
    ],
)
def test_presentations_that_would_be_the_same_are_refused(
    change: dict[str, Any], number: int, says: str, digits_run: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    run, more = digits_run("strsbp"), [f"{key}={str(value).lower()}" for key, value in change.items()]
    assert cli.main(["evaluate", str(run), "--presentations", str(number), *more]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_recorded_spikes_have_one_presentation(
    digits_run: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "spikes.npy", np.eye(64, dtype=np.uint8)[:60])
    path = str(tmp_path / "spikes.npy")
    assert cli.main(["predict", str(digits_run("strsbp")), path, "--presentations", "3"]) == 2
    err = capsys.readouterr().err
    assert f"--presentations 3: each presentation of {path} would be the same" in err
    split = build.load(trained_runs.values("strsbp")).dataset.test
    with pytest.raises(UsageError, match="would be the same"):
        presentations.check_draws(2, split, Same())


class Same:
    """An encoder that draws nothing."""

    kinds = ("image",)
    steps = 1

    def encode(self, samples: Any, index: Any, epoch: int) -> Any:
        return samples


def test_the_first_presentation_alone_asks_nothing_of_the_encoder() -> None:
    split = build.load(trained_runs.values("strsbp")).dataset.test
    presentations.check_draws(1, split, Same())
    assert presentations.epoch(0) == 0
    assert firing.Firing(1, 1, {}, np.zeros(1, np.int64), 1).presentations == 1
