"""The least memory that a training needs. If it needs more than there is, the system would kill it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from snnrun.errors import UsageError
from snnrun.network.model import Model, Signal
from snnrun.network.topology import Planned

GIB = 2**30
MOMENTS = {"sgd": 0, "rmsprop": 1, "adam": 2, "adamw": 2}  # numbers that an optimiser keeps for each weight


def check(
    values: Mapping[str, Any], layers: Sequence[Planned], *, inputs: int, steps: int, batch: int, device: torch.device
) -> None:
    """Refuse a training that cannot fit, before any part of its network is made.

    Args:
        values: the config.
        layers: the layers of the network.
        inputs: number of input channels.
        steps: T.
        batch: samples of a batch that this process trains at once.
        device: where the network lies.

    Raises:
        UsageError: the spikes of a batch, or the weights, alone need more memory than there is.
    """
    spikes = batch * spike_bytes([inputs, *(layer.neurons for layer in layers)], steps)
    _refuse("the spikes of a batch", spikes, f"encoder.steps (now {steps}) or train.batch_size", device)
    network = f"model.network (now {values['model']['network']})"
    weights = weight_bytes(weight_number(layers), values["train"])
    _refuse("the weights with their gradients", weights, network, device)


def check_model(values: Mapping[str, Any], model: Model, signal: Signal, batch: int, device: torch.device) -> None:
    """Refuse a training of a model that is no network of a rule.

    Args:
        values: the config.
        model: the model. It may have no memory yet, on the device `meta`.
        signal: its inputs.
        batch: samples of a batch that this process trains at once.
        device: where the model will lie.

    Raises:
        UsageError: the inputs of a batch, or the weights, alone need more memory than there is.
    """
    steps = max(signal.steps, 1)
    inputs = batch * (spike_bytes([signal.channels], steps) if signal.spikes else 4 * steps * signal.channels)
    _refuse("the inputs of a batch", inputs, "train.batch_size", device)
    number = sum(parameter.numel() for parameter, _ in model.trained())
    weights = weight_bytes(number, values["train"])
    _refuse("the weights with their gradients", weights, f"the layers of model={values['model']['name']}", device)


def _refuse(what: str, needed: int, remedy: str, device: torch.device) -> None:
    there = total(device)
    if needed > there:
        raise UsageError(
            f"{what} take {needed / GIB:,.0f} GiB or more, and there are {there / GIB:,.0f}. Lower {remedy}."
        )


def total(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def spike_bytes(sizes: Sequence[int], steps: int) -> int:
    """Bytes of the spikes of a sample, as bits, 64 neurons to a word."""
    return 8 * steps * sum(-(-size // 64) for size in sizes)


def weight_number(layers: Sequence[Planned]) -> int:
    """Number of weights in the tensors of the layers."""
    return sum(
        layer.rows * layer.columns + (layer.neurons**2 if layer.kind.recurrent else 0)  # dense, with a mask
        for layer in layers
    )


def weight_bytes(number: int, train: Mapping[str, Any]) -> int:
    """Bytes of so many weights in float32, with gradient, average and what the optimiser keeps for each."""
    kept = 1 if train.get("average", "none") == "none" else 2
    return 4 * number * (1 + kept + MOMENTS[train.get("optimizer", "adam")])
