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
from snnrun.train import presentations
from snnrun.train.batches import batches, steps_of
from snnrun.train.evaluation import EVALUATION_BATCH


@dataclass(frozen=True)
class Firing:
    """Spikes over `samples`, each presented once or several times.

    Attributes:
        samples: Number of samples.
        steps: T of a sample, over all of its presentations.
        spikes: Total of each neuron, int64 (N,), by layer: `input`, unless that has currents, and `Model.spiking`.
            Empty if nothing fires.
        predicted: Class of each sample, int64 (S,): that with the largest score, summed over its presentations, or the
            first of several such.
        passes: Total of the passes through the layers, see `network.model.Outcome`.
        currents: How many values the current of an input has; 0 if the input has spikes.
        presentations: Of each sample.
    """

    samples: int
    steps: int
    spikes: dict[str, NDArray[np.int64]]
    predicted: NDArray[np.int64]
    passes: int
    currents: int = 0
    presentations: int = 1


@torch.no_grad()
def record(
    network: Model,
    split: Split,
    encoder: Encoder,
    device: torch.device,
    *,
    positions: NDArray[np.int64] | None = None,
    progress: Callable[[int], None] | None = None,
    number: int = 1,
) -> Firing:
    """Present samples as an evaluation does, with the same predictions.

    Args:
        positions: Which samples of the split, in this order; None: all.
        progress: Gets the number of samples that are done, anew for each presentation.
        number: Of presentations, see `presentations`.

    Raises:
        UsageError: Several presentations are wanted and would be the same.
    """
    presentations.check_draws(number, split, encoder)
    network = network.to(device)
    order = np.arange(len(split)) if positions is None else positions
    layers = dict(network.spiking)
    if layers and not makes_currents(encoder):
        layers = {"input": network.inputs, **layers}
    spikes = {name: np.zeros(size, np.int64) for name, size in layers.items()}
    summed, steps, passes, currents = np.zeros((len(order), 0)), 0, 0, 0
    for presentation in range(number):
        done, epoch = 0, presentations.epoch(presentation)
        for chunk, inputs, _ in batches(split, order, encoder, epoch, EVALUATION_BATCH, device):
            outcome = network(inputs.to(device))
            if spikes:
                counts = list(outcome.counts)
                if isinstance(inputs, Currents):
                    currents = number * inputs.values.shape[1]
                else:
                    counts.insert(0, count_spikes(inputs, network.inputs))
                for total, layer in zip(spikes.values(), counts, strict=True):
                    total += layer.sum(dim=0).round().long().cpu().numpy()
            scores = outcome.scores.double().cpu().numpy()
            if not summed.size:
                summed = np.zeros((len(order), scores.shape[1]))
            summed[done : done + len(chunk)] += scores
            passes += len(chunk) if outcome.passes is None else int(outcome.passes.sum())
            steps, done = number * steps_of(inputs), done + len(chunk)
            if progress is not None:
                progress(done)
    predicted = summed.argmax(axis=1) if len(order) else np.empty(0, np.int64)
    return Firing(len(order), steps, spikes, predicted, passes, currents, number)


def spread(split: Split, most: int) -> NDArray[np.int64]:
    """Positions of at most `most` samples, evenly over the split, since corpora are often sorted by class."""
    size = min(most, len(split))
    return np.arange(size) * len(split) // max(size, 1)
