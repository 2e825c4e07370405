"""When a training is over: after its last epoch, or once validation has not risen for long (early stopping).

It imports nothing of PyTorch, since lists of runs ask it, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from snnrun.metric_names import VALIDATION_ACCURACY


def over(history: Sequence[Mapping[str, float]], epochs: int, patience: int | None) -> bool:
    """Whether a training with the metrics of these epochs is at its end. Without `patience` it takes all `epochs`."""
    return len(history) >= epochs or stalled(history, patience)


def stalled(history: Sequence[Mapping[str, float]], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no higher validation accuracy. As high as before is no rise."""
    if patience is None or len(history) <= patience:
        return False
    reached = [metrics.get(VALIDATION_ACCURACY, 0.0) for metrics in history]
    return max(reached[-patience:]) <= max(reached[:-patience])


def reason(patience: int | None) -> str:
    """Why a training ended before its last epoch."""
    return f"ended early: validation has not risen for {patience} epoch{'' if patience == 1 else 's'} (train.patience)"
