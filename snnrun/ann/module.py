"""What the models without spikes share: layers by name, cross-entropy, initial weights from a seed, dropout by keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrun.ann.components import Scale, inputs_of
from snnrun.ann.inputs import Bins, lengths
from snnrun.kernels import splitmix
from snnrun.network.model import Model, Scores


class AnnModel(Model):
    """A model of layers with real-valued activities, trained by cross-entropy.

    Attributes:
        bins: What makes values of the inputs.
        features: Number of inputs of the first layer.
        scale: What scales the values, or None.
        layers: The layers that have neurons, by name, in the order of `layer_names`.
    """

    bins: Bins
    features: int
    scale: Scale | None
    layers: nn.ModuleDict

    def values(self, inputs: Tensor) -> Tensor:
        """The values (B, T', N) of a batch, see `Bins`, in the precision of the weights, not scaled yet."""
        return self.bins(inputs).to(next(self.parameters()).dtype)

    def scaled(self, values: Tensor) -> Tensor:
        """The values as the layers see them, with 0 for those that are not there."""
        return (values if self.scale is None else self.scale(values)).nan_to_num()

    def study(self, dataset: Any, encoder: Any, device: torch.device) -> tuple[Any, Any]:
        """Find the scale of the training samples, if the model has one, from their steps up to the end of each."""
        if self.scale is not None:
            self.to(device)  # where the kernels count the spikes
            self.scale.fit(map(self._until_the_end, inputs_of(dataset.train, encoder, device)))
        return super().study(dataset, encoder, device)

    def _until_the_end(self, inputs: Tensor) -> Tensor:
        values = self.values(inputs)
        over = torch.arange(values.shape[1], device=values.device) >= lengths(values, self.bins.spikes)[:, None]
        return values.masked_fill(over[..., None], torch.nan)

    def sample_loss(self, outcome: Scores, labels: Tensor) -> Tensor:
        """Cross-entropy of each sample, (B,)."""
        return functional.cross_entropy(outcome.scores, labels, reduction="none")

    def layout(self) -> dict[str, dict[str, Any]]:
        """By layer: `inputs`, `neurons`, and whether it is `recurrent`."""
        before = [self.features, *self.sizes[:-1]]
        return {
            name: {"inputs": inputs, "neurons": size, "recurrent": False}
            for name, inputs, size in zip(self.layer_names, before, self.sizes, strict=True)
        }

    def called(self, key: str) -> str:
        """The layer's name and the kind of the parameter, such as `hidden1 weight`."""
        return super().called(key.removeprefix("layers."))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, PyTorch draws what it draws after `torch.manual_seed(seed)`. Afterwards its state is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) whose draws depend on the key of each sample alone, not on the batch.

    So a training that is resumed, or shared by several processes, drops the same units.

    Args:
        share: Probability that a unit is dropped.
        stream: Number of this dropout in its model, so that each drops others.
    """

    def __init__(self, share: float, stream: int) -> None:
        super().__init__()
        self.share, self.stream = share, stream

    def forward(self, values: Tensor, keys: Tensor | None) -> Tensor:
        """Values (B, N), or (B, T, N) with the same units dropped at all steps; unchanged without keys."""
        if keys is None or not self.share:
            return values
        kept = uniform(keys, values.shape[-1], self.stream) >= self.share
        mask = kept.to(values.dtype) / (1.0 - self.share)
        dropped: Tensor = values * (mask if values.dim() == 2 else mask[:, None])
        return dropped


def uniform(keys: Tensor, number: int, stream: int) -> Tensor:
    """Numbers in [0, 1), (B, number) float32, of each sample's key, (B,) int64."""
    unit = torch.arange(1, number + 1, device=keys.device)
    words = splitmix.mixed(splitmix.stream(keys, stream)[:, None] + splitmix.STEP * unit)
    drawn: Tensor = splitmix.shifted(words, 40).to(torch.float32) * 2.0**-24
    return drawn
