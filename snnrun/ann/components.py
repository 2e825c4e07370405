"""What a model computes of a corpus before it is trained: the scale of its inputs, or their principal components."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from snnrun.errors import UsageError

AT_ONCE = 1024  # samples
MOST_INPUTS = 10_000  # of components: each pair of inputs has an entry of a matrix, 0.8 GB
LEAST = 1e-6  # standard deviation of what changes


class Scale(nn.Module):
    """Brings each channel to mean 0 and variance 1 over the training samples.

    Mean and scale are computed once, by `fit`, and are part of the model's state. A channel that never changes is only
    centred.

    Args:
        channels: Number of channels.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("factor", torch.ones(channels))

    def forward(self, values: Tensor) -> Tensor:
        """Values (..., channels), scaled."""
        return (values - self.mean) * self.factor

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Find mean and scale of these values, (B, T, channels) each; those that are NaN do not count."""
        count = torch.zeros(self.mean.numel()).double()
        total, squares = torch.zeros_like(count), torch.zeros_like(count)
        for batch in batches:
            values = batch.double().cpu().flatten(0, -2)
            count += (~values.isnan()).sum(dim=0)
            total += values.nansum(dim=0)
            squares += (values**2).nansum(dim=0)
        mean = total / count.clamp(min=1)
        self.mean.copy_(mean)
        self.factor.copy_(_factor(squares / count.clamp(min=1) - mean**2))


def _factor(variance: Tensor) -> Tensor:
    """What brings values of these variances to variance 1; 1 where there is none."""
    deviation = variance.clamp(min=0).sqrt()
    return torch.where(deviation > LEAST, 1.0 / deviation.clamp(min=LEAST), 1.0)


def check_components(number: int, inputs: int) -> None:
    """Raises UsageError if so many inputs do not have so many components, or are too many for any."""
    if number > inputs:
        raise UsageError(f"model.components: {number:,} of {inputs:,} inputs. Choose fewer, or null.")
    if inputs > MOST_INPUTS:
        raise UsageError(
            f"model.components: the components of {inputs:,} inputs take too much memory. "
            f"Allowed: up to {MOST_INPUTS:,} inputs. Choose null, or wider bins by model.bin."
        )


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
        """Find mean, scale and axes of these values, (B, inputs) each. The largest entry of an axis is positive.

        Raises UsageError if there are fewer values than components.
        """
        inputs = self.mean.numel()
        count, total, products = 0, torch.zeros(inputs).double(), torch.zeros(inputs, inputs).double()
        for batch in batches:
            values = batch.double().cpu()
            count += len(values)
            total += values.sum(dim=0)
            products += values.T @ values
        if count < len(self.axes):
            raise UsageError(
                f"model.components: {count:,} training samples do not have {len(self.axes):,} components. Choose fewer."
            )
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        scale = _factor(covariance.diagonal())
        _, vectors = torch.linalg.eigh(covariance * torch.outer(scale, scale))  # ascending
        axes = vectors.flip(1)[:, : len(self.axes)].T
        signs = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
        for own, found in ((self.mean, mean), (self.scale, scale), (self.axes, axes * signs)):
            own.copy_(found)


def inputs_of(split: Any, encoder: Any, device: torch.device) -> Iterator[Tensor]:
    """The inputs of a `data.Split` as an evaluation has them, in their order, on a device."""
    for start in range(0, len(split), AT_ONCE):
        places = range(start, min(start + AT_ONCE, len(split)))
        yield torch.from_numpy(encoder.encode(split.samples[places], split.index[places], 0)).to(device)
