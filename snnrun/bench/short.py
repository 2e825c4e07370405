"""How long a run will take on this machine, and how large its network is: a few batches, a second or two."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun import data
from snnrun.bench.phases import wait
from snnrun.run import build
from snnrun.train import evaluation, hardware
from snnrun.train.options import Options
from snnrun.train.training import Training

SECONDS = 1.0  # that each of the two measurements takes, once all is compiled
BUSY = 1.3  # times the processor's own time
MOST = 64  # batches of one measurement
EPOCH = 1


@dataclass(frozen=True)
class Short:
    """Times in ms a sample, of training and of evaluation; samples of each split; trained weights and biases.

    `once_s` is what the model takes to study the corpus before the first epoch. `waited` is how many times the
    processor's own time passed: well above 1, others had the cores, and the times are too long.
    """

    train_ms: float
    evaluation_ms: float
    train: int
    evaluated: int
    parameters: int
    once_s: float = 0.0
    waited: float = 1.0

    @property
    def busy(self) -> bool:
        """Whether the machine had other work."""
        return self.waited > BUSY

    def seconds(self, epochs: int) -> float:
        """Of a run of so many epochs, each of which ends with an evaluation."""
        return self.once_s + epochs * (self.train * self.train_ms + self.evaluated * self.evaluation_ms) / 1e3


def run(values: Mapping[str, Any]) -> Short:
    """Measure a config, as `snnrun.config.check.plain` gives it, with its initial weights.

    A corpus is downloaded or encoded first, if its first run would do that.

    Raises:
        UsageError: the settings do not fit one another or this machine.
        SnnrunError: the corpus is missing or damaged.
    """
    wanted = values["hardware"]
    device, _ = hardware.set_up(wanted["device"], wanted["threads"], wanted["kernels"])
    loaded, started = build.load(values), time.perf_counter()
    network, inputs = build.learner(values, loaded, device)
    once, dataset = time.perf_counter() - started, inputs.dataset
    training = Training(network, *inputs, Options(**values["train"]), seed=values["seed"], device=device)
    order = np.random.Generator(np.random.PCG64(values["seed"])).permutation(len(dataset.train))

    def train(samples: int) -> None:
        for batch in training.batches(np.resize(order, samples), EPOCH):
            training.gradients(*batch)
            training.update(0.0)
        wait(device)

    def evaluate(samples: int) -> None:
        evaluation.predict(training.network, _first(dataset.train, np.resize(order, samples)), inputs.encoder, device)
        wait(device)

    started, processor = time.perf_counter(), time.process_time()
    times = {
        "train_ms": _timed(train, training.options.batch_size),
        "evaluation_ms": _timed(evaluate, evaluation.EVALUATION_BATCH),
    }
    passed, used = time.perf_counter() - started, time.process_time() - processor
    return Short(
        **times,
        waited=passed / max(used, 1e-9) if device.type == "cpu" else 1.0,
        train=len(dataset.train),
        evaluated=len(dataset.validation) + len(dataset.test),
        parameters=network.synapses(),
        once_s=once,
    )


def _first(split: data.Split, positions: NDArray[np.int64]) -> data.Split:
    return data.Split(split.samples[positions], split.labels[positions], split.index[positions])


def _timed(task: Any, batch: int) -> float:
    """Milliseconds a sample: one batch to compile, one to estimate, then as many as fit."""
    task(batch)
    started = time.perf_counter()
    task(batch)
    once = time.perf_counter() - started
    number = min(MOST, max(1, math.ceil(SECONDS / max(once, 1e-9))))
    if number == 1:
        return 1e3 * once / batch
    started = time.perf_counter()
    task(number * batch)
    return 1e3 * (time.perf_counter() - started) / (number * batch)
