"""Batches, encoded ahead or when they are asked for."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from snnrun import data, encoders, parallel
from snnrun.batches import batches

CPU = torch.device("cpu")


class Noted:
    """An encoder that notes which threads it works in, and fails at a sample if asked to."""

    kinds, steps = ("image",), 6

    def __init__(self, fails_at: int | None = None) -> None:
        self.encoder = encoders.build("poisson", seed=3, steps=6, attenuation=2.0)
        self.fails_at, self.threads = fails_at, set()

    def encode(self, samples: Any, index: Any, epoch: int) -> Any:
        self.threads.add(threading.current_thread().name)
        if self.fails_at in index:
            raise LookupError(f"sample {self.fails_at}")
        return self.encoder.encode(samples, index, epoch)


def all_of(threads: int, encoder: Noted, **options: Any) -> list[tuple[list[int], torch.Tensor, torch.Tensor]]:
    parallel.set_threads(threads)
    split = data.load("digits", limit=37).train
    order = np.random.default_rng(0).permutation(37)
    return [(p.tolist(), s, y) for p, s, y in batches(split, order, encoder, 2, 10, CPU, **options)]


def test_batches_are_the_same_whether_encoded_ahead_or_not():
    apart, here, one = Noted(), Noted(), Noted()
    expected = all_of(1, one)
    assert [len(positions) for positions, _, _ in expected] == [10, 10, 10, 7]
    for found in all_of(2, apart), all_of(2, here, ahead=False):
        for (p, s, y), (p_, s_, y_) in zip(found, expected, strict=True):
            assert p == p_
            assert torch.equal(s, s_)
            assert torch.equal(y, y_)
    main = threading.current_thread().name
    assert one.threads == here.threads == {main}
    assert len(apart.threads) == 1
    assert main not in apart.threads


def test_an_error_of_the_encoder_is_raised():
    with pytest.raises(LookupError, match="sample"):
        all_of(2, Noted(fails_at=int(data.load("digits", limit=37).train.index[5])))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encode")]


def test_who_stops_early_leaves_no_thread_behind():
    parallel.set_threads(2)
    split = data.load("digits", limit=37).train
    source = batches(split, np.arange(37), Noted(), 1, 5, CPU)
    next(source)
    source.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encode")]
