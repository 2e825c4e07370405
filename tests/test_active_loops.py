"""Who fires in a sample, closed up, and blocks of them spread over their lanes again: against plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnrun.compiled.jit import jit
from snnrun.compiled.vector import expand, store, zeros16
from snnrun.kernels import pack, unpack
from snnrun.kernels.cpu.active_loops import LANES, close_up, list_train, room_for_active, spread
from snnrun.kernels.cpu.arrays import as_words
from snnrun.kernels.cpu.spike_loops import ROOM


@jit
def closed(words: Any, b: int, active: Any) -> Any:
    return close_up(words, b, active)


@jit
def train_of(active: Any, neuron: int, out: Any) -> Any:
    return list_train(active, neuron, out)


@jit
def spread_over(active: Any, start: int, stop: int, values: Any, out: Any) -> None:
    groups = spread(active, start, stop)
    for group in range(groups[0], groups[1]):
        store(out, LANES * group, expand(values, active.begin[group], active.lanes[group], zeros16()))


@pytest.mark.slow
@given(
    steps=st.sampled_from([1, 2, 63, 64, 65, 130]),
    neurons=st.sampled_from([1, 15, 16, 17, 64, 65, 130, 200]),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    rate=st.sampled_from([0.02, 0.3, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_those_that_fire_are_closed_up_and_spread_again(
    steps: int, neurons: int, share: float, rate: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(2, 1, neurons, generator=generator) < share
    spikes = (torch.rand(2, steps, neurons, generator=generator) < rate) & fires
    words = as_words(pack(spikes))
    active = room_for_active(steps, words.shape[2])
    for b in range(2):  # the second one in the room that the first has left full
        wanted = np.flatnonzero(spikes[b].any(0).numpy())
        count = closed(words, b, active)
        assert active.neuron[:count].tolist() == wanted.tolist()
        found = unpack(torch.from_numpy(active.words.view(np.int64)), 64 * words.shape[2])[0].bool()
        assert torch.equal(found[:, :count], spikes[b][:, wanted])
        assert not found[:, count:].any()
        for neuron in wanted:
            out = np.empty(steps + ROOM, np.uint16)
            times = out[: train_of(active, int(neuron), out)]
            assert times.tolist() == spikes[b][:, neuron].nonzero()[:, 0].tolist()
        for start in range(0, count, 64):
            stop = min(start + 64, count)
            values = np.random.default_rng(seed).standard_normal(64).astype(np.float32)
            out, expected = np.zeros((2, 64 * words.shape[2]), np.float32)
            spread_over(active, start, stop, values, out)
            expected[wanted[start:stop]] = values[: stop - start]
            assert out.tolist() == expected.tolist()
