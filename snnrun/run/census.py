"""What the samples of a corpus have in common: what one needs to choose thresholds, steps and an encoder's gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.data import Dataset, Split
from snnrun.errors import UsageError
from snnrun.kernels import count_spikes
from snnrun.rules import Currents
from snnrun.run import build
from snnrun.run.look import step_of
from snnrun.train.batches import batches
from snnrun.train.firing import spread

SATURATED = 0.5  # a channel that fires at more than this share of all steps
BATCH = 128
NAMED = 20  # silent samples that are named by their numbers


@dataclass
class Census:
    """Of the samples of a part, in the order in which they were looked at.

    Attributes:
        part, size: Its name, and how many samples it has; `positions` (S,) are those that were looked at.
        labels: Of all of its samples.
        step_ms: Length of a step, in ms.
        per_sample: Spikes of each sample, or the mean of its values, (S,).
        first, last: First and last step at which a sample has a spike, or a value; -1 where it has none, (S,).
        per_channel: Spikes of each channel over all samples, or the mean of its values, (N,).
        by_step: Spikes of each step over all samples, (T,); the mean of the values at each of their points, (P,).
        largest: The largest of the values; 1 of spikes.
        spiking: Whether the input is spikes, and not values.
    """

    name: str
    part: str
    size: int
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    step_ms: float
    steps: int = 0
    spiking: bool = True
    per_sample: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    last: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    per_channel: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    by_step: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    largest: float = 1.0

    @property
    def silent_channels(self) -> NDArray[np.int64]:
        """Channels without a spike in any sample, or with the value 0 in all of them."""
        return np.flatnonzero(self.per_channel == 0)

    @property
    def saturated_channels(self) -> NDArray[np.int64]:
        """Channels that fire at more than half of all steps, or whose mean value is above half of the largest."""
        return np.flatnonzero(self.per_channel > SATURATED * self._most)

    @property
    def silent(self) -> NDArray[np.int64]:
        """Numbers of the samples without a spike, or with values of 0 alone."""
        return self.positions[self.last < 0]

    @property
    def by_channel(self) -> NDArray[np.float64]:
        """Spikes of each channel in a sample, on average; or the mean of its values, (N,)."""
        return self.per_channel / len(self.positions) if self.spiking else self.per_channel

    @property
    def rates(self) -> NDArray[np.float64]:
        """Rate of a channel in Hz at each step, on average; or the mean of the values, (T,)."""
        if not self.spiking:
            return self.by_step
        return self.by_step / len(self.positions) / len(self.per_channel) / (self.step_ms / 1000)

    @property
    def ends(self) -> dict[float, int]:
        """The step by which 50, 90, 99 and 100 % of all spikes have come; empty of values."""
        if not self.spiking or not self.by_step.any():
            return {}
        whole = np.cumsum(self.by_step)
        return {share: int(np.searchsorted(whole, share * whole[-1])) for share in (0.5, 0.9, 0.99, 1.0)}

    @property
    def cut(self) -> int:
        """How many samples have a spike in the last hundredth of the steps, as those do that are cut off there."""
        return int((self.last >= self.steps - max(1, self.steps // 100)).sum())

    @property
    def _most(self) -> float:
        return float(len(self.positions) * self.steps) if self.spiking else self.largest

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        own = self.labels[self.positions]
        means = [self.per_sample[own == k].mean() if (own == k).any() else None for k in range(len(self.classes))]
        heard = self.last >= 0
        return {
            "corpus": self.name,
            "part": self.part,
            "samples": self.size,
            "looked_at": len(self.positions),
            "input": "spikes" if self.spiking else "values",
            "steps": self.steps,
            "step_ms": self.step_ms,
            "channels": len(self.per_channel),
            "classes": {
                name: {"samples": count, "mean": None if mean is None else round(float(mean), 6)}
                for name, count, mean in zip(self.classes, counts, means, strict=True)
            },
            "per_sample": spread_of(self.per_sample),
            "per_channel": spread_of(self.by_channel),
            "rate_hz": float(self.rates.mean()) if self.spiking else None,
            "first_step": spread_of(self.first[heard]),
            "last_step": spread_of(self.last[heard]),
            "spikes_come_by_step": {f"{100 * share:g} %": step for share, step in self.ends.items()},
            "end_late": self.cut,
            "silent_samples": {"count": len(self.silent), "first": self.silent[:NAMED].tolist()},
            "silent_channels": self.silent_channels.tolist(),
            "saturated_channels": self.saturated_channels.tolist(),
            "by_channel": self.by_channel.round(6).tolist(),
            "by_step": self.rates.round(6).tolist(),
            "notes": list(self.notes),
        }


def take(values: Mapping[str, Any], part: str, most: int | None) -> Census:
    """Look at the samples of a part as an evaluation gets them.

    Args:
        values: The config of a run.
        part: `train`, `validation` or `test`.
        most: Look at this many at most, evenly over the part; None: all.

    Raises:
        UsageError: The part has no sample, or the settings do not fit one another.
        SnnrunError: The corpus is missing or damaged.
    """
    dataset, encoder = build.load(values)
    split: Split = getattr(dataset, part)
    if not len(split):
        raise UsageError(f"--split {part}: no sample of data={dataset.name} is in this part.")
    positions = spread(split, most or len(split))
    census = Census(
        dataset.label, part, len(split), positions, split.labels, dataset.classes, dataset.notes, _step(values)
    )
    samples: list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]] = []
    totals: list[NDArray[np.float64]] = []
    given: Tensor | Currents
    for _, given, _ in batches(split, positions, encoder, 0, BATCH, torch.device("cpu")):
        if isinstance(given, Currents):
            given = given.values
        census.spiking = not given.is_floating_point()
        if not census.spiking:
            census.largest = max(census.largest if samples else 0.0, float(given.nan_to_num().max()))
        of_sample, of_channel, of_step, active = _spikes(given, dataset) if census.spiking else _values(given)
        steps = active.shape[1]
        census.steps, found = int(encoder.steps or steps), active.any(axis=1)
        first = np.where(found, active.argmax(axis=1) * census.steps // steps, -1)
        last = np.where(found, (steps - active[:, ::-1].argmax(axis=1)) * census.steps // steps - 1, -1)
        samples.append((of_sample, first, last))
        totals = [of_channel, of_step] if not totals else [totals[0] + of_channel, totals[1] + of_step]
    census.per_sample, census.first, census.last = (np.concatenate(column) for column in zip(*samples, strict=True))
    census.per_channel, census.by_step = totals
    if not census.spiking:
        census.per_channel, census.by_step = (total / len(positions) for total in totals)
    return census


def spread_of(values: NDArray[Any]) -> dict[str, float]:
    """Least, quartiles, most and mean; empty of nothing."""
    if not len(values):
        return {}
    points = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    found = dict(zip(("least", "quarter", "median", "three_quarters", "most"), points.tolist(), strict=True))
    return {name: round(value, 6) for name, value in {**found, "mean": float(values.mean())}.items()}


Parts = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]


def _spikes(bits: Tensor, dataset: Dataset) -> Parts:
    """Spikes of each sample (B,), of each channel (N,) and step (T,), and which steps of a sample have one (B, T)."""
    counts = count_spikes(bits, dataset.channels).numpy().astype(np.float64)
    words = bits.numpy().view(np.uint64)
    by_step = np.bitwise_count(words).sum(axis=2, dtype=np.int64)
    return counts.sum(axis=1), counts.sum(axis=0), by_step.sum(axis=0).astype(np.float64), by_step > 0


def _values(given: Tensor) -> Parts:
    """The same of values (B, T, N): means, and which steps have a value that is not 0."""
    values = np.nan_to_num(given.numpy().astype(np.float64))
    active: NDArray[np.bool_] = np.any(values, axis=2)
    return values.mean(axis=(1, 2)), values.mean(axis=1).sum(axis=0), values.mean(axis=2).sum(axis=0), active


def _step(values: Mapping[str, Any]) -> float:
    from snnrun import encoders

    return step_of(encoders.build(seed=values["seed"], **values["encoder"]), values)
