"""STBP's cpu kernels against the reference: the same spikes and membranes, the gradients to tolerance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import CASES, SEEDS, SIZES, STBPS, Case, assert_close, assert_same_spikes, single, thresholds
from torch import Tensor

from snnrun.compiled import parallel
from snnrun.kernels import Stbp, cpu, pack, reference, unpack
from snnrun.kernels.cpu import arrays, stbp


def matrix_of(layer: Case) -> Tensor:
    """Recurrent weights as STBP has them, (N, N), of a spectral radius about 1."""
    dense = layer.recurrent.dense(layer.neurons)
    return dense / max(1.0, math.sqrt(len(layer.recurrent.pre) / layer.neurons))


@given(CASES, STBPS, st.booleans(), st.booleans())
@settings(max_examples=120)
def test_stbp_spikes_and_membranes_are_the_references(layer, neuron, loop, bias):
    arguments = (
        layer.spikes_in, layer.weight, layer.credit[0] if bias else None, matrix_of(layer) if loop else None
    )  # fmt: skip
    spikes, counts, membrane = cpu.stbp_forward(*single(*arguments), neuron)
    expected = [reference.stbp_forward(*arguments, near) for near in thresholds(neuron)]
    exact, low, high = (result[0] for result in expected)
    same = assert_same_spikes(spikes, counts, exact, low, high, loop)
    assert_close(torch.where(same, membrane, 0.0), torch.where(same, expected[0][2], 0.0))


@given(st.integers(1, 4), st.integers(1, 14), SIZES, SIZES, st.booleans(), st.booleans(), SEEDS)
@settings(max_examples=60)
def test_stbp_spikes_at_the_threshold_are_the_references(batch, steps, inputs, neurons, strict, loop, seed):
    """Sums of eighths and halves of them are exact, and often exactly the threshold: no neuron may differ."""
    generator = torch.Generator().manual_seed(seed)
    spikes_in = pack(torch.rand(batch, steps, inputs, generator=generator) < 0.2)
    weight, bias = (torch.randint(-4, 5, shape, generator=generator) / 8 for shape in ((neurons, inputs), (neurons,)))
    recurrent = torch.randint(-2, 3, (neurons, neurons), generator=generator) / 8 if loop else None
    neuron = Stbp(0.5, 0.5, strict=strict)
    arguments = (spikes_in, weight, bias, recurrent, neuron)
    for actual, expected in zip(cpu.stbp_forward(*arguments), reference.stbp_forward(*arguments), strict=True):
        assert torch.equal(actual, expected)


@given(CASES, STBPS, st.booleans(), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=120)
def test_stbp_gradients_are_the_references(layer, neuron, loop, wants_input, by_counts, some):
    """For an error that differs by step, and for one of the counts, which is the same at each and takes no memory."""
    shape = (*layer.spikes.shape[:2], layer.neurons)
    generator = torch.Generator().manual_seed(shape[1])
    membrane, above = torch.randn(2, *shape, generator=generator).double().unbind()
    if by_counts:
        above = layer.gain[:, None].expand(shape)
    arguments = (above, layer.spikes_in, layer.spikes, membrane, layer.weight, matrix_of(layer) if loop else None)
    near_in = layer.spikes_in if some else None
    results = cpu.stbp_backward(*single(*arguments), neuron, wants_input, True, near_in)
    expected = reference.stbp_backward(*arguments, neuron, wants_input, True, near_in)
    for actual, wanted in zip(results, expected, strict=True):
        assert_close(actual, wanted)


def test_stbp_gradients_over_many_steps_are_those_of_autograd():
    """In several parts of the batch, for any number of threads the same bits: every input spike's and weight's."""
    torch.manual_seed(0)
    batch, steps, inputs, neurons = 5, 130, 70, 37
    rates = torch.where(torch.arange(inputs) % 7 == 0, 0.9, 0.1)  # some are silent more seldom than they fire
    neuron, spikes_in = Stbp(0.5, 0.9), pack(torch.rand(batch, steps, inputs) < rates)
    weight, loop = torch.randn(neurons, inputs) / 4, torch.randn(neurons, neurons) / 8
    spikes, _, membrane = cpu.stbp_forward(spikes_in, weight, None, loop, neuron)
    above, near_in = torch.randn(batch, steps, neurons), pack(torch.rand(batch, steps, inputs) < 0.3)
    results = []
    for number, floats in ((1, stbp.TRACE), (2, 1), (3, 2 * steps * 48)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stbp, "TRACE", floats)
            parallel.set_threads(number)
            results.append(
                cpu.stbp_backward(above, spikes_in, spikes, membrane, weight, loop, neuron, True, True, near_in)
            )
    parallel.set_threads(1)
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))
    inputs_, own = unpack(spikes_in, inputs, torch.double), unpack(spikes, neurons, torch.double)
    leaves = [value.double().requires_grad_() for value in (inputs_, weight, torch.zeros(neurons), loop)]
    u, o, ahead = torch.zeros(batch, neurons).double(), torch.zeros(batch, neurons).double(), []
    for t in range(steps):  # the spikes as they were, with the gradient of a ramp of width 1 around the threshold
        drive = leaves[0][:, t] @ leaves[1].T + leaves[2] + o @ leaves[3].T
        u = drive if t == 0 else u * 0.9 * (1 - o) + drive
        near = ((membrane[:, t] - neuron.v_th).abs() < 0.5).double()
        o = own[:, t] + near * (u - u.detach())
        ahead.append(o)
    expected = torch.autograd.grad((torch.stack(ahead, 1) * above).sum(), leaves)
    wanted = [reference.only_near(expected[0], near_in), *expected[1:]]
    for actual, exact in zip(results[0], wanted, strict=True):
        assert_close(actual, exact)


@pytest.mark.parametrize("steps", [1, 2, 3, 19, 20, 63, 64, 65, 130])
def test_inputs_are_listed_from_the_side_with_fewer_steps(steps):
    """For every number of spikes: the row of an input that usually fires costs one more."""
    fires = torch.rand(3, steps, steps + 1).argsort(1) < torch.arange(steps + 1)
    times, first, usual = arrays.sort_exceptions(pack(fires), steps + 1)
    for b, j in itertools.product(range(3), range(steps + 1)):
        often = bool(usual[b, j // 64] >> np.uint64(j % 64) & np.uint64(1))
        assert often == (steps - j + 1 < j)
        assert times[first[b, j] : first[b, j + 1]].tolist() == (fires[b, :, j] != often).nonzero().flatten().tolist()


def test_stbp_neurons_near_the_threshold_are_the_references():
    membrane = torch.cat([torch.linspace(-2, 3, 131).repeat(2, 3, 1), torch.tensor([0.5, 1.0]).repeat(2, 3, 1)], 2)
    for surrogate in ("rectangle", "polynomial", "sigmoid", "gaussian"):
        neuron = Stbp(0.5, 0.5, surrogate, 0.7)
        near = cpu.stbp_near(membrane, neuron)
        assert torch.equal(near, reference.stbp_near(membrane, neuron))
        assert (unpack(near, 133).float().mean() < 1) == neuron.bounded
