"""How a training goes: its length, batches, optimiser, and the learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from snnrun import declared
from snnrun.declared import Range


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to train. `lr` follows `schedule`; `clip_norm` bounds the norm of the gradient; see `conf/train.yaml`.

    Raises:
        UsageError: an option is out of range.
    """

    epochs: Annotated[int, Range(at_least=1)]
    batch_size: Annotated[int, Range(at_least=1)] = 16
    lr: Annotated[float, Range(above=0)] = 0.004
    schedule: Literal["constant", "cosine", "inverse_sqrt", "inverse_sqrt_late", "step"] = "cosine"
    schedule_milestones: Annotated[Sequence[int], Range(at_least=1)] = (40, 80)
    schedule_factor: Annotated[float, Range(above=0)] = 0.1
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    momentum: Annotated[float, Range(at_least=0, below=1)] = 0.0
    weight_decay: Annotated[float, Range(at_least=0)] = 0.0
    clip_norm: Annotated[float | None, Range(above=0)] = None
    shuffle: Literal["full", "transpositions"] = "full"
    boosting: bool = False

    def __post_init__(self) -> None:
        declared.check("train", Options, vars(self))

    def learning_rate(self, epoch: int, progress: float) -> float:
        """Learning rate in an epoch (from 0). `progress` is the finished share of the whole run."""
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
