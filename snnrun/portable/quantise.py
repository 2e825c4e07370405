"""Weights as int8 with a scale for each output channel: a neuron, a kernel, a gate's unit.

A weight w becomes q = round(w / s), and is computed with as q s. The scale s of a row is its largest weight over 127,
rounded up to 16 significant bits, so that q s is exact in float32, whoever multiplies. Biases, thresholds and other
constants stay float32. Trained thresholds are divided into the weights first, as the kernels compute them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnrun.data import Dataset
from snnrun.encoders import Encoder
from snnrun.network import Layer, Network
from snnrun.network.model import Model
from snnrun.rules.constants import TrainedConstants
from snnrun.train import evaluation

MOST = 127
SCALE_BITS = 16


@dataclass(frozen=True)
class Cost:
    """What quantising a model costs on the test samples.

    Attributes:
        samples: Number of test samples.
        accuracies: Share of right classes, before and after.
        same_class: Share of the samples that are taken for the same class as before.
    """

    samples: int
    accuracies: tuple[float, float]
    same_class: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        before, after = self.accuracies
        return {
            "quantised": "int8",
            "scales": "one for each output channel",
            "split": "test",
            "samples": self.samples,
            "accuracy": {"before": before, "after": after},
            "same_class": self.same_class,
        }

    def __str__(self) -> str:
        before, after = self.accuracies
        return (
            f"with weights in int8 {100 * after:.2f} % of {self.samples:,} test samples are right, "
            f"{100 * before:.2f} % before; {100 * self.same_class:.2f} % are taken for the same class"
        )


def cost(model: Model, dataset: Dataset, encoder: Encoder) -> Cost:
    """Quantise a model, on the CPU, and evaluate it before and after."""
    test, cpu = dataset.test, torch.device("cpu")
    before = evaluation.predict(model, test, encoder, cpu)
    quantise(model)
    after = evaluation.predict(model, test, encoder, cpu)
    right = [float((classes == test.labels).mean()) for classes in (before, after)]
    return Cost(len(test), (right[0], right[1]), float((before == after).mean()))


def levels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """q, int8, and s, float32 (N, 1, ...), of weights (N, ...)."""
    largest = weight.double().abs().flatten(1).amax(dim=1) / MOST
    mantissa, exponent = torch.frexp(torch.where(largest > 0, largest, 1.0))
    scale = torch.ldexp((mantissa * 2**SCALE_BITS).ceil(), exponent - SCALE_BITS).float()
    scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
    return (weight / scale).round().to(torch.int8), scale


def stored(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """`levels` of weights that are exactly q s; None for others."""
    q, scale = levels(weight)
    return (q, scale) if torch.equal(q * scale, weight) else None


@torch.no_grad()
def quantise(model: Model) -> None:
    """Make the weights of a model q s."""
    if isinstance(model, Network):
        _fold_thresholds(model)
    parameters = dict(model.named_parameters())
    for key in weight_keys(model):
        q, scale = levels(parameters[key])
        parameters[key].copy_(q * scale)


def packed(state: Mapping[str, Tensor], weights: Collection[str]) -> dict[str, Tensor]:
    """A state in which those of these weights that are q s are int8, each beside its scale, `KEY_scale`."""
    found = {}
    for key, value in state.items():
        int8 = stored(value) if key in weights else None
        if int8 is None:
            found[key] = value
        else:
            found[key], found[f"{key}_scale"] = int8
    return found


def weight_keys(model: Model) -> list[str]:
    """The names in the state of a model of what is quantised."""
    return [
        key
        for key, value in model.named_parameters()
        if value.dim() > 1 and key.rpartition(".")[2].removeprefix("recurrent_").startswith("weight")
    ]


def _fold_thresholds(network: Network) -> None:
    """Make trained thresholds what they were at first, with the weights over them, at which the spikes are the same."""
    for layer in network.layers:
        if not isinstance(layer, Layer) or layer.threshold is None or not isinstance(network.rule, TrainedConstants):
            continue
        folded = network.rule.at_thresholds(layer.weights())
        for name in ("weight", "recurrent_weight", "bias"):
            mine, other = getattr(layer, name), getattr(folded, name)
            if mine is not None:
                mine.copy_(other)
        layer.threshold.fill_(1.0)
