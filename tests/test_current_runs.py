"""Runs whose input has currents, from the command line's config to what is said of them afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_runs
import yaml

from snnrun.bench import measure, phases
from snnrun.commands import evaluate, export, predict
from snnrun.config.compose import compose
from snnrun.data import Split
from snnrun.encoders import Direct
from snnrun.errors import UsageError
from snnrun.network import Network
from snnrun.record import journal
from snnrun.rules import StbpRule, StRsbp
from snnrun.run import build, experiment, trained
from snnrun.train import cost, firing

DIRECT = {"name": "direct", "steps": 60, "attenuation": 2.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run with currents, like those of `trained_runs`."""
    folder = tmp_path_factory.mktemp("currents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained_runs, "values", lambda rule, old=trained_runs.values: old(rule) | {"encoder": DIRECT})
        return trained_runs.train("strsbp", folder)


def test_a_network_is_evaluated_as_it_was_trained(run: Path) -> None:
    result = evaluate.evaluate(run, trained.load(run, trained_values(run)).values, weights="last")
    accuracy = np.trace(result.confusion) / result.confusion.sum()
    assert accuracy == pytest.approx(journal.figures(run)[0][-1]["test/accuracy"])
    assert "input" not in result.firing.spikes
    assert result.cost.metrics()["cost/current_macs"] == 64 * 30
    assert "cost/spikes_input" not in result.cost.metrics()


def trained_values(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    return values


def test_samples_are_predicted_and_files_of_spikes_are_refused(run: Path, tmp_path: Path) -> None:
    [prediction] = predict.predict(str(run), ["test:0"])
    assert set(prediction.layers) == {"hidden1", "hidden2", "output"}
    np.save(tmp_path / "spikes.npy", np.zeros((60, 64), np.uint8))
    with pytest.raises(UsageError, match=r"spikes.npy: this run's input has currents \(encoder=direct\)"):
        predict.predict(str(run), [str(tmp_path / "spikes.npy")])


def test_an_export_is_not_compared_by_spikes(run: Path, tmp_path: Path) -> None:
    own = trained.load(run, trained_values(run))
    with pytest.raises(UsageError, match=r"--check compares.*currents \(encoder=direct\)"):
        export.check(own, tmp_path / "graph.nir", dt=1e-3)


def test_a_training_is_measured_without_input_spikes() -> None:
    values = compose(["encoder=direct", "data.limit=40", "train.batch_size=20", "model.network=20-R10"])
    inputs = build.load(values)
    training = measure._training(values, inputs, torch.device("cpu"))
    spikes, steps = measure._spikes(training)
    assert (list(spikes), steps) == (["hidden1", "hidden2", "output"], 200)
    additions = measure._row_additions(training.network, spikes, 1.0, 1, torch.device("cuda"))
    assert additions is not None
    assert additions["per_sample"] == pytest.approx(2 * (10 * spikes["hidden1"] + 10 * spikes["hidden2"]))
    times = phases.phases(training, 1, 1)
    assert times["count"] == 0
    assert all(times[f"{way} {layer}"] > 0 for way in ("forward", "backward") for layer in spikes)


# ---- cost -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["7", "2C3-4", "P2-4"])
@pytest.mark.parametrize("rule", [StRsbp(v_th=[0.2]), StbpRule(v_th=[0.2])], ids=["strsbp", "stbp"])
def test_currents_cost_a_product_for_each_value(rule: StRsbp | StbpRule, topology: str) -> None:
    net = Network(rule, inputs=36, topology=topology, outputs=3, image=(1, 6, 6))
    series = np.random.default_rng(0).random((5, 4, 36), np.float32)
    split = Split(series, np.zeros(5, np.int64), np.arange(5))
    fired = firing.record(net, split, Direct(0, steps=30, attenuation=1.0), torch.device("cpu"))
    assert (fired.currents, fired.steps) == (4, 30)
    spent = cost.cost(net, fired)
    first = next(iter(spent.layers.values()))
    pool = topology.startswith("P2") and isinstance(rule, StRsbp)
    # of a pool, additions; behind an average pool every pixel of a square has a synapse
    products = {"7": 36 * 7, "2C3-4": 2 * 16 * 9, "P2-4": 36 * (1 if pool else 4)}[topology]
    assert first.current_macs == (0 if pool else 4 * products)
    assert first.operations == (4 * products if pool else 0)
    assert spent.input_spikes is None
    assert spent.energy_nj == pytest.approx((spent.operations * 0.9 + spent.current_macs * 4.6) / 1e3)
    assert ("MAC of the input" in str(spent)) is not pool


# ---- configs --------------------------------------------------------------------------------------------------------


def test_a_rule_gets_what_it_needs_with_an_encoder() -> None:
    """It wins over what a pair was tuned to with another encoder; the command line wins over both."""
    stbp = compose(["model=stbp", "encoder=direct"])
    assert stbp["encoder"] == {"name": "direct", "steps": 20, "attenuation": 1.0}
    assert (stbp["model"]["decay"], stbp["model"]["v_th"]) == (0.8, [1.0])
    assert compose(["model=stbp"])["model"]["decay"] != 0.8
    assert compose(["model=stbp", "encoder=direct", "encoder.steps=7"])["encoder"]["steps"] == 7
    assert compose(["model=stbp", "encoder=direct", "input=none"])["encoder"]["steps"] == 400
    assert compose(["encoder=direct"])["encoder"] == {"name": "direct", "steps": 200, "attenuation": 2.0}
    assert compose(["encoder=latency"])["encoder"]["steps"] == 200  # and no attenuation, which it has not
    assert compose(["data=fsdd"])["encoder"]["loudness"] == "rms"
    assert "loudness" not in compose(["data=fsdd", "encoder=mel"])["encoder"]
    with pytest.raises(UsageError, match=r"input: there is no 'stbp_dirct'. Allowed: .*stbp_direct"):
        compose(["input=stbp_dirct"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder=direct", "model.slope=table"], r"direct makes currents, but model.slope=table counts input spikes"),
        (
            ["encoder=direct", "model=mlp"],
            r"direct makes currents for .*spiking rules.*Leave the encoder to the defaults",
        ),
        (
            ["encoder=direct", "model=lsm"],
            r"direct makes currents for .*spiking rules.*Leave the encoder to the defaults",
        ),
        (["encoder=delta"], r"delta takes series data, and data=digits has the kind 'image'"),
        (["encoder=mel"], r"mel takes audio data, and data=digits has the kind 'image'"),
        (["encoder=none"], r"none hands on values.*encoder=direct"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], message: str) -> None:
    values = compose([*overrides, "tuned=none"])
    with pytest.raises(UsageError, match=message):
        build.network(values, build.load(values).dataset)


def test_a_series_with_more_points_than_steps_is_refused_before_a_run(tmp_path: Path) -> None:
    series = np.random.default_rng(0).random((40, 30, 2), np.float32)
    np.savez(tmp_path / "series.npz", x=series, y=np.arange(40) % 2)
    values = compose(["data=arrays", f"data.root={tmp_path / 'series.npz'}", "model=stbp", "encoder=direct"])
    with pytest.raises(UsageError, match=r"encoder.steps=20: the series have 30 points.*encoder.steps=30"):
        build.load(values)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["strsbp", "hm2bp", "stbp"])
@pytest.mark.parametrize("encoder", ["direct", "regular"])
def test_the_defaults_learn(rule: str, encoder: str, tmp_path: Path) -> None:
    """More than chance, a tenth, in two epochs on a third of the digits."""
    values = compose([f"model={rule}", f"encoder={encoder}", "data.limit=600", "train.epochs=2", "tracking=none"])
    values["hardware"] |= {"device": "cpu", "threads": 1}
    (tmp_path / "config.yaml").write_text("{}")
    result = experiment.run(values, tmp_path, command=["test"])
    assert result.history[-1]["validation/accuracy"] > 0.25
