"""Spikes that get lost in training on their way to a layer, each by itself with the same probability p.

The layer gets the train that is left, and its S-PSP and its gradient are those of that train: nothing is approximated.
Its weights are divided by 1 - p meanwhile, so that its mean input is that of an evaluation, where no spike is lost
(Srivastava et al. 2014, for units). The derivative of the train that is left, s'(t) = m(t) s(t) with m(t) 0 where a
place is lost, else 1, is m(t) for a rule whose errors go by steps. For a rule on counts it is the share that is left,
dn'/dn = n'/n, since a train that fires more with the same losses keeps this share; 1 - p if there was no spike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from snnrun.kernels import ops, splitmix
from snnrun.rules.base import LayerWeights, SpikeTrain, every_step

SOURCES = 1 << 16  # more than there are layers: what a layer gets over a skip connection has streams of its own


def drop(
    trains: Sequence[SpikeTrain],
    shares: Sequence[float],
    weights: LayerWeights,
    keys: Tensor,
    number: int,
    by_step: bool,
) -> tuple[list[SpikeTrain], LayerWeights]:
    """What layer `number` gets of the trains that go to it, and its weights.

    Args:
        trains: The spikes on their way, of the layer before it and of its skip connections, in the order of its inputs.
        shares: p of each.
        weights: Of the layer.
        keys: A number for each sample, (B,) int64. What it loses depends on this, `number` and the train alone.
        number: Of the layer, so that each loses other spikes.
        by_step: Whether the rule's error goes by steps, in `SpikeTrain.link`, or by counts.
    """
    left = [
        _left(train, share, splitmix.stream(keys, number + SOURCES * place), by_step) if share else train
        for place, (train, share) in enumerate(zip(trains, shares, strict=True))
    ]
    if len(trains) == 1:
        return left, replace(weights, weight=weights.weight / (1.0 - shares[0]))
    sizes = [train.counts.shape[1] for train in trains]
    kept = [weights.weight.new_full((size,), 1.0 - share) for size, share in zip(sizes, shares, strict=True)]
    return left, replace(weights, weight=weights.weight / torch.cat(kept))


def _left(train: SpikeTrain, share: float, keys: Tensor, by_step: bool) -> SpikeTrain:
    return SpikeTrain(*_Drop.apply(train.spikes, train.counts, train.link, keys, share, by_step))  # type: ignore[no-untyped-call]


class _Drop(torch.autograd.Function):
    """A node from (counts, link) of a train to those of what is left of it. The spikes are constants."""

    @staticmethod
    def forward(
        ctx: Any, spikes: Tensor, counts: Tensor, link: Tensor | None, keys: Tensor, share: float, by_step: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        left = ops.backend.thin(spikes, keys, share)
        number = ops.count_spikes(left, counts.shape[1], counts.dtype)
        ctx.save_for_backward(counts, number, keys)
        ctx.share, ctx.link = share, None if link is None or not by_step else link.shape
        ctx.mark_non_differentiable(left)
        ctx.set_materialize_grads(False)
        return left, number, None if link is None else link.new_zeros(1, 1, 1).expand(link.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: None, grad_counts: Tensor | None, grad_link: Tensor | None) -> Sequence[Tensor | None]:
        counts, number, keys = ctx.saved_tensors
        if ctx.link is not None:
            steps = every_step(grad_counts, grad_link, counts.new_zeros(1, 1, 1).expand(ctx.link))
            return None, None, ops.backend.thin_gradient(steps, keys, ctx.share), None, None, None
        kept = torch.where(counts > 0, number / counts.clamp(min=1.0), 1.0 - ctx.share)
        return None, None if grad_counts is None else grad_counts * kept, grad_link, None, None, None
