"""Axonal delays: the spikes of each input of a layer come to it so many whole steps later. They can be trained.

A layer has a real delay d_j in [0, max_delay] for each of its inputs j, those of its skip connections included. The
forward pass rounds it, D_j = round(d_j), and the layer gets s_j(t - D_j); a spike that would come after the last step
is lost. Rounding is straight-through: the gradient at D_j is that of d_j, and moves d_j, which is what a checkpoint
keeps. Between whole steps a delayed train is interpolated in a line,

    s_d(t) = (1 - f) s(t - n) + f s(t - n - 1),    d = n + f,    ds_d(t)/dd = s(t - n - 1) - s(t - n),

so at a whole D its derivative is s(t - D - 1) - s(t - D) from above and s(t - D) - s(t - D + 1) from below. The mean of
the two is the central difference

    ds_D(t)/dD = (s(t - D - 1) - s(t - D + 1)) / 2.

**Rules whose errors go by steps** (STBP). With g(t) = dL/ds_D(t), the error of the delayed input, its sum by parts is
the difference of the errors just after and just before where each spike arrives:

    dL/dD = sum over t of g(t) ds_D(t)/dD = sum over spikes t_f of (g(t_f + D + 1) - g(t_f + D - 1)) / 2

with g = 0 outside the steps, where a spike has no effect. The error of the source is g(t + D).

**Rules on whole trains** (ST-RSBP, HM2-BP). e_ij is linear in the train of j: with the readout r_i of the post-neuron
(`kernels.reference`) e_ij(d) = sum over t of r_i(t) s_j(t - d), the correlation of the two at lag d. So

    de_ij/dD = (e_ij(D + 1) - e_ij(D - 1)) / 2,    dE/dD_j = sum over i of lambda_i w_ij de_ij/dD,

two more sums over pairs in the backward pass, with the trains one step later and one step earlier. lambda is the credit
that also goes below (ST-RSBP eq. 13: delta / D without recurrent synapses), as a delay changes what comes from below
and not the weights. HM2-BP has its own lambda, see `hm2bp`. A count n_j stays what it was; what is lost at the end has
no S-PSP.

Recurrent synapses keep their one step, and so does the inhibition among the outputs. A spiking pool has no delays; an
average pool belongs to the layer after it, whose delays are those of the pool's inputs.

Sources: Hammouamri, Khalfaoui-Hassani & Masquelier 2023 (delays learnt by interpolation, rounded in the end), Shrestha
& Orchard 2018 (axonal delays by the derivative in time; `slayer` has its authors' form).

Differs from the papers: delays are rounded in training, too, instead of a kernel that narrows; they belong to axons and
not to synapses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from snnrun.declared import Range
from snnrun.kernels import delay_ops
from snnrun.rules.base import LayerKind, LayerWeights, Rule, SpikeTrain


@dataclass(frozen=True, kw_only=True)
class Delaying(Rule):
    """Base of the rules whose layers can have delays; see the module.

    `delays`: none, drawn once (`fixed`), or drawn and trained. `max_delay` in steps. `delays_lr` multiplies the
    learning rate.
    """

    delays: Literal["none", "fixed", "trained"] = "none"
    max_delay: Annotated[int, Range(at_least=1)] = 20
    delays_lr: Annotated[float, Range(above=0)] = 10.0

    def initial_delay(self, kind: LayerKind, inputs: int, generator: Generator) -> Tensor | None:
        """The delay of each input of a layer, uniform on [0, max_delay], (I,); None if there are none."""
        if self.delays == "none" or kind.pool:
            return None
        return torch.rand(inputs, generator=generator) * self.max_delay

    def fixed_tensors(self) -> tuple[str, ...]:
        """The delays, if they are drawn once."""
        return ("delay",) if self.delays == "fixed" else ()

    def constrain(self, kind: LayerKind, weights: LayerWeights) -> None:
        """Keep trained delays between 0 and `max_delay`."""
        super().constrain(kind, weights)
        if self.delays == "trained" and weights.delay is not None:
            weights.delay.clamp_(0.0, float(self.max_delay))


class Delayed(NamedTuple):
    """Trains before they are delayed, bits (B, T, W), and the whole steps (I,) by which they are."""

    spikes: Tensor
    steps: Tensor

    def trains(self, more: int = 0) -> Tensor:
        """The delayed trains, or those of so many more steps."""
        return delay_ops.delayed(self.spikes, self.steps + more)


def whole(delay: Tensor) -> Tensor:
    """The steps by which trains are delayed, (I,) int64."""
    return delay.detach().round().long()


def delayed(train: SpikeTrain, delay: Tensor) -> SpikeTrain:
    """What a layer of a rule whose errors go by steps gets of a train, with the delay (I,) of each neuron.

    Its counts are still those of the train.
    """
    before = Delayed(train.spikes, whole(delay))
    link: Tensor | None = None
    if train.link is not None or delay.requires_grad:
        link = _Link.apply(train.link, delay, *before, train.counts)  # type: ignore[no-untyped-call]
    near = None if train.near is None else delay_ops.delayed(train.near, before.steps)
    here = delay.device.type == "cpu" and not torch.compiler.is_compiling()  # as `stbp` marks them
    if here and delay.requires_grad and (near is not None or train.link is None):
        beside = before.trains(1) | before.trains(-1)  # whose errors the gradient of the delays reads
        near = beside if near is None else near | beside
    return SpikeTrain(before.trains(), train.counts, link, near)


class _Link(torch.autograd.Function):
    """A node from the link of a train, or None, and the delays to the link of the delayed train."""

    @staticmethod
    def forward(ctx: Any, link: Tensor | None, delay: Tensor, spikes: Tensor, steps: Tensor, counts: Tensor) -> Tensor:
        del link, delay
        ctx.save_for_backward(spikes, steps)
        ctx.set_materialize_grads(False)
        return counts.new_zeros(1, 1, 1).expand(*spikes.shape[:2], counts.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, errors: Tensor | None) -> Sequence[Tensor | None]:
        spikes, steps = ctx.saved_tensors
        wants_link, wants_delay, *_ = ctx.needs_input_grad
        below, gradient = None, None
        if errors is not None and wants_link:
            below = delay_ops.advanced(errors, steps)
        if errors is not None and wants_delay:
            gradient = delay_ops.delay_errors(spikes, steps, errors).sum(dim=0)
        return below, gradient, None, None, None
