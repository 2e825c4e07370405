"""Liquids with plastic input synapses, step by step from the equations, in float32 or float64."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrun.kernels.neuron import slack_threshold
from snnrun.kernels.packed import pack, unpack
from snnrun.kernels.plastic import Liquids, Stdp


def liquid_learn(
    spikes_in: Tensor, liquids: Liquids, weight: Tensor, raised: Tensor, stdp: Stdp, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Present samples one after another to liquids whose input synapses learn meanwhile.

    Every step: a = (1 - 1 / tau_s) a + sum of the weights of the synapses that had a spike in the step before;
    u = (1 - 1 / tau_m) u + a / tau_s, or 0 in the refractory period. Neuron i fires if u exceeds v_th + h_i, where h_i
    decays by `keep` in each step and grows by `rise` at each spike. A spike sets u to 0, and changes the plastic
    synapses of its neuron: w <- w + rate (x - offset) (w_max - w)^power, within 0 and w_max. x = exp(-d / tau), where d
    is the number of steps since the input's last spike arrived; without one x is 0. Membranes, currents and traces
    begin anew with each sample. Weights and thresholds are kept. With a `total`, the plastic weights of each neuron are
    scaled to it after each sample.

    Args:
        spikes_in: bits (B, T, W) of the inputs.
        liquids: their wiring.
        weight: (S,) of the plastic synapses, mV.
        raised: h, (L N,), mV.
        stdp: constants.
        rate: learning rate.

    Returns:
        bits of the spikes (B, L, T, W_N), firing counts (B, L N), and the new `weight` and `raised`.
    """
    weight, raised, spikes = weight.clone(), raised.clone(), []
    for sample in unpack(spikes_in, liquids.edges[-1], weight.dtype):
        spikes.append(_present(sample, liquids, weight, raised, stdp, rate))
        if stdp.total:
            sums = torch.zeros_like(raised).index_add_(0, liquids.post, weight)[liquids.post]
            scaled = torch.where(sums > 0, weight * (stdp.total / sums), weight).clamp_(max=stdp.w_max)
            weight.copy_(scaled)
    return *_packed(spikes, liquids), weight, raised


def liquid_respond(
    spikes_in: Tensor, liquids: Liquids, weight: Tensor, raised: Tensor, stdp: Stdp
) -> tuple[Tensor, Tensor]:
    """Present samples to the same liquids without learning: weights and thresholds stay. Returns spikes and counts."""
    samples = unpack(spikes_in, liquids.edges[-1], weight.dtype)
    return _packed([_present(sample, liquids, weight, raised, stdp, None) for sample in samples], liquids)


def _packed(spikes: list[Tensor], liquids: Liquids) -> tuple[Tensor, Tensor]:
    trains = torch.stack(spikes)  # (B, T, L N)
    batch, steps, _ = trains.shape
    by_liquid = trains.view(batch, steps, liquids.number, liquids.neurons).transpose(1, 2)
    bits = pack(by_liquid.flatten(0, 1))
    return bits.view(batch, liquids.number, steps, -1), trains.sum(dim=1)


def _present(
    inputs: Tensor, liquids: Liquids, weight: Tensor, raised: Tensor, stdp: Stdp, rate: float | None
) -> Tensor:
    """Spikes (T, L N) of a sample (T, I). With a rate, `weight` and `raised` change."""
    lif, recurrent = stdp.lif, liquids.recurrent
    u, a = torch.zeros_like(raised), torch.zeros_like(raised)
    hold = torch.zeros_like(raised, dtype=torch.int64)
    last = torch.full((inputs.shape[1],), -1, dtype=torch.int64, device=inputs.device)
    spikes = inputs.new_zeros(len(inputs), len(raised))
    for t in range(1, len(inputs)):
        if rate is not None:
            raised *= stdp.keep
        last[inputs[t - 1] > 0] = t
        a = lif.decay_s * a
        a = a.index_add(0, liquids.post, weight * inputs[t - 1][liquids.pre])
        a = a.index_add(0, recurrent.post, recurrent.weight.to(a) * spikes[t - 1][recurrent.pre])
        u = torch.where(hold > 0, 0.0, lif.decay_m * u + a / lif.tau_s)
        hold = (hold - 1).clamp(min=0)
        fires = u > slack_threshold(lif.v_th, u.dtype) + raised
        spikes[t] = fires.to(spikes)
        u, hold = torch.where(fires, 0.0, u), torch.where(fires, int(lif.t_ref), hold)
        if rate is not None:
            raised += stdp.rise * fires.to(raised)
            trace = torch.where(last > 0, torch.exp((last - t).to(u) / stdp.tau), 0.0)
            change = rate * (trace[liquids.pre] - stdp.offset) * (stdp.w_max - weight).pow(stdp.power)
            changed = (weight + change).clamp(0.0, stdp.w_max)
            weight.copy_(torch.where(fires[liquids.post], changed, weight))
    return spikes
