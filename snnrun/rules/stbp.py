"""STBP: spatio-temporal backpropagation (Wu, Deng, Li, Zhu & Shi, Frontiers in Neuroscience 2018).

Backpropagation through time over an iterative leaky integrate-and-fire layer, with a surrogate derivative for its step
function. The neuron and the recursions are in `kernels.reference`. This module has the layer as an autograd node, the
paper's initialisation (eq. 29-30) and its loss (eq. 9), L = 1/2 |y - (1/T) sum_t o^t|^2 with y one-hot.

`temporal_gradient=false` is the paper's ablation SDBP: errors travel down the layers but not back through time.
Recurrent layers, which the paper does not have, receive W_rec o^{t-1} and backpropagate through it.

A convolution has one bias for each kernel. Pools average the spikes and have no neurons. A pool belongs to the layer
after it, which sees the mean of each square. If that layer is dense, it runs on the spikes themselves, and its weights
are spread over the squares (`spread`).

A trained time constant (`constants`) is tau_m = 1 / (1 - decay) steps, as in PLIF (Fang et al. 2021), of a layer or of
each neuron (`time_constants_by`). With u^t = u^{t-1} f(o^{t-1}) + ... and the dL/du^t of the recursion, which has the
paths through later steps,

    dL/d(decay) = sum_t dL/du^t u^{t-1} df(o^{t-1})/d(decay),    dL/dtau_m = dL/d(decay) / tau_m^2,

where df/d(decay) is 1 without a spike and 0 after one, or exp(-1 / decay) (1 + 1 / decay) with `reset=exponential`.

**Adaptive thresholds** (`adaptation=threshold`; Bellec et al. 2018, Yin et al. 2021). Each spike of a hidden neuron
raises its own threshold, which falls back over `tau_adaptation` = 1 / (1 - rho) steps:

    threshold^t = v_th (1 + adaptation_strength a^t),    a^t = rho a^{t-1} + (1 - rho) o^{t-1}

`kernels.reference.alif` has the recursions of such neurons, and of all whose time constants are trained.

Differs from the papers: PLIF trains the w of 1 / tau_m = sigmoid(w) and divides its input by tau_m, too. The strength
of the adaptation is in thresholds. A neuron that has fired is reset as STBP resets it and not by a subtraction. All
hidden neurons adapt. Outputs, which the papers read from membranes, do not.

The authors' released code differs from the paper, and each difference is an option. It fires strictly above the
threshold (`strict_threshold`) and initialises as PyTorch does (`init=torch`). It averages the loss over the outputs too
(`loss=mean_squared`), a constant factor. The paper's f(o) = tau exp(-o / tau) (eq. 6) is `reset=exponential`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.kernels import Alif, Stbp, Window, current_ops, image_ops, stbp_ops
from snnrun.rules.alif import adaptive_layer, near
from snnrun.rules.base import Currents, LayerKind, LayerWeights, SpikeTrain, every_step, spread
from snnrun.rules.connectivity import connect
from snnrun.rules.constants import TrainedConstants
from snnrun.rules.delays import Delaying, delayed
from snnrun.rules.views import Driven, view_of

# The least and the most of the membrane that a trained time constant leaves after a step, unless it begins beyond.
LEAST_DECAY, MOST_DECAY = 0.01, 0.99
MOST_TAU_ADAPTATION = 1e4  # steps, unless it begins beyond


@dataclass(frozen=True, kw_only=True)
class StbpRule(Delaying, TrainedConstants):
    """STBP. `decay` is the paper's tau, a share per step; `surrogate_width` is its a_1 ... a_4."""

    average_pools: ClassVar[bool] = True
    errors_by_step: ClassVar[bool] = True

    decay: Annotated[float, Range(at_least=0, below=1)] = 0.2
    surrogate: Literal["rectangle", "polynomial", "sigmoid", "gaussian"] = "rectangle"
    surrogate_width: Annotated[float, Range(above=0)] = 1.0
    temporal_gradient: bool = True
    strict_threshold: bool = False
    reset: Literal["hard", "exponential"] = "hard"
    bias: bool = True
    init: Literal["unit_norm", "torch"] = "unit_norm"
    connectivity: Literal["full", "two_sided", "one_sided"] = "full"
    loss: Literal["squared", "mean_squared", "softmax"] = "squared"
    time_constants_by: Literal["layer", "neuron"] = "layer"
    adaptation: Literal["none", "threshold"] = "none"
    tau_adaptation: Annotated[float, Range(above=1)] = 100.0
    adaptation_strength: Annotated[float, Range(above=0)] = 1.8

    def __post_init__(self) -> None:
        if self.reset == "exponential" and not self.decay:
            raise UsageError(
                "model.reset=exponential: eq. 6 of the paper divides by model.decay, which is 0. Raise it, or choose "
                "model.reset=hard."
            )

    def state_variables(self, kind: LayerKind) -> int:
        """The membrane, and in hidden layers the adaptation."""
        return 1 if self.adaptation == "none" or kind.output else 2

    @property
    def own_time_constants(self) -> bool:
        """As `time_constants_by` says."""
        return self.time_constants_by == "neuron"

    def time_constants(self) -> dict[str, tuple[str, float, float, float]]:
        """That of the membrane, 1 / (1 - decay) steps, where at least 0.01 and at most 0.99 are left after a step.

        And that of the adaptation, at most 0.9999 of which are left after a step, if there is one.
        """
        least, most = min(self.decay, LEAST_DECAY), max(self.decay, MOST_DECAY)
        found = {"tau_m": ("steps", 1.0 / (1.0 - self.decay), 1.0 / (1.0 - least), 1.0 / (1.0 - most))}
        if self.adaptation != "none":
            tau = self.tau_adaptation
            found["tau_adaptation"] = ("steps", tau, min(tau, 1.0 / (1.0 - LEAST_DECAY)), max(tau, MOST_TAU_ADAPTATION))
        return found

    def neuron(self, kind: LayerKind) -> Stbp:
        """Neuron of a layer, with the initial time constant."""
        return Stbp(
            v_th=self.threshold(kind),
            decay=self.decay,
            surrogate=self.surrogate,
            width=self.surrogate_width,
            strict=self.strict_threshold,
            exponential_reset=self.reset == "exponential",
            temporal_gradient=self.temporal_gradient,
        )

    def decays(self, weights: LayerWeights) -> Tensor:
        """What a step leaves of the membranes of a layer: (1,), or (N,) or (K,) of each; float64."""
        return self.trained_decay(_over(weights.tau_m, weights.weight.new_ones(1)))

    def trained_decay(self, ratio: Tensor) -> Tensor:
        """The share of the membrane that a step leaves, 1 - 1 / tau_m, from tau_m over its initial value; float64."""
        return 1.0 - (1.0 - self.decay) / ratio.double()

    def alif(self, kind: LayerKind, weights: LayerWeights) -> Alif | None:
        """The neurons of a layer that adapts or has trained time constants; None of a plain one. Differentiable."""
        strength = 0.0 if self.adaptation == "none" or kind.output else self.adaptation_strength
        if not strength and weights.tau_m is None:
            return None
        neurons = len(weights.weight) if kind.window is None else kind.window.neurons
        one = weights.weight.new_ones(1)
        decay, adaptation = (
            self.decays(weights),
            1.0 - 1.0 / (self.tau_adaptation * _over(weights.tau_adaptation, one).double()),
        )
        decay, adaptation = (each.to(one.dtype).repeat_interleave(neurons // len(each)) for each in (decay, adaptation))
        return Alif(decay, adaptation, strength)

    def initialise(self, kind: LayerKind, inputs: int, neurons: int, generator: Generator) -> LayerWeights:
        """Uniform on [-1, 1], then scaled to norm 1 for each neuron or kernel (eq. 29-30); or PyTorch's default.

        Recurrent weights, which the paper has not, get the share of it that the membrane loses in a step: what goes
        back from step to step over membrane and loops then does not grow at first, however many steps there are.
        """
        weight = torch.rand(neurons, inputs, generator=generator) * 2 - 1
        norm = math.sqrt(inputs) if self.init == "torch" else weight.norm(dim=1, keepdim=True)
        weights = LayerWeights(weight=weight / norm)
        if self.bias:
            spread = 1.0 / math.sqrt(inputs) if self.init == "torch" else 0.0
            weights.bias = (torch.rand(neurons, generator=generator) * 2 - 1) * spread
        if kind.recurrent:
            mask, _ = connect(neurons, self.connectivity, generator)
            values = torch.where(mask, torch.rand(neurons, neurons, generator=generator) * 2 - 1, 0.0)
            norm = math.sqrt(neurons) if self.init == "torch" else values.norm(dim=1, keepdim=True).clamp(min=1e-12)
            weights.recurrent_weight = values / norm * (1.0 - self.decay)
            weights.recurrent_mask = mask
        weights = self.with_constants(weights)
        if kind.output:
            weights.tau_adaptation = None
        return weights

    def refuses_currents(self) -> str:
        """Nothing: currents are real-valued activities o of a layer before the first."""
        return ""

    def layer(
        self, kind: LayerKind, weights: LayerWeights, inputs: SpikeTrain | Currents, labels: Tensor | None
    ) -> SpikeTrain:
        """Run a layer. The gradient of its spikes comes back through `counts` and `link`."""
        del labels
        weights = self.at_thresholds(weights)
        weight = weights.weight if kind.average is None else spread(weights.weight, kind.average)
        if weights.delay is not None and isinstance(inputs, SpikeTrain):
            inputs = delayed(inputs, weights.delay)
        alif = self.alif(kind, weights)
        if alif is not None:
            return adaptive_layer(kind, replace(weights, weight=weight), inputs, alif, self.neuron(kind))
        neuron = self.neuron(kind)
        recurrent = weights.recurrent_weight, weights.recurrent_mask
        if isinstance(inputs, Currents):
            view = view_of(kind, inputs.steps)
            result = _DrivenLayer.apply(inputs.values, weight, weights.bias, *recurrent, neuron, view)  # type: ignore[no-untyped-call]
        else:
            result = _Layer.apply(  # type: ignore[no-untyped-call]
                inputs.spikes, inputs.link, inputs.near, weight, weights.bias, *recurrent, neuron, kind.window,
            )  # fmt: skip
        return SpikeTrain(*result)

    def sample_loss(self, output: SpikeTrain, labels: Tensor) -> Tensor:
        """Half the squared distance of the firing rates from the one-hot label (eq. 9), or its mean over outputs.

        Or cross-entropy of the softmax of the counts.
        """
        if self.loss == "softmax":
            return self.cross_entropy(output.counts, labels)
        rate = output.counts / output.spikes.shape[1]
        square = (self.wanted(labels, rate.shape[1], rate.dtype) - rate).square()
        return square.mean(dim=1) if self.loss == "mean_squared" else 0.5 * square.sum(dim=1)


def _over(ratio: Tensor | None, one: Tensor) -> Tensor:
    """A trained constant over its initial value, 1 if it is not trained."""
    return one if ratio is None else ratio


class _Layer(torch.autograd.Function):
    """A layer as a node from (spikes, link, near) to (spikes, counts, link, near). Spikes and near are constants."""

    @staticmethod
    def forward(
        ctx: Any,
        spikes_in: Tensor,
        link_in: Tensor | None,
        near_in: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        recurrent_weight: Tensor | None,
        recurrent_mask: Tensor | None,
        neuron: Stbp,
        window: Window | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        del link_in
        if window is None:
            spikes, counts, membrane = stbp_ops.stbp_forward(spikes_in, weight, bias, recurrent_weight, neuron)
        else:
            spikes, counts, membrane = image_ops.stbp_conv_forward(spikes_in, weight, bias, window, neuron)
        ctx.save_for_backward(spikes_in, near_in, weight, recurrent_weight, recurrent_mask, spikes, membrane)
        ctx.neuron, ctx.window = neuron, window
        bits = near(ctx, membrane, neuron)
        ctx.mark_non_differentiable(spikes, *(() if bits is None else (bits,)))
        ctx.set_materialize_grads(False)
        return spikes, counts, counts.new_zeros(1, 1, 1).expand(membrane.shape), bits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, _: None, grad_counts: Tensor | None, grad_link: Tensor | None, __: None
    ) -> Sequence[Tensor | None]:
        spikes_in, near_in, weight, recurrent_weight, mask, spikes, membrane = ctx.saved_tensors
        grad_spikes = every_step(grad_counts, grad_link, membrane)
        _, wants_input, _, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        arguments = (grad_spikes, spikes_in, spikes, membrane, weight)
        if ctx.window is None:
            grad_in, grad_weight, grad_bias, grad_recurrent = stbp_ops.stbp_backward(
                *arguments, recurrent_weight, ctx.neuron, wants_input, wants_weight, near_in
            )
        else:
            grad_in, grad_weight, grad_bias = image_ops.stbp_conv_backward(
                *arguments, ctx.window, ctx.neuron, wants_input, wants_weight
            )
        return (
            None,
            grad_in if wants_input else None,
            None,
            grad_weight if wants_weight else None,
            grad_bias if wants_weight and wants_bias else None,
            grad_recurrent * mask if wants_weight and mask is not None else None,
            None,
            None,
            None,
        )


class _DrivenLayer(torch.autograd.Function):
    """`_Layer` of currents, values (B, K, I). No gradient goes to them."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        recurrent_weight: Tensor | None,
        recurrent_mask: Tensor | None,
        neuron: Stbp,
        view: Driven,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        drive = view.driven(values, weight)
        if bias is not None:
            drive = drive + bias.repeat_interleave(drive.shape[2] // len(bias))
        spikes, counts, membrane = current_ops.stbp_driven(drive, recurrent_weight, neuron, view.steps)
        ctx.save_for_backward(values, weight, bias, recurrent_weight, recurrent_mask, spikes, membrane)
        ctx.neuron, ctx.view = neuron, view
        bits = near(ctx, membrane, neuron)
        ctx.mark_non_differentiable(spikes, *(() if bits is None else (bits,)))
        ctx.set_materialize_grads(False)
        return spikes, counts, counts.new_zeros(1, 1, 1).expand(membrane.shape), bits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, _: None, grad_counts: Tensor | None, grad_link: Tensor | None, __: None
    ) -> Sequence[Tensor | None]:
        values, weight, bias, recurrent_weight, mask, spikes, membrane = ctx.saved_tensors
        grad_drive, grad_recurrent = current_ops.stbp_driven_backward(
            every_step(grad_counts, grad_link, membrane),
            spikes, membrane, recurrent_weight, ctx.neuron, values.shape[1],
        )  # fmt: skip
        grad_bias = None if bias is None else grad_drive.sum(dim=(0, 1)).reshape(len(bias), -1).sum(dim=1)
        grad_weight = ctx.view.gradient(values, grad_drive, weight)
        loop = None if mask is None else grad_recurrent * mask
        return None, grad_weight, grad_bias, loop, None, None, None
