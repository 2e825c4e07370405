"""The training loop: epochs, evaluation, and what happens when a training is interrupted or diverges."""

from __future__ import annotations

import math
import time
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from snnrun.data import Dataset, Split
from snnrun.encoders import Encoder
from snnrun.errors import SnnrunError
from snnrun.metric_names import (
    CPU_SECONDS,
    EPOCH_SECONDS,
    TEST_ACCURACY,
    TRAIN_ACCURACY,
    TRAIN_LOSS,
    VALIDATION_ACCURACY,
)
from snnrun.network.model import LocalModel, Model
from snnrun.train import evaluation, patience
from snnrun.train.batches import shuffled
from snnrun.train.distributed import Group
from snnrun.train.means import Tally
from snnrun.train.options import Options as Options
from snnrun.train.progress import Progress, copy_state
from snnrun.train.progress import Result as Result
from snnrun.train.progress import Snapshot as Snapshot
from snnrun.train.progress import Stop as Stop
from snnrun.train.training import Training

# After so many batches of an epoch, layers that have not fired are reported already.
SILENCE_CHECK = 50


class Observer(Protocol):
    """Gets reports on how the training goes."""

    def epoch_start(self, epoch: int, epochs: int, samples: int, done: int = 0) -> None:
        """An epoch (from 1) begins, or goes on after `done` samples."""

    def batch(self, done: int, loss: float, accuracy: float, rates: dict[str, float]) -> None:
        """`done` samples are trained; the values are means over the epoch so far."""

    def evaluating(self, split: str, done: int, total: int) -> None:
        """`done` of the samples of `validation` or `test` are evaluated."""

    def epoch_end(self, metrics: dict[str, float]) -> None:
        """An epoch is trained and evaluated."""

    def warn(self, message: str) -> None:
        """Something needs the user's attention; training goes on."""


class Silence:
    """The observer of a process that follows another."""

    def _nothing(self, *_: object, **__: object) -> None:
        pass

    epoch_start = batch = evaluating = epoch_end = warn = _nothing


class Keeper(Protocol):
    """Keeps snapshots, so that a training that stops can go on."""

    def due(self) -> bool:
        """Whether it is time for a snapshot in the middle of an epoch."""

    def keep(self, snapshot: Snapshot) -> None:
        """Keep this snapshot. Called after each epoch, when one is due, and when the training is interrupted."""


class Diverged(SnnrunError):
    """Loss or gradient is no longer a number."""


def train(
    network: Model,
    dataset: Dataset,
    encoder: Encoder,
    options: Options,
    *,
    seed: int,
    device: torch.device,
    observer: Observer,
    keeper: Keeper | None = None,
    start: Snapshot | None = None,
    group: Group | None = None,
) -> Result:
    """Train a model and evaluate it after every epoch. In a group, each process trains its share of every batch.

    With `options.patience` the training is over once validation has not risen for so many epochs; the result's message
    says so. With `options.test` "end" the test samples are evaluated after the last epoch alone, by its weights and by
    those that validation chose; a training that is cut short has no test accuracy then.

    Ctrl-C and a divergence end the training early. The result says so and holds what was reached.
    Validation and test samples have the same spikes after every epoch. Spikes of training samples are drawn anew at
    each presentation, unless the encoder is frozen. From a snapshot (`start`) the training goes on bit for bit.
    With `options.average` the network that is evaluated, chosen and kept is the average of those on the way.

    Raises:
        SnnrunError: the snapshot is of another training, or the processes of the group do not begin alike.
    """
    training = Training(network, dataset, encoder, options, seed=seed, device=device, group=group)
    loop = _Loop(training, observer, keeper)
    progress, result = loop.progress, loop.progress.result
    if start is not None:  # before what catches Ctrl-C: a snapshot of what is half restored would replace a whole one
        progress.restore(start)
    try:
        with training.group.together():
            progress.agree()
            while not patience.over(result.history, options.epochs, options.patience):
                epoch = len(result.history)
                metrics = loop.train_epoch(epoch)
                loop.average(epoch)
                if len(dataset.validation):
                    metrics[VALIDATION_ACCURACY] = evaluation.accuracy(loop.confusion("validation", dataset.validation))
                last = patience.over([*result.history, metrics], options.epochs, options.patience)
                if options.test == "every_epoch" or last:
                    result.confusion = loop.confusion("test", dataset.test)
                    metrics[TEST_ACCURACY] = evaluation.accuracy(result.confusion)
                    loop.test_chosen(metrics)
                metrics |= training.evaluated.figures()
                loop.warn_of_bounds()
                progress.close_epoch(metrics)
                observer.epoch_end(metrics)
                if keeper is not None:
                    keeper.keep(progress.snapshot())
        if len(result.history) < options.epochs:
            result.message = patience.reason(options.patience)
    except (KeyboardInterrupt, SystemExit) as end:
        result.status, result.message = "interrupted", f"interrupted in epoch {len(result.history) + 1}"
        if isinstance(end, Stop):
            result.status, result.message = "stopped", str(end)
        if keeper is not None and progress.consistent:
            keeper.keep(progress.snapshot())
        if isinstance(end, SystemExit):  # from the signal handler of a scheduler, which starts the job again later
            raise
    except Diverged as error:
        result.status, result.message = "diverged", str(error)
    if not result.history:
        result.last_state = copy_state(training.evaluated)
    return result


class _Loop:
    """The epochs of a training, with the observer and the keeper that hear of them."""

    def __init__(self, training: Training, observer: Observer, keeper: Keeper | None) -> None:
        self.training, self.progress = training, Progress(training)
        self.observer, self.keeper = observer, keeper

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training samples; returns its metrics."""
        training, progress, options = self.training, self.progress, self.training.options
        samples, labels_of = len(training.dataset.train), training.dataset.train.labels
        tally = self._tally(epoch)
        self.observer.epoch_start(epoch + 1, options.epochs, samples, tally.samples)
        training.align()
        started, used = time.perf_counter() - progress.seconds, time.process_time() - progress.cpu_seconds
        for positions, inputs, labels in training.batches(progress.order[tally.samples :], epoch + 1):
            progress.lr = options.learning_rate(epoch, (epoch + tally.samples / samples) / options.epochs)
            step = training.gradients(positions, inputs, labels, epoch + 1, progress.lr)
            predicted, spikes_of = training.outcome(positions, step)
            progress.consistent = False
            progress.predictions[positions] = predicted
            right = int((predicted == labels_of[positions]).sum())
            tally.add(step.loss, step.norm, spikes_of, right, len(positions))
            if not step.finite:
                what = f"gradient became {step.norm}" if math.isfinite(step.loss) else f"loss became {step.loss}"
                raise Diverged(self.divergence(what, epoch, tally))
            training.update(progress.lr)
            progress.consistent = True
            progress.seconds, progress.cpu_seconds = time.perf_counter() - started, time.process_time() - used
            if self.keeper is not None and self.keeper.due():
                self.keeper.keep(progress.snapshot())
            self.observer.batch(tally.samples, self.mean_loss(tally), tally.accuracy, tally.rates)
            if tally.batches == SILENCE_CHECK:
                self.warn_of_silence(tally)
        if not all(parameter.isfinite().all() for parameter in training.network.parameters()):
            raise Diverged(self.divergence("weights became infinite", epoch, tally))
        self.warn_of_silence(tally)
        without_loss = isinstance(training.network, LocalModel)
        return {
            "epoch": float(epoch + 1),
            **({} if without_loss else {TRAIN_LOSS: tally.loss}),
            TRAIN_ACCURACY: tally.accuracy,
            **{f"rate/{name}": rate for name, rate in tally.rates.items()},
            "lr": progress.lr,
            **({} if without_loss else {"grad/norm": tally.usual_norm}),
            EPOCH_SECONDS: progress.seconds,
            CPU_SECONDS: progress.cpu_seconds,
            "time/ms_per_sample": 1e3 * progress.seconds / samples,
            "samples_per_s": samples / progress.seconds,
        }

    def average(self, epoch: int) -> None:
        """Take the weights after an epoch into the average, if that goes by epochs."""
        self.progress.consistent = False
        self.training.average.after_epoch(epoch)
        self.progress.consistent = True

    def test_chosen(self, metrics: dict[str, float]) -> None:
        """Evaluate the test samples by the weights that validation chose before this epoch, if it did not test them."""
        result, evaluated = self.progress.result, self.training.evaluated
        if result.best_state is None or TEST_ACCURACY in result.best or result.chosen_by(metrics):
            return
        last = copy_state(evaluated)
        self.progress.consistent = False
        try:
            evaluated.load_state_dict(result.best_state)
            result.chosen_test = evaluation.accuracy(self.confusion("test", self.training.dataset.test))
        finally:
            evaluated.load_state_dict(last)
            self.progress.consistent = True

    def _tally(self, epoch: int) -> Tally:
        """The means of the epoch under way. A new epoch begins with a new order of the samples."""
        training, progress = self.training, self.progress
        if progress.tally is None:
            progress.consistent = False  # transpositions change the present order: doing them twice gives another
            progress.order = shuffled(progress.order, training.options.shuffle, training.seed, epoch)
            progress.tally, progress.seconds = Tally(training.network.spiking), 0.0
            progress.cpu_seconds = 0.0
            progress.consistent = True
        return progress.tally

    def mean_loss(self, tally: Tally) -> float:
        """The mean loss so far; NaN of a model that has none."""
        return math.nan if isinstance(self.training.network, LocalModel) else tally.loss

    def divergence(self, what: str, epoch: int, tally: Tally) -> str:
        """The message about a training that diverged."""
        usual = f", e.g. to {tally.usual_norm:.3g}" if 0.0 < tally.usual_norm < math.inf else ""
        return (
            f"The {what} in epoch {epoch + 1} after {tally.samples} samples. "
            f"Lower train.lr (now {self.training.options.lr:g}) or set train.clip_norm{usual}."
        )

    def warn_of_silence(self, tally: Tally) -> None:
        """Report each layer that has not fired in this epoch. Each layer is reported once a run."""
        for name, rate in tally.rates.items():
            if rate == 0.0 and name not in self.progress.warned:
                self.progress.warned.add(name)
                self.observer.warn(
                    f"Layer {name} has not fired once in {tally.samples} samples, so nothing before it can learn. "
                    "Lower its threshold (model.v_th), or give it more input (model.init_scale, encoder.steps). "
                    "No threshold helps samples without an input spike: of these a note tells at the start, and "
                    "`snnrun data stats` has the spikes of samples and channels."
                )

    def warn_of_bounds(self) -> None:
        """Report what has reached the end of its range. Each is reported once a run."""
        for name, message in self.training.network.at_bounds().items():
            if name not in self.progress.warned:
                self.progress.warned.add(name)
                self.observer.warn(message)

    def confusion(self, name: str, split: Split) -> NDArray[np.int64]:
        """Evaluate a split: how often each class (row) was taken for each class (column)."""

        def progress(done: int) -> None:
            self.observer.evaluating(name, done, len(split))

        training = self.training
        predicted = evaluation.predict(
            training.evaluated, split, training.encoder, training.device, progress, training.group
        )
        return evaluation.confusion_matrix(split.labels, predicted, len(training.dataset.classes))
