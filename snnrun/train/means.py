"""Running means over an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

SUMS = ("batches", "samples", "correct", "total_loss", "total_norm", "spikes")


class Tally:
    """Running means over an epoch. `spiking` has the layers that fire, with their numbers of neurons."""

    def __init__(self, spiking: Mapping[str, int]) -> None:
        self.spiking = spiking
        self.batches = self.samples = self.correct = 0
        self.total_loss = self.total_norm = 0.0
        self.spikes = [0.0] * len(spiking)

    def state(self) -> dict[str, Any]:
        """The sums, in numbers that JSON keeps exactly."""
        return {key: getattr(self, key) for key in SUMS}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        for key in SUMS:
            setattr(self, key, state[key])

    def add(self, loss: float, norm: float, spikes: Sequence[float], correct: int, samples: int) -> None:
        """Count a batch: mean loss, norm of the gradient, spikes of each layer, number of right samples."""
        self.batches += 1
        self.samples += samples
        self.correct += correct
        self.total_loss += loss * samples
        if math.isfinite(norm):
            self.total_norm += norm
        self.spikes = [total + new for total, new in zip(self.spikes, spikes, strict=True)]

    @property
    def loss(self) -> float:
        """Mean loss over the samples."""
        return self.total_loss / self.samples

    @property
    def accuracy(self) -> float:
        """Share of the samples that were right."""
        return self.correct / self.samples

    @property
    def usual_norm(self) -> float:
        """Mean norm of the gradient."""
        return self.total_norm / self.batches

    @property
    def rates(self) -> dict[str, float]:
        """Spikes per neuron and presentation of each layer."""
        layers = zip(self.spiking.items(), self.spikes, strict=True)
        return {name: spikes / (size * self.samples) for (name, size), spikes in layers}
