"""Constants of neurons that are trained with the weights: a layer's thresholds, and its time constants.

Each is stored over its initial value, r, so that the optimiser moves all of them in one unit, at a rate of their own
(`constants_lr`). They do not decay, and stay within `constants_range` of their initial value and within limits of
their rule.

**Thresholds.** A neuron whose reset is to 0 fires the same if weights, bias and threshold are multiplied by one number.
So the threshold r v_th is computed as the weights w / r and the bias b / r at v_th, recurrent weights included, and no
kernel knows of it. With n ~ a / v_th and a = sum_j w_ij / r_i e_ij

    dn_i/dr_i = -(1 / r_i) a_i / v_th = -n_i / r_i,    that is dn/dv_th = -n / v_th of the threshold itself,

and a rule that gives dE/dw' of w' = w / r gives dE/dr_i = -(1 / r_i) sum_j w'_ij dE/dw'_ij. ST-RSBP's
dE/dw'_ij = delta_i e_ij / D_i makes that -(delta_i / D_i) a_i / r_i: a threshold has the factor 1 / D_i of its weights.
STBP's surrogate derivative is as wide, in thresholds, as it was. The fixed inhibition among the outputs of the
spike-train rules is in thresholds too: it stays what it is at v_th.

**Time constants** are those of a whole layer, or in STBP of each neuron. `passes.Pass.tau_gradients` has their
derivative for the spike-train rules, `kernels.reference.alif` that of STBP.

A pool's constants stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.rules.base import LayerKind, LayerWeights, Rule


class Constant(NamedTuple):
    """A trained constant of a layer: its name and unit, its initial value, and by how much it has changed.

    `ratio`, (N,), (K,) or (1,), is its value over the initial one; it lies between `low` and `high`.
    """

    name: str
    unit: str
    initial: float
    ratio: Tensor
    low: float
    high: float

    @property
    def values(self) -> Tensor:
        """The constant itself, in its unit."""
        return self.initial * self.ratio.detach()

    def at_bound(self) -> int:
        """How many of its values are at the end of their range."""
        return int(((self.ratio <= self.low) | (self.ratio >= self.high)).sum())


def number(value: Tensor) -> float:
    """A trained time constant, (1,), as the number that the kernels take.

    Raises:
        UsageError: PyTorch exports the network, which keeps no number that may change.
    """
    if torch.compiler.is_exporting():
        raise UsageError(
            "torch.export: the operators take time constants as fixed numbers, and this network trains them "
            "(model.train_constants). Use snnrun export, or train thresholds alone."
        )
    return value.item()


# The tensor of `LayerWeights` by the constant's name.
TENSORS = {"v_th": "threshold", "tau_m": "tau_m", "tau_s": "tau_s", "tau_adaptation": "tau_adaptation"}


@dataclass(frozen=True, kw_only=True)
class TrainedConstants(Rule):
    """Base of the rules whose neurons have constants that can be trained; see the module.

    `train_constants` says which. Each neuron has a threshold of its own, in a convolution each kernel
    (`thresholds_by=neuron`), or all of a layer share one. `constants_lr` multiplies the learning rate.
    """

    potential: ClassVar[str] = ""  # unit of thresholds

    train_constants: Literal["none", "thresholds", "time_constants", "all"] = "none"
    thresholds_by: Literal["neuron", "layer"] = "neuron"
    constants_lr: Annotated[float, Range(above=0)] = 1.0
    constants_range: Annotated[float, Range(above=1)] = 4.0

    @property
    def own_time_constants(self) -> bool:
        """Whether each neuron, or each kernel, has time constants of its own; here a layer shares them."""
        return False

    @property
    def trains_thresholds(self) -> bool:
        """Whether thresholds are trained."""
        return self.train_constants in ("thresholds", "all")

    @property
    def trains_time_constants(self) -> bool:
        """Whether time constants are trained."""
        return self.train_constants in ("time_constants", "all")

    def time_constants(self) -> dict[str, tuple[str, float, float, float]]:
        """Unit, initial value and limits of each time constant that this rule can train, by its name."""
        return {}

    def with_constants(self, weights: LayerWeights) -> LayerWeights:
        """Add the trained constants, at their initial values, to the initial weights of a layer."""
        if self.trains_thresholds:
            weights.threshold = torch.ones(len(weights.weight) if self.thresholds_by == "neuron" else 1)
        for name in self.time_constants() if self.trains_time_constants else ():
            setattr(weights, TENSORS[name], torch.ones(len(weights.weight) if self.own_time_constants else 1))
        return weights

    def constants(self, kind: LayerKind, weights: LayerWeights) -> Iterator[Constant]:
        """The trained constants of a layer, none of a pool."""
        if weights.threshold is not None:
            v_th = self.threshold(kind)
            yield self._constant("v_th", self.potential, v_th, weights.threshold, 0.0, math.inf)
        for name, (unit, initial, least, most) in self.time_constants().items():
            ratio: Tensor | None = getattr(weights, TENSORS[name])
            if ratio is not None:
                yield self._constant(name, unit, initial, ratio, least, most)

    def _constant(self, name: str, unit: str, initial: float, ratio: Tensor, least: float, most: float) -> Constant:
        span = self.constants_range
        return Constant(name, unit, initial, ratio, max(1.0 / span, least / initial), min(span, most / initial))

    def constrain(self, kind: LayerKind, weights: LayerWeights) -> None:
        """Keep the trained constants within their range."""
        super().constrain(kind, weights)
        for constant in self.constants(kind, weights):
            constant.ratio.clamp_(constant.low, constant.high)

    def at_thresholds(self, weights: LayerWeights) -> LayerWeights:
        """Weights and bias over the trained thresholds: those that the kernels get. Differentiable."""
        ratio = weights.threshold
        if ratio is None:
            return weights
        loop, bias = weights.recurrent_weight, weights.bias
        return replace(
            weights,
            weight=weights.weight / ratio.reshape(-1, *[1] * (weights.weight.dim() - 1)),
            recurrent_weight=None if loop is None else loop / ratio[:, None],
            bias=None if bias is None else bias / ratio,
        )
