"""What ST-RSBP and HM2-BP share: neuron, targets, output layer, initialisation, regulariser.

Both rules treat a layer as a function from input counts to output counts, n ~ a / v_th with a_i = sum_j w_ij e_ij.
They backpropagate through whole spike trains. Here that function is an ordinary autograd node: the loss is any
differentiable function of the output counts, the error arrives as dE/dn, and the node's backward pass is the rule.
Gradients of a batch are sums over its samples, so the mean of the samples' losses gives the mean of their gradients.

The first layer may get currents x_j(t) instead of spikes (`base.Currents`). The membrane is as linear in them, so the
equations hold with

    e_ij = sum over t of c_i(t) M_j(t),   M_j the membrane trace that the current x_j alone leaves without resets,

where c_i depends on the spikes of i alone (`kernels.reference` has the same sum as a readout times the input). For a
constant current M_j(t) = x_j m(t), m the trace of 1, and e_ij = x_j sum over t of c_i(t) m(t). Counts n_j of inputs
only divide the error sent to the layer below, and below the inputs there is none. HM2-BP's closed form is linear in the
input spikes too and is taken as it is. Its `silent_effect` asks whether an input is silent, a current at 0 throughout.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.kernels import BITS, Lif, Synapses, ops
from snnrun.rules.base import Currents, LayerKind, LayerWeights, SpikeTrain, synapse_index
from snnrun.rules.connectivity import connect
from snnrun.rules.constants import TrainedConstants, number
from snnrun.rules.delays import Delayed, Delaying, whole
from snnrun.rules.passes import Gradients, Loop, Pass
from snnrun.rules.views import View, view_of

# Trained time constants of membrane and synapse stay by this factor away from the mean of where they began.
APART = 1.05
# The guard of every denominator. The ST-RSBP authors have it in recurrent layers only.
SMALLEST_DENOMINATOR = 1e-4


@dataclass(frozen=True, kw_only=True)
class SpikeTrainRule(Delaying, TrainedConstants):
    """Base of the two spike-train-level rules. Times in ms, potentials in mV.

    Targets: the label's neuron should fire `desired` times, the others `undesired` times; an error of at most `margin`
    spikes counts as none. `revive` imposes a regular train on a silent label neuron before the backward pass.
    `lateral` is the strength of the fixed inhibition among output neurons; `lateral_factor` puts it into the gradient.
    `silent_ratio` replaces e_ij / n_j if either neuron is silent.
    """

    spsp: ClassVar[str]  # the rule whose S-PSP the kernels compute
    potential: ClassVar[str] = "mV"

    tau_m: Annotated[float, Range(at_least=1)] = 64.0
    tau_s: Annotated[float, Range(at_least=1)] = 8.0
    t_ref: Annotated[int, Range(at_least=0)] = 2
    desired: Annotated[float, Range(above=0)] = 35.0
    undesired: Annotated[float, Range(at_least=0)] = 5.0
    margin: Annotated[float, Range(at_least=0)] = 5.0
    revive: bool = True
    loss: Literal["count", "softmax"] = "count"
    lateral: Annotated[float, Range(at_least=0)] = 1.0
    lateral_factor: bool = True
    silent_ratio: Annotated[float, Range(at_least=0)] = 0.0
    regulariser: Annotated[float, Range(at_least=0)] = 0.0
    regulariser_beta: Annotated[float, Range(above=0)] = 0.04
    weight_limit: Annotated[float, Range(above=0)] = 8.0
    regulariser_fan_in: Literal["own", "authors"] = "own"
    init: Literal["uniform", "fixed"] = "uniform"
    init_scale: Annotated[float, Range(above=0)] = 1.0
    conv_init_scale: Annotated[float, Range(above=0)] = 1.0
    init_fixed_inputs: Annotated[int, Range(at_least=1)] = 32
    connectivity: Literal["two_sided", "one_sided", "full"] = "two_sided"
    recurrent_init: Literal["uniform", "sign"] = "uniform"

    def state_variables(self, kind: LayerKind) -> int:
        """Synapse and membrane."""
        del kind
        return 2

    # -- forward ------------------------------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        if self.trains_time_constants and max(self.tau_m, self.tau_s) < APART**2 * min(self.tau_m, self.tau_s):
            raise UsageError(
                f"model.train_constants: model.tau_m={self.tau_m:g} and model.tau_s={self.tau_s:g} are too near to one "
                "another to be trained, since none may pass the other. Set them further apart, or "
                "model.train_constants=thresholds."
            )

    def time_constants(self) -> dict[str, tuple[str, float, float, float]]:
        """Those of membrane and synapse, a step at least, and neither beyond the geometric mean of where they began.

        HM2-BP's closed form has no value where they are equal.
        """
        middle = math.sqrt(self.tau_m * self.tau_s)
        span = {True: (max(1.0, middle * APART), math.inf), False: (1.0, middle / APART)}
        return {
            "tau_m": ("ms", self.tau_m, *span[self.tau_m > self.tau_s]),
            "tau_s": ("ms", self.tau_s, *span[self.tau_s > self.tau_m]),
        }

    def lif(self, kind: LayerKind, weights: LayerWeights | None = None) -> Lif:
        """Neuron of a layer, with its time constants of now if these are trained."""
        tau_m, tau_s = self.tau_m, self.tau_s
        if weights is not None and weights.tau_m is not None and weights.tau_s is not None:
            tau_m, tau_s = tau_m * number(weights.tau_m), tau_s * number(weights.tau_s)
        return Lif(tau_m, tau_s, self.t_ref, self.threshold(kind))

    def initialise(self, kind: LayerKind, inputs: int, neurons: int, generator: Generator) -> LayerWeights:
        """Uniform on [-init_scale, init_scale], or +-init_scale on a few random inputs of each neuron (`fixed`).

        The kernels of convolutions have a scale of their own, `conv_init_scale`. Recurrent weights are uniform too, or
        +-init_scale with the sign of the pre-neuron's type (`recurrent_init=sign`).
        """
        uniform = torch.rand(neurons, inputs, generator=generator) * 2 - 1
        if self.init == "fixed":
            chosen = torch.randint(inputs, (neurons, self.init_fixed_inputs), generator=generator)
            chosen_mask = torch.zeros(neurons, inputs, dtype=torch.bool).scatter_(1, chosen, True)
            uniform = torch.where(chosen_mask, uniform.sign(), 0.0)
        weights = LayerWeights(weight=uniform * (self.init_scale if kind.window is None else self.conv_init_scale))
        if kind.recurrent:
            mask, sign = connect(neurons, self.connectivity, generator)
            values = torch.rand(neurons, neurons, generator=generator) * 2 - 1
            if self.recurrent_init == "sign":
                values = sign.expand(neurons, neurons)
            weights.recurrent_weight = torch.where(mask, values * self.init_scale, 0.0)
            weights.recurrent_mask = mask
        elif self.inhibits(kind):
            weights.recurrent_index = synapse_index(~torch.eye(neurons, dtype=torch.bool))
        return self.with_constants(weights)

    def inhibits(self, kind: LayerKind) -> bool:
        """The outputs do, unless `lateral` is 0."""
        return kind.output and self.lateral != 0

    def refuses_currents(self) -> str:
        """Nothing: e_ij is linear in the input, see `views.Driven`."""
        return ""

    def layer(
        self, kind: LayerKind, weights: LayerWeights, inputs: SpikeTrain | Currents, labels: Tensor | None
    ) -> SpikeTrain:
        """Run a layer; its backward pass applies the rule."""
        weights = self.at_thresholds(weights)
        own = weights.recurrent()
        recurrent = self.inhibition(weights) if self.inhibits(kind) else own
        if isinstance(inputs, Currents):
            view, spikes_in, counts_in = view_of(kind, inputs.steps), inputs.values, inputs.present()
        else:
            view, spikes_in, counts_in = view_of(kind), inputs.spikes, inputs.counts
        delays = None
        if weights.delay is not None:
            delays = Delayed(spikes_in, whole(weights.delay))
            spikes_in = delays.trains()
        lif = self.lif(kind, weights)
        spikes, counts = view.forward(spikes_in, weights.weight.detach(), recurrent, lif)
        if torch.is_grad_enabled():
            counts = _Layer.apply(
                counts_in, weights.weight, weights.recurrent_weight, weights.delay, recurrent, counts, delays,
                spikes_in, spikes, labels if kind.output else None, *self.taus(weights), self, kind, view, lif,
            )  # type: ignore[no-untyped-call]  # fmt: skip
        return SpikeTrain(spikes, counts)

    def taus(self, weights: LayerWeights) -> tuple[Tensor | None, Tensor | None]:
        """The trained time constants of membrane and synapse, (1,) each, ms."""
        if weights.tau_m is None or weights.tau_s is None:
            return None, None
        return self.tau_m * weights.tau_m, self.tau_s * weights.tau_s

    def inhibition(self, weights: LayerWeights) -> Synapses:
        """The fixed lateral inhibition among the neurons of the output layer."""
        weight = weights.weight
        pairs = weights.recurrent_index or synapse_index(torch.eye(len(weight), device=weight.device) == 0)
        return Synapses(weight.new_full((len(pairs[0]),), -self.lateral), *pairs)

    def targets(self, labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        """Desired counts y, (B, classes): `desired` and `undesired`, in the shares of the smoothed label."""
        share = self.wanted(labels, classes, dtype)
        return self.desired * share + self.undesired * (1.0 - share)

    def sample_loss(self, output: SpikeTrain, labels: Tensor) -> Tensor:
        """E = 1/2 |o - y|^2 with the margin (ST-RSBP eq. 3), or cross-entropy of the softmax of the counts."""
        if self.loss == "softmax":
            return self.cross_entropy(output.counts, labels)
        difference = output.counts - self.targets(labels, output.counts.shape[1], output.counts.dtype)
        return 0.5 * torch.nn.functional.hardshrink(difference, self.margin).square().sum(dim=1)

    # -- backward -----------------------------------------------------------------------------------------------------

    def first_read(self) -> int:
        """The first step at which a spike has an S-PSP: it comes from input spikes at least one step before."""
        return 1

    @abstractmethod
    def gradients(self, p: Pass) -> Gradients:
        """The rule itself: from a layer's error to its gradients and the error of the layer below."""

    def taught(self, p: Pass, labels: Tensor, inhibition: Synapses | None) -> Pass:
        """The pass of the output layer: first with the factor of its inhibition, then with silent labels revived."""
        factor, spikes, counts = p.factor, p.spikes, p.counts
        if inhibition is not None and self.lateral_factor:
            factor = self.lateral_share(spikes, counts, labels, p.lif, inhibition)
        if self.revive:
            spikes, counts = self.revived(spikes, counts, labels)
        return p._replace(factor=factor, spikes=spikes, counts=counts)

    def revived(self, spikes: Tensor, counts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and counts in which a silent label neuron fires at D, 2 D, ... < T with D = floor(T / desired).

        A spike within `t_ref` steps of another counts for nothing, so D is at least `t_ref` + 1, and a short run has
        fewer spikes. A run shorter than D has a single spike, at its last step. The neuron stays silent if no input
        spike could act on any of these spikes.
        """
        steps = spikes.shape[1]
        interval = min(max(int(steps // self.desired), self.t_ref + 1), steps - 1)
        if steps < 2 or (steps - 1) // interval * interval < self.first_read():
            return spikes, counts
        silent = counts.gather(1, labels[:, None]) == 0  # (B, 1)
        # A compiled graph has no branches, and the host would have to wait for another device.
        if silent.device.type == "cpu" and not torch.compiler.is_compiling() and not silent.any():
            return spikes, counts
        bit = torch.where(silent, torch.bitwise_left_shift(1, labels[:, None] % BITS), 0)  # (B, 1)
        neurons = spikes.new_zeros(len(spikes), spikes.shape[2]).scatter_(1, labels[:, None] // BITS, bit)  # (B, W)
        times = spikes.new_zeros(steps)
        times[interval::interval] = -1  # all bits
        fired = len(times[interval::interval])
        spikes = spikes | (neurons[:, None, :] & times[None, :, None])
        return spikes, counts.scatter_add(1, labels[:, None], silent.to(counts.dtype) * fired)

    def lateral_share(self, spikes: Tensor, counts: Tensor, labels: Tensor, lif: Lif, pairs: Synapses) -> Tensor:
        """L_i = 1 / (1 - s^2 sum_{l != i} r_li x_l r_il x_i), (B, N): the first-order echo of the lateral inhibition.

        r_li = e(l from i) / n_i. x_i = 1 / v_th if i fired or is the label, else 0. `pairs` come from `inhibition`.
        """
        v_th, neurons = lif.v_th, counts.shape[1]
        e = counts.new_zeros(len(spikes), neurons, neurons)
        e[:, pairs.post, pairs.pre] = ops.recurrent_spsp(self.spsp, lif, spikes, pairs, neurons)
        ratio = self.ratio(e, counts, counts)  # [b, l, i]
        active = (counts > 0).scatter(1, labels[:, None], True).to(ratio.dtype) / v_th
        forth = ratio * active[:, None, :]  # r_li x_i
        loop = forth * forth.transpose(1, 2)
        loop.diagonal(dim1=1, dim2=2).zero_()
        return 1.0 / away_from_zero(1.0 - self.lateral**2 * loop.sum(dim=1))

    def ratio(self, e: Tensor, counts: Tensor, counts_in: Tensor) -> Tensor:
        """e_ij / n_j, the estimate of de_ij / dn_j, (B, N, I); `silent_ratio` if either neuron is silent."""
        if not self.silent_ratio:  # e_ij is 0 then
            return e / counts_in.clamp(min=1.0)[:, None, :]
        both = (counts > 0)[:, :, None] & (counts_in > 0)[:, None, :]
        return torch.where(both, e / counts_in.clamp(min=1.0)[:, None, :], self.silent_ratio)

    # -- regulariser --------------------------------------------------------------------------------------------------

    def authors_fan_in(self, weights: LayerWeights) -> int:
        """The normaliser Z of a dense layer's regulariser in the code of the rule's authors: its inputs."""
        return weights.weight.shape[1]

    def weight_penalty(self, kind: LayerKind, weights: LayerWeights) -> Tensor | None:
        """Exponential regulariser: G_ij += L b (w_ij / W) exp(b (q_i - 1)), q_i = (1/Z) sum_j (w_ij / W)^2.

        L is `regulariser`, b `regulariser_beta`, W `weight_limit`. Z is the number of the neuron's synapses, or that of
        the authors' code (`regulariser_fan_in=authors`). In a convolution i is a kernel and j a weight of it. Returns
        the factor of w_ij, (N,).
        """
        if not self.regulariser or kind.pool:
            return None
        weight, index = weights.weight.detach().flatten(1), weights.trained_index()
        squares = torch.linalg.vecdot(weight, weight)
        if weights.recurrent_weight is not None:
            own = weights.recurrent_weight.detach()
            squares = squares + torch.linalg.vecdot(own, own)
        authors = self.regulariser_fan_in == "authors" and not kind.window
        size = torch.full_like(squares, self.authors_fan_in(weights) if authors else weight.shape[1])
        if index is not None and not authors:
            size = size + torch.bincount(index[1], minlength=len(weight))
        beta, q = self.regulariser_beta, squares / (size * self.weight_limit**2)
        return self.regulariser * beta / self.weight_limit * torch.exp(beta * (q - 1.0))


def away_from_zero(x: Tensor) -> Tensor:
    """A denominator, at least 1e-4 away from 0."""
    return torch.where(x < 0, x.clamp(max=-SMALLEST_DENOMINATOR), x.clamp(min=SMALLEST_DENOMINATOR))


class _Layer(torch.autograd.Function):
    """A layer as a node from input counts to output counts. The spikes are constants."""

    @staticmethod
    def forward(
        ctx: Any,
        counts_in: Tensor,
        weight: Tensor,
        recurrent_weight: Tensor | None,
        delay: Tensor | None,
        recurrent: Synapses | None,
        counts: Tensor,
        delays: Delayed | None,
        spikes_in: Tensor,
        spikes: Tensor,
        labels: Tensor | None,
        tau_m: Tensor | None,
        tau_s: Tensor | None,
        rule: SpikeTrainRule,
        kind: LayerKind,
        view: View,
        lif: Lif,
    ) -> Tensor:
        del recurrent_weight, delay, tau_m, tau_s
        ctx.save_for_backward(
            counts_in, weight, counts, spikes_in, spikes, labels, *(delays or (None, None)),
            *(recurrent or (None, None, None)),
        )  # fmt: skip
        ctx.rule, ctx.kind, ctx.view, ctx.lif = rule, kind, view, lif
        return counts.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, error: Tensor) -> Sequence[Tensor | None]:
        counts_in, weight, counts, spikes_in, spikes, labels, before, steps, *synapses = ctx.saved_tensors
        rule: SpikeTrainRule = ctx.rule
        lif: Lif = ctx.lif
        recurrent = None if synapses[0] is None else Synapses(*synapses)
        p = Pass(
            rule.spsp, rule.silent_ratio, lif, ctx.view, weight, spikes_in, counts_in, spikes, counts,
            delta=error / lif.v_th, wants_error=ctx.needs_input_grad[0], wants_weight=ctx.needs_input_grad[1],
            delays=Delayed(before, steps) if ctx.needs_input_grad[3] else None,
            wants_taus=ctx.needs_input_grad[10],
        )  # fmt: skip
        if ctx.kind.output:
            p, recurrent = rule.taught(p, labels, recurrent)._replace(fixed=recurrent), None
        if recurrent is not None:
            e = ops.recurrent_spsp(rule.spsp, lif, spikes, recurrent, len(weight))
            p = p._replace(loop=Loop(recurrent, e))
        result = rule.gradients(p)
        grad_recurrent = None
        if recurrent is not None and result.recurrent is not None:
            grad_recurrent = recurrent._replace(weight=result.recurrent).dense(len(weight))
        return result.counts_in, result.weight, grad_recurrent, result.delay, *[None] * 6, *result.taus, *[None] * 4
