"""One run from plain values, as from a notebook."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from snnrun.encoders.rate import Poisson
from snnrun.errors import SnnrunError, UsageError, describe, first_line
from snnrun.record import atomic
from snnrun.run import build, experiment

MODELS: dict[str, dict[str, Any]] = {
    "strsbp": {"name": "strsbp", "network": "12-R9", "v_th": [5.0]},
    "hm2bp": {"name": "hm2bp", "network": "12-R9", "v_th": [5.0]},
    "stbp": {"name": "stbp", "network": "12-R9", "v_th": [0.5]},
}


def values(model: str = "strsbp", kernels: str = "reference", **train: Any) -> dict[str, Any]:
    return {
        "seed": 0,
        "outputs": "outputs",
        "data": {"name": "digits", "limit": 48, "validation": 0.1, "root": None, "download": False},
        "encoder": {"name": "poisson", "steps": 60, "frozen": False, "attenuation": 2.0},
        "model": MODELS[model],
        "train": {"epochs": 2, "batch_size": 16, "lr": 0.02} | train,
        "checkpoint": {"every_minutes": None},
        "hardware": {"device": "cpu", "threads": 1, "kernels": kernels},
        "tracking": {
            "kind": "none",
            "uri": None,
            "experiment": "snnrun",
            "run_name": None,
            "system_metrics": False,
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_run_leaves_its_files_and_the_backends_agree(model: str, tmp_path: Path) -> None:
    """Float32 sums in another order: losses agree to 1e-3, the weights' shapes exactly."""
    losses = {}
    for kernels in ("reference", "cpu"):
        folder = tmp_path / kernels
        folder.mkdir()
        result = experiment.run(values(model, kernels), folder, command=["test"])
        assert result.status == "finished"
        losses[kernels] = [metrics["train/loss"] for metrics in result.history]
        names = {path.name for path in folder.iterdir()}
        assert names == {
            "best.safetensors",
            "last.safetensors",
            "confusion.png",
            "curves.png",
            "raster.png",
            "metrics.jsonl",
            "network.json",
            "cost.json",
            "cost.png",
            "rates.png",
            "weights.png",
            "state.before.safetensors",
            "state.safetensors",
            "tags.json",
            ".running",
        }
        weights = load_file(folder / "last.safetensors")
        assert weights["layers.1.recurrent_weight"].shape == (9, 9)
    assert losses["cpu"] == pytest.approx(losses["reference"], rel=1e-3)


def test_an_encoder_that_does_not_take_the_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Poisson, "kinds", ("sound",))
    with pytest.raises(UsageError, match="encoder: poisson takes sound data, and data=digits has the kind 'image'"):
        build.load(values())


def test_a_full_disk_is_told_with_the_remedy_and_the_accuracies_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write", full)
        with pytest.raises(SnnrunError, match=r"No space left on device.*snnrun resume"):
            experiment.run(values(epochs=1), tmp_path, command=["test"])
    said = capsys.readouterr()
    assert "test, last epoch" in said.out
    assert "the next checkpoint is tried again" in said.out + said.err
    assert "test/accuracy" in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("encoder", "steps", 10**11, r"the spikes of a batch take .* GiB or more, .*Lower encoder\.steps \(now 10000"),
        (
            "model",
            "network",
            "999999-999999",
            r"the weights with their gradients take .*Lower model\.network \(now 9",
        ),
    ],
)
def test_what_cannot_fit_into_memory_is_refused_before_it_is_made(
    section: str, key: str, value: object, message: str, tmp_path: Path
) -> None:
    wrong = values()
    wrong[section] = wrong[section] | {key: value}
    with pytest.raises(UsageError, match=message):
        experiment.run(wrong, tmp_path, command=["test"])


def test_memory_that_is_not_given_is_one_line() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    for error, what in (
        (refused.value, "out of memory (can't allocate memory"),
        (MemoryError("Unable to allocate 745. GiB for an array"), "out of memory (Unable to allocate 745. GiB"),
        (MemoryError(), "out of memory (no more is given)"),
    ):
        assert describe(error).startswith(what)
        assert describe(error).endswith("Lower train.batch_size, encoder.steps or model.network.")


def test_the_first_line_of_an_error_is_that_of_one_that_says_nothing_too() -> None:
    assert first_line(ValueError("\n one\n two")) == "one"
    assert first_line(ValueError(" ")) == "ValueError"
    assert first_line(ValueError(), "nothing") == "nothing"
