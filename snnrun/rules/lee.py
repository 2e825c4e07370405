"""Backpropagation on membrane potentials (Lee, Delbruck & Pfeiffer, Frontiers in Neuroscience 2016).

The membrane potentials of integrate-and-fire neurons are taken for differentiable signals, and the jumps at spikes for
noise. With the traces x_k of the input spikes and a_i of a neuron's own (`kernels.reference.wta`), each a train through
a low-pass filter of the membrane's time constant, the membrane at the end of a sample is

    V_i = s_i - th_i a_i - sigma kappa th_i sum_{j != i} a_j,    s_i = sum_k w_ik x_k

with the strength kappa of the lateral inhibition and sigma, the share of it that is effective, since no membrane falls
below -th. Set to zero, this is the transfer function of a layer: a_i = s_i / th_i - sigma kappa sum_{j != i} a_j. For
c = sigma kappa and the n neurons that fire, its derivative sends an error e_i = dE/da_i to

    dE/ds_i = (1 / th_i) / (1 - c) (e_i - c / (1 + c (n - 1)) sum_j e_j)
    dE/dw_ik = dE/ds_i x_k,   dE/dth_i = -dE/ds_i (a_i + c sum_{j != i} a_j),   dE/dx_k = sum_i w_ik dE/ds_i

A hidden neuron that does not fire has no error. The outputs are their counts over the largest of them, and their error
is o - y with y one-hot. `normalise` keeps the errors of all layers at one scale, and the updates in proportion to the
initial weights and thresholds. For N neurons with M synapses each, of which n have an error and m a spiking input,

    dE/ds_i has (1 / th_i) / rms(1 / th) instead of 1 / th_i
    dE/dx_k is multiplied by sqrt(M / n), dE/dw by sqrt(N / m), dE/dth by sqrt(N / (m M))

Weights are uniform on [-sqrt(3 / M), sqrt(3 / M)], thresholds `v_th` sqrt(3 / M). A neuron's weights decay by the
gradient of lambda / 2 exp(beta (sum_j w_ij^2 - 1)). Thresholds are balanced: a spike raises its neuron's by rho N and
lowers all N of the layer by rho. None falls below a bound; what it would fall further is added to each weight of its
neuron. Pools average the spikes, as in STBP (see `base.spread`).

Differs from the paper: time goes in steps of 1 ms, and a refractory period of one step has no effect. The inhibition is
among the neurons of dense layers, outputs included. In a convolution, neurons with the same kernel share a threshold,
and N is the number of kernels; n counts the neurons that an input reaches, m the spiking inputs of a kernel at all its
positions. The factors of `normalise` are those that keep the second moments of errors and updates equal, the paper's
aim. The balance of the thresholds is a part of the gradient and goes through the optimiser, which moves thresholds in
units of their initial values, in which they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from snnrun.declared import Range
from snnrun.kernels import Wta, reference, wta_ops
from snnrun.rules.base import Currents, LayerKind, LayerWeights, Rule, SpikeTrain, spread


@dataclass(frozen=True, kw_only=True)
class LeeRule(Rule):
    """Backpropagation on membrane potentials. `v_th` is the paper's alpha, a threshold over sqrt(3 / M).

    `inhibition` and `efficacy` are kappa and sigma; `regulariser`, `regulariser_beta` and `balance` are lambda, beta
    and rho. `least_threshold` is a share of the initial threshold.
    """

    average_pools: ClassVar[bool] = True
    recurrent_layers: ClassVar[bool] = False
    skip_connections: ClassVar[bool] = False
    inhibits_at_once: ClassVar[bool] = True

    tau_m: Annotated[float, Range(above=0)] = 20.0
    t_ref: Annotated[float, Range(at_least=0)] = 1.0
    inhibition: Annotated[float, Range(at_least=0, below=1)] = 0.4
    efficacy: Annotated[float, Range(at_least=0, at_most=1)] = 0.5
    normalise: bool = True
    regulariser: Annotated[float, Range(at_least=0)] = 0.002
    regulariser_beta: Annotated[float, Range(above=0)] = 10.0
    balance: Annotated[float, Range(at_least=0)] = 0.0001
    least_threshold: Annotated[float, Range(above=0, at_most=1)] = 0.2
    loss: Literal["squared", "softmax"] = "squared"

    def neuron(self, kind: LayerKind) -> Wta:
        """Neuron of a layer."""
        return Wta(self.tau_m, self.t_ref, self.inhibition if kind.window is None else 0.0)

    def inhibits(self, kind: LayerKind) -> bool:
        """Dense layers do, the outputs too, unless `inhibition` is 0."""
        return self.neuron(kind).inhibition > 0

    def initial_threshold(self, kind: LayerKind, synapses: int) -> float:
        """Threshold of the neurons of a layer that have so many synapses, mV."""
        return self.threshold(kind) * math.sqrt(3.0 / synapses)

    def initialise(self, kind: LayerKind, inputs: int, neurons: int, generator: Generator) -> LayerWeights:
        """Weights of variance 1 / M, and thresholds at their initial values."""
        del kind
        weight = (torch.rand(neurons, inputs, generator=generator) * 2 - 1) * math.sqrt(3.0 / inputs)
        return LayerWeights(weight, threshold=torch.ones(neurons))

    def layer(
        self, kind: LayerKind, weights: LayerWeights, inputs: SpikeTrain | Currents, labels: Tensor | None
    ) -> SpikeTrain:
        """Run a layer. The error comes back through `counts`; `link` (B, 1, 1) brings the weight of each sample."""
        del labels
        assert isinstance(inputs, SpikeTrain)
        weight = weights.weight if kind.average is None else spread(weights.weight, kind.average)
        assert weights.threshold is not None
        threshold = weights.threshold * self.initial_threshold(kind, weights.weight[0].numel())
        return SpikeTrain(
            *_Layer.apply(inputs.spikes, inputs.counts, inputs.link, weight, threshold, self, kind)  # type: ignore[no-untyped-call]
        )

    def sample_loss(self, output: SpikeTrain, labels: Tensor) -> Tensor:
        """Half the squared distance of the counts, over the largest, from the one-hot label; the error is o - y.

        Or cross-entropy of the softmax of the counts.
        """
        counts = output.counts
        if self.loss == "softmax":
            loss = self.cross_entropy(counts, labels)
        else:
            rate = counts.detach() / counts.detach().amax(dim=1, keepdim=True).clamp(min=1.0)
            error = rate - self.wanted(labels, counts.shape[1], rate.dtype)
            loss = 0.5 * error.square().sum(dim=1) + (error * (counts - counts.detach())).sum(dim=1)
        return loss if output.link is None else loss + output.link.flatten(1).sum(dim=1)

    def weight_penalty(self, kind: LayerKind, weights: LayerWeights) -> Tensor | None:
        """The exponential regulariser, eq. 16: its derivative over the weight, (N,)."""
        del kind
        if not self.regulariser:
            return None
        square = weights.weight.detach().flatten(1).square().sum(dim=1)
        return self.regulariser * self.regulariser_beta * torch.exp(self.regulariser_beta * (square - 1.0))

    def constrain(self, kind: LayerKind, weights: LayerWeights) -> None:
        """Keep thresholds above their bound."""
        weight, threshold = weights.weight, weights.threshold
        assert threshold is not None
        missing = (self.least_threshold - threshold).clamp(min=0.0)
        threshold += missing
        added = missing * self.initial_threshold(kind, weight[0].numel())
        weight += added.reshape(-1, *[1] * (weight.dim() - 1))


class _Scale(NamedTuple):
    """The factors of eq. 13 to 15 for each sample, (B, 1)."""

    error: Tensor
    weight: Tensor
    threshold: Tensor


class _Layer(torch.autograd.Function):
    """A layer as a node from (counts, link) to (spikes, counts, link). The spikes are constants."""

    @staticmethod
    def forward(
        ctx: Any,
        spikes_in: Tensor,
        counts_in: Tensor,
        link_in: Tensor | None,
        weight: Tensor,
        threshold: Tensor,
        rule: LeeRule,
        kind: LayerKind,
    ) -> tuple[Tensor, Tensor, Tensor]:
        del link_in
        neuron, window = rule.neuron(kind), kind.window
        if window is None:
            spikes, counts, a = wta_ops.wta_forward(spikes_in, weight, threshold, neuron)
        else:
            spikes, counts, a = wta_ops.wta_conv_forward(spikes_in, weight, threshold, window, neuron)
        ctx.save_for_backward(spikes_in, a, counts, weight, threshold)
        ctx.rule, ctx.kind, ctx.inputs = rule, kind, counts_in.shape[1]
        ctx.mark_non_differentiable(spikes)
        ctx.set_materialize_grads(False)
        return spikes, counts, counts.new_zeros(1, 1, 1).expand(counts.shape[0], 1, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: None, grad_counts: Tensor | None, grad_link: Tensor | None) -> Sequence[Tensor | None]:
        spikes_in, a, counts, weight, threshold = ctx.saved_tensors
        rule, kind = ctx.rule, ctx.kind
        x = wta_ops.trace(spikes_in, ctx.inputs, rule.neuron(kind), weight.dtype)
        e = torch.zeros_like(a) if grad_counts is None else grad_counts
        active = torch.ones_like(counts) if kind.output else (counts > 0).to(counts.dtype)
        each = threshold if kind.window is None else threshold.repeat_interleave(a.shape[1] // len(threshold))
        c = rule.efficacy * rule.neuron(kind).inhibition
        delta, scale = _errors(e, active, each, c, rule.normalise), _scales(active, x, weight, kind)
        if not rule.normalise:
            scale = _Scale(*torch.ones(3, 1, 1, dtype=a.dtype, device=a.device))
        own = delta * (a + c * (a.sum(dim=1, keepdim=True) - a))
        grad_threshold = _by_kernel(-(scale.threshold * own).sum(dim=0), len(threshold))
        if grad_link is not None and rule.balance:
            mean = _by_kernel((grad_link.flatten(1) * counts).sum(dim=0), len(threshold))
            grad_threshold -= rule.balance * len(mean) * (mean - mean.mean()) / (a.shape[1] // len(mean))
        scaled, below = scale.weight * delta, None
        if kind.window is None:
            grad_weight = scaled.T @ x
            below = delta @ weight if ctx.needs_input_grad[1] else None
        else:
            grad_weight = reference.tap_by_tap(reference.drive_by_weight(x, scaled, weight, kind.window))
            below = reference.drive_by_input(delta, weight, kind.window) if ctx.needs_input_grad[1] else None
        below = None if below is None else scale.error * below
        return None, below, grad_link if ctx.needs_input_grad[2] else None, grad_weight, grad_threshold, None, None


def _errors(e: Tensor, active: Tensor, threshold: Tensor, c: float, normalise: bool) -> Tensor:
    """dE/ds (B, N) from dE/da, see above; `threshold` (N,), `active` 1 for the neurons that have an error."""
    n, e = active.sum(dim=1, keepdim=True), e * active
    if c:
        e = (e - c / (1 + c * (n - 1)) * e.sum(dim=1, keepdim=True)) / (1 - c) * active
    gain = 1.0 / threshold
    if not normalise:
        return gain * e
    mean_square = (active * gain.square()).sum(dim=1, keepdim=True) / n.clamp(min=1.0)
    return torch.where(n > 0, gain * e / mean_square.clamp(min=1e-12).sqrt(), 0.0)


def _scales(active: Tensor, x: Tensor, weight: Tensor, kind: LayerKind) -> _Scale:
    """The factors that keep errors and updates at one scale. An average over a square has the inputs of one."""
    window, average = kind.window, kind.average
    if window is not None:
        square, shared, synapses = window.pool**2, window.neurons // window.kernels, float(weight[0].numel())
    else:
        square, shared = 1 if average is None else average.height**2, 1
        synapses = weight[0].numel() / square
    inputs = x.shape[1] / square
    n = (active.sum(dim=1, keepdim=True) * synapses / inputs).clamp(min=1.0)
    m = ((x > 0).to(x.dtype).mean(dim=1, keepdim=True) * synapses * shared).clamp(min=1.0)
    return _Scale(square * (synapses / n).sqrt(), (len(weight) / m).sqrt(), (len(weight) / (m * synapses)).sqrt())


def _by_kernel(values: Tensor, kernels: int) -> Tensor:
    """Sums (K,) over the neurons of each kernel; in a dense layer the values themselves."""
    return values.reshape(kernels, -1).sum(dim=1)
