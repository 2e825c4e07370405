"""Spikes as bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from snnrun.compiled import packed_arrays
from snnrun.kernels import count_spikes, pack, unpack, words


@st.composite
def trains(draw) -> Tensor:
    """Spikes (B, T, N), from none to all, around the borders of words."""
    shape = (
        draw(st.integers(1, 4)),
        draw(st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 300]))),
        draw(st.one_of(st.integers(1, 20), st.sampled_from([63, 64, 65, 127, 128, 129, 200]))),
    )
    rate, seed = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0])), draw(st.integers(0, 2**31))
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate).to(torch.uint8)


@given(trains())
def test_unpacking_gives_the_spikes_back(spikes):
    bits = pack(spikes)
    assert bits.dtype == torch.int64
    assert bits.shape == (*spikes.shape[:2], words(spikes.shape[2]))
    assert torch.equal(unpack(bits, spikes.shape[2]), spikes)
    assert torch.equal(pack(unpack(bits, spikes.shape[2])), bits)


@given(trains())
def test_bits_lie_as_numpy_packs_them(spikes):
    """Neuron n of a step is bit n % 64 of word n // 64, and the rest of the last word is 0."""
    padded = np.zeros((*spikes.shape[:2], 64 * words(spikes.shape[2])), np.uint8)
    padded[:, :, : spikes.shape[2]] = spikes.numpy()
    expected = np.packbits(padded, axis=2, bitorder="little").view("<i8")
    assert np.array_equal(pack(spikes).numpy(), expected)


@given(trains())
def test_arrays_are_packed_as_tensors_are(spikes):
    bits = packed_arrays.pack(spikes.numpy())
    assert bits.dtype == np.int64
    assert np.array_equal(bits, pack(spikes).numpy())
    assert np.array_equal(packed_arrays.unpack(bits, spikes.shape[2]), spikes.numpy().astype(bool))
    assert np.array_equal(packed_arrays.pack(spikes[0].numpy().astype(bool)), bits[0])


def test_a_neuron_is_a_bit():
    for neuron in (0, 1, 62, 63, 64, 130):
        spikes = torch.zeros(1, 1, 131)
        spikes[0, 0, neuron] = 1
        expected = [0, 0, 0]
        expected[neuron // 64] = -(2**63) if neuron % 64 == 63 else 2 ** (neuron % 64)
        assert pack(spikes)[0, 0].tolist() == expected


@given(trains())
def test_counts(spikes):
    assert torch.equal(count_spikes(pack(spikes), spikes.shape[2]), spikes.sum(1).float())


@pytest.mark.parametrize("steps", [1, 255, 256, 700])
def test_counts_do_not_overflow(steps):
    spikes = torch.ones(2, steps, 3, dtype=torch.uint8)
    spikes[1, :, 2] = 0
    assert count_spikes(pack(spikes), 3).tolist() == [[steps] * 3, [steps, steps, 0]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
def test_everything_but_0_is_a_spike_whatever_the_type(dtype):
    spikes = torch.tensor([[[0, 1, 0, 3]]]).to(dtype)
    assert pack(spikes).item() == 0b1010


def test_types_of_the_results():
    bits = pack(torch.ones(1, 2, 3))
    assert unpack(bits, 3).dtype == torch.uint8
    assert unpack(bits, 3, torch.float64).tolist() == [[[1.0] * 3] * 2]
    assert count_spikes(bits, 3).dtype == torch.float32
    assert count_spikes(bits, 3, torch.float64).dtype == torch.float64


def test_views_are_read_as_they_are():
    """Neither spikes nor bits need to be contiguous."""
    spikes = (torch.rand(3, 70, 9, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    assert torch.equal(pack(spikes.transpose(1, 2)), pack(spikes.transpose(1, 2).contiguous()))
    bits = pack(spikes)
    assert torch.equal(unpack(bits[:, 1::2], 9), spikes[:, 1::2])
    assert torch.equal(unpack(bits.transpose(0, 1), 9), spikes.transpose(0, 1))
    assert torch.equal(count_spikes(bits[:, :-1], 9), spikes[:, :-1].sum(1).float())


@pytest.mark.parametrize(("neurons", "expected"), [(1, 1), (64, 1), (65, 2), (128, 2), (129, 3)])
def test_words(neurons, expected):
    assert words(neurons) == expected
