"""The trains of several layers as those of one, for a layer with skip connections.

The layer is an ordinary one over all their neurons, so rules and kernels need know nothing of it: the error that it
sends below is split again, and a layer that several others read gets the sum of their errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnrun.kernels import join, pack
from snnrun.rules.base import SpikeTrain


def joined(trains: Sequence[SpikeTrain]) -> SpikeTrain:
    """Trains of N_1, N_2, ... neurons as those of their sum, in this order."""
    sizes = [train.counts.shape[1] for train in trains]
    spikes = join([train.spikes for train in trains], sizes)
    counts, links = torch.cat([train.counts for train in trains], dim=1), [train.link for train in trains]
    link: Tensor | None = None
    if any(each is not None for each in links):
        steps = *spikes.shape[:2], sum(sizes)
        link = _Links.apply(counts.detach(), steps, sizes, *links)  # type: ignore[no-untyped-call]
    near = None
    if any(train.near is not None for train in trains):
        near = join([_near(train) for train in trains], sizes)
    return SpikeTrain(spikes, counts, link, near)


def _near(train: SpikeTrain) -> Tensor:
    """Which spikes need a gradient: those that are marked, none of the input's, all of a layer that marks none."""
    if train.near is not None:
        return train.near
    if train.link is None or not train.link.requires_grad:
        return torch.zeros_like(train.spikes)
    return pack(torch.ones_like(train.link, dtype=torch.uint8))


class _Links(torch.autograd.Function):
    """The links (B, T, N_1), ... of several trains as one, whose gradient goes to each in its columns."""

    @staticmethod
    def forward(ctx: Any, like: Tensor, shape: Sequence[int], sizes: Sequence[int], *links: Tensor | None) -> Tensor:
        ctx.sizes = list(sizes)
        ctx.has = [link is not None for link in links]
        ctx.set_materialize_grads(False)
        return like.new_zeros(1, 1, 1).expand(*shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> Sequence[Tensor | None]:
        if gradient is None:
            return None, None, None, *[None] * len(ctx.has)
        parts = torch.split(gradient, ctx.sizes, dim=2)
        return None, None, None, *(part if has else None for part, has in zip(parts, ctx.has, strict=True))
