"""The states of a liquid, computed once for a corpus and kept in the store of encoded spikes (`data.cache`).

A sample whose spikes are the same at each presentation has one state. A training then reads it from the store instead
of simulating the liquid. Otherwise it computes the states at each presentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snnrun import kernels
from snnrun.data import Dataset, Split, cache
from snnrun.data.corpus import Mapped
from snnrun.data.spikes_file import Encoded
from snnrun.encoders import Encoder
from snnrun.liquid.lsm import LsmModel
from snnrun.run import recordings

# Samples whose mean and spread are summed at a time.
AT_ONCE = 256


class Kept:
    """The encoder of kept states: it hands them on as values (B, 1, K) float32."""

    kinds = ("states",)
    steps = None
    values = True

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[np.float32]:
        """The states of stored samples (B, 1, W)."""
        del index, epoch
        return np.ascontiguousarray(samples).view(np.float32)[:, :, : self.size]


def studied(
    model: LsmModel, values: Mapping[str, Any], dataset: Dataset, encoder: Encoder, device: torch.device
) -> tuple[Dataset, Encoder]:
    """The corpus and the encoder to train a liquid's readout with. The model gets mean and spread of the states.

    Raises:
        SnnrunError: The store cannot be read or written.
    """
    model.to(device)
    if can_be_kept(dataset, encoder):
        about = {"encoder": values["encoder"], "seed": values["seed"], "kernels": kernels.active().__name__}
        folder = Path(values["outputs"]) / recordings.FOLDER
        dataset, encoder = kept(model, dataset, encoder, about, folder)
    if model.options.normalise == "standard":
        standardise(model, dataset.train, encoder)
    return dataset, encoder


def can_be_kept(dataset: Dataset, encoder: Encoder) -> bool:
    """Whether a sample has the same spikes at each presentation."""
    return dataset.augment is None and (dataset.kind == "spikes" or bool(getattr(encoder, "frozen", False)))


def kept(
    model: LsmModel, dataset: Dataset, encoder: Encoder, about: dict[str, Any], folder: Path
) -> tuple[Dataset, Encoder]:
    """The corpus and the encoder to train with: the states of all samples instead of their spikes.

    Args:
        model: Its liquid gives the states.
        dataset: The corpus.
        encoder: Makes its spikes.
        about: All that the spikes and the liquid depend on besides the corpus and the liquid's own options.
        folder: The folder of the store.

    Raises:
        SnnrunError: The store cannot be read or written.
    """
    parts, device = (dataset.train, dataset.validation, dataset.test), model.readout.device
    places = [(part, k) for part in parts for k in range(len(part))]
    size = model.sizes[0] + model.readout.shape[1]

    def respond(place: int) -> Encoded:
        part, k = places[place]
        at = np.array([k])
        bits = torch.from_numpy(encoder.encode(part.samples[at], part.index[at], 0))
        state = np.zeros((1, size + size % 2), np.float32)
        state[:, :size] = model.respond(bits.to(device)).cpu().numpy()
        return Encoded(state.view(np.int64))

    stored = cache.stored(
        folder,
        {"liquid": model.key(), "corpus": dataset.digest, "parts": [part.index.tolist() for part in parts], **about},
        count=len(places),
        steps=1,
        width=-(-size // 2),
        encode=respond,
        title=f"{dataset.name}_states",
    )
    train, validation, test = np.split(np.arange(len(places)), np.cumsum([len(part) for part in parts])[:-1])
    states = [
        replace(part, samples=Mapped(stored.spikes, rows))
        for part, rows in zip(parts, (train, validation, test), strict=True)
    ]
    return replace(dataset, train=states[0], validation=states[1], test=states[2]), Kept(size)


def standardise(model: LsmModel, train: Split, encoder: Encoder) -> None:
    """Give the model mean and spread of the states of the training samples, summed in float64 in their order."""
    device = model.readout.device
    sums = torch.zeros(2, model.readout.shape[1], dtype=torch.float64, device=device)
    for start in range(0, len(train), AT_ONCE):
        at = np.arange(start, min(start + AT_ONCE, len(train)))
        batch = torch.from_numpy(encoder.encode(train.samples[at], train.index[at], 0)).to(device)
        states = (model.respond(batch) if batch.dtype == torch.int64 else batch[:, 0])[:, model.sizes[0] :].double()
        sums += torch.stack([states.sum(dim=0), states.square().sum(dim=0)])
    mean, square = sums / max(len(train), 1)
    model.standardise(mean.float(), (square - mean.square()).clamp(min=0.0).sqrt().float())
