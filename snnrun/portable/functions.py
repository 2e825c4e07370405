"""Functions of the exported PyTorch modules: `source` copies the text of those that a model needs into its file.

They need PyTorch alone. Spikes are 0.0 and 1.0, (B, T, N). `drive` (B, T, N) is what the weighted input adds to each
neuron in each step, and `loop` (N, N) the recurrent weights, to row from column. The recursions are those of
`kernels.reference`, in the same order of operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def stbp(drive: Tensor, loop: Tensor | None, v_th: float, decay: float, after_spike: float, strict: bool) -> Tensor:
    """Spikes of STBP's neurons (Wu et al. 2018), which fire at the threshold, or only above it if `strict`.

    A step keeps the share `decay` of the membrane u, or `after_spike` if the neuron has just fired.
    """
    spikes = torch.empty_like(drive)
    u = fired = torch.zeros_like(drive[:, 0])
    for t in range(drive.shape[1]):
        u = u * (decay + (after_spike - decay) * fired) + drive[:, t]
        if loop is not None:
            u = torch.addmm(u, fired, loop.T)
        fired = (u > v_th if strict else u >= v_th).to(u.dtype)
        spikes[:, t] = fired
    return spikes


def alif(
    drive: Tensor,
    loop: Tensor | None,
    kept: Tensor,
    after_spike: Tensor,
    adaptation_decay: Tensor,
    v_th: float,
    rise: float,
    strict: bool,
) -> Tensor:
    """Spikes of STBP's neurons with constants of their own, (N,), and thresholds that adapt (Bellec et al. 2018).

    A step keeps the share `kept` of the membrane u, or `after_spike` if the neuron has just fired. The adaptation a,
    the recent rate of its own spikes, raises its threshold by `rise` a.
    """
    spikes = torch.empty_like(drive)
    u = a = fired = torch.zeros_like(drive[:, 0])
    for t in range(drive.shape[1]):
        u = u * torch.where(fired > 0, after_spike, kept) + drive[:, t]
        if loop is not None:
            u = torch.addmm(u, fired, loop.T)
        a = a * adaptation_decay + (1.0 - adaptation_decay) * fired
        x = u - rise * a
        fired = (x > v_th if strict else x >= v_th).to(u.dtype)
        spikes[:, t] = fired
    return spikes


def lif(drive: Tensor, loop: Tensor | None, v_th: float, tau_m: float, tau_s: float, t_ref: int) -> Tensor:
    """Spikes of leaky integrate-and-fire neurons with synaptic current a and membrane u, which fire above `v_th`, mV.

    Time constants are in steps. Spikes arrive after one step. A spike sets u to 0, where it stays for `t_ref` steps.
    """
    spikes = torch.zeros_like(drive)
    a = u = fired = torch.zeros_like(drive[:, 0])
    since = torch.full_like(u, t_ref + 1.0)  # steps since the last spike
    for t in range(1, drive.shape[1]):
        a = a * (1.0 - 1.0 / tau_s) + drive[:, t - 1]
        if loop is not None:
            a = torch.addmm(a, fired, loop.T)
        u = torch.add(u * (1.0 - 1.0 / tau_m), a, alpha=1.0 / tau_s)
        u = u.masked_fill(since <= t_ref, 0.0)
        fired = (u > v_th).to(u.dtype)
        u = u.masked_fill(fired > 0, 0.0)
        since = torch.where(fired > 0, 1.0, since + 1.0)
        spikes[:, t] = fired
    return spikes


def srm(
    drive: Tensor,
    loop: Tensor | None,
    v_th: float,
    rise: float,
    decay_s: float,
    refractoriness: float,
    decay_r: float,
    alpha: bool,
) -> Tensor:
    """Spikes of SLAYER's spike response neurons (Shrestha & Orchard 2018), which fire at `v_th`, mV.

    The response to a spike is t `decay_s`^t, times `rise`, by the cascaded filters p and q. That to a spike of the
    neuron itself is `refractoriness` times `decay_r`^t, or t `decay_r`^t if `alpha`.
    """
    spikes = torch.empty_like(drive)
    p = q = refractory = delayed = fired = torch.zeros_like(drive[:, 0])
    for t in range(drive.shape[1]):
        if loop is not None:
            p = torch.addmm(p, fired, loop.T, alpha=rise)
        q = decay_s * (q + p)
        p = decay_s * p + rise * drive[:, t]
        refractory = refractory + refractoriness * fired
        delayed = decay_r * (delayed + refractory)
        refractory = decay_r * refractory
        fired = (q + (delayed if alpha else refractory) >= v_th).to(q.dtype)
        spikes[:, t] = fired
    return spikes


def wta(drive: Tensor, threshold: Tensor, decay: float, t_ref: float, inhibition: float) -> Tensor:
    """Spikes of the neurons of Lee, Delbruck and Pfeiffer (2016), with a `threshold` each, (N,).

    A spike lowers its neuron's membrane by the threshold, and the others' by the share `inhibition` of theirs; none
    falls below minus the threshold. Within `t_ref` steps of a spike the input counts less.
    """
    spikes = torch.empty_like(drive)
    v = torch.zeros_like(drive[:, 0])
    since = torch.full_like(v, torch.inf)
    for t in range(drive.shape[1]):
        share = (since / t_ref).square().clamp(max=1.0) if t_ref else 1.0
        v = torch.maximum(decay * v + share * drive[:, t], -threshold)
        fired = (v >= threshold).to(v.dtype)
        v = v - threshold * fired
        if inhibition:
            others = fired.sum(1, keepdim=True) - fired
            v = torch.maximum(v - inhibition * threshold * others, -threshold)
        since = torch.where(fired > 0, 1.0, since + 1.0)
        spikes[:, t] = fired
    return spikes


def each_step(layer: Callable[[Tensor], Tensor], values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """A layer over the images (channels, rows, columns) of each step of values (B, T, N): (B, T, M)."""
    images = values.reshape(-1, *shape)
    return layer(images).reshape(*values.shape[:2], -1)


def delayed(spikes: Tensor, steps: Tensor) -> Tensor:
    """Spikes (B, T, N) that come so many `steps`, (N,) int64, later."""
    last = spikes.shape[1] - 1
    time = torch.arange(last + 1, device=spikes.device)[:, None] - steps
    return spikes.gather(1, time.clamp(0, last).expand_as(spikes)) * (time >= 0)


def held(drive: Tensor, steps: int) -> Tensor:
    """The drive of each of T `steps`, (B, T, N), from that of K values, (B, K, N), each for an equal part of them."""
    return drive[:, torch.arange(steps, device=drive.device) * drive.shape[1] // steps]


def binned(spikes: Tensor, size: int) -> Tensor:
    """Spikes per step in bins of `size` steps, (B, T', N), of spikes (B, T, N); the last bin may have fewer steps."""
    batch, steps, channels = spikes.shape
    whole = torch.nn.functional.pad(spikes, (0, 0, 0, -steps % size))
    return whole.reshape(batch, -1, size, channels).sum(2) / size


def ends(values: Tensor, spikes: bool) -> Tensor:
    """How many steps of each sample there are, (B,): up to the last spike, or the last step that is not NaN."""
    there = (values != 0).any(2) if spikes else ~values.isnan().any(2)
    return (there * torch.arange(1, values.shape[1] + 1, device=values.device)).amax(1).clamp(min=1)


def mean_state(states: Tensor, end: Tensor) -> Tensor:
    """The mean of states (B, T, H) over the steps of each sample, (B, H)."""
    there = torch.arange(states.shape[1], device=states.device) < end[:, None]
    return torch.einsum("bth,bt->bh", states, there.to(states.dtype) / end[:, None])


def last_state(states: Tensor, end: Tensor) -> Tensor:
    """The state at the last step of each sample, (B, H), of states (B, T, H)."""
    return states[torch.arange(len(states), device=states.device), end - 1]


def phased_lstm(
    values: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    opening: Tensor,
) -> Tensor:
    """Outputs (B, T, H) of a layer of Phased LSTM (Neil, Pfeiffer and Liu 2016) over values (B, T, N).

    Gates are in the order input, forget, cell, output. `peephole` (3, H) is what input, forget and output gate see of
    the cell; `opening` (T, H) says how far each unit's gate in time is open.
    """
    drive = torch.nn.functional.linear(values, weight_ih, bias)
    cell = output = torch.zeros_like(drive[:, 0, : weight_hh.shape[1]])
    see_in, see_forget, see_out = torch.zeros_like(opening[:3]) if peephole is None else peephole
    outputs = []
    for t in range(drive.shape[1]):
        gate_in, gate_forget, new, gate_out = (drive[:, t] + output @ weight_hh.T).chunk(4, dim=1)
        kept = torch.sigmoid(gate_forget + see_forget * cell) * cell
        wanted = kept + torch.sigmoid(gate_in + see_in * cell) * torch.tanh(new)
        shown = torch.sigmoid(gate_out + see_out * wanted) * torch.tanh(wanted)
        cell, output = torch.lerp(cell, wanted, opening[t]), torch.lerp(output, shown, opening[t])
        outputs.append(output)
    return torch.stack(outputs, dim=1)
