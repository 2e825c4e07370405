"""A model on a split: the predicted class of each sample, the accuracy, the spikes of one sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.data import Split
from snnrun.encoders import Encoder
from snnrun.kernels import unpack
from snnrun.network.model import Model, Outcome
from snnrun.rules import Currents
from snnrun.train.batches import as_input, batches
from snnrun.train.distributed import Group

# Evaluation does not depend on the batch size. This many samples fit everywhere and keep the products large.
EVALUATION_BATCH = 64


@torch.no_grad()
def predict(
    network: Model,
    split: Split,
    encoder: Encoder,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
    group: Group | None = None,
) -> NDArray[np.int64]:
    """Predicted class of each sample, (S,): that with the largest score, or the first of several such."""
    group = group or Group()
    predicted = np.empty(len(split), dtype=np.int64)
    done, size = 0, EVALUATION_BATCH * group.size
    for positions, inputs, _ in batches(split, np.arange(len(split)), encoder, 0, size, device, share=group.share):
        classes = np.zeros(len(positions))
        if len(inputs):
            scores = network(inputs.to(device)).scores
            classes[group.part(len(positions))] = scores.argmax(dim=1).cpu().numpy()
        predicted[positions] = group.total(classes)
        done += len(positions)
        if progress is not None:
            progress(done)
    return predicted


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How often each class (row) was taken for each class (column), (classes, classes), of samples (S,)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of the samples on the diagonal of a confusion matrix (classes, classes)."""
    return float(np.trace(confusion) / max(1, confusion.sum()))


@torch.no_grad()
def record_raster(
    network: Model, split: Split, encoder: Encoder, device: torch.device, sample: int = 0
) -> tuple[dict[str, NDArray[np.uint8]], int, int]:
    """The `rasters` of one sample, its label and the predicted class."""
    inputs = as_input(encoder, encoder.encode(split.samples[[sample]], split.index[[sample]], 0))
    outcome = network.to(device)(inputs.to(device))
    return rasters(network, inputs, outcome), int(split.labels[sample]), int(outcome.scores.argmax().item())


def rasters(network: Model, inputs: Tensor | Currents, outcome: Outcome) -> dict[str, NDArray[np.uint8]]:
    """Spikes (T, N) of the input, if it has spikes, and of every layer that fires, for one sample and its outcome."""
    layers = {}
    if isinstance(inputs, Tensor) and inputs.dtype == torch.int64:
        layers["input"] = unpack(inputs, network.inputs)[0].numpy()
    for (name, size), spikes in zip(network.spiking.items(), outcome.spikes, strict=True):
        layers[name] = unpack(spikes[:1], size)[0].cpu().numpy()
    return layers
