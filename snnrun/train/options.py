"""How a training goes: its length, batches, optimiser, and the learning rate over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from snnrun.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to train. `lr` follows `schedule`; `clip_norm` bounds the norm of the gradient; see `conf/train.yaml`."""

    epochs: int
    batch_size: int = 16
    lr: float = 0.004
    schedule: str = "cosine"
    schedule_milestones: tuple[int, ...] = (40, 80)
    schedule_factor: float = 0.1
    optimizer: str = "adam"
    momentum: float = 0.0
    clip_norm: float | None = None
    shuffle: str = "full"
    boosting: bool = False

    def learning_rate(self, epoch: int, progress: float) -> float:
        """Learning rate in an epoch (from 0); `progress` is the share of the whole run that is done."""
        match self.schedule:
            case "cosine":
                return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
            case "inverse_sqrt":
                return self.lr / math.sqrt(epoch + 1)
            case "inverse_sqrt_late":  # the authors' index advances only after the second epoch
                return self.lr / math.sqrt(max(1, epoch))
            case "step":
                return self.lr * self.schedule_factor ** sum(epoch >= m for m in self.schedule_milestones)
            case "constant":
                return self.lr
        raise UsageError(
            f"train.schedule: {self.schedule!r}. Allowed: constant, cosine, inverse_sqrt, inverse_sqrt_late, step."
        )
