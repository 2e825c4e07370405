"""A trained model from the folder of its run. The corpus need not be on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from snnrun.errors import SnnrunError, UsageError, first_line
from snnrun.network.model import Model
from snnrun.record import description, names
from snnrun.record.description import Description
from snnrun.record.run_folder import RunFolder
from snnrun.rules import Currents
from snnrun.run import build
from snnrun.train import evaluation, hardware

WEIGHTS = {"best": names.BEST, "last": names.LAST}


@dataclass(frozen=True)
class Trained:
    """A run's model with its weights.

    Attributes:
        folder: The folder of the run.
        values: Its config.
        about: Description of the network and its corpus.
        network: The model, on the CPU.
        weights: The weights that were loaded, `best` or `last`.
    """

    folder: Path
    values: Mapping[str, Any]
    about: Description
    network: Model
    weights: str


def load(folder: Path, values: Mapping[str, Any], weights: str | None = None) -> Trained:
    """Load the model of a run.

    A run of an earlier version has no description of its network. It is made from the corpus, which must exist then.

    Args:
        folder: The folder of the run.
        values: Its config, overrides included.
        weights: `best` (by the validation samples) or `last`. None: `best` where the run has them.

    Raises:
        UsageError: the run has no such weights.
        SnnrunError: the weights or the description are damaged, or do not fit the config.
    """
    name, path = _choose(folder, weights)
    build.plug_in(values)
    about = description.load(folder) or _from_corpus(values)
    network = build.network(values, about)
    state = read(path)
    _check(path, state, network.state_dict())
    network.load_state_dict(state)
    network.requires_grad_(False)
    hardware.share_threads(network)
    return Trained(folder, values, about, network, name)


def _choose(folder: Path, weights: str | None) -> tuple[str, Path]:
    there = [name for name, file in WEIGHTS.items() if (folder / file).is_file()]
    if not there:
        raise UsageError(no_weights(folder))
    name = weights or there[0]
    if name not in there:
        why = "it had no validation samples to choose by" if name == "best" else "it did not end"
        raise UsageError(f"{folder}: this run has no {name}.safetensors; {why}. Use --weights {there[0]}.")
    return name, folder / WEIGHTS[name]


def no_weights(folder: Path) -> str:
    """What is said of a run without weights: how it gets them, and the latest run beside it that has some."""
    runs = [path.parent for path in folder.parent.glob(f"*/{names.CONFIG}")]
    trained = [run for run in runs if any((run / file).is_file() for file in WEIGHTS.values())]
    latest = max(trained, key=lambda run: RunFolder(run).started, default=None)
    other = "" if latest is None else f", or take another: {latest} is the latest with weights"
    return (
        f"{folder}: this run has no weights yet (neither best nor last.safetensors is there). Train it by "
        f"snnrun resume {folder}{other}."
    )


def _from_corpus(values: Mapping[str, Any]) -> Description:
    dataset, encoder = build.load(values)
    return build.describe(build.network(values, dataset), dataset, encoder)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights. Raises SnnrunError if it is damaged or of another program."""
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise SnnrunError(
            f"{path}: the weights cannot be read ({first_line(error)}); the file is damaged or none of ours."
        ) from None


def _check(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for key, tensor in wanted.items():
        if key not in state:
            raise SnnrunError(f"{path}: it has no tensor {key}, so these are not the weights of this run's network.")
        found = state[key]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise SnnrunError(
                f"{path}: {key} is {_form(found)} and this run's network has {_form(tensor)}: other weights, or "
                "another config."
            )
        if found.is_floating_point() and not torch.isfinite(found).all():
            raise SnnrunError(f"{path}: {key} has values that are no numbers: the training diverged.")
    extra = sorted(set(state) - set(wanted))
    if extra:
        raise SnnrunError(f"{path}: it has a tensor {extra[0]} that this run's network has not.")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


@torch.no_grad()
def outcome(
    model: Model, presentations: Sequence[Tensor | Currents], device: torch.device
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.uint8]]]:
    """What a model makes of one sample, from its inputs (1, T, ...) in one presentation or several.

    Returns:
        The shares of the classes (C,), of the mean scores, and the `rasters` of all presentations, one after another.
    """
    found = [model(inputs.to(device)) for inputs in presentations]
    layers: dict[str, NDArray[np.uint8]] = {}
    if model.spiking:
        shown = [evaluation.rasters(model, *pair) for pair in zip(presentations, found, strict=True)]
        layers = {name: np.concatenate([rasters[name] for rasters in shown]) for name in shown[0]}
    scores = torch.stack([each.scores[0] for each in found]).mean(dim=0)
    return model.shares(scores).cpu().numpy(), layers
