"""The least memory that a training needs. If it needs more than there is, the system would kill it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from snnrun.errors import UsageError
from snnrun.network.topology import Planned

GIB = 2**30


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
    there = total(device)
    spikes = batch * spike_bytes([inputs, *(layer.neurons for layer in layers)], steps)
    weights = weight_bytes(layers, values["train"].get("optimizer", "adam"))
    for what, needed, remedy in (
        ("the spikes of a batch", spikes, f"encoder.steps (now {steps}) or train.batch_size"),
        ("the weights with their gradients", weights, f"model.network (now {values['model']['network']})"),
    ):
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


def weight_bytes(layers: Sequence[Planned], optimizer: str) -> int:
    """Bytes of weights, gradients and, for Adam, two moments, in float32."""
    number = sum(
        layer.rows * layer.columns + (layer.neurons**2 if layer.kind.recurrent else 0)  # dense, with a mask
        for layer in layers
    )
    return 4 * number * (4 if optimizer == "adam" else 2)
