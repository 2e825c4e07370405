"""Means over seeds, and whether two of them differ by more than seeds do. Plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation of a sample (divided by n - 1), which one value alone does not have.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("no values")
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test (unequal variances); None with fewer than two values on a side or no spread at all.

    Welch 1947: t = (m1 - m2) / sqrt(v1 + v2) with v = s^2 / n, degrees of freedom (v1 + v2)^2 / sum of v^2 / (n - 1).
    """
    if min(len(first), len(second)) < 2:
        return None
    mean, std = mean_std(second)
    assert std is not None
    return welch_of(first, mean, std, len(second))


def welch_of(values: Sequence[float], mean: float, std: float, count: int) -> float | None:
    """As `welch`, where only mean, standard deviation and number of the other values are known."""
    if min(len(values), count) < 2:
        return None
    mean1, std1 = mean_std(values)
    assert std1 is not None
    v1, v2 = std1**2 / len(values), std**2 / count
    if _no_spread(math.sqrt(v1 + v2), mean1, mean):
        return None
    freedom = (v1 + v2) ** 2 / (v1**2 / (len(values) - 1) + v2**2 / (count - 1))
    return _two_sided((mean1 - mean) / math.sqrt(v1 + v2), freedom)


def one_sample(values: Sequence[float], expected: float) -> float | None:
    """Two-sided p of Student's t-test that the mean is `expected`; None with fewer than two values or no spread."""
    if len(values) < 2:
        return None
    mean, std = mean_std(values)
    assert std is not None
    if _no_spread(std, *values):
        return None
    return _two_sided((mean - expected) / (std / math.sqrt(len(values))), len(values) - 1)


def paired(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Two-sided p of the paired t-test over values by seed; None with fewer than two seeds or equal differences.

    Raises ValueError when the seeds are not the same.
    """
    if first.keys() != second.keys():
        raise ValueError("the seeds differ")
    if len(first) < 2:
        return None
    mean, std = mean_std([first[seed] - second[seed] for seed in first])
    assert std is not None
    if _no_spread(std, *first.values(), *second.values()):
        return None
    return _two_sided(mean / (std / math.sqrt(len(first))), len(first) - 1)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of several p values (Holm 1979): the k-th least of m is multiplied by m - k + 1, never falling.

    None stands for a comparison that could not be tested, and is not counted.
    """
    tested = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(tested):
        largest = max(largest, min(1.0, value * (len(tested) - rank)))
        corrected[place] = largest
    return corrected


def _no_spread(deviation: float, *values: float) -> bool:
    """Whether a deviation is rounding error beside the values it comes from."""
    return deviation <= 1e-12 * max(map(abs, values), default=0.0)


def _two_sided(statistic: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(2.0 * stdtr(freedom, -abs(statistic)))
