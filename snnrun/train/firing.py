"""How often each neuron of a network fires over the samples of a split, and the predicted classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from snnrun.data import Split
from snnrun.encoders import Encoder
from snnrun.kernels import count_spikes
from snnrun.network import Network
from snnrun.train.batches import batches
from snnrun.train.evaluation import EVALUATION_BATCH


@dataclass(frozen=True)
class Firing:
    """Spikes over `samples` presentations.

    Attributes:
        samples: Number of presentations.
        steps: T of each.
        spikes: Total of each neuron, int64 (N,), by layer: `input`, then `Network.layer_names`.
        predicted: Class of each sample, int64 (S,): the output neuron that fires most, or the first of several such.
    """

    samples: int
    steps: int
    spikes: dict[str, NDArray[np.int64]]
    predicted: NDArray[np.int64]


@torch.no_grad()
def record(
    network: Network,
    split: Split,
    encoder: Encoder,
    device: torch.device,
    *,
    positions: NDArray[np.int64] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Firing:
    """Present samples as an evaluation does, with the same predictions.

    Args:
        positions: Which samples of the split, in this order; None: all.
        progress: Gets the number of samples that are done.
    """
    network = network.to(device)
    order = np.arange(len(split)) if positions is None else positions
    spikes = dict(zip(["input", *network.layer_names], _zeros(network), strict=True))
    predicted, steps, done = np.empty(len(order), np.int64), 0, 0
    for chunk, bits, _ in batches(split, order, encoder, 0, EVALUATION_BATCH, device):
        activity = network(bits.to(device))
        counts = [count_spikes(bits, network.inputs), *(train.counts for train in activity.layers)]
        for total, layer in zip(spikes.values(), counts, strict=True):
            total += layer.sum(dim=0).round().long().cpu().numpy()
        predicted[done : done + len(chunk)] = activity.output.counts.argmax(dim=1).cpu().numpy()
        steps, done = bits.shape[1], done + len(chunk)
        if progress is not None:
            progress(done)
    return Firing(len(order), steps, spikes, predicted)


def spread(split: Split, most: int) -> NDArray[np.int64]:
    """Positions of at most `most` samples, evenly over the split, since corpora are often sorted by class."""
    size = min(most, len(split))
    return np.arange(size) * len(split) // max(size, 1)


def _zeros(network: Network) -> list[NDArray[np.int64]]:
    return [np.zeros(size, np.int64) for size in (network.inputs, *network.sizes)]
