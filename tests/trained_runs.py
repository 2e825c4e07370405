"""Tiny finished runs on the digits, for tests of what is done with a run afterwards."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import yaml

from snnrun.run import experiment

MODELS: dict[str, dict[str, Any]] = {
    "strsbp": {"name": "strsbp", "network": "30-R12", "v_th": [3.0, 2.0, 2.0], "tau_m": 32.0},
    "hm2bp": {"name": "hm2bp", "network": "30", "v_th": [3.0, 2.0], "tau_m": 32.0},
    "stbp": {"name": "stbp", "network": "30-R12", "v_th": [0.4, 0.3, 0.3]},
    # With a neuron that NIR can express.
    "strsbp_no_hold": {"name": "strsbp", "network": "30-R12", "v_th": [3.0, 2.0, 2.0], "tau_m": 32.0, "t_ref": 0},
}


def values(rule: str) -> dict[str, Any]:
    """The config of a run, as its folder keeps it."""
    return {
        "seed": 3,
        "outputs": "outputs",
        "data": {
            **{"name": "digits", "root": None, "limit": 200, "validation": 0.1, "download": False},
            **{"mirror": False, "shift": 0},
        },
        "encoder": {"name": "poisson", "steps": 60, "frozen": False, "attenuation": 2.0},
        "model": MODELS[rule],
        "train": {"epochs": 2, "batch_size": 16, "lr": 0.01},
        "checkpoint": {"every_minutes": None},
        "hardware": {"device": "cpu", "threads": 1, "kernels": "reference"},
        "tracking": {"kind": "none", "uri": None, "experiment": "snnrun", "run_name": None, "system_metrics": False},
    }


def train(rule: str, folder: Path) -> Path:
    """Train into a folder; returns it."""
    return train_with(values(rule), folder)


def train_with(config: dict[str, Any], folder: Path) -> Path:
    """Train by a config into a folder; returns it."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with contextlib.redirect_stdout(io.StringIO()):
        experiment.run(config, folder, command=["test"])
    return folder


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run, to be damaged."""
    return Path(shutil.copytree(run, folder / "run"))
