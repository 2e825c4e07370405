"""Whether a run trained for as long as it should: to its last epoch, or until its patience had come to an end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from snnrun.train import patience as patiences

if TYPE_CHECKING:
    from snnrun.runs.collect import Run


def patience_of(run: Run) -> int | None:
    """After how many epochs without a rise of validation it ends, `train.patience`; None: never."""
    given = run.params.get("train.patience", "")
    return int(given) if given.isdigit() else None


def trained_long(
    run: Run, epochs: float, patience: int | None, history: Callable[[], Sequence[Mapping[str, float]]]
) -> bool:
    """Whether a run came to its last epoch, or did not rise for `patience` epochs. `history` reads its epochs."""
    if not run.metrics.get("epoch", epochs) < epochs:  # NaN: nobody knows how many were wanted
        return True
    return patience is not None and patiences.stalled(history(), patience)
