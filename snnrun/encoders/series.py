"""Series over steps. Each point is held for an equal part of the steps: step t shows point floor(t P / T)."""

from __future__ import annotations

from snnrun.errors import UsageError


def check_points(points: int, steps: int) -> None:
    """Raise UsageError if a series has points that no step would show."""
    if points > steps:
        raise UsageError(
            f"encoder.steps={steps}: the series have {points} points, and each needs a step of its own. Set "
            f"encoder.steps={points}, or a multiple of it."
        )
