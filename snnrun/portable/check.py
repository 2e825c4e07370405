"""An exported file beside the model that it came from, on samples of the corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun import kernels
from snnrun.data import Split
from snnrun.encoders import Encoder
from snnrun.network.model import Signal
from snnrun.portable.task import Task
from snnrun.rules import Currents
from snnrun.train.batches import batches
from snnrun.train.evaluation import EVALUATION_BATCH

ALIKE = 1e-4  # logits; counts are whole numbers
Compute = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Agreement:
    """Over some samples.

    Attributes:
        samples: Number of samples.
        same_scores: Share of the outputs' counts that are the same, or of their logits up to `ALIKE`.
        same_class: Share of the samples that are taken for the same class.
        accuracies: Share of right classes, of our model and of the file.
        counts: Whether the outputs are counts of spikes.
    """

    samples: int
    same_scores: float
    same_class: float
    accuracies: tuple[float, float]
    counts: bool

    def __str__(self) -> str:
        what = "counts" if self.counts else "logits"
        return (
            f"{self.samples:,} samples: {100 * self.same_scores:.3f} % of the {what} and "
            f"{100 * self.same_class:.2f} % of the classes are the same; {100 * self.accuracies[1]:.2f} % right, "
            f"here {100 * self.accuracies[0]:.2f} %"
        )


def plain(inputs: Tensor | Currents, signal: Signal) -> NDArray[np.float32]:
    """Inputs of a model as exported files take them: spikes 0.0 or 1.0 (B, T, N), or values (B, K, N)."""
    if isinstance(inputs, Currents):
        inputs = inputs.values
    elif signal.spikes:
        inputs = kernels.unpack(inputs, signal.channels)
    found: NDArray[np.float32] = inputs.float().numpy()
    return found


@torch.no_grad()
def agreement(task: Task, compute: Compute, split: Split, encoder: Encoder, at: NDArray[np.int64]) -> Agreement:
    """Run both on these samples of a split.

    Args:
        compute: What the file makes of `plain` inputs: scores (B, C).
    """
    ours, theirs = [], []
    cpu = torch.device("cpu")
    for _, inputs, _ in batches(split, at, encoder, 0, EVALUATION_BATCH, cpu):
        ours.append(task.model(inputs).scores.numpy())
        theirs.append(compute(plain(inputs, task.signal)))
    scores, other, labels = np.concatenate(ours), np.concatenate(theirs), split.labels[at]
    classes, found = scores.argmax(axis=1), other.argmax(axis=1)
    return Agreement(
        samples=len(at),
        same_scores=float((np.abs(scores - other) <= ALIKE * np.maximum(1.0, np.abs(scores))).mean()),
        same_class=float((classes == found).mean()),
        accuracies=(float((classes == labels).mean()), float((found == labels).mean())),
        counts=task.options is None,
    )
