"""Random layers for which the kernels' backends must agree."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from hypothesis import event
from hypothesis import strategies as st
from torch import Tensor

from snnrun.kernels import Lif, Stbp, Synapses, pack, unpack
from snnrun.rules.base import synapse_index

# Loops work on 16, 32, 64 and 128 neurons and on words of 64 neurons or steps.
SIZES = st.one_of(st.integers(1, 20), st.sampled_from([33, 63, 64, 65, 100, 128, 130, 200]))
STEPS = st.one_of(st.integers(1, 70), st.sampled_from([1, 2, 63, 64, 65, 130]))
SEEDS = st.integers(0, 2**31)
NEAR = 1e-4  # mV
LIFS = st.builds(
    Lif,
    tau_m=st.sampled_from([2.6, 5.0, 20.0, 64.0]),  # HM2-BP's window of 4 tau_m is 10.4 steps at the least
    tau_s=st.sampled_from([4.0, 8.0]),
    t_ref=st.integers(0, 3),
    v_th=st.sampled_from([0.5, 2.0]),
)
STBPS = st.builds(
    Stbp,
    v_th=st.sampled_from([0.3, 1.0]),
    decay=st.sampled_from([0.2, 0.6, 0.9]),
    surrogate=st.sampled_from(["rectangle", "polynomial", "sigmoid", "gaussian"]),
    width=st.sampled_from([0.5, 1.0, 2.5]),
    strict=st.booleans(),
    exponential_reset=st.booleans(),
    temporal_gradient=st.booleans(),
)


class Case(NamedTuple):
    """Random tensors of a layer, in float64 with the values of float32."""

    spikes_in: Tensor  # bits of the inputs
    spikes: Tensor  # bits of the layer itself, at rates of their own
    counts: Tensor
    weight: Tensor
    recurrent: Synapses
    gain: Tensor
    credit: Tensor

    @property
    def neurons(self) -> int:
        return len(self.weight)


def case(
    batch: int, steps: int, inputs: int, neurons: int, rate: float, density: float, seed: int, silent: bool = False
) -> Case:
    """Trains from silent to firing at every step about `rate`; synapses, with self-connections, of about `density`.

    `silent`: the gains and credits of half of the samples are 0, and half of the neurons of each sample do not fire.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).double()

    def trains(size: int) -> Tensor:
        rates = torch.rand(batch, 1, size, generator=generator) ** (1 / rate - 1) if rate else torch.zeros(1, 1, 1)
        if 0 < rate < 1:
            rates[0, 0, 0], rates[-1, 0, -1] = 0.0, 1.0
        return torch.rand(batch, steps, size, generator=generator) < rates

    own = trains(neurons)
    if silent:
        own &= torch.rand(batch, 1, neurons, generator=generator) < 0.5
    pre, post = synapse_index(torch.rand(neurons, neurons, generator=generator) < density)
    recurrent = Synapses(normal(len(pre)) * math.sqrt(6 / max(6, neurons * density)), pre, post)
    some = torch.arange(batch)[:, None] % 2 == 0 if silent else torch.ones(batch, 1)
    return Case(
        pack(trains(inputs)), pack(own), own.sum(1).double(), normal(neurons, inputs) * math.sqrt(20 / (20 + inputs)),
        recurrent, normal(batch, neurons) * some, normal(batch, neurons) * some,
    )  # fmt: skip


CASES = st.builds(
    case,
    batch=st.integers(1, 9),
    steps=STEPS,
    inputs=SIZES,
    neurons=SIZES,
    rate=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=SEEDS,
    silent=st.booleans(),
)


def single(*values: Any) -> list[Any]:
    """The values with floats as float32."""
    converted: list[Any] = []
    for value in values:
        if isinstance(value, Synapses):
            value = Synapses(*single(*value))
        elif isinstance(value, Tensor) and value.is_floating_point():
            value = value.float()
        converted.append(value)
    return converted


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """1e-5 of the largest entry."""
    assert actual.shape == expected.shape
    assert actual.dtype == torch.float32
    scale = expected.abs().max().clamp(min=1e-6).item() if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0.0, atol=1e-5 * scale)


def assert_same_spikes(
    bits: Tensor, counts: Tensor, exact: Tensor, low: Tensor, high: Tensor, recurrent: bool
) -> Tensor:
    """Compare bits with the reference's; returns where they must be the same, (B, T, N).

    A neuron may differ from the step on at which a threshold 1e-4 mV lower or higher changes the reference's spikes:
    there its membrane stands that near to the threshold. In a recurrent layer so may its whole sample.
    """
    neurons = counts.shape[1]
    fired, wanted, below, above = (unpack(packed, neurons) for packed in (bits, exact, low, high))
    assert torch.equal(bits, pack(fired)), "bits are set beyond the last neuron"
    assert torch.equal(counts, fired.sum(1).float()), "the counts are not those of the spikes"
    near = (below != above).cummax(dim=1).values
    if recurrent:
        near = near.any(dim=2, keepdim=True).expand_as(near)
    differ = fired != wanted
    if differ.any():
        event("spikes differ, all of them near the threshold" if not (differ & ~near).any() else "spikes are wrong")
    assert not (differ & ~near).any()
    return ~near


def thresholds(neuron: Any) -> list[Any]:
    """The neuron, and with its threshold a little lower and higher."""
    return [neuron._replace(v_th=neuron.v_th + shift) for shift in (0.0, -NEAR, NEAR)]
