"""The training loop: epochs, evaluation, and what to do when something goes wrong in the middle."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.batches import batches
from snnrun.data import Dataset, Split
from snnrun.distributed import Group
from snnrun.encoders import Encoder
from snnrun.errors import SnnrunError, UsageError
from snnrun.kernels import unpack
from snnrun.network import Network

# Evaluation does not depend on the batch size: this many samples fit everywhere and keep the products large.
EVALUATION_BATCH = 64
# A layer that has not fired for so many batches is reported before the epoch is over.
SILENCE_CHECK = 50
# The authors' shuffle: this many random transpositions an epoch.
TRANSPOSITIONS = 5000
# Adam and boosting constants of the papers.
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
BOOSTING_RATE = 20.0
# Stream of the run's seed for the order of the samples.
ORDER_STREAM = 0x6F72646572


class Observer(Protocol):
    """Who wants to know how the training goes."""

    def epoch_start(self, epoch: int, epochs: int, samples: int) -> None:
        """An epoch (from 1) begins."""

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
    group: Group | None = None,
) -> Result:
    """Train a network and evaluate it after every epoch; in a group, each process its share of every batch.

    Ctrl-C and a divergence end the training early; the result says so and holds what was reached.
    Validation and test samples have the same spikes after every epoch; training samples are drawn anew at each
    presentation, unless the encoder is frozen.
    """
    group = group or Group()
    loop = _Loop(network.to(device), dataset, encoder, options, seed, device, observer, group)
    result = Result()
    best = 0.0
    try:
        with group.together():
            for epoch in range(options.epochs):
                metrics = loop.train_epoch(epoch)
                if len(dataset.validation):
                    metrics["validation/accuracy"] = accuracy(loop.confusion("validation", dataset.validation))
                result.confusion = loop.confusion("test", dataset.test)
                metrics["test/accuracy"] = accuracy(result.confusion)
                result.history.append(metrics)
                if metrics.get("validation/accuracy", -1.0) >= best:  # of equals the later, which is trained longer
                    best = metrics["validation/accuracy"]
                    result.best_epoch, result.best_state = epoch + 1, _copy_state(network)
                observer.epoch_end(metrics)
    except KeyboardInterrupt:
        result.status, result.message = "interrupted", f"interrupted in epoch {len(result.history) + 1}"
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
        group: Group | None = None,
    ) -> None:
        self.group = group or Group()
        self.network, self.dataset, self.encoder = network, dataset, encoder
        self.options, self.seed, self.device, self.observer = options, seed, device, observer
        self.order = np.arange(len(dataset.train))
        self.boost = np.ones(len(dataset.train), dtype=np.float32)
        self.warned: set[str] = set()
        self.parameters = list(network.parameters())
        # Fused Adam copies what does not lie in memory row by row; weights, stored input by input, do so transposed.
        self.moved = parameters = [_row_by_row(parameter.detach()) for parameter in self.parameters]
        if options.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                parameters, lr=options.lr, momentum=options.momentum
            )
        else:
            self.optimizer = torch.optim.Adam(parameters, lr=options.lr, betas=ADAM_BETAS, eps=ADAM_EPSILON, fused=True)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training samples; returns its metrics."""
        split, options = self.dataset.train, self.options
        self.shuffle(epoch)
        tally = _Tally(self.network)
        predictions = np.empty(len(split), dtype=np.int64)
        self.observer.epoch_start(epoch + 1, options.epochs, len(split))
        self.group.copy_(self.moved)  # processors of several kinds may round the updates apart
        started = time.perf_counter()
        how = (self.device, self.dataset.augment, self.group.share)
        encoded = batches(split, self.order, self.encoder, epoch + 1, options.batch_size, *how)
        for positions, spikes, labels in encoded:
            lr = options.learning_rate(epoch, (epoch + tally.samples / len(split)) / options.epochs)
            loss, norm, trains = self.gradients(positions, spikes, labels)
            predicted, spikes_of = self.outcome(positions, trains)
            predictions[positions] = predicted
            tally.add(loss, norm, spikes_of, int((predicted == split.labels[positions]).sum()), len(positions))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"gradient became {norm}" if math.isfinite(loss) else f"loss became {loss}"
                raise Diverged(self.divergence(what, epoch, tally))
            self.update(lr)
            self.observer.batch(tally.samples, tally.loss, tally.accuracy, tally.rates)
            if tally.batches == SILENCE_CHECK:
                self.warn_of_silence(tally)
        seconds = time.perf_counter() - started
        if not all(parameter.isfinite().all() for parameter in self.network.parameters()):
            raise Diverged(self.divergence("weights became infinite", epoch, tally))
        self.warn_of_silence(tally)
        if options.boosting:
            boost_wrong(self.boost, split.labels, predictions != split.labels)
        return {
            "epoch": float(epoch + 1),
            "train/loss": tally.loss,
            "train/accuracy": tally.accuracy,
            **{f"rate/{name}": rate for name, rate in tally.rates.items()},
            "lr": lr,
            "grad/norm": tally.usual_norm,
            "time/epoch_s": seconds,
            "time/ms_per_sample": 1e3 * seconds / len(split),
            "samples_per_s": len(split) / seconds,
        }

    def gradients(
        self, positions: NDArray[np.int64], spikes: Tensor, labels: Tensor
    ) -> tuple[float, float, list[Tensor]]:
        """Forward and backward pass of a batch; returns loss, gradient norm and the counts of each layer.

        Loss and norm are the batch's; spikes and labels, and with them the counts, are of this process's share.
        """
        self.network.zero_grad(set_to_none=True)
        loss, counts = self.backward(positions, spikes, labels) if len(labels) else (0.0, self.no_counts())
        [loss] = self.group.total(np.array([loss])).tolist()
        self.add_up()
        self.network.add_weight_penalty()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.options.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.options.clip_norm, norm)
        return loss, norm.item(), counts

    def backward(self, positions: NDArray[np.int64], spikes: Tensor, labels: Tensor) -> tuple[float, list[Tensor]]:
        """What this process's share of a batch adds to its loss and gradients; and the counts of each layer."""
        spikes, labels = spikes.to(self.device), labels.to(self.device)
        mine = self.group.share(positions)
        activity = self.network(spikes, labels)
        losses = self.network.rule.sample_loss(activity.output, labels)
        # Boosting multiplies the error of a sample, that is the gradient of its loss.
        weight = torch.from_numpy(self.boost[mine]).to(self.device)
        share = len(mine) / len(positions)
        ((losses * weight).mean() * share).backward()  # type: ignore[no-untyped-call]
        return losses.detach().mean().item() * share, [train.counts.detach() for train in activity.layers]

    def no_counts(self) -> list[Tensor]:
        """The counts of each layer of no sample."""
        return [torch.zeros(0, size) for size in self.network.sizes]

    def add_up(self) -> None:
        """Make the gradients of the shares those of the batch."""
        if self.group.size == 1:
            return
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # As the weights lie in memory, whatever the gradients do: it must be the same in all processes.
        self.group.sum_([p.grad if p.is_contiguous() else p.grad.T for p in self.parameters if p.grad is not None])

    def outcome(self, positions: NDArray[np.int64], counts: Sequence[Tensor]) -> tuple[NDArray[np.int64], list[float]]:
        """Predicted classes of a batch (B,) and the spikes of each layer, from the counts of the shares."""
        size = len(positions)
        values = np.zeros(size + len(counts))
        values[:size][self.group.part(size)] = counts[-1].argmax(dim=1).cpu().numpy()
        values[size:] = [layer.sum().item() for layer in counts]
        values = self.group.total(values)
        return values[:size].astype(np.int64), values[size:].tolist()

    def update(self, lr: float) -> None:
        """Move the weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for parameter, moved in zip(self.parameters, self.moved, strict=True):
            moved.grad = None if parameter.grad is None else _row_by_row(parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # the parameters hold them

    def divergence(self, what: str, epoch: int, tally: _Tally) -> str:
        """The message of a training that is no longer in numbers."""
        return (
            f"The {what} in epoch {epoch + 1} after {tally.samples} samples. "
            f"Lower train.lr (now {self.options.lr:g}) or set train.clip_norm, e.g. to {tally.usual_norm:.3g}."
        )

    def shuffle(self, epoch: int) -> None:
        """Order of an epoch: a permutation of its own, or the authors' transpositions of the order before it."""
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, ORDER_STREAM, epoch))))
        if self.options.shuffle == "full":
            self.order = generator.permutation(len(self.order))
            return
        for i, j in generator.integers(len(self.order), size=(TRANSPOSITIONS, 2)):
            self.order[i], self.order[j] = self.order[j], self.order[i]

    def warn_of_silence(self, tally: _Tally) -> None:
        """Report each layer that has not fired in this epoch, once a run."""
        for name, rate in tally.rates.items():
            if rate == 0.0 and name not in self.warned:
                self.warned.add(name)
                self.observer.warn(
                    f"Layer {name} has not fired once in {tally.samples} samples, so nothing before it can learn. "
                    "Lower its threshold (model.v_th), or give it more input (model.init_scale, encoder.steps)."
                )

    def confusion(self, name: str, split: Split) -> NDArray[np.int64]:
        """Evaluate a split: how often each class (row) was taken for each (column)."""

        def progress(done: int) -> None:
            self.observer.evaluating(name, done, len(split))

        classes = len(self.dataset.classes)
        predicted = predict(self.network, split, self.encoder, self.device, progress, self.group)
        return np.bincount(split.labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


class _Tally:
    """Running means over an epoch."""

    def __init__(self, network: Network) -> None:
        self.names, self.sizes = network.layer_names, network.sizes
        self.batches = self.samples = self.correct = 0
        self.total_loss = self.total_norm = 0.0
        self.spikes = [0.0] * len(self.names)

    def add(self, loss: float, norm: float, spikes: list[float], correct: int, samples: int) -> None:
        self.batches += 1
        self.samples += samples
        self.correct += correct
        self.total_loss += loss * samples
        if math.isfinite(norm):
            self.total_norm += norm
        self.spikes = [total + new for total, new in zip(self.spikes, spikes, strict=True)]

    @property
    def loss(self) -> float:
        return self.total_loss / self.samples

    @property
    def accuracy(self) -> float:
        return self.correct / self.samples

    @property
    def usual_norm(self) -> float:
        return self.total_norm / self.batches

    @property
    def rates(self) -> dict[str, float]:
        """Spikes per neuron and presentation of each layer."""
        return {
            name: spikes / (size * self.samples)
            for name, size, spikes in zip(self.names, self.sizes, self.spikes, strict=True)
        }


@torch.no_grad()
def predict(
    network: Network,
    split: Split,
    encoder: Encoder,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
    group: Group | None = None,
) -> NDArray[np.int64]:
    """Predicted class of each sample, (S,): the output neuron that fires most, the first of several."""
    group = group or Group()
    predicted = np.empty(len(split), dtype=np.int64)
    done, size = 0, EVALUATION_BATCH * group.size
    for positions, spikes, _ in batches(split, np.arange(len(split)), encoder, 0, size, device, share=group.share):
        classes = np.zeros(len(positions))
        if len(spikes):
            counts = network(spikes.to(device)).output.counts
            classes[group.part(len(positions))] = counts.argmax(dim=1).cpu().numpy()
        predicted[positions] = group.total(classes)
        done += len(positions)
        if progress is not None:
            progress(done)
    return predicted


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of the samples on the diagonal."""
    return float(np.trace(confusion) / max(1, confusion.sum()))


def boost_wrong(boost: NDArray[np.float32], labels: NDArray[np.int64], wrong: NDArray[np.bool_]) -> None:
    """Boosting in place: wrong samples of class c grow by exp(error_c / 20), error_c the weighted share of them."""
    for label in np.unique(labels):
        of_class = labels == label
        error = boost[of_class & wrong].sum() / boost[of_class].sum()
        boost[of_class & wrong] *= np.exp(error / BOOSTING_RATE)


@torch.no_grad()
def record_raster(
    network: Network, split: Split, encoder: Encoder, device: torch.device, sample: int = 0
) -> tuple[dict[str, NDArray[np.uint8]], int, int]:
    """Spikes (T, N) of the input and of every layer for one sample, its label and the predicted class."""
    spikes = encoder.encode(split.samples[[sample]], split.index[[sample]], 0)
    activity = network.to(device)(torch.from_numpy(spikes).to(device))
    layers = {"input": unpack(torch.from_numpy(spikes), network.inputs)[0].numpy()}
    for name, train in zip(network.layer_names, activity.layers, strict=True):
        layers[name] = unpack(train.spikes[:1], train.counts.shape[1])[0].cpu().numpy()
    return layers, int(split.labels[sample]), int(activity.output.counts.argmax().item())


def _row_by_row(tensor: Tensor) -> Tensor:
    """A matrix or its transpose, whichever lies in memory row by row; no copy."""
    return tensor if tensor.is_contiguous() else tensor.T


def _copy_state(network: Network) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
