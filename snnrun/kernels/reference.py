"""The kernels in plain PyTorch: short, readable, on any device and in float32 or float64. This is the truth.

Vectorised over samples and neurons; the recursions through time are Python loops over steps. Spikes come and go as bits
(see `packed`) and are unpacked to one byte or float each for the computation.

The spike-train-level rules need for each pair of neurons the S-PSP `e[b, i, j]`. Both of its definitions, the stepwise
one of ST-RSBP and the closed form of HM2-BP, are linear in the spikes of the pre-neuron, so each is one product

    e_ij = sum over t of readout_i(t) s_j(t)

of the input spikes with a *readout* that depends on the post-neuron's spikes alone. The readout of ST-RSBP is the
adjoint of "filter the input to a membrane trace, read the trace at each spike, reset and hold it": a filter that runs
backwards in time. One readout serves the feed-forward and the recurrent synapses of a layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snnrun.kernels.neuron import THRESHOLD_SLACK, Lif, Stbp, Synapses
from snnrun.kernels.packed import count_spikes, pack, unpack

__all__ = [
    "count_spikes",
    "coupling",
    "coupling_solve",
    "lif_forward",
    "recurrent_gradient",
    "recurrent_spsp",
    "spsp_activation",
    "spsp_backward",
    "stbp_backward",
    "stbp_forward",
]


def lif_forward(spikes_in: Tensor, weight: Tensor, recurrent: Synapses | None, lif: Lif) -> tuple[Tensor, Tensor]:
    """Simulate a layer of leaky integrate-and-fire neurons.

    Args:
        spikes_in: bits (B, T, W) of the I inputs.
        weight: (N, I), mV.
        recurrent: synapses among the N neurons, acting with a delay of one step; None for none.
        lif: neuron parameters.

    Returns:
        bits of the spikes (B, T, W), none at step 0; firing counts (B, N).
    """
    drive = unpack(spikes_in, weight.shape[1], weight.dtype) @ weight.T  # (B, T, N)
    batch, steps, neurons = drive.shape
    loop = None if recurrent is None else recurrent.dense(neurons)
    spikes = torch.zeros(drive.shape, dtype=torch.uint8, device=drive.device)
    u, a = drive.new_zeros(2, batch, neurons).unbind()
    theta = lif.v_th - THRESHOLD_SLACK
    silent = torch.zeros(batch, neurons, dtype=torch.bool, device=drive.device)
    recent = [silent] * max(1, lif.t_ref)  # who fired in the last steps, the latest first
    for t in range(1, steps):
        a.mul_(lif.decay_s).add_(drive[:, t - 1])
        if loop is not None:
            a.addmm_(recent[0].to(a.dtype), loop.T)
        u.mul_(lif.decay_m).add_(a, alpha=1.0 / lif.tau_s)
        for held in recent[: lif.t_ref]:
            u.masked_fill_(held, 0.0)
        fired = u > theta
        u.masked_fill_(fired, 0.0)
        spikes[:, t] = fired
        recent = [fired, *recent[:-1]]
    return pack(spikes), spikes.sum(dim=1).to(weight.dtype)


def strsbp_readout(spikes: Tensor, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """Readout of ST-RSBP's S-PSP: backwards filter that is 1 at each spike and 0 in the hold after the previous one.

    Args:
        spikes: (B, T, N) of 0 and 1, the post-neurons' spikes.
        lif: neuron parameters; `v_th` plays no part.
        dtype: of the result.

    Returns:
        readout (B, T, N) with e_ij = sum_t readout_i(t) s_j(t) (ST-RSBP, Zhang & Li 2019, eq. 7 and its S-PSP).
    """
    steps = spikes.shape[1]
    fired = spikes.bool()
    held = torch.zeros_like(fired)
    for lag in range(1, min(lif.t_ref, steps - 1) + 1):
        held[:, lag:] |= fired[:, :-lag]
    readout = torch.zeros(spikes.shape, dtype=dtype, device=spikes.device)
    q, p = readout.new_zeros(2, spikes.shape[0], spikes.shape[2]).unbind()  # adjoints of membrane and synapse
    for t in range(steps - 1, 0, -1):
        q.masked_fill_(fired[:, t], 1.0).masked_fill_(held[:, t], 0.0)
        p.mul_(lif.decay_s).add_(q, alpha=1.0 / lif.tau_s)
        readout[:, t - 1] = p  # a spike arrives one step after it was fired
        q.mul_(lif.decay_m)
    return readout


def hm2bp_readout(spikes: Tensor, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """Readout of HM2-BP's effect e, the closed form with exact exponentials (Jin, Zhang & Li 2018, eq. 8).

    For an output spike at t_f, with the reference t_prev = previous spike + t_ref (1 before the first spike), an input
    spike at t_j in [max(1, floor(t_f - 4 tau_m)), t_f - t_ref] counts, with S = t_f - t_prev and t = t_f - t_j - t_ref,

        exp(-max(t - S, 0) / tau_s) (exp(-min(S, t) / tau_m) - exp(-min(S, t) / tau_s)) / (1 - tau_s / tau_m).

    Input spikes since the previous output spike (t <= S) see the second factor alone; older ones decay with tau_s.

    Args, Returns: as for `strsbp_readout`.
    """
    batch, steps, neurons = spikes.shape
    kernel, window, decay = hm2bp_kernel(steps, lif)
    kernel = kernel.to(spikes.device, dtype)

    # A pair of successive spikes (first, last) gives the inputs before `first` a tail that starts from kernel(S) and
    # is cut where the window of `last` begins.
    sample, neuron, time = torch.nonzero(spikes.transpose(1, 2), as_tuple=True)
    successive = (sample[1:] == sample[:-1]) & (neuron[1:] == neuron[:-1])
    sample, neuron, first, last = (x[successive] for x in (sample[1:], neuron[1:], time[:-1], time[1:]))
    begin = torch.floor(last - window).clamp(min=0).to(torch.long)
    seen = begin <= first
    sample, neuron, first, begin, height = (x[seen] for x in (sample, neuron, first, begin, kernel[last - first]))
    tail_change = torch.zeros(spikes.shape, dtype=dtype, device=spikes.device)
    tail_change.index_put_((sample, first, neuron), height, accumulate=True)
    cut = height * torch.exp(-(first - begin) / lif.tau_s)
    tail_change.index_put_((sample, begin, neuron), -cut, accumulate=True)

    readout = torch.zeros_like(tail_change)
    tail = tail_change.new_zeros(batch, neurons)
    following = torch.full((batch, neurons), 2 * steps, device=spikes.device)
    for now in range(steps - 1, 0, -1):  # an input spike at step 0 is ignored
        readout[:, now] = kernel[following - now] + tail
        tail.add_(tail_change[:, now]).mul_(decay)
        following.masked_fill_(spikes[:, now].bool(), now)
    return readout


def hm2bp_kernel(steps: int, lif: Lif) -> tuple[Tensor, float, float]:
    """kernel(t) of HM2-BP's effect by the distance t + t_ref to the output spike, its window and tau_s' decay per step.

    (2 T + 1,) float64; 0 inside the refractory period, outside the window, and from T on, which stands for no spike.
    """
    window = 4.0 * lif.tau_m
    distance = torch.arange(2 * steps + 1, dtype=torch.float64)
    t = distance - lif.t_ref
    kernel = (torch.exp(-t / lif.tau_m) - torch.exp(-t / lif.tau_s)) / (1.0 - lif.tau_s / lif.tau_m)
    kernel = torch.where((t >= 0) & (distance < min(window + 1, steps)), kernel, 0.0)
    return kernel, window, math.exp(-1.0 / lif.tau_s)


def readout(rule: str, spikes: Tensor, neurons: int, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """Readout (B, T, N) of `strsbp` or `hm2bp` from the bits (B, T, W) of the post-neurons' spikes."""
    function = {"strsbp": strsbp_readout, "hm2bp": hm2bp_readout}[rule]
    return function(unpack(spikes, neurons), lif, dtype)


def spsp(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, inputs: int, neurons: int) -> Tensor:
    """S-PSP of every pair, e (B, N, I), from the bits of the input spikes and of the layer's own."""
    return _spsp(readout(rule, spikes, neurons, lif), unpack(spikes_in, inputs))


def _spsp(readout: Tensor, spikes_in: Tensor) -> Tensor:
    return torch.bmm(readout.transpose(1, 2), spikes_in.to(readout.dtype))


def spsp_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor) -> Tensor:
    """Total post-synaptic potential a_i = sum_j w_ij e_ij (ST-RSBP eq. 1), (B, N), without forming e."""
    drive = unpack(spikes_in, weight.shape[1], weight.dtype) @ weight.T
    return (readout(rule, spikes, len(weight), lif, weight.dtype) * drive).sum(dim=1)


def spsp_backward(
    rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, gain: Tensor, credit: Tensor | None, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The two sums over pairs that a spike-train-level backward pass needs.

    Args:
        rule: whose S-PSP, `strsbp` or `hm2bp`.
        lif: neuron parameters; `v_th` plays no part.
        spikes_in: bits (B, T, W) of the I inputs.
        spikes: bits (B, T, W) of the layer's N neurons.
        gain: (B, N), what multiplies e_ij in the weight gradient.
        credit: (B, N), what multiplies w_ij e_ij in the error of the layer below; None when no layer is below.
        weight: (N, I), mV.

    Returns:
        sum over b of gain_bi e_bij, (N, I) stored input by input as layers store their weights; sum over i of
        credit_bi w_ij e_bij, (B, I), or (B, 0) without credit.
    """
    trains = unpack(spikes_in, weight.shape[1])
    traces = readout(rule, spikes, len(weight), lif, weight.dtype)
    if credit is None:
        gradient = trains.to(weight.dtype).flatten(0, 1).T @ (traces * gain[:, None]).flatten(0, 1)
        return gradient.T, gain.new_zeros(len(gain), 0)
    e = _spsp(traces, trains)
    error = torch.stack([credit[b] @ (weight * e[b]) for b in range(len(e))])
    return torch.einsum("bi,bij->ij", gain, e).T.contiguous().T, error


# ---- recurrent layers: one value per synapse, (B, S) ----------------------------------------------------------------


def recurrent_spsp(
    rule: str, lif: Lif, spikes: Tensor, recurrent: Synapses, neurons: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """S-PSP e (B, S) of the recurrent synapses, from the bits (B, T, W) of the layer's spikes."""
    e = _spsp(readout(rule, spikes, neurons, lif, dtype), unpack(spikes, neurons))
    return e[:, recurrent.post, recurrent.pre]


def coupling(e: Tensor, counts: Tensor, recurrent: Synapses, v_th: float, silent_ratio: float) -> Tensor:
    """Theta of a recurrent layer by synapse, w_lp e_lp / n_p / v_th (ST-RSBP eq. 11 and 12), (B, S).

    Args:
        e: (B, S), from `recurrent_spsp`.
        counts: (B, N).
        recurrent: the synapses.
        v_th: threshold, mV.
        silent_ratio: stands for e_lp / n_p where either neuron is silent.
    """
    n_pre, n_post = counts[:, recurrent.pre], counts[:, recurrent.post]
    ratio = torch.where((n_pre > 0) & (n_post > 0), e / n_pre.clamp(min=1.0), silent_ratio)
    return recurrent.weight * ratio / v_th


def coupling_solve(
    theta: Tensor, recurrent: Synapses, diagonal: Tensor, right: Tensor, self_coupling: bool = True
) -> Tensor:
    """x (B, N) of (diag(diagonal) - theta)^T x = right (B, N); see `system`."""
    return solve(system(theta, recurrent, diagonal, self_coupling).transpose(1, 2), right[:, :, None]).squeeze(2)


def system(theta: Tensor, recurrent: Synapses, diagonal: Tensor, self_coupling: bool = True) -> Tensor:
    """diag(diagonal) - theta as matrices (B, N, N). Without `self_coupling` theta's own diagonal counts as 0."""
    matrix = theta.new_zeros(len(theta), diagonal.shape[1], diagonal.shape[1])
    matrix[:, recurrent.post, recurrent.pre] = -theta
    if not self_coupling:
        matrix.diagonal(dim1=1, dim2=2).zero_()
    matrix.diagonal(dim1=1, dim2=2).add_(diagonal)
    return matrix


def recurrent_gradient(e: Tensor, gain: Tensor, recurrent: Synapses) -> Tensor:
    """Sum over b of gain_bl e_blp by synapse, (S,); `e` (B, S), `gain` (B, N)."""
    return (gain[:, recurrent.post] * e).sum(dim=0)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solution (B, N, M) of matrix (B, N, N) @ x = right (B, N, M); not finite where a matrix is singular."""
    threads = torch.get_num_threads()
    # After torch.set_num_threads(n > 1), MKL runs several threads in each of PyTorch's own, and its LU factorisation
    # of a batch then fails with wrong pivots (seen with PyTorch 2.13 and MKL 2024.2).
    torch.set_num_threads(1)
    try:
        solution: Tensor = torch.linalg.solve_ex(matrix, right)[0]
        return solution
    finally:
        torch.set_num_threads(threads)


# ---- STBP -----------------------------------------------------------------------------------------------------------


def stbp_forward(
    spikes_in: Tensor, weight: Tensor, bias: Tensor | None, recurrent_weight: Tensor | None, neuron: Stbp
) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate a layer of STBP's iterative neurons (Wu et al. 2018, eq. 3-8).

    Args:
        spikes_in: bits (B, T, W) of the I inputs; no synaptic delay.
        weight: (N, I).
        bias: (N,), or None.
        recurrent_weight: (N, N), acting with a delay of one step, or None.
        neuron: parameters.

    Returns:
        bits of the spikes (B, T, W); firing counts (B, N); membrane potentials u (B, T, N) before the reset.
    """
    inputs = unpack(spikes_in, weight.shape[1], weight.dtype)
    drive = torch.nn.functional.linear(inputs, weight, bias)
    spikes, membrane = stbp_scan(drive, recurrent_weight, neuron)
    return pack(spikes), spikes.sum(dim=1), membrane


def stbp_scan(drive: Tensor, recurrent_weight: Tensor | None, neuron: Stbp) -> tuple[Tensor, Tensor]:
    """The recursion through time: spikes (B, T, N) of 0.0 and 1.0 and membranes from W o + b of every step."""
    spikes, membrane = torch.empty_like(drive), torch.empty_like(drive)
    u, o = drive.new_zeros(2, drive.shape[0], drive.shape[2]).unbind()
    after_spike = neuron.decay_after_spike - neuron.decay
    for t in range(drive.shape[1]):
        u = u * (neuron.decay + after_spike * o) + drive[:, t]
        if recurrent_weight is not None:
            u = torch.addmm(u, o, recurrent_weight.T)
        o = (u > neuron.v_th if neuron.strict else u >= neuron.v_th).to(drive.dtype)
        spikes[:, t], membrane[:, t] = o, u
    return spikes, membrane


def surrogate(u: Tensor, neuron: Stbp) -> Tensor:
    """Derivative that stands in for that of the step function: h1 to h4 of Wu et al. 2018, each of integral 1."""
    x, a = u - neuron.v_th, neuron.width
    match neuron.surrogate:
        case "rectangle":
            return (x.abs() < a / 2).to(u.dtype) / a
        case "polynomial":
            return (math.sqrt(a) / 2 - a / 4 * x.abs()).clamp(min=0.0)
        case "sigmoid":
            return torch.sigmoid(x / a) * torch.sigmoid(-x / a) / a
        case "gaussian":
            return torch.exp(-x.square() / (2 * a)) / math.sqrt(2 * math.pi * a)
    raise ValueError(f"unknown surrogate {neuron.surrogate!r}")


def stbp_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    neuron: Stbp,
    wants_input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backpropagate through the steps of a layer.

    Args:
        grad_spikes: (B, T, N), dL/do as it comes from the layer above.
        spikes_in, spikes, membrane, weight, recurrent_weight, neuron: of `stbp_forward`.
        wants_input: whether a layer is below.

    Returns:
        dL/d(input spikes) (B, T, I), or (B, 0, 0) if not wanted; dL/dW (N, I), stored input by input; dL/db (N,);
        dL/dW_rec (N, N), stored likewise, or (0, 0).
    """
    own = unpack(spikes, membrane.shape[2], membrane.dtype)
    grad_u = stbp_scan_backward(grad_spikes, own, membrane, recurrent_weight, neuron)
    grad_in = grad_u @ weight if wants_input else grad_u.new_zeros(len(grad_u), 0, 0)
    grad_weight = (unpack(spikes_in, weight.shape[1], weight.dtype).flatten(0, 1).T @ grad_u.flatten(0, 1)).T
    grad_recurrent = grad_u.new_zeros(0, 0)
    if recurrent_weight is not None:
        grad_recurrent = (own[:, :-1].flatten(0, 1).T @ grad_u[:, 1:].flatten(0, 1)).T
    return grad_in, grad_weight, grad_u.sum(dim=(0, 1)), grad_recurrent


def stbp_scan_backward(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp
) -> Tensor:
    """The recursion backwards through time: dL/du (B, T, N), which is also dL/d(drive).

    `grad_spikes` is what reaches the spikes from above, the first sum of

        dL/do^t = sum_j dL/du_j^{t, n+1} w_ji + dL/du^{t+1} u^t f'(o^t),  dL/du^t = dL/do^t h(u^t) + dL/du^{t+1} f(o^t)

    (Wu et al. 2018, eq. 13-20 with their index slips mended); a recurrent weight adds dL/du^{t+1} W_rec to dL/do^t.
    """
    grad_u = torch.empty_like(grad_spikes)
    h = surrogate(membrane, neuron)
    if not neuron.temporal_gradient:
        return torch.mul(grad_spikes, h, out=grad_u)
    change = neuron.decay_after_spike - neuron.decay
    # Eq. 8 replaces f by decay (1 - o), of slope -decay; eq. 6 has the slope -exp(-o / decay).
    smooth = neuron.exponential_reset
    slope = -torch.exp(-spikes / neuron.decay) if smooth else torch.full_like(spikes, -neuron.decay)
    ahead = torch.zeros_like(grad_u[:, 0])  # dL/du of the step ahead
    for t in range(grad_spikes.shape[1] - 1, -1, -1):
        grad_o = torch.addcmul(grad_spikes[:, t], ahead, membrane[:, t] * slope[:, t])
        if recurrent_weight is not None:
            grad_o = torch.addmm(grad_o, ahead, recurrent_weight)
        ahead = grad_o * h[:, t] + ahead * (neuron.decay + change * spikes[:, t])
        grad_u[:, t] = ahead
    return grad_u
