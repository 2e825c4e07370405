"""Encoded batches of a split, in the order that they are trained or evaluated in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.data import Augment, Split
from snnrun.encoders import Encoder

# Encoded batches that wait for a GPU while it computes. On a CPU the encoder has the same cores: it takes its turn, for
# encoding ahead on a thread of its own was measured to make two threads slower.
PREFETCH = 2


def batches(
    split: Split,
    order: NDArray[np.int64],
    encoder: Encoder,
    epoch: int,
    batch_size: int,
    device: torch.device,
    augment: Augment | None = None,
    share: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda positions: positions,
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Positions, bits of the spikes (B, T, W) and labels of each batch, on the CPU.

    Spikes and labels are of the positions that `share` takes; where it takes none, both are empty (0,).
    """

    def encode(positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor, Tensor]:
        mine = share(positions)
        if not len(mine):
            return positions, torch.empty(0), torch.empty(0)
        samples, index = split.samples[mine], split.index[mine]
        spikes = encoder.encode(samples if augment is None else augment(samples, index, epoch), index, epoch)
        return positions, torch.from_numpy(spikes), torch.from_numpy(split.labels[mine])

    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if device.type == "cpu":
        yield from map(encode, chunks)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode") as pool:
        waiting: list[Future[tuple[NDArray[np.int64], Tensor, Tensor]]] = []
        try:
            for chunk in chunks:
                waiting.append(pool.submit(encode, chunk))
                if len(waiting) > PREFETCH:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(cancel_futures=True)
