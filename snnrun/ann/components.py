"""Principal components of a corpus, which a model may see in place of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

AT_ONCE = 1024  # samples


class Components(nn.Module):
    """The first principal components of inputs that are scaled to mean 0 and variance 1, each, over training samples.

    They are computed once, by `fit`, and are part of the model's state. An input that never changes is only centred.

    Args:
        inputs: Number of inputs.
        number: Number of components.
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor

    def __init__(self, inputs: int, number: int) -> None:
        super().__init__()
        for name, shape in {"mean": (inputs,), "scale": (inputs,), "axes": (number, inputs)}.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, values: Tensor) -> Tensor:
        """Components (B, number) of values (B, inputs)."""
        return (values - self.mean) * self.scale @ self.axes.T

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Find mean, scale and axes of these values, (B, inputs) each. The largest entry of an axis is positive."""
        inputs = self.mean.numel()
        count, total, products = 0, torch.zeros(inputs).double(), torch.zeros(inputs, inputs).double()
        for batch in batches:
            values = batch.double().cpu()
            count += len(values)
            total += values.sum(dim=0)
            products += values.T @ values
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        deviation = covariance.diagonal().clamp(min=0).sqrt()
        scale = torch.where(deviation > 1e-9, 1.0 / deviation.clamp(min=1e-9), 1.0)
        _, vectors = torch.linalg.eigh(covariance * torch.outer(scale, scale))  # ascending
        axes = vectors.flip(1)[:, : len(self.axes)].T
        signs = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
        for own, found in ((self.mean, mean), (self.scale, scale), (self.axes, axes * signs)):
            own.copy_(found)


def inputs_of(split: Any, encoder: Any) -> Iterator[Tensor]:
    """The inputs of a `data.Split` as an evaluation has them, in their order."""
    for start in range(0, len(split), AT_ONCE):
        places = range(start, min(start + AT_ONCE, len(split)))
        yield torch.from_numpy(encoder.encode(split.samples[places], split.index[places], 0))
