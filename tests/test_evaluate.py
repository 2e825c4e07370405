"""`snnrun evaluate`, and loading what a run left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_runs
from safetensors.torch import load_file, save_file

from snnrun import cli
from snnrun.commands import evaluate
from snnrun.config import overrides
from snnrun.errors import SnnrunError, UsageError
from snnrun.record import names, run_folder
from snnrun.run import build, trained

Runs = Callable[[str], Path]


def said(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
    assert cli.main(["evaluate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def recorded(run: Path) -> dict[str, float]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {key: value for entry in entries for key, value in entry.items()}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["strsbp", "hm2bp", "stbp"])
def test_the_accuracy_and_the_cost_are_those_that_the_run_recorded(
    rule: str, digits_run: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    run = digits_run(rule)
    before = recorded(run)
    for weights, split, key in (
        ("last", "test", "test/accuracy_last"),
        ("best", "test", "test/accuracy_best_validation"),
        ("best", "validation", "validation/accuracy_best"),
    ):
        result = said(capsys, run, "--weights", weights, "--split", split)
        assert result["accuracy"] == before[key]
        assert result["weights"] == weights
    cost = said(capsys, run)["cost"]  # the best weights, all 360 test samples
    assert cost["synaptic_operations"] == before["cost/synaptic_operations"] > 0
    assert cost == json.loads((run / "cost.json").read_text())


def test_every_class_is_counted(digits_run: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    result = said(capsys, digits_run("strsbp"))
    confusion = np.array(result["confusion"])
    assert confusion.sum() == result["samples"] == 360
    assert np.trace(confusion) / 360 == result["accuracy"]
    for k, entry in enumerate(result["classes"].values()):
        assert entry["samples"] == confusion[k].sum()
        assert entry["recall"] == confusion[k, k] / confusion[k].sum()
        assert entry["precision"] == confusion[k, k] / max(confusion[:, k].sum(), 1)
    assert sum(entry["samples"] for entry in result["classes"].values()) == 360


def test_the_training_samples_are_those_that_were_trained_on(
    digits_run: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, digits_run("stbp"), "--split", "train")["samples"] == 200


def test_a_table_for_people_and_files(digits_run: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, folder = digits_run("strsbp"), tmp_path / "new" / "place"
    assert cli.main(["evaluate", str(run), "--out", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "digits, test: 360 samples, " in out
    assert "class  samples  recall %  precision %    F1 %" in out
    assert "synaptic operations: " in out
    assert "\nNeuroBench: footprint " in out
    assert {path.name for path in folder.iterdir()} == {"evaluation.json", "confusion.png", "rates.png", "cost.png"}
    assert json.loads((folder / "evaluation.json").read_text())["samples"] == 360


def test_an_override_changes_what_is_evaluated(digits_run: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    run = digits_run("strsbp")
    short, whole = said(capsys, run, "encoder.steps=20"), said(capsys, run)
    assert short["cost"]["steps"] == 20
    assert short["cost"]["input_spikes"] < whole["cost"]["input_spikes"]
    assert said(capsys, run, "hardware.kernels=cpu")["accuracy"] == pytest.approx(whole["accuracy"], abs=0.01)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=1", "train.lr=1: no change that can be made here. Allowed: KEY=VALUE with a key of data, encoder"),
        ("encoder.steps", "encoder.steps: no change that can be made here"),
        (
            "encoder.stepz=3",
            "encoder.stepz: no such key. Allowed: steps, frozen, attenuation. Did you mean encoder.steps",
        ),
        ("encoder.steps=1", "encoder.steps: 1 is out of range. Allowed: at least 2."),
        ("encoder.steps=many", "encoder.steps: 'many' does not fit"),
        ("hardware.kernels=fast", "hardware.kernels: 'fast' is not allowed. Allowed: auto, reference, cpu, gpu."),
        ("data.name=mnist", "data.name: no such key."),
    ],
)
def test_a_wrong_override_is_one_message(
    override: str, message: str, digits_run: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(digits_run("stbp")), override]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"snnrun: {message}".removesuffix("encoder.steps")) or message in err
    assert err.count("\n") == 1


def test_overrides_leave_the_values_alone() -> None:
    before = trained_runs.values("strsbp")
    after = overrides.overridden(before, ["data.root=/corpora", "hardware.threads=null", "encoder.frozen=true"])
    assert (after["data"]["root"], after["hardware"]["threads"], after["encoder"]["frozen"]) == ("/corpora", None, True)
    assert before == trained_runs.values("strsbp")


def test_no_validation_samples(digits_run: Runs, tmp_path: Path) -> None:
    values = overrides.overridden(trained_runs.values("stbp"), ["data.validation=0"])
    with pytest.raises(UsageError, match=r"--split validation: the run had none \(data.validation=0\)"):
        evaluate.evaluate(digits_run("stbp"), values, split="validation")


def test_another_accuracy_than_recorded_is_told(
    digits_run: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_runs.copied(digits_run("stbp"), tmp_path)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "test/accuracy_last": 0.123}) + "\n")
    assert cli.main(["evaluate", str(run), "--weights", "last"]) == 0
    assert "warning: the run recorded 12.30 % here (test/accuracy_last)" in capsys.readouterr().err


# ---- what a run left -----------------------------------------------------------------------------------------------


def loaded(run: Path, weights: str | None = None) -> trained.Trained:
    return trained.load(run, run_folder.RunFolder(run).values(), weights)


def test_a_network_comes_back_without_its_corpus(digits_run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "load", lambda *_: pytest.fail("the corpus was read"))
    run = digits_run("strsbp")
    own = loaded(run)
    assert own.weights == "best"
    assert own.about.classes == tuple("0123456789")
    assert (own.about.shape, own.about.steps, own.about.channels) == ((8, 8), 60, 64)
    assert own.about.layers["hidden2"] == {"inputs": 30, "neurons": 12, "recurrent": True}
    for key, tensor in load_file(run / "best.safetensors").items():
        assert torch.equal(own.network.state_dict()[key], tensor)


def test_a_run_without_description_asks_its_corpus(digits_run: Runs, tmp_path: Path) -> None:
    run = trained_runs.copied(digits_run("strsbp"), tmp_path)
    (run / names.NETWORK).unlink()
    assert loaded(run).about == loaded(digits_run("strsbp")).about


def test_a_run_without_the_weights_that_are_asked_for(digits_run: Runs, tmp_path: Path) -> None:
    run = trained_runs.copied(digits_run("stbp"), tmp_path)
    (run / "best.safetensors").unlink()
    assert loaded(run).weights == "last"
    with pytest.raises(UsageError, match=r"no best.safetensors; it had no validation samples.*Use --weights last"):
        loaded(run, "best")
    (run / "last.safetensors").unlink()
    with pytest.raises(UsageError, match=rf"this run has no weights yet.*Train it by snnrun resume {run}\.$"):
        loaded(run)


def test_a_run_without_weights_names_the_latest_beside_it_that_has_them(digits_run: Runs, tmp_path: Path) -> None:
    run = trained_runs.copied(digits_run("stbp"), tmp_path / "runs")
    failed = tmp_path / "runs" / "failed"
    failed.mkdir()
    shutil.copy(run / names.CONFIG, failed)
    with pytest.raises(UsageError, match=rf"or take another: {run} is the latest with weights\.$"):
        trained.load(failed, {})


def damage(run: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(run / "best.safetensors")
    change(state)
    save_file(state, run / "best.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layers.1.weight"), "it has no tensor layers.1.weight, so these are not the weights"),
        (
            lambda state: state.update({"layers.0.weight": torch.zeros(3, 64)}),
            r"layers.0.weight is float32 \(3, 64\) and this run's network has float32 \(30, 64\)",
        ),
        (
            lambda state: state.update({"layers.0.weight": torch.zeros(30, 64, dtype=torch.float64)}),
            r"layers.0.weight is float64 \(30, 64\) and this run's network has float32",
        ),
        (lambda state: state.update({"more": torch.zeros(1)}), "it has a tensor more that this run's network has not"),
        (lambda state: state["layers.2.weight"].fill_(torch.nan), "layers.2.weight has values that are no numbers"),
    ],
)
def test_foreign_weights_are_one_message(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, digits_run: Runs, tmp_path: Path
) -> None:
    run = trained_runs.copied(digits_run("strsbp"), tmp_path)
    damage(run, change)
    with pytest.raises(SnnrunError, match=message):
        loaded(run)


def test_damaged_files_are_one_message(digits_run: Runs, tmp_path: Path) -> None:
    run = trained_runs.copied(digits_run("strsbp"), tmp_path)
    whole = (run / "best.safetensors").read_bytes()
    for content in (b"", b"junk", whole[:-100]):
        (run / "best.safetensors").write_bytes(content)
        with pytest.raises(SnnrunError, match=r"best.safetensors: the weights cannot be read \("):
            loaded(run)
    (run / "best.safetensors").write_bytes(whole)
    for text in ("{", "[]", '{"format": 1}', '{"format": 2}', '{"format": 1, "layers": 3}'):
        (run / names.NETWORK).write_text(text)
        with pytest.raises(SnnrunError, match=r"network.json: the description of the network"):
            loaded(run)


def test_other_classes_than_at_the_training_are_refused(digits_run: Runs, tmp_path: Path) -> None:
    run = trained_runs.copied(digits_run("stbp"), tmp_path)
    about = json.loads((run / names.NETWORK).read_text())
    (run / names.NETWORK).write_text(json.dumps(about | {"classes": list("abcdefghij")}))
    with pytest.raises(
        UsageError, match=r"its network has 64 inputs and 10 classes, and these data have 64 and 10, or"
    ):
        evaluate.evaluate(run, trained_runs.values("stbp"))
    (run / names.NETWORK).write_text(json.dumps(about | {"digest": "other"}))
    assert "the corpus has changed" in evaluate.evaluate(run, trained_runs.values("stbp")).notes[0]
