"""Encoded batches of a split, in the order of training or evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.data import Augmentation, Split
from snnrun.encoders import Encoder, RecordingEncoder, encode_ahead, makes_currents
from snnrun.rules import Currents

# Encoded batches that wait for a GPU while it computes. On a CPU the encoder uses the same cores: the next batch is
# begun, and threads encode it while they would otherwise wait for one another.
PREFETCH = 2

# The authors' shuffle: this many random transpositions an epoch.
TRANSPOSITIONS = 5000
# The stream of the run's seed that gives the order of the samples.
ORDER_STREAM = 0x6F72646572

Batch = tuple[NDArray[np.int64], Tensor | Currents, Tensor]


def shuffled(order: NDArray[np.int64], how: str, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order (S,) of an epoch: a new permutation, or the authors' `transpositions` of the order before it."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, ORDER_STREAM, epoch))))
    if how == "full":
        return generator.permutation(len(order))
    order = order.copy()
    for i, j in generator.integers(len(order), size=(TRANSPOSITIONS, 2)):
        order[i], order[j] = order[j], order[i]
    return order


def as_input(encoder: Encoder | RecordingEncoder, made: NDArray[Any]) -> Tensor | Currents:
    """What a model gets of what an encoder has made of a batch: bits of spikes, values, or currents."""
    tensor = torch.from_numpy(made)
    return Currents(tensor, encoder.steps or tensor.shape[1]) if makes_currents(encoder) else tensor


def steps_of(given: Tensor | Currents) -> int:
    """T of an input."""
    return given.steps if isinstance(given, Currents) else given.shape[1]


def batches(
    split: Split,
    order: NDArray[np.int64],
    encoder: Encoder,
    epoch: int,
    batch_size: int,
    device: torch.device,
    augment: Augmentation | None = None,
    share: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda positions: positions,
    ahead: bool = True,
) -> Iterator[Batch]:
    """Positions, input (bits of the spikes, or currents) and labels of each batch, on the CPU.

    Input and labels belong to the positions that `share` takes. If it takes none, both are empty (0,). With `ahead`,
    the encoding of the next batch begins before the loop needs it.
    """

    def start(positions: NDArray[np.int64]) -> Callable[[], Batch]:
        mine = share(positions)
        if not len(mine):
            return lambda: (positions, torch.empty(0), torch.empty(0))
        samples, index, labels = split.samples[mine], split.index[mine], split.labels[mine]
        shown = samples if augment is None else augment(samples, index, epoch)
        bits = encode_ahead(encoder, shown, index, epoch)
        return lambda: (positions, as_input(encoder, bits()), torch.from_numpy(labels))

    def encode(positions: NDArray[np.int64]) -> Batch:
        return start(positions)()

    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if device.type == "cpu":
        yield from _one_ahead(start, chunks) if ahead else map(encode, chunks)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode") as pool:
        waiting: list[Future[Batch]] = []
        try:
            for chunk in chunks:
                waiting.append(pool.submit(encode, chunk))
                if len(waiting) > PREFETCH:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(cancel_futures=True)


def _one_ahead(
    start: Callable[[NDArray[np.int64]], Callable[[], Batch]], chunks: Sequence[NDArray[np.int64]]
) -> Iterator[Batch]:
    """Each batch, after the encoding of the next one has begun."""
    waiting: Callable[[], Batch] | None = None
    for chunk in (*chunks, None):
        batch = None if waiting is None else waiting()
        waiting = None if chunk is None else start(chunk)
        if batch is not None:
            yield batch
