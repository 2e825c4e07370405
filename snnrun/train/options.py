"""How a training goes: its length, batches, optimiser, the learning rate over time, and what is averaged on the way.

Sources: one-cycle, Smith & Topin 2018, with PyTorch's constants; stochastic weight averaging, Izmailov et al. 2018.

Differs from the paper: the momentum of one-cycle stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from snnrun import declared
from snnrun.declared import Range
from snnrun.errors import UsageError

# Of one-cycle: the share of the run in which the rate rises, what divides it at first, and what divides that at last.
CYCLE_RISE, CYCLE_FIRST, CYCLE_LAST = 0.3, 25.0, 1e4
# Options of what is done to gradients and updates.
OF_UPDATES = ("optimizer", "momentum", "weight_decay", "decoupled_decay", "clip_norm", "boosting", "average")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to train. `lr` follows `schedule`; `clip_norm` bounds the norm of the gradient; see `conf/train.yaml`.

    `lr` is the rate for batches of `batch_size`. `lr_scaling` is the law by which a config brings a tuned rate to that
    size, see `scaled`; it changes nothing here.

    Raises:
        UsageError: an option is out of range, or two do not fit one another.
    """

    epochs: Annotated[int, Range(at_least=1)]
    batch_size: Annotated[int, Range(at_least=1)] = 16
    lr: Annotated[float, Range(above=0)] = 0.004
    lr_scaling: Literal["sqrt_down", "sqrt", "linear", "none"] = "sqrt_down"
    schedule: Literal["constant", "cosine", "inverse_sqrt", "inverse_sqrt_late", "step", "onecycle"] = "cosine"
    schedule_milestones: Annotated[Sequence[int], Range(at_least=1)] = (40, 80)
    schedule_factor: Annotated[float, Range(above=0)] = 0.1
    warmup_epochs: Annotated[float, Range(at_least=0)] = 0.0
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    momentum: Annotated[float, Range(at_least=0, below=1)] = 0.0
    weight_decay: Annotated[float, Range(at_least=0)] = 0.0
    decoupled_decay: bool = False
    clip_norm: Annotated[float | None, Range(above=0)] = None
    shuffle: Literal["full", "transpositions"] = "full"
    boosting: bool = False
    average: Literal["none", "ema", "swa"] = "none"
    average_decay: Annotated[float, Range(at_least=0, below=1)] = 0.999
    swa_start: Annotated[float, Range(at_least=0, below=1)] = 0.75
    swa_lr: Annotated[float | None, Range(above=0)] = None
    test: Literal["every_epoch", "end"] = "every_epoch"
    patience: Annotated[int | None, Range(at_least=1)] = None

    def __post_init__(self) -> None:
        declared.check("train", Options, vars(self))
        if self.warmup_epochs and self.schedule == "onecycle":
            raise UsageError(
                "train.warmup_epochs: train.schedule=onecycle begins with a rise of its own. Set train.warmup_epochs=0 "
                "or choose another schedule."
            )
        if self.warmup_epochs > self.epochs:
            raise UsageError(
                f"train.warmup_epochs: {self.warmup_epochs:g} is more than the {self.epochs} of train.epochs, so the "
                "learning rate would never reach train.lr."
            )
        rise = CYCLE_RISE * self.epochs if self.schedule == "onecycle" else self.warmup_epochs
        if self.average == "swa" and self.swa_lr is None and self.first_averaged < rise:
            raise UsageError(
                f"train.swa_start: {self.swa_start:g} of {self.epochs} epochs lies within the rise of the learning "
                f"rate, which takes {rise:g} of them, and train.average=swa keeps the rate that it meets. Begin later, "
                "or set train.swa_lr."
            )
        if self.patience is not None and self.average == "swa":
            raise UsageError(
                "train.patience: a training that it ends may end before train.average=swa has begun. Set "
                "train.patience=null, or train.average=ema."
            )

    @property
    def first_averaged(self) -> int:
        """The epoch (from 0) that stochastic weight averaging begins with."""
        return int(round(self.swa_start * self.epochs, 9))  # 0.29 of 100 is 28.999999999999996

    def learning_rate(self, epoch: int, progress: float) -> float:
        """Learning rate in an epoch (from 0). `progress` is the finished share of the whole run.

        In the first `warmup_epochs` the schedule's rate is multiplied by a factor that rises from 1/25 to 1, in a line.
        With `average=swa` the rate is constant from `first_averaged` on: `swa_lr`, or what the schedule has reached.
        """
        if self.average == "swa" and epoch >= self.first_averaged:
            if self.swa_lr is not None:
                return self.swa_lr
            epoch, progress = self.first_averaged, self.first_averaged / self.epochs
        done = round(progress * self.epochs, 9)  # the same in a run of more epochs
        warm = 1.0 if not self.warmup_epochs else min(1.0, done / self.warmup_epochs)
        return self._scheduled(epoch, progress) * (warm + (1.0 - warm) / CYCLE_FIRST)

    def _scheduled(self, epoch: int, progress: float) -> float:
        match self.schedule:
            case "onecycle":
                if progress < CYCLE_RISE:
                    return _between(self.lr / CYCLE_FIRST, self.lr, progress / CYCLE_RISE)
                last = self.lr / CYCLE_FIRST / CYCLE_LAST
                return _between(self.lr, last, (progress - CYCLE_RISE) / (1.0 - CYCLE_RISE))
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


def _between(first: float, last: float, share: float) -> float:
    """From `first` to `last` along half a cosine, after this share of the way."""
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * share))


def scaled(lr: float, growth: float, law: str) -> float:
    """The learning rate for batches that are `growth` times as large as those that `lr` belongs to.

    `sqrt` is for optimisers whose step does not depend on the gradient's scale, such as Adam (Malladi et al. 2022, "On
    the SDEs and scaling rules for adaptive gradient algorithms"), `linear` for SGD (Goyal et al. 2017, "Accurate, large
    minibatch SGD"), `none` keeps the rate. `sqrt_down` is `sqrt` for smaller batches and keeps the rate for larger
    ones: a tuned rate is close to the largest at which a rule learns at all.
    """
    if law == "none" or growth == 1 or (law == "sqrt_down" and growth > 1):
        return lr
    return lr * (growth if law == "linear" else math.sqrt(abs(growth)))
