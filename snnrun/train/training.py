"""One step of a training: a batch changes a network, in one process or shared by several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.data import Dataset
from snnrun.encoders import Encoder
from snnrun.network import Network
from snnrun.train.batches import Batch, batches
from snnrun.train.distributed import Group
from snnrun.train.optimiser import Optimiser, by_stride
from snnrun.train.options import Options


class Step(NamedTuple):
    """The results of the two passes of a batch.

    `loss` is the mean over the batch. `norm` is the norm of its gradient, before it is clipped. `counts` (b, N) are the
    spikes of each layer, for this process's share of the batch.
    """

    loss: float
    norm: float
    counts: list[Tensor]

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers, so that the weights may move."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Training:
    """A network, the corpus that it learns, and how it learns: `gradients` and then `update`, batch by batch.

    Attributes:
        boost: Weight of each training sample's error, float32 (S,).
        optimiser: Moves the weights.
    """

    def __init__(
        self,
        network: Network,
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
        self.renew_optimiser()

    def renew_optimiser(self) -> None:
        """Make a new optimiser, which has not moved the network's weights yet."""
        options = self.options
        self.optimiser = Optimiser(self.network.trained(), options.optimizer, options.lr, options.momentum)

    def align(self) -> None:
        """Give all processes the leader's weights, since different processors may round the updates differently."""
        self.group.copy_(list(self.network.parameters()))

    def batches(self, order: NDArray[np.int64], epoch: int) -> Iterator[Batch]:
        """The training samples in this order, as batches for `gradients`, augmented and encoded for this epoch."""
        how = (self.device, self.dataset.augment, self.group.share)
        return batches(self.dataset.train, order, self.encoder, epoch, self.options.batch_size, *how)

    def gradients(self, positions: NDArray[np.int64], spikes: Tensor, labels: Tensor) -> Step:
        """Forward and backward pass of a batch. The weights do not change.

        Args:
            positions: positions of the batch among the training samples, (B,).
            spikes: bits of this process's share, (b, T, W).
            labels: labels of the share, (b,).
        """
        self.optimiser.clear()
        loss, counts = self._backward(positions, spikes, labels) if len(labels) else (0.0, self._no_counts())
        [loss] = self.group.total(np.array([loss])).tolist()
        self._add_up()
        self.network.add_weight_penalty()
        return Step(loss, self.optimiser.norm(self.options.clip_norm).item(), counts)

    def update(self, lr: float) -> None:
        """Move the weights at this learning rate, by the gradients of the last `gradients`."""
        self.optimiser.step(lr)

    def outcome(self, positions: NDArray[np.int64], counts: Sequence[Tensor]) -> tuple[NDArray[np.int64], list[float]]:
        """Predicted classes of a batch (B,) and total spikes of each layer, from the counts of all shares."""
        size = len(positions)
        values = np.zeros(size + len(counts))
        values[:size][self.group.part(size)] = counts[-1].argmax(dim=1).cpu().numpy()
        values[size:] = [layer.sum().item() for layer in counts]
        values = self.group.total(values)
        return values[:size].astype(np.int64), values[size:].tolist()

    def _backward(self, positions: NDArray[np.int64], spikes: Tensor, labels: Tensor) -> tuple[float, list[Tensor]]:
        """Loss and counts of this process's share of a batch. Its gradients are left in the parameters."""
        spikes, labels = spikes.to(self.device), labels.to(self.device)
        mine = self.group.share(positions)
        activity = self.network(spikes, labels)
        losses = self.network.rule.sample_loss(activity.output, labels)
        # Boosting multiplies the error of a sample, that is the gradient of its loss.
        weight = torch.from_numpy(self.boost[mine]).to(losses)
        losses.backward(weight / len(positions))  # type: ignore[no-untyped-call]
        return losses.detach().sum().item() / len(positions), [train.counts.detach() for train in activity.layers]

    def _no_counts(self) -> list[Tensor]:
        """The counts of each layer for no samples."""
        return [torch.zeros(0, size) for size in self.network.sizes]

    def _add_up(self) -> None:
        """Add up the gradients of the shares to those of the batch."""
        if self.group.size == 1:
            return
        parameters = list(self.network.parameters())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # In the memory order of the weights, not of the gradients: the order must be the same in all processes.
        self.group.sum_([p.grad.permute(by_stride(p)) for p in parameters if p.grad is not None])
