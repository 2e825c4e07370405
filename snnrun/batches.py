"""Encoded batches of a split, in the order that they are trained or evaluated in."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun import parallel
from snnrun.data import Augment, Split
from snnrun.encoders import Encoder

# Encoded batches that wait their turn.
PREFETCH = 2


def batches(
    split: Split,
    order: NDArray[np.int64],
    encoder: Encoder,
    epoch: int,
    batch_size: int,
    device: torch.device,
    augment: Augment | None = None,
    ahead: bool = True,
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Positions, bits of the spikes (B, T, W) and labels of each batch, on the CPU.

    They are encoded `ahead`, while a GPU computes or, with several threads, in the moments in which one core would wait
    for another; on a single thread there are none.
    """

    def encode(positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor, Tensor]:
        samples, index = split.samples[positions], split.index[positions]
        spikes = encoder.encode(samples if augment is None else augment(samples, index, epoch), index, epoch)
        return positions, torch.from_numpy(spikes), torch.from_numpy(split.labels[positions])

    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if not ahead or (device.type == "cpu" and parallel.threads() == 1):
        yield from map(encode, chunks)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="encode", initializer=parallel.work_alone) as pool:
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
