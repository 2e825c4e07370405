"""What a model does over the samples of a split: the predicted classes, and how often each of its neurons fires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from snnrun.data import Split
from snnrun.encoders import Encoder, makes_currents
from snnrun.kernels import count_spikes
from snnrun.network.model import Model
from snnrun.rules import Currents
from snnrun.train.batches import batches, steps_of
from snnrun.train.evaluation import EVALUATION_BATCH


@dataclass(frozen=True)
class Firing:
    """Spikes over `samples` presentations.

    Attributes:
        samples: Number of presentations.
        steps: T of each.
        spikes: Total of each neuron, int64 (N,), by layer: `input`, unless that has currents, and `Model.spiking`.
            Empty if nothing fires.
        predicted: Class of each sample, int64 (S,): that with the largest score, or the first of several such.
        passes: Total of the passes through the layers, see `network.model.Outcome`.
        currents: How many values the current of an input has; 0 if the input has spikes.
    """

    samples: int
    steps: int
    spikes: dict[str, NDArray[np.int64]]
    predicted: NDArray[np.int64]
    passes: int
    currents: int = 0


@torch.no_grad()
def record(
    network: Model,
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
    layers = dict(network.spiking)
    if layers and not makes_currents(encoder):
        layers = {"input": network.inputs, **layers}
    spikes = {name: np.zeros(size, np.int64) for name, size in layers.items()}
    predicted, steps, passes, currents, done = np.empty(len(order), np.int64), 0, 0, 0, 0
    for chunk, inputs, _ in batches(split, order, encoder, 0, EVALUATION_BATCH, device):
        outcome = network(inputs.to(device))
        if spikes:
            counts = list(outcome.counts)
            if isinstance(inputs, Currents):
                currents = inputs.values.shape[1]
            else:
                counts.insert(0, count_spikes(inputs, network.inputs))
            for total, layer in zip(spikes.values(), counts, strict=True):
                total += layer.sum(dim=0).round().long().cpu().numpy()
        predicted[done : done + len(chunk)] = outcome.scores.argmax(dim=1).cpu().numpy()
        passes += len(chunk) if outcome.passes is None else int(outcome.passes.sum())
        steps, done = steps_of(inputs), done + len(chunk)
        if progress is not None:
            progress(done)
    return Firing(len(order), steps, spikes, predicted, passes, currents)


def spread(split: Split, most: int) -> NDArray[np.int64]:
    """Positions of at most `most` samples, evenly over the split, since corpora are often sorted by class."""
    size = min(most, len(split))
    return np.arange(size) * len(split) // max(size, 1)
