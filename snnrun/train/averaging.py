"""Weights averaged on the way of a training, on `torch.optim.swa_utils`.

With `average=ema` the average follows the weights after every update. After update n (from 0) it is

    a_0 = w_0,    a_n = d_n a_(n-1) + (1 - d_n) w_n,    d_n = min(decay, (1 + n) / (10 + n))

so that it is not held back by the initial weights in a run of few updates. With `average=swa` it is the mean of the
weights after each epoch from the first averaged one on (Izmailov et al. 2018), where the learning rate is constant
(`Options.learning_rate`). No layer normalises by statistics of batches, so none is to be found anew for the average.

Differs from the paper: swa's rate does not cycle, the paper's other choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from snnrun.network.model import Model
from snnrun.train.options import Options


class Average:
    """The average of a network's weights. Before the first update or epoch that counts there is none.

    Attributes:
        number: How many states of the weights are in it.
    """

    def __init__(self, network: Model, options: Options) -> None:
        self._network, self._options = network, options
        self._averaged: AveragedModel | None = None
        self.number = 0

    @property
    def model(self) -> Model | None:
        """The network with averaged weights; None as long as there is none."""
        if self._averaged is None:
            return None
        model = self._averaged.module
        assert isinstance(model, Model)
        return model

    def after_update(self) -> None:
        """Take the weights after an update into an exponential average."""
        if self._options.average == "ema":
            self._take()

    def after_epoch(self, epoch: int) -> None:
        """Take the weights after an epoch (from 0) into a stochastic average, unless they are in it already."""
        if self._options.average == "swa" and self.number <= epoch - self._options.first_averaged:
            self._take()

    def restore(self, state: Mapping[str, Tensor], number: int) -> None:
        """Go on from the averaged weights and their number. Raises RuntimeError if they are of another network."""
        self._averaged, self.number = None, number
        if state:
            self._averaged = self._new()
            self._averaged.module.load_state_dict(state)
            self._averaged.n_averaged.fill_(number)

    def _take(self) -> None:
        if self._averaged is None:
            self._averaged = self._new()
        self._averaged.update_parameters(self._network)
        self.number += 1

    def _new(self) -> AveragedModel:
        how = _exponential(self._options.average_decay) if self._options.average == "ema" else _mean()
        return AveragedModel(self._network, multi_avg_fn=how).requires_grad_(False)


def _mean() -> Any:
    """PyTorch's mean."""
    return get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]


def _exponential(decay: float) -> Any:
    """PyTorch's exponential average, with a decay that grows to its final value."""

    def follow(averaged: Sequence[Tensor], current: Sequence[Tensor], number: Tensor | int) -> None:
        n = int(number)
        now = get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))  # type: ignore[no-untyped-call]
        now(averaged, current, number)

    return follow
