"""One step of a training: a batch changes a network, in one process or shared by several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.compiled.splitmix_arrays import keyed
from snnrun.data import Dataset
from snnrun.encoders import Encoder
from snnrun.network.model import LocalModel, Model
from snnrun.rules import Currents
from snnrun.train.averaging import Average
from snnrun.train.batches import Batch, batches
from snnrun.train.distributed import Group
from snnrun.train.optimiser import Optimiser, by_stride
from snnrun.train.options import Options


class Step(NamedTuple):
    """The results of the two passes of a batch.

    `loss` is the mean over the batch. `norm` is the norm of its gradient, before it is clipped. For this process's
    share of the batch, `scores` (b, C) are those of the classes, `counts` (b, N) the spikes of each layer that fires.
    """

    loss: float
    norm: float
    scores: Tensor
    counts: Sequence[Tensor] = ()

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers, so that the weights may move."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Training:
    """A model, the corpus that it learns, and how it learns: `gradients` and then `update`, batch by batch.

    Attributes:
        boost: Weight of each training sample's error, float32 (S,).
        optimiser: Moves the weights.
        average: What is averaged of them on the way.
    """

    def __init__(
        self,
        network: Model,
        dataset: Dataset,
        encoder: Encoder,
        options: Options,
        *,
        seed: int,
        device: torch.device,
        group: Group | None = None,
    ) -> None:
        self.network, self.dataset, self.encoder = network.to(device), dataset, encoder
        self.options, self.seed, self.device, self.group = options, seed, device, group or Group()
        self.boost = np.ones(len(dataset.train), dtype=np.float32)
        self.average = Average(self.network, options)
        self.renew_optimiser()

    @property
    def evaluated(self) -> Model:
        """The model that is evaluated and kept: the average, once there is one, or else the network."""
        return self.average.model or self.network

    def renew_optimiser(self) -> None:
        """Make a new optimiser, which has not moved the network's weights yet."""
        options = self.options
        self.optimiser = Optimiser(
            self.network.trained(),
            options.optimizer,
            options.momentum,
            options.weight_decay,
            options.decoupled_decay,
            self.network.apart(),
        )

    def align(self) -> None:
        """Give all processes the leader's weights, since different processors may round the updates differently."""
        averaged = self.average.model
        self.group.copy_([*self.network.parameters(), *(averaged.parameters() if averaged is not None else ())])

    def batches(self, order: NDArray[np.int64], epoch: int) -> Iterator[Batch]:
        """The training samples in this order, as batches for `gradients`, augmented and encoded for this epoch."""
        how = (self.device, self.dataset.augment, self.group.share)
        return batches(self.dataset.train, order, self.encoder, epoch, self.options.batch_size, *how)

    def gradients(
        self,
        positions: NDArray[np.int64],
        inputs: Tensor | Currents,
        labels: Tensor,
        epoch: int = 1,
        lr: float | None = None,
    ) -> Step:
        """Forward and backward pass of a batch. The weights do not change.

        Args:
            positions: positions of the batch among the training samples, (B,).
            inputs: bits or values of this process's share, (b, T, W) or (b, T, N), or currents.
            labels: labels of the share, (b,).
            epoch: from 1; what a model draws for a sample depends on it.
            lr: rate of a model that learns by itself; None for that of the options.
        """
        if isinstance(self.network, LocalModel):
            rate = self.options.lr if lr is None else lr
            assert isinstance(inputs, Tensor)
            outcome = self.network.present(inputs.to(self.device), labels.to(self.device), rate, epoch)
            return Step(0.0, 0.0, outcome.scores, list(outcome.counts))
        self.optimiser.clear()
        step = self._backward(positions, inputs, labels, epoch) if len(labels) else self._nothing()
        [loss] = self.group.total(np.array([step.loss])).tolist()
        self._add_up()
        self.network.add_weight_penalty()
        return step._replace(loss=loss, norm=self.optimiser.norm(self.options.clip_norm).item())

    def update(self, lr: float) -> None:
        """Move the weights at this learning rate, by the gradients of the last `gradients`."""
        if isinstance(self.network, LocalModel):
            self.network.accept()
        else:
            self.optimiser.step(lr)
            self.network.constrain()
            self.average.after_update()

    def outcome(self, positions: NDArray[np.int64], step: Step) -> tuple[NDArray[np.int64], list[float]]:
        """Predicted classes of a batch (B,) and total spikes of each layer that fires, from all shares."""
        size = len(positions)
        values = np.zeros(size + len(step.counts))
        values[:size][self.group.part(size)] = step.scores.argmax(dim=1).cpu().numpy()
        values[size:] = [layer.sum().item() for layer in step.counts]
        values = self.group.total(values)
        return values[:size].astype(np.int64), values[size:].tolist()

    def _backward(self, positions: NDArray[np.int64], inputs: Tensor | Currents, labels: Tensor, epoch: int) -> Step:
        """The results of this process's share of a batch, without the norm. Its gradients are in the parameters."""
        inputs, labels = inputs.to(self.device), labels.to(self.device)
        mine = self.group.share(positions)
        keys = sample_keys(self.seed, epoch, self.dataset.train.index[mine])
        outcome = self.network(inputs, labels, torch.from_numpy(keys).to(self.device))
        losses = self.network.sample_loss(outcome, labels)
        # Boosting multiplies the error of a sample, that is the gradient of its loss.
        weight = torch.from_numpy(self.boost[mine]).to(losses)
        # The gradient of a number needs no other; given one, PyTorch imports sympy to look at its shape.
        (losses * (weight / len(positions))).sum().backward()  # type: ignore[no-untyped-call]
        counts = [layer.detach() for layer in outcome.counts]
        return Step(losses.detach().sum().item() / len(positions), math.nan, outcome.scores.detach(), counts)

    def _nothing(self) -> Step:
        """The results for no samples."""
        scores = torch.zeros(0, len(self.dataset.classes))
        return Step(0.0, math.nan, scores, [torch.zeros(0, size) for size in self.network.spiking.values()])

    def _add_up(self) -> None:
        """Add up the gradients of the shares to those of the batch."""
        if self.group.size == 1:
            return
        parameters = self.optimiser.parameters
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # In the memory order of the weights, not of the gradients: the order must be the same in all processes.
        self.group.sum_([p.grad.permute(by_stride(p)) for p in parameters if p.grad is not None])


def sample_keys(seed: int, epoch: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each sample (S,), well mixed, that depends on seed, epoch and its number in the corpus alone."""
    return keyed(index, seed, epoch).view(np.int64)
