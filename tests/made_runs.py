"""Runs for tests of what looks at runs: invented ones, and real ones of a tiny network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from snnrun.run import experiment
from snnrun.runs.collect import Run

PARAMS = {
    "seed": "0",
    "outputs": "outputs",
    "data.name": "fsdd",
    "data.limit": "null",
    "data.validation": "0.1",
    "data.split": "official",
    "model.name": "strsbp",
    "model.network": "400-R400",
    "train.lr": "0.004",
    "train.epochs": "20",
    "hardware.threads": "2",
    "tracking.kind": "mlflow",
}


def invented(name: str = "run", *, status: str = "finished", origin: str = "recorded", **more: Any) -> Run:
    """A run; `more` holds parameters (model_name for model.name), and figures under validation, test, last, most."""
    metrics = {
        "validation": "validation/accuracy_best",
        "test": "test/accuracy_best_validation",
        "last": "test/accuracy_last",
        "most": "test/accuracy_max_over_epochs",
    }
    started = more.pop("started", 1e9)
    tags = {"data.origin": origin, "data.digest": more.pop("digest", "d" * 64), "git.commit": "c" * 40}
    figures = {metrics[key]: more.pop(key) for key in list(more) if key in metrics}
    params = PARAMS | {key.replace("_", ".", 1): str(value) for key, value in more.items()}
    return Run(name, status, started, params=params, metrics=figures | {"epoch": 20.0}, tags=tags)


def values(outputs: Path, model: str, seed: int, /, **sections: dict[str, Any]) -> dict[str, Any]:
    """The plain config of a tiny run."""
    plain: dict[str, Any] = {
        "seed": seed,
        "outputs": str(outputs),
        "data": {"name": "digits", "limit": 64, "validation": 0.1, "root": None, "download": False},
        "encoder": {"name": "bernoulli", "steps": 12, "frozen": False, "attenuation": 1.0},
        "model": {"name": model, "network": "8", "v_th": [1.0]},
        "train": {"epochs": 2, "batch_size": 16, "lr": 0.02},
        "checkpoint": {"every_minutes": None},
        "hardware": {"device": "cpu", "threads": 1, "kernels": "reference"},
        "tracking": {"kind": "mlflow", "uri": None, "experiment": "snnrun", "run_name": None, "system_metrics": False},
    }
    for section, change in sections.items():
        plain[section] = plain[section] | change
    return plain


def train(outputs: Path, name: str, model: str, seed: int, /, **sections: dict[str, Any]) -> Path:
    """Train one for real, as `snnrun train` does; returns its folder."""
    folder = outputs / "runs" / name
    folder.mkdir(parents=True)
    plain = values(outputs, model, seed, **sections)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    experiment.run(plain, folder, command=["snnrun", "train", f"model={model}", f"seed={seed}"])
    return folder
