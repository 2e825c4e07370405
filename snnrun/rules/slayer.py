"""SLAYER: spike layer error reassignment in time (Shrestha & Orchard, NeurIPS 2018).

Spike response neurons: the membrane is the weighted sum of the input spikes filtered with eps(t) = (t / tau_s)
exp(1 - t / tau_s), plus a refractory response to the neuron's own spikes. The derivative of a spike by the membrane is
the density rho of a change of state, exponential in the distance from the threshold. An error is credited to the steps
that caused it by its correlation with eps. The neuron and the recursions are in `kernels.reference.srm`.

Loss: the label's neuron should fire `desired` times, the others `undesired` times, between the steps `count_from` and
`count_to`. The error of the outputs' response signals is the error of the count there, spread evenly,

    e_i(t) = (n_i - wanted_i) / (count_to - count_from)    inside, 0 outside,

and it reaches dL/ds_i by the correlation with eps, too.

`delays` learns an axonal delay of each input of a layer, pools excepted: spikes come floor(d) steps later, and
dL/dd = sum_t s(t - d) (g(t+1) - g(t)) with the gradient g of the delayed spikes. This is the paper's
-sum_t e(t) a'(t), with the backward difference of the response a for its derivative.

Pools are layers of neurons, as in the authors' code (they call it aggregation): every input of a pool's neuron has the
weight 1.1 v_th. Convolutions have no bias.

Differs from the paper: kernels are not cut off where they are small. Recurrent layers, which the paper does not have,
add W_rec s to the weighted spikes. Spikes outside the counted steps have no error of their own; the authors' code pulls
them to none. The paper's refractory kernel is an exponential; `refractory=alpha` is that of the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.kernels import Srm, Window, delay_ops, ops, srm_ops, unpack
from snnrun.rules.base import Currents, LayerKind, LayerWeights, Rule, SpikeTrain, every_step
from snnrun.rules.connectivity import connect

# The authors' weight of each input of a pool, in thresholds.
POOL_GAIN = 1.1


@dataclass(frozen=True, kw_only=True)
class SlayerRule(Rule):
    """SLAYER. Times in ms, which are steps; `surrogate_height` and `surrogate_width` are the authors' scaleRho, tauRho.

    `refractory_scale` and `surrogate_width` are in thresholds. `count_to=None` counts to the end.
    """

    errors_by_step: ClassVar[bool] = True
    whole_delay: ClassVar[str] = "floor(d)"

    tau_s: Annotated[float, Range(above=0)] = 10.0
    tau_r: Annotated[float, Range(above=0)] = 1.0
    refractory: Literal["exponential", "alpha"] = "exponential"
    refractory_scale: Annotated[float, Range(at_least=0)] = 2.0
    surrogate_height: Annotated[float, Range(above=0)] = 1.0
    surrogate_width: Annotated[float, Range(above=0)] = 1.0
    desired: Annotated[float, Range(above=0)] = 60.0
    undesired: Annotated[float, Range(at_least=0)] = 10.0
    loss: Literal["count", "softmax"] = "count"
    count_from: Annotated[int, Range(at_least=0)] = 0
    count_to: Annotated[int | None, Range(at_least=1)] = None
    delays: bool = False
    init_scale: Annotated[float, Range(above=0)] = 1.0
    connectivity: Literal["full", "two_sided", "one_sided"] = "full"

    def state_variables(self, kind: LayerKind) -> int:
        """Two of the response kernel, one or two of the refractory kernel."""
        del kind
        return 4 if self.refractory == "alpha" else 3

    def pool_weight(self, kind: LayerKind) -> float:
        """The authors' weight of each input of a pool."""
        return POOL_GAIN * self.threshold(kind)

    def neuron(self, kind: LayerKind) -> Srm:
        """Neuron of a layer."""
        return Srm(
            v_th=self.threshold(kind),
            tau_s=self.tau_s,
            tau_r=self.tau_r,
            alpha=self.refractory == "alpha",
            scale=self.refractory_scale,
            height=self.surrogate_height,
            width=self.surrogate_width,
        )

    def initialise(self, kind: LayerKind, inputs: int, neurons: int, generator: Generator) -> LayerWeights:
        """Uniform on [-init_scale, init_scale] v_th / sqrt(inputs); delays uniform on [0, 1), as the authors'."""
        bound = self.init_scale * self.threshold(kind)
        uniform = torch.rand(neurons, inputs, generator=generator) * 2 - 1
        weights = LayerWeights(weight=uniform * (bound / math.sqrt(inputs)))
        if kind.recurrent:
            mask, _ = connect(neurons, self.connectivity, generator)
            values = (torch.rand(neurons, neurons, generator=generator) * 2 - 1) * (bound / math.sqrt(neurons))
            weights.recurrent_weight, weights.recurrent_mask = torch.where(mask, values, 0.0), mask
        if self.delays:
            axons = inputs if kind.window is None else kind.window.inputs
            weights.delay = torch.rand(axons, generator=generator)
        return weights

    def layer(
        self, kind: LayerKind, weights: LayerWeights, inputs: SpikeTrain | Currents, labels: Tensor | None
    ) -> SpikeTrain:
        """Run a layer. The gradient of its spikes comes back through `counts` and `link`."""
        del labels
        assert isinstance(inputs, SpikeTrain)
        neuron = self.neuron(kind)
        if kind.pool:
            assert kind.window is not None
            gain, dtype = self.pool_weight(kind), weights.weight.dtype
            return SpikeTrain(*_Pool.apply(inputs.spikes, inputs.link, kind.window, gain, neuron, dtype))  # type: ignore[no-untyped-call]
        return SpikeTrain(
            *_Layer.apply(
                inputs.spikes, inputs.link, weights.weight, weights.delay,
                weights.recurrent_weight, weights.recurrent_mask, neuron, kind.window,
            )  # type: ignore[no-untyped-call]
        )  # fmt: skip

    def sample_loss(self, output: SpikeTrain, labels: Tensor) -> Tensor:
        """Half the squared error of the counts over the number of counted steps; the gradient is the error's of above.

        Or cross-entropy of the softmax of the counts, whose derivative by a count then is the error.

        Raises UsageError if `count_from` is not before `count_to` and the last step.
        """
        counts, steps = output.counts, output.spikes.shape[1]
        start, stop = self.count_from, min(self.count_to or steps, steps)
        if start >= stop:
            raise UsageError(
                f"model.count_from: {start} is not before step {stop}, where counting ends. Lower it, or raise "
                "model.count_to or the number of steps."
            )
        if stop - start < steps:
            counts = ops.count_spikes(output.spikes[:, start:stop], counts.shape[1], counts.dtype)
        counts, share = counts.detach(), self.wanted(labels, counts.shape[1], counts.dtype)
        if self.loss == "softmax":
            error = ((counts / self.temperature).softmax(dim=1) - share) / self.temperature
            loss = self.cross_entropy(counts, labels)
        else:
            error = (counts - self.desired * share - self.undesired * (1.0 - share)) / (stop - start)
            loss = 0.5 * (error.square() * (stop - start)).sum(dim=1)
        if output.link is None:
            return loss
        credit = self._credit(steps, start, stop).to(counts)
        carried = (output.link * credit[None, :, None]).sum(dim=1)  # 0; its gradient is the error of each step
        return loss + (error * carried).sum(dim=1)

    def _credit(self, steps: int, start: int, stop: int) -> Tensor:
        """The correlation of eps with 1 inside the counted steps and 0 outside: (T,)."""
        time = torch.arange(steps + 1, dtype=torch.float64)
        eps = time / self.tau_s * torch.exp(1 - time / self.tau_s)
        before = torch.cat([eps.new_zeros(1), eps.cumsum(dim=0)])  # sum of eps(k) over k < m
        now = torch.arange(steps)
        return before[(stop - now).clamp(min=0)] - before[(start - now).clamp(min=0)]

    def constrain(self, kind: LayerKind, weights: LayerWeights) -> None:
        """No delay is negative."""
        del kind
        if weights.delay is not None:
            weights.delay.clamp_(min=0.0)


class _Layer(torch.autograd.Function):
    """A dense layer or a convolution as a node from link to counts and link. The spikes are constants."""

    @staticmethod
    def forward(
        ctx: Any,
        spikes_in: Tensor,
        link_in: Tensor | None,
        weight: Tensor,
        delay: Tensor | None,
        recurrent_weight: Tensor | None,
        recurrent_mask: Tensor | None,
        neuron: Srm,
        window: Window | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        del link_in
        whole = None
        if delay is not None:
            whole = delay.floor().clamp(max=spikes_in.shape[1]).long()
            spikes_in = delay_ops.delayed(spikes_in, whole)
        if window is None:
            spikes, counts, membrane = srm_ops.srm_forward(spikes_in, weight, recurrent_weight, neuron)
        else:
            spikes, counts, membrane = srm_ops.srm_conv_forward(spikes_in, weight, window, neuron)
        ctx.save_for_backward(spikes_in, weight, whole, recurrent_weight, recurrent_mask, spikes, membrane)
        ctx.neuron, ctx.window = neuron, window
        ctx.mark_non_differentiable(spikes)
        ctx.set_materialize_grads(False)
        return spikes, counts, counts.new_zeros(1, 1, 1).expand(membrane.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: None, grad_counts: Tensor | None, grad_link: Tensor | None) -> Sequence[Tensor | None]:
        spikes_in, weight, whole, recurrent_weight, mask, spikes, membrane = ctx.saved_tensors
        grad_spikes = every_step(grad_counts, grad_link, membrane)
        _, wants_link, wants_weight, wants_delay, *_ = ctx.needs_input_grad
        wants = wants_link or wants_delay, wants_weight
        grad_recurrent = None
        if ctx.window is None:
            grad_in, grad_weight, grad_recurrent = srm_ops.srm_backward(
                grad_spikes, spikes_in, spikes, membrane, weight, recurrent_weight, ctx.neuron, *wants
            )
        else:
            grad_in, grad_weight = srm_ops.srm_conv_backward(
                grad_spikes, spikes_in, membrane, weight, ctx.window, ctx.neuron, *wants
            )
        grad_delay = None
        if wants_delay:
            later = torch.cat([grad_in[:, 1:], torch.zeros_like(grad_in[:, :1])], dim=1)
            came = unpack(spikes_in, len(whole), grad_in.dtype)
            grad_delay = (came * (later - grad_in)).sum(dim=(0, 1))
        if wants_link and whole is not None:
            grad_in = delay_ops.advanced(grad_in, whole)
        return (
            None,
            grad_in if wants_link else None,
            grad_weight if wants_weight else None,
            grad_delay,
            grad_recurrent * mask if wants_weight and grad_recurrent is not None and mask is not None else None,
            None,
            None,
            None,
        )


class _Pool(torch.autograd.Function):
    """A spiking pool as a node from link to counts and link."""

    @staticmethod
    def forward(
        ctx: Any,
        spikes_in: Tensor,
        link_in: Tensor | None,
        window: Window,
        gain: float,
        neuron: Srm,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        del link_in
        spikes, counts, membrane = srm_ops.srm_pool_forward(spikes_in, window, gain, neuron, dtype)
        ctx.save_for_backward(membrane)
        ctx.how = window, gain, neuron
        ctx.mark_non_differentiable(spikes)
        ctx.set_materialize_grads(False)
        return spikes, counts, counts.new_zeros(1, 1, 1).expand(membrane.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: None, grad_counts: Tensor | None, grad_link: Tensor | None) -> Sequence[Tensor | None]:
        [membrane] = ctx.saved_tensors
        grad_spikes = every_step(grad_counts, grad_link, membrane)
        grad_in = srm_ops.srm_pool_backward(grad_spikes, membrane, *ctx.how) if ctx.needs_input_grad[1] else None
        return None, grad_in, None, None, None, None
