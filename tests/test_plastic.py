"""Liquids whose input synapses learn: the compiled loops, the reference, and loops written from the equations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from snnrun.compiled import parallel
from snnrun.kernels import Lif, Synapses, cpu, pack, reference, unpack
from snnrun.kernels.plastic import Liquids, Stdp

STDP = Stdp(Lif(20.0, 5.0, 2, 1.5), tau=9.0, offset=0.3, w_max=2.0, power=0.5, rise=0.2, keep=0.99, total=0.0)


def liquids(neurons: int = 7, edges: tuple[int, ...] = (0, 5, 9), seed: int = 0) -> tuple[Liquids, torch.Tensor]:
    """Liquids with half of all synapses, and their plastic weights."""
    generator = torch.Generator().manual_seed(seed)

    def pairs(rows: int, columns: int) -> tuple[torch.Tensor, ...]:
        return (torch.rand(rows, columns, generator=generator) < 0.5).nonzero().T.contiguous().unbind()

    plastic, around = [], []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        pre, post = pairs(high - low, neurons)
        plastic.append((pre + low, post + number * neurons))
        pre, post = pairs(neurons, neurons)
        around.append((pre + number * neurons, post + number * neurons))
    (pre, post), (inner, outer) = (
        [torch.cat(each) for each in zip(*group, strict=True)] for group in (plastic, around)
    )
    recurrent = Synapses(torch.randn(len(inner), generator=generator) * 0.3, inner, outer)
    return Liquids(neurons, edges, pre, post, recurrent), torch.rand(len(pre), generator=generator) * 2


def trains(batch: int = 3, steps: int = 60, inputs: int = 9, density: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(batch, steps, inputs, generator=generator) < density).to(torch.uint8)


def by_hand(spikes_in: np.ndarray, wiring: Liquids, weight: list[float], h: list[float], s: Stdp, rate: float) -> Any:
    """The equations of `reference.liquid_learn`, one synapse at a time, in Python's floats."""
    neurons, lif = wiring.neurons * wiring.number, s.lif
    plastic = list(zip(wiring.pre.tolist(), wiring.post.tolist(), strict=True))
    around = [each.tolist() for each in wiring.recurrent]
    trains = np.zeros((len(spikes_in), spikes_in.shape[1], neurons), np.uint8)
    for b, sample in enumerate(spikes_in):
        u, a, held = [0.0] * neurons, [0.0] * neurons, [0] * neurons
        arrived: dict[int, int] = {}
        for t in range(1, len(sample)):
            h[:] = [value * s.keep for value in h]
            a = [value * (1 - 1 / lif.tau_s) for value in a]
            for k, (j, i) in enumerate(plastic):
                if sample[t - 1, j]:
                    a[i] += weight[k]
            for w, p, i in zip(*around, strict=True):
                if trains[b, t - 1, p]:
                    a[i] += w
            arrived |= {j: t for j in range(sample.shape[1]) if sample[t - 1, j]}
            for i in range(neurons):
                u[i] = (1 - 1 / lif.tau_m) * u[i] + a[i] / lif.tau_s
                if held[i]:
                    u[i], held[i] = 0.0, held[i] - 1
                if u[i] > lif.v_th - 1e-6 + h[i]:
                    trains[b, t, i], u[i], held[i] = 1, 0.0, lif.t_ref
                    h[i] += s.rise
                    for k, (j, post) in enumerate(plastic):
                        if post == i:
                            x = math.exp(-(t - arrived[j]) / s.tau) if j in arrived else 0.0
                            w = weight[k] + rate * (x - s.offset) * (s.w_max - weight[k]) ** s.power
                            weight[k] = min(max(w, 0.0), s.w_max)
        if s.total:
            for i in range(neurons):
                own = [k for k, (_, post) in enumerate(plastic) if post == i]
                sum_ = sum(weight[k] for k in own)
                for k in own:
                    weight[k] = min(weight[k] * s.total / sum_, s.w_max) if sum_ else weight[k]
    return trains


@pytest.mark.parametrize("changes", [{}, {"total": 2.0, "power": 0.0}, {"rise": 0.0, "lif": Lif(64.0, 8.0, 0, 3.0)}])
def test_the_reference_and_the_loops_are_the_equations(changes):
    """In float64 to rounding. In float32 with the same spikes."""
    stdp, (wiring, weight) = STDP._replace(**changes), liquids()
    spikes_in = trains()
    own, h = weight.double().tolist(), [0.05] * 14
    expected = by_hand(spikes_in.numpy(), wiring, own, h, stdp, 0.05)
    assert expected.sum() > 200, "the liquids hardly fire"
    assert (np.abs(np.array(own) - weight.numpy()) > 0.05).mean() > 0.5, "the weights hardly change"
    raised = torch.full((14,), 0.05, dtype=torch.float64)
    for backend, dtype, near in ((reference, torch.float64, 1e-12), (cpu, torch.float32, 1e-4)):
        spikes, counts, learnt, higher = backend.liquid_learn(
            pack(spikes_in), wiring, weight.to(dtype), raised.to(dtype), stdp, 0.05
        )
        for k in range(2):
            assert np.array_equal(unpack(spikes[:, k], 7).numpy(), expected[:, :, 7 * k : 7 * k + 7])
        assert np.array_equal(counts.numpy(), expected.sum(axis=1))
        assert learnt.tolist() == pytest.approx(own, abs=near)
        assert higher.tolist() == pytest.approx(h, abs=near)


def test_without_learning_nothing_changes_and_every_sample_is_alone():
    wiring, weight = liquids()
    spikes_in, raised = pack(trains()), torch.full((14,), 0.1)
    for backend in (reference, cpu):
        spikes, counts = backend.liquid_respond(spikes_in, wiring, weight, raised, STDP)
        alone = [backend.liquid_respond(spikes_in[[b]], wiring, weight, raised, STDP)[1] for b in range(3)]
        assert torch.equal(counts, torch.cat(alone))
        still, _, same, _ = backend.liquid_learn(
            spikes_in[:1], wiring, weight, raised, STDP._replace(keep=1, rise=0), 0.0
        )
        assert torch.equal(still, spikes[:1])
        assert torch.equal(same, weight)
    assert torch.equal(counts, reference.liquid_respond(spikes_in, wiring, weight, raised, STDP)[1])


def test_learning_does_not_depend_on_threads_or_on_the_batch():
    wiring, weight = liquids(neurons=70, edges=(0, 30, 64, 65, 90))
    spikes_in, raised = pack(trains(batch=4, inputs=90)), torch.zeros(280)
    results = []
    for threads in (1, 2, 3):
        parallel.set_threads(threads)
        results.append(cpu.liquid_learn(spikes_in, wiring, weight, raised, STDP, 0.01))
        w, h = weight, raised
        for b in range(4):
            _, _, w, h = cpu.liquid_learn(spikes_in[[b]], wiring, w, h, STDP, 0.01)
        assert torch.equal(w, results[0][2])
        assert torch.equal(h, results[0][3])
    parallel.set_threads(1)
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))
    assert not torch.equal(results[0][2], weight)
