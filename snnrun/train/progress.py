"""How far a training has come: the state its next batch depends on, its results, and both as a snapshot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.errors import SnnrunError, first_line
from snnrun.metric_names import (
    BEST_VALIDATION,
    TEST_ACCURACY,
    TEST_CHOSEN,
    TEST_LAST,
    TEST_MAXIMUM,
    VALIDATION_ACCURACY,
)
from snnrun.network.model import Model
from snnrun.train.boosting import boost_wrong
from snnrun.train.means import Tally
from snnrun.train.training import Training


class Snapshot(NamedTuple):
    """All that a training needs to go on as if it had not stopped: tensors on the CPU, and facts that JSON can hold."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Stop(KeyboardInterrupt):
    """An observer ends the training as Ctrl-C does, for the reason that it gives."""


@dataclass
class Result:
    """The results of a training, even if it did not reach its end.

    `status` is "stopped" where an observer ended it by a `Stop`, and `message` has its reason then.
    `history` has the metrics of each finished epoch. `confusion` (classes, classes) is that of the test samples after
    the last epoch, or None; its rows are the true classes. `chosen_test` is the test accuracy of the best epoch where
    its metrics have none. The states are copies of the weights, on the CPU; of their average where there is one. The
    last state is that of the last finished epoch, or what was reached if there is none.
    """

    status: Literal["finished", "interrupted", "stopped", "diverged"] = "finished"
    message: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    confusion: NDArray[np.int64] | None = None
    best_epoch: int | None = None
    chosen_test: float | None = None
    last_state: dict[str, Tensor] = field(default_factory=dict)
    best_state: dict[str, Tensor] | None = None

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best epoch; empty if there is none."""
        return {} if self.best_epoch is None else self.history[self.best_epoch - 1]

    def chosen_by(self, metrics: dict[str, float]) -> bool:
        """Whether validation prefers an epoch with these metrics. Of equal ones it takes the later: trained longer."""
        return metrics.get(VALIDATION_ACCURACY, -1.0) >= self.best.get(VALIDATION_ACCURACY, 0.0)

    @property
    def summary(self) -> dict[str, float]:
        """Final figures. Accuracies are shares. The maximum over epochs is chosen on the test set, as in the papers.

        What was not measured is left out: with `options.test` "end" the maximum, and all of a training cut short.
        """
        if not self.history:
            return {}
        test = [metrics[TEST_ACCURACY] for metrics in self.history if TEST_ACCURACY in metrics]
        summary = {} if TEST_ACCURACY not in self.history[-1] else {TEST_LAST: test[-1]}
        if len(test) == len(self.history):
            summary[TEST_MAXIMUM] = max(test)
        if self.best_epoch is not None:
            chosen = self.best.get(TEST_ACCURACY, self.chosen_test)
            summary |= {} if chosen is None else {TEST_CHOSEN: chosen}
            summary[BEST_VALIDATION] = self.best[VALIDATION_ACCURACY]
            summary["best_epoch"] = float(self.best_epoch)
        return summary


class Progress:
    """Where a training stands.

    Attributes:
        result: The results of the epochs so far.
        order: Positions of the training samples in the order of this epoch, (S,).
        predictions: The last predicted class of each training sample, (S,). -1: not trained yet.
        tally: The means of the epoch under way, or None.
        seconds, cpu_seconds: Time spent on that epoch, and that of processors, of all threads of this process.
        lr: The last learning rate.
        warned: Layers that were reported as silent, and constants that were reported at the end of their range.
        consistent: Whether the counts here fit the weights, so that a snapshot can be made.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.result = training, Result()
        self.order = np.arange(len(training.dataset.train))
        self.predictions = np.full(len(training.dataset.train), -1, dtype=np.int64)
        self.tally: Tally | None = None
        self.seconds, self.cpu_seconds, self.lr = 0.0, 0.0, training.options.lr
        self.warned: set[str] = set()
        self.consistent = True

    def agree(self) -> None:
        """Raise SnnrunError unless all processes of the group train the same samples from the same point on."""
        group = self.training.group
        if group.size == 1:
            return
        reached = [self.training.dataset.digest, len(self.result.history), self.tally.samples if self.tally else 0]
        digest = hashlib.sha256(json.dumps(reached).encode() + self.order.tobytes()).digest()
        each = np.zeros(group.size)
        each[group.rank] = int.from_bytes(digest[:6])  # a float64 holds it exactly
        each = group.total(each)
        if (each != each[0]).any():
            raise SnnrunError(
                "The processes of this run do not begin alike: some have another checkpoint, or none, or other "
                "samples. All machines must see the run's folder and the same corpus."
            )

    def close_epoch(self, metrics: dict[str, float]) -> None:
        """End an evaluated epoch: prepare the next one, and keep the weights if they are the best so far."""
        training, result = self.training, self.result
        self.consistent = False
        if training.options.boosting:
            labels = training.dataset.train.labels
            boost_wrong(training.boost, labels, self.predictions != labels)
        self.tally = None
        chosen = result.chosen_by(metrics)
        result.history.append(metrics)
        result.last_state = copy_state(training.evaluated)
        if chosen:
            result.best_epoch, result.best_state = len(result.history), copy_state(training.evaluated)
            result.chosen_test = None
        self.consistent = True

    def snapshot(self) -> Snapshot:
        """Everything that the next step depends on, and the results of the epochs before it."""
        training, result = self.training, self.result
        tensors = {f"network/{key}": value for key, value in copy_state(training.network).items()}
        averaged = training.average.model
        if averaged is not None:
            tensors |= {f"average/{key}": value for key, value in copy_state(averaged).items()}
        tensors |= {f"optimiser/{key}": value.detach().cpu() for key, value in training.optimiser.state().items()}
        tensors |= {f"best/{key}": value for key, value in (result.best_state or {}).items()}
        if self.tally is not None:  # in the middle of an epoch; at its end the network or the average has these
            tensors |= {f"last/{key}": value for key, value in result.last_state.items()}
        arrays = {"order": self.order, "boost": training.boost, "predictions": self.predictions}
        if result.confusion is not None:
            arrays["confusion"] = result.confusion
        tensors |= {key: torch.from_numpy(value) for key, value in arrays.items()}
        facts = {
            "history": result.history,
            "best_epoch": result.best_epoch,
            "chosen_test": result.chosen_test,
            "tally": None if self.tally is None else self.tally.state(),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "lr": self.lr,
            "averaged": training.average.number,
            "warned": sorted(self.warned),
        }
        return Snapshot(tensors, facts)

    def restore(self, start: Snapshot) -> None:
        """Go on from a snapshot. Raises SnnrunError if it is of another training."""
        tensors, facts, training, result = *start, self.training, self.result
        try:
            training.network.load_state_dict(_below("network/", tensors))
            training.renew_optimiser()  # the mask of the recurrent synapses has come with the weights
            training.optimiser.restore(_below("optimiser/", tensors))
            training.average.restore(_below("average/", tensors), facts.get("averaged", 0))
            self.order, training.boost, self.predictions = (
                tensors[key].numpy().copy() for key in ("order", "boost", "predictions")
            )
            result.history, result.best_epoch = list(facts["history"]), facts["best_epoch"]
            result.chosen_test = facts.get("chosen_test")
            result.confusion = tensors["confusion"].numpy() if "confusion" in tensors else None
            result.best_state = _below("best/", tensors) or None
            result.last_state = _below("last/", tensors) or copy_state(training.evaluated)
            if facts["tally"] is not None:
                self.tally = Tally(training.network.spiking)
                self.tally.restore(facts["tally"])
            self.seconds, self.lr, self.warned = facts["seconds"], facts["lr"], set(facts["warned"])
            self.cpu_seconds = facts.get("cpu_seconds", 0.0)  # earlier versions did not count it
        except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {first_line(error, '')}"
            raise SnnrunError(f"the checkpoint is of another training ({reason})") from None
        if len(self.order) != len(training.dataset.train):
            raise SnnrunError(
                f"the checkpoint is of another training: {len(self.order)} samples, not {len(training.dataset.train)}"
            )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def copy_state(model: Model) -> dict[str, Tensor]:
    """Copies of the weights, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
