"""Liquids: how they are drawn, and the states that are read from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from snnrun.kernels import pack
from snnrun.liquid.readings import read, reading_weights
from snnrun.liquid.reservoir import Wiring, draw_inputs, draw_neurons

ZHANG = Wiring(0.8, (0.45, 0.3, 0.6, 0.15), 2.0, (3.0, 6.0, -2.0, -2.0))


def drawn(neurons: int, wiring: Wiring, seed: int = 0):
    return draw_neurons(neurons, wiring, torch.Generator().manual_seed(seed))


def test_synapses_have_the_probability_and_the_weight_of_their_types():
    neurons = drawn(800, ZHANG._replace(reach=None))
    assert float(neurons.excitatory.float().mean()) == pytest.approx(0.8, abs=0.04)
    recurrent, kind = neurons.recurrent, (~neurons.excitatory).long()
    pairs = 2 * kind[recurrent.pre] + kind[recurrent.post]
    possible = torch.bincount((2 * kind[:, None] + kind[None, :]).flatten(), minlength=4)
    share = torch.bincount(pairs, minlength=4) / possible
    assert share.tolist() == pytest.approx(list(ZHANG.strength), abs=0.02)
    assert all(set(recurrent.weight[pairs == k].tolist()) == {ZHANG.weights[k]} for k in range(4))
    order = recurrent.pre * 800 + recurrent.post
    assert (order.diff() > 0).all(), "by pre-neuron, then by post-neuron"


def test_synapses_become_rare_with_the_distance():
    """On the grid of 800, of 10 x 10 x 8."""
    recurrent = drawn(800, ZHANG).recurrent
    places = torch.cartesian_prod(torch.arange(10), torch.arange(10), torch.arange(8)).float()
    squared = (places[recurrent.pre] - places[recurrent.post]).square().sum(1)
    all_squared = torch.cdist(places, places).square().round()
    for at, near in ((1.0, 0.05), (4.0, 0.05), (9.0, 0.02)):
        share = float((squared == at).sum() / (all_squared == at).sum())
        assert share == pytest.approx(0.64 * 0.45 * math.exp(-at / 4) + 0.16 * 0.9 * math.exp(-at / 4), abs=near)


def test_each_input_reaches_as_many_neurons_with_either_sign():
    weights = draw_inputs(200, 50, 7, 3.0, torch.Generator().manual_seed(0))
    assert weights.shape == (50, 200)
    assert weights.T.is_contiguous()
    assert ((weights != 0).sum(0) == 7).all()
    assert set(weights.unique().tolist()) == {-3.0, 0.0, 3.0}
    assert float((weights > 0).sum() / (weights != 0).sum()) == pytest.approx(0.5, abs=0.05)


def test_the_seed_decides_the_liquid():
    one, same, other = (drawn(60, ZHANG, seed).recurrent for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert len(one.pre) != len(other.pre) or not torch.equal(one.pre, other.pre)


@pytest.mark.parametrize(("steps", "readings"), [(12, 1), (12, 3), (11, 4), (5, 5)])
def test_readings_are_those_of_their_definitions(steps, readings):
    generator = torch.Generator().manual_seed(3)
    spikes = (torch.rand(2, steps, 70, generator=generator) < 0.4).to(torch.uint8)
    trains, ends = spikes.numpy(), [(k + 1) * steps // readings for k in range(readings)]
    counts, filtered, x = [], [], np.zeros((2, 70))
    for t in range(steps):
        x = x * math.exp(-1 / 9.0) + trains[:, t]
        if t + 1 in ends:
            filtered.append(x.copy())
    for start, end in zip([0, *ends], ends, strict=False):
        counts.append(trains[:, start:end].sum(1))
    for kind, wanted in (("counts", counts), ("filtered", filtered)):
        state = read(pack(spikes), 70, reading_weights(kind, readings, 9.0, steps))
        assert state.shape == (2, 70 * readings)
        np.testing.assert_allclose(state.numpy(), np.concatenate(wanted, axis=1), rtol=1e-5)
