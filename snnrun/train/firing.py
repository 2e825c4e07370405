"""What a model does over the samples of a split: the predicted classes, and how often each of its neurons fires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.data import Split
from snnrun.encoders import Encoder, makes_currents
from snnrun.kernels import count_spikes
from snnrun.network.model import Model, Outcome
from snnrun.rules import Currents
from snnrun.train import presentations
from snnrun.train.batches import batches, steps_of
from snnrun.train.evaluation import EVALUATION_BATCH
from snnrun.train.watching import Seen, Watch


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
        last: As `spikes`, in the last step of a presentation alone, without `input`.
        values: How many values of each input were not 0, int64 (I,), if it has currents.
        seen: What the layers with real-valued activities got and gave, see `watching`.
    """

    samples: int
    steps: int
    spikes: dict[str, NDArray[np.int64]]
    predicted: NDArray[np.int64]
    passes: int
    currents: int = 0
    presentations: int = 1
    last: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    values: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    seen: dict[str, Seen] = field(default_factory=dict)


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
    totals, passes, steps = _Totals(network, makes_currents(encoder)), 0, 0
    summed = np.zeros((len(order), 0))
    with Watch(network) as watch:
        for presentation in range(number):
            done, epoch = 0, presentations.epoch(presentation)
            for chunk, inputs, _ in batches(split, order, encoder, epoch, EVALUATION_BATCH, device):
                outcome = network(inputs.to(device))
                totals.add(inputs, outcome)
                watch.add(outcome.passes)
                scores = outcome.scores.double().cpu().numpy()
                if not summed.size:
                    summed = np.zeros((len(order), scores.shape[1]))
                summed[done : done + len(chunk)] += scores
                passes += len(chunk) if outcome.passes is None else int(outcome.passes.sum())
                steps, done = number * steps_of(inputs), done + len(chunk)
                if progress is not None:
                    progress(done)
    predicted = summed.argmax(axis=1) if len(order) else np.empty(0, np.int64)
    return Firing(
        *(len(order), steps, totals.spikes, predicted, passes, number * totals.currents, number),
        *(totals.last, totals.values, watch.seen),
    )


class _Totals:
    """Spikes of the layers that fire, and what arrives at the first of them, see `Firing`. `currents`: of a sample."""

    def __init__(self, network: Model, currents: bool) -> None:
        sizes = dict(network.spiking)
        self.last = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
        if sizes and not currents:
            sizes = {"input": network.inputs, **sizes}
        self.spikes = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
        self.values, self.currents = np.zeros(network.inputs if currents else 0, np.int64), 0

    def add(self, inputs: Tensor | Currents, outcome: Outcome) -> None:
        """Add a batch."""
        if not self.last:
            return
        counts = list(outcome.counts)
        if isinstance(inputs, Currents):
            self.currents = inputs.values.shape[1]
            self.values += (inputs.values != 0).sum(dim=(0, 1)).cpu().numpy()
        else:
            counts.insert(0, count_spikes(inputs, len(self.spikes["input"])))
        at_end = [
            count_spikes(train[:, -1:], own.shape[1]) for train, own in zip(outcome.spikes, outcome.counts, strict=True)
        ]
        for totals, batch in ((self.spikes, counts), (self.last, at_end)):
            for total, layer in zip(totals.values(), batch, strict=True):
                total += layer.sum(dim=0).round().long().cpu().numpy()


def spread(split: Split, most: int) -> NDArray[np.int64]:
    """Positions of at most `most` samples, evenly over the split, since corpora are often sorted by class."""
    size = min(most, len(split))
    return np.arange(size) * len(split) // max(size, 1)
