"""The space that a sweep searches: a dimension for each key, the points of a grid, points drawn at random."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# The stream of the run's seed that draws points at random.
DRAW_STREAM = 0x706F696E7473


@dataclass(frozen=True)
class Choice:
    """One of several values, each written as on the command line."""

    values: tuple[str, ...]

    def draw(self, rng: np.random.Generator) -> str:
        """One of the values. All have the same probability."""
        return self.values[int(rng.integers(len(self.values)))]

    def place(self, value: Any) -> str | None:
        """The one of the values that means this value; None if there is none."""
        return next((text for text in self.values if text == str(value) or _means(text, value)), None)


@dataclass(frozen=True)
class Interval:
    """A number from `low` to `high`, both included, in steps of `step` if given; uniform in its logarithm if `log`."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    step: float | None = None

    def draw(self, rng: np.random.Generator) -> str:
        """A number, written as on the command line."""
        step = 1 if self.integer and not self.log else self.step
        if step is not None:
            count = math.floor((self.high - self.low) / step + 1e-9) + 1
            return self.text(self.low + step * int(rng.integers(count)))
        if not self.log:
            return self.text(rng.uniform(self.low, self.high))
        # A whole number stands for all numbers that round to it. Otherwise the two ends would be half as probable.
        margin = 0.5 if self.integer else 0.0
        drawn = math.exp(rng.uniform(math.log(self.low - margin), math.log(self.high + margin)))
        return self.text(min(max(drawn, self.low), self.high))

    def place(self, value: Any) -> float | None:
        """The value, if it is a number inside the interval."""
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        inside = isinstance(value, int | float) and self.low <= value <= self.high
        return (round(value) if self.integer else float(value)) if inside else None

    def text(self, value: float) -> str:
        """A value, written as on the command line."""
        return str(round(value)) if self.integer else f"{value:.6g}"


def multiples(value: Any, factors: Sequence[float]) -> Choice:
    """Multiples of a number, or of a list of numbers, each written as on the command line. Whole numbers stay whole."""
    return Choice(tuple(dict.fromkeys(_multiple(value, factor) for factor in factors)))


def _multiple(value: Any, factor: float) -> str:
    if isinstance(value, list):
        return f"[{','.join(_multiple(entry, factor) for entry in value)}]"
    return str(max(1, round(value * factor))) if isinstance(value, int) else f"{value * factor:.6g}"


def _means(text: str, value: Any) -> bool:
    """Whether a text stands for a number, or for a list of numbers."""
    entries = value if isinstance(value, list) else [value]
    try:
        return [float(part) for part in text.strip("[]").split(",")] == entries
    except ValueError:
        return False


Space = Mapping[str, Choice | Interval]


def grid(space: Mapping[str, Choice]) -> list[dict[str, str]]:
    """Every combination. The last key changes fastest."""
    return [
        dict(zip(space, values, strict=True))
        for values in itertools.product(*(entry.values for entry in space.values()))
    ]


def draw(space: Space, seed: int, number: int) -> dict[str, str]:
    """The point of this number. It does not depend on points drawn before."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, DRAW_STREAM, number))))
    return {key: entry.draw(rng) for key, entry in space.items()}
