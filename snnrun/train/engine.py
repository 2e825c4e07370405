"""The training loop: epochs, evaluation, and what to do when something goes wrong in the middle."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.data import Dataset, Split
from snnrun.encoders import Encoder
from snnrun.errors import SnnrunError
from snnrun.network import Network
from snnrun.train import evaluation
from snnrun.train.batches import batches
from snnrun.train.boosting import boost_wrong
from snnrun.train.distributed import Group
from snnrun.train.means import Tally
from snnrun.train.optimiser import Optimiser, by_stride
from snnrun.train.options import Options as Options

# A layer that has not fired for so many batches is reported before the epoch is over.
SILENCE_CHECK = 50
# The authors' shuffle: this many random transpositions an epoch.
TRANSPOSITIONS = 5000
# Stream of the run's seed for the order of the samples.
ORDER_STREAM = 0x6F72646572


class Observer(Protocol):
    """Who wants to know how the training goes."""

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


class Snapshot(NamedTuple):
    """All that a training needs to go on as if it had not stopped: tensors on the CPU, and facts fit for JSON."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Keeper(Protocol):
    """Who keeps snapshots, so that a training that stops can go on."""

    def due(self) -> bool:
        """Whether it is time for one in the middle of an epoch."""

    def keep(self, snapshot: Snapshot) -> None:
        """Keep this one; called after each epoch, when due, and when the training is interrupted."""


@dataclass
class Result:
    """What a training left behind, also when it did not reach its end.

    `history` has the metrics of each finished epoch; `confusion` (classes, classes), rows the truth, is of the last
    finished epoch on the test samples, or None; the states are copies of the weights, on the CPU.
    """

    status: Literal["finished", "interrupted", "diverged"] = "finished"
    message: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    confusion: NDArray[np.int64] | None = None
    best_epoch: int | None = None
    last_state: dict[str, Tensor] = field(default_factory=dict)
    best_state: dict[str, Tensor] | None = None

    @property
    def summary(self) -> dict[str, float]:
        """Final figures; accuracies are shares. The maximum over epochs is chosen on the test set, as in the papers."""
        if not self.history:
            return {}
        test = [metrics["test/accuracy"] for metrics in self.history]
        summary = {"test/accuracy_last": test[-1], "test/accuracy_max_over_epochs": max(test)}
        if self.best_epoch is not None:
            best = self.history[self.best_epoch - 1]
            summary["test/accuracy_best_validation"] = best["test/accuracy"]
            summary["validation/accuracy_best"] = best["validation/accuracy"]
            summary["best_epoch"] = float(self.best_epoch)
        return summary


class Diverged(SnnrunError):
    """Loss or gradient is no longer a number."""


def train(
    network: Network,
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
    """Train a network and evaluate it after every epoch; in a group, each process its share of every batch.

    Ctrl-C and a divergence end the training early; the result says so and holds what was reached.
    Validation and test samples have the same spikes after every epoch; training samples are drawn anew at each
    presentation, unless the encoder is frozen. From a snapshot (`start`) the training goes on bit for bit.

    Raises:
        SnnrunError: the snapshot is of another training.
    """
    group = group or Group()
    loop = _Loop(network.to(device), dataset, encoder, options, seed, device, observer, keeper, group)
    result = loop.result
    try:
        if start is not None:
            loop.restore(start)
        with group.together():
            while (epoch := len(result.history)) < options.epochs:
                metrics = loop.train_epoch(epoch)
                if len(dataset.validation):
                    metrics["validation/accuracy"] = evaluation.accuracy(
                        loop.confusion("validation", dataset.validation)
                    )
                result.confusion = loop.confusion("test", dataset.test)
                metrics["test/accuracy"] = evaluation.accuracy(result.confusion)
                loop.close_epoch(metrics)
                observer.epoch_end(metrics)
                if keeper is not None:
                    keeper.keep(loop.snapshot())
    except (KeyboardInterrupt, SystemExit) as end:
        result.status, result.message = "interrupted", f"interrupted in epoch {len(result.history) + 1}"
        if keeper is not None and loop.consistent:
            keeper.keep(loop.snapshot())
        if isinstance(end, SystemExit):  # of a scheduler's signal handler, which starts the job again later
            raise
    except Diverged as error:
        result.status, result.message = "diverged", str(error)
    result.last_state = _copy_state(network)
    return result


class _Loop:
    """What lives as long as one training."""

    def __init__(
        self,
        network: Network,
        dataset: Dataset,
        encoder: Encoder,
        options: Options,
        seed: int,
        device: torch.device,
        observer: Observer,
        keeper: Keeper | None = None,
        group: Group | None = None,
    ) -> None:
        self.group = group or Group()
        self.network, self.dataset, self.encoder = network, dataset, encoder
        self.options, self.seed, self.device, self.observer = options, seed, device, observer
        self.order = np.arange(len(dataset.train))
        self.boost = np.ones(len(dataset.train), dtype=np.float32)
        self.warned: set[str] = set()
        self.keeper, self.result = keeper, Result()
        self.tally: Tally | None = None  # of the epoch that is under way
        self.predictions = np.full(len(dataset.train), -1, dtype=np.int64)
        self.seconds, self.lr = 0.0, options.lr
        self.consistent = True  # whether what is counted is what the weights have learnt
        self.optimiser = self.new_optimiser()

    def new_optimiser(self) -> Optimiser:
        """One that has not moved the network's weights yet."""
        options = self.options
        return Optimiser(self.network.trained(), options.optimizer, options.lr, options.momentum)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training samples; returns its metrics."""
        split, options = self.dataset.train, self.options
        if self.tally is None:
            self.consistent = False  # transpositions shuffle the order that is there: twice is another one
            self.shuffle(epoch)
            self.tally, self.seconds = Tally(self.network.layer_names, self.network.sizes), 0.0
            self.consistent = True
        tally = self.tally
        self.observer.epoch_start(epoch + 1, options.epochs, len(split), tally.samples)
        self.group.copy_(list(self.network.parameters()))  # processors of several kinds may round the updates apart
        started = time.perf_counter() - self.seconds
        how = (self.device, self.dataset.augment, self.group.share)
        encoded = batches(split, self.order[tally.samples :], self.encoder, epoch + 1, options.batch_size, *how)
        for positions, spikes, labels in encoded:
            self.lr = options.learning_rate(epoch, (epoch + tally.samples / len(split)) / options.epochs)
            loss, norm, trains = self.gradients(positions, spikes, labels)
            predicted, spikes_of = self.outcome(positions, trains)
            self.consistent = False
            self.predictions[positions] = predicted
            tally.add(loss, norm, spikes_of, int((predicted == split.labels[positions]).sum()), len(positions))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"gradient became {norm}" if math.isfinite(loss) else f"loss became {loss}"
                raise Diverged(self.divergence(what, epoch, tally))
            self.optimiser.step(self.lr)
            self.consistent = True
            self.seconds = time.perf_counter() - started
            if self.keeper is not None and self.keeper.due():
                self.keeper.keep(self.snapshot())
            self.observer.batch(tally.samples, tally.loss, tally.accuracy, tally.rates)
            if tally.batches == SILENCE_CHECK:
                self.warn_of_silence(tally)
        if not all(parameter.isfinite().all() for parameter in self.network.parameters()):
            raise Diverged(self.divergence("weights became infinite", epoch, tally))
        self.warn_of_silence(tally)
        return {
            "epoch": float(epoch + 1),
            "train/loss": tally.loss,
            "train/accuracy": tally.accuracy,
            **{f"rate/{name}": rate for name, rate in tally.rates.items()},
            "lr": self.lr,
            "grad/norm": tally.usual_norm,
            "time/epoch_s": self.seconds,
            "time/ms_per_sample": 1e3 * self.seconds / len(split),
            "samples_per_s": len(split) / self.seconds,
        }

    def gradients(
        self, positions: NDArray[np.int64], spikes: Tensor, labels: Tensor
    ) -> tuple[float, float, list[Tensor]]:
        """Forward and backward pass of a batch; returns loss, gradient norm and the counts of each layer.

        Loss and norm are the batch's; spikes and labels, and with them the counts, are of this process's share.
        """
        self.optimiser.clear()
        loss, counts = self.backward(positions, spikes, labels) if len(labels) else (0.0, self.no_counts())
        [loss] = self.group.total(np.array([loss])).tolist()
        self.add_up()
        self.network.add_weight_penalty()
        return loss, self.optimiser.norm(self.options.clip_norm).item(), counts

    def backward(self, positions: NDArray[np.int64], spikes: Tensor, labels: Tensor) -> tuple[float, list[Tensor]]:
        """What this process's share of a batch adds to its loss and gradients; and the counts of each layer."""
        spikes, labels = spikes.to(self.device), labels.to(self.device)
        mine = self.group.share(positions)
        activity = self.network(spikes, labels)
        losses = self.network.rule.sample_loss(activity.output, labels)
        # Boosting multiplies the error of a sample, that is the gradient of its loss.
        weight = torch.from_numpy(self.boost[mine]).to(losses)
        losses.backward(weight / len(positions))  # type: ignore[no-untyped-call]
        return losses.detach().sum().item() / len(positions), [train.counts.detach() for train in activity.layers]

    def no_counts(self) -> list[Tensor]:
        """The counts of each layer of no sample."""
        return [torch.zeros(0, size) for size in self.network.sizes]

    def add_up(self) -> None:
        """Make the gradients of the shares those of the batch."""
        if self.group.size == 1:
            return
        parameters = list(self.network.parameters())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # As the weights lie in memory, whatever the gradients do: it must be the same in all processes.
        self.group.sum_([p.grad.permute(by_stride(p)) for p in parameters if p.grad is not None])

    def outcome(self, positions: NDArray[np.int64], counts: Sequence[Tensor]) -> tuple[NDArray[np.int64], list[float]]:
        """Predicted classes of a batch (B,) and the spikes of each layer, from the counts of the shares."""
        size = len(positions)
        values = np.zeros(size + len(counts))
        values[:size][self.group.part(size)] = counts[-1].argmax(dim=1).cpu().numpy()
        values[size:] = [layer.sum().item() for layer in counts]
        values = self.group.total(values)
        return values[:size].astype(np.int64), values[size:].tolist()

    def close_epoch(self, metrics: dict[str, float]) -> None:
        """An epoch is evaluated: what the next one begins with, and whether this one is the best so far."""
        self.consistent = False
        if self.options.boosting:
            labels = self.dataset.train.labels
            boost_wrong(self.boost, labels, self.predictions != labels)
        self.tally, result = None, self.result
        best = 0.0 if result.best_epoch is None else result.history[result.best_epoch - 1]["validation/accuracy"]
        result.history.append(metrics)
        if metrics.get("validation/accuracy", -1.0) >= best:  # of equals the later, which is trained longer
            result.best_epoch, result.best_state = len(result.history), _copy_state(self.network)
        self.consistent = True

    def snapshot(self) -> Snapshot:
        """Everything that the next step depends on, and what the epochs before it have left."""
        result = self.result
        tensors = {f"network/{key}": value for key, value in _copy_state(self.network).items()}
        tensors |= {f"optimiser/{key}": value.detach().cpu() for key, value in self.optimiser.state().items()}
        tensors |= {f"best/{key}": value for key, value in (result.best_state or {}).items()}
        arrays = {"order": self.order, "boost": self.boost, "predictions": self.predictions}
        if result.confusion is not None:
            arrays["confusion"] = result.confusion
        tensors |= {key: torch.from_numpy(value) for key, value in arrays.items()}
        facts = {
            "history": result.history,
            "best_epoch": result.best_epoch,
            "tally": None if self.tally is None else self.tally.state(),
            "seconds": self.seconds,
            "lr": self.lr,
            "warned": sorted(self.warned),
        }
        return Snapshot(tensors, facts)

    def restore(self, start: Snapshot) -> None:
        """Go on from a snapshot. Raises SnnrunError if it is of another training."""
        tensors, facts, result = start.tensors, start.facts, self.result
        try:
            self.network.load_state_dict(_below("network/", tensors))
            self.optimiser = self.new_optimiser()  # the mask of the recurrent synapses has come with the weights
            self.optimiser.restore(_below("optimiser/", tensors))
            self.order, self.boost, self.predictions = (
                tensors[key].numpy().copy() for key in ("order", "boost", "predictions")
            )
            result.history, result.best_epoch = list(facts["history"]), facts["best_epoch"]
            result.confusion = tensors["confusion"].numpy() if "confusion" in tensors else None
            result.best_state = _below("best/", tensors) or None
            if facts["tally"] is not None:
                self.tally = Tally(self.network.layer_names, self.network.sizes)
                self.tally.restore(facts["tally"])
            self.seconds, self.lr, self.warned = facts["seconds"], facts["lr"], set(facts["warned"])
        except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise SnnrunError(f"the checkpoint is of another training ({type(error).__name__}: {reason})") from None
        if len(self.order) != len(self.dataset.train):
            raise SnnrunError(
                f"the checkpoint is of another training: {len(self.order)} samples, not {len(self.dataset.train)}"
            )

    def divergence(self, what: str, epoch: int, tally: Tally) -> str:
        """The message of a training that is no longer in numbers."""
        usual = f", e.g. to {tally.usual_norm:.3g}" if 0.0 < tally.usual_norm < math.inf else ""
        return (
            f"The {what} in epoch {epoch + 1} after {tally.samples} samples. "
            f"Lower train.lr (now {self.options.lr:g}) or set train.clip_norm{usual}."
        )

    def shuffle(self, epoch: int) -> None:
        """Order of an epoch: a permutation of its own, or the authors' transpositions of the order before it."""
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, ORDER_STREAM, epoch))))
        if self.options.shuffle == "full":
            self.order = generator.permutation(len(self.order))
            return
        for i, j in generator.integers(len(self.order), size=(TRANSPOSITIONS, 2)):
            self.order[i], self.order[j] = self.order[j], self.order[i]

    def warn_of_silence(self, tally: Tally) -> None:
        """Report each layer that has not fired in this epoch, once a run."""
        for name, rate in tally.rates.items():
            if rate == 0.0 and name not in self.warned:
                self.warned.add(name)
                self.observer.warn(
                    f"Layer {name} has not fired once in {tally.samples} samples, so nothing before it can learn. "
                    "Lower its threshold (model.v_th), or give it more input (model.init_scale, encoder.steps). "
                    "No threshold helps samples without an input spike: of these a note tells at the start."
                )

    def confusion(self, name: str, split: Split) -> NDArray[np.int64]:
        """Evaluate a split: how often each class (row) was taken for each (column)."""

        def progress(done: int) -> None:
            self.observer.evaluating(name, done, len(split))

        classes = len(self.dataset.classes)
        predicted = evaluation.predict(self.network, split, self.encoder, self.device, progress, self.group)
        return np.bincount(split.labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _copy_state(network: Network) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
