"""The reference's recursions through time, which dense layers and those over images share.

Each is a Python loop over steps, vectorised over samples and neurons. The neurons run forwards; the readouts of the two
spike-train-level rules and STBP's gradient run backwards. `reference` says what readouts are for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snnrun.kernels.neuron import Lif, Stbp
from snnrun.kernels.packed import pack, unpack


def lif_scan(drive: Tensor, loop: Tensor | None, lif: Lif, theta: float) -> Tensor:
    """The recursion of the leaky integrate-and-fire neuron, from a(0) = u(0) = s(0) = 0, for t = 1 ... T - 1:

        drift      a(t) = decay_s a(t-1) + sum_j w_ij s_j(t-1) + sum_p w_ip s_p(t-1)      synapse
                   u(t) = decay_m u(t-1) + a(t) / tau_s                                   membrane
                   u(t) = 0 in the t_ref steps after a spike                              hold
        threshold  s(t) = 1 if u(t) > theta, else 0
        reset      u(t) = 0 if s(t) = 1

    `drive` (B, T, N) is sum_j w_ij s_j. `loop` (N, N) holds w_ip, to row from column. `theta`, mV, is the threshold
    instead of `lif.v_th`. Returns s, (B, T, N) uint8.
    """
    batch, steps, neurons = drive.shape
    s = torch.zeros(drive.shape, dtype=torch.uint8, device=drive.device)
    u, a = drive.new_zeros(2, batch, neurons).unbind()
    silent = torch.zeros(batch, neurons, dtype=torch.bool, device=drive.device)
    recent = [silent] * max(1, lif.t_ref)  # who fired in the last steps, the latest first
    for t in range(1, steps):
        # drift
        a.mul_(lif.decay_s).add_(drive[:, t - 1])
        if loop is not None:
            a.addmm_(recent[0].to(a.dtype), loop.T)
        u.mul_(lif.decay_m).add_(a, alpha=1.0 / lif.tau_s)
        for held in recent[: lif.t_ref]:
            u.masked_fill_(held, 0.0)
        # threshold
        fired = u > theta
        s[:, t] = fired
        # reset
        u.masked_fill_(fired, 0.0)
        recent = [fired, *recent[:-1]]
    return s


def strsbp_readout(spikes: Tensor, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """Readout of ST-RSBP's S-PSP (Zhang & Li 2019, eq. 7): e_ij = sum_t readout_i(t) s_j(t).

    e_ij is what a single input j of weight 1 adds to the membrane of neuron i. The spikes of i are given. From
    p(0) = q(0) = 0, for t = 1 ... T - 1:

        p(t) = decay_s p(t-1) + s_j(t-1)                  synapse
        q(t) = decay_m q(t-1) + p(t) / tau_s              membrane
        q(t) = 0 in the t_ref steps after a spike of i    hold
        e_ij += q(t), then q(t) = 0, at a spike of i      readout and reset

    This is linear in s_j. Its adjoint runs the same lines backwards, for t = T - 1 ... 1. dp and dq are the derivatives
    of e_ij by p(t) and q(t):

        dq = 1 at a spike of i                            readout and reset
        dq = 0 in the hold                                hold
        dp += dq / tau_s                                  membrane
        readout(t-1) = dp                                 synapse
        dp *= decay_s,  dq *= decay_m                     to step t - 1

    Args:
        spikes: (B, T, N) of 0 and 1, the post-neurons' spikes.
        lif: neuron parameters; `v_th` is not used.
        dtype: of the result.

    Returns:
        readout (B, T, N).
    """
    steps = spikes.shape[1]
    fired, held = spikes.bool(), _held(spikes, lif)
    readout = torch.zeros(spikes.shape, dtype=dtype, device=spikes.device)
    dq, dp = readout.new_zeros(2, spikes.shape[0], spikes.shape[2]).unbind()
    for t in range(steps - 1, 0, -1):
        dq.masked_fill_(fired[:, t], 1.0)
        dq.masked_fill_(held[:, t], 0.0)
        dp.add_(dq, alpha=1.0 / lif.tau_s)
        readout[:, t - 1] = dp
        dp.mul_(lif.decay_s)
        dq.mul_(lif.decay_m)
    return readout


def strsbp_slope(spikes: Tensor, lif: Lif, by: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Derivative of `strsbp_readout` by `tau_m` or `tau_s` (`by`), per ms, with the spikes given: (B, T, N).

    It is that of each line. With x' for dx/dtau, d(decay)/dtau = 1 / tau^2 and d(1 / tau_s)/dtau_s = -1 / tau_s^2, the
    lines of `strsbp_readout` become, each before its own,

        dq' = 0 at a spike of i and in the hold
        dp' += dq' / tau_s                                by tau_s: dp' -= dq / tau_s^2, as dq' = 0 then
        slope(t-1) = dp'
        dp' = decay_s dp',  dq' = decay_m dq'             by tau_s: dp' += dp / tau_s^2, by tau_m: dq' += dq / tau_m^2
    """
    fired, held = spikes.bool(), _held(spikes, lif)
    slope = torch.zeros(spikes.shape, dtype=dtype, device=spikes.device)
    dq, dp, dq_slope, dp_slope = slope.new_zeros(4, spikes.shape[0], spikes.shape[2]).unbind()
    for t in range(spikes.shape[1] - 1, 0, -1):
        dq.masked_fill_(fired[:, t], 1.0)
        dq.masked_fill_(held[:, t], 0.0)
        dq_slope.masked_fill_(fired[:, t] | held[:, t], 0.0)
        dp.add_(dq, alpha=1.0 / lif.tau_s)
        if by == "tau_s":
            dp_slope.add_(dq, alpha=-1.0 / lif.tau_s**2)
            slope[:, t - 1] = dp_slope
            dp_slope.mul_(lif.decay_s).add_(dp, alpha=1.0 / lif.tau_s**2)
        else:
            dp_slope.add_(dq_slope, alpha=1.0 / lif.tau_s)
            slope[:, t - 1] = dp_slope
            dp_slope.mul_(lif.decay_s)
            dq_slope.mul_(lif.decay_m).add_(dq, alpha=1.0 / lif.tau_m**2)
        dp.mul_(lif.decay_s)
        dq.mul_(lif.decay_m)
    return slope


def _held(spikes: Tensor, lif: Lif) -> Tensor:
    """The steps in which neurons are held after a spike, (B, T, N) bool."""
    fired, held = spikes.bool(), torch.zeros(spikes.shape, dtype=torch.bool, device=spikes.device)
    for lag in range(1, min(lif.t_ref, spikes.shape[1] - 1) + 1):
        held[:, lag:] |= fired[:, :-lag]
    return held


def hm2bp_readout(spikes: Tensor, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """Readout of HM2-BP's effect e, the closed form with exact exponentials (Jin, Zhang & Li 2018, eq. 8).

    An output spike at t_f has the reference t_prev = previous spike + t_ref (1 before the first spike). An input spike
    at t_j in [max(1, floor(t_f - 4 tau_m)), t_f - t_ref] adds, with S = t_f - t_prev and t = t_f - t_j - t_ref,

        exp(-max(t - S, 0) / tau_s) (exp(-min(S, t) / tau_m) - exp(-min(S, t) / tau_s)) / (1 - tau_s / tau_m).

    For input spikes since the previous output spike (t <= S) the first factor is 1; older ones decay with tau_s.

    Args, Returns: as for `strsbp_readout`.
    """
    return _by_kernel(spikes, hm2bp_kernel(spikes.shape[1], lif)[0], None, lif, dtype)


def hm2bp_slope(spikes: Tensor, lif: Lif, by: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Derivative of `hm2bp_readout` by `tau_m` or `tau_s` (`by`), per ms, with the spikes and the window given.

    Inputs since the previous output spike have the derivative of the kernel, see `hm2bp_kernel_slope`. An older one has
    kernel(S) exp(-(t - S) / tau_s). Its derivative by tau_s has a second term, (t - S) / tau_s^2 times the whole.
    """
    steps = spikes.shape[1]
    aged = hm2bp_kernel(steps, lif)[0] if by == "tau_s" else None
    return _by_kernel(spikes, hm2bp_kernel_slope(steps, lif, by), aged, lif, dtype)


def _by_kernel(spikes: Tensor, kernel: Tensor, aged: Tensor | None, lif: Lif, dtype: torch.dtype) -> Tensor:
    """The readout of a kernel by the distance to the following spike, and of tails that decay with tau_s.

    With `aged`, a kernel too, each tail gets that kernel's tail times (t - S) / tau_s^2 besides.
    """
    batch, steps, neurons = spikes.shape
    kernel, window, decay = kernel.to(spikes.device, dtype), 4.0 * lif.tau_m, math.exp(-1.0 / lif.tau_s)

    # A pair of successive spikes (first, last) gives the inputs before `first` a tail. It starts from kernel(S) and
    # ends where the window of `last` begins.
    sample, neuron, time = torch.nonzero(spikes.transpose(1, 2), as_tuple=True)
    successive = (sample[1:] == sample[:-1]) & (neuron[1:] == neuron[:-1])
    sample, neuron, first, last = (x[successive] for x in (sample[1:], neuron[1:], time[:-1], time[1:]))
    begin = (last - math.ceil(window)).clamp(min=0)
    seen = begin <= first
    sample, neuron, first, begin, gap = (x[seen] for x in (sample, neuron, first, begin, last - first))
    age = (first - begin).to(dtype)

    def change(heights: Tensor, at_end: Tensor) -> Tensor:
        changes = torch.zeros(spikes.shape, dtype=dtype, device=spikes.device)
        changes.index_put_((sample, first, neuron), heights, accumulate=True)
        return changes.index_put_((sample, begin, neuron), -at_end * torch.exp(-age / lif.tau_s), accumulate=True)

    heights = at_end = kernel[gap]
    grown_change, per_step = None, 1.0 / lif.tau_s**2
    if aged is not None:
        other = aged.to(spikes.device, dtype)[gap]
        grown_change, at_end = change(other, other), heights + other * age * per_step
    tail_change = change(heights, at_end)
    readout = torch.zeros_like(tail_change)
    tail, grown = tail_change.new_zeros(2, batch, neurons).unbind()
    following = torch.full((batch, neurons), 2 * steps, device=spikes.device)
    for now in range(steps - 1, 0, -1):  # an input spike at step 0 is ignored
        readout[:, now] = kernel[following - now] + tail
        tail.add_(tail_change[:, now]).mul_(decay)
        if grown_change is not None:
            grown.add_(grown_change[:, now]).mul_(decay)
            tail.add_(grown, alpha=per_step)
        following.masked_fill_(spikes[:, now].bool(), now)
    return readout


def hm2bp_kernel(steps: int, lif: Lif) -> tuple[Tensor, float, float]:
    """kernel(t) of HM2-BP's effect by the distance t + t_ref to the output spike, its window and tau_s' decay per step.

    The kernel is (2 T + 1,) float64. It is 0 inside the refractory period, outside the window, and from T on, which
    means that there is no spike.
    """
    t, inside = _since(steps, lif)
    kernel = (torch.exp(-t / lif.tau_m) - torch.exp(-t / lif.tau_s)) / (1.0 - lif.tau_s / lif.tau_m)
    return torch.where(inside, kernel, 0.0), 4.0 * lif.tau_m, math.exp(-1.0 / lif.tau_s)


def hm2bp_kernel_slope(steps: int, lif: Lif, by: str) -> Tensor:
    """Derivative of `hm2bp_kernel` by `tau_m` or `tau_s` (`by`), per ms, (2 T + 1,) float64. With g = tau_m - tau_s:

    by tau_m    (t / tau_m exp(-t / tau_m) - tau_s / tau_m kernel(t)) / g
    by tau_s    (kernel(t) - t tau_m / tau_s^2 exp(-t / tau_s)) / g
    """
    (t, inside), kernel, apart = _since(steps, lif), hm2bp_kernel(steps, lif)[0], lif.tau_m - lif.tau_s
    if by == "tau_m":
        slope = t / lif.tau_m * torch.exp(-t / lif.tau_m) - lif.tau_s / lif.tau_m * kernel
    else:
        slope = kernel - t * lif.tau_m / lif.tau_s**2 * torch.exp(-t / lif.tau_s)
    return torch.where(inside, slope / apart, 0.0)


def _since(steps: int, lif: Lif) -> tuple[Tensor, Tensor]:
    """t of `hm2bp_kernel` by the distance to the spike, (2 T + 1,) float64, and where the kernel is not 0."""
    distance = torch.arange(2 * steps + 1, dtype=torch.float64)
    t = distance - lif.t_ref
    return t, (t >= 0) & (distance < min(4.0 * lif.tau_m + 1, steps))


def readout(rule: str, spikes: Tensor, neurons: int, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """Readout (B, T, N) from the bits (B, T, W) of the post-neurons' spikes.

    `rule` is `strsbp` or `hm2bp`, or one of these with `_by_tau_m` or `_by_tau_s` for the derivative of its readout.
    """
    own, (name, _, by) = unpack(spikes, neurons), rule.partition("_by_")
    if by:
        return {"strsbp": strsbp_slope, "hm2bp": hm2bp_slope}[name](own, lif, by, dtype)
    return {"strsbp": strsbp_readout, "hm2bp": hm2bp_readout}[name](own, lif, dtype)


# ---- STBP -----------------------------------------------------------------------------------------------------------


def stbp_scan(drive: Tensor, recurrent_weight: Tensor | None, neuron: Stbp) -> tuple[Tensor, Tensor]:
    """The recursion of STBP's neuron (Wu et al. 2018, eq. 3-5), from u = o = 0 before the first step:

        u^t = u^{t-1} f(o^{t-1}) + W o^{t, n-1} + b + W_rec o^{t-1}
        o^t = 1 if u^t >= v_th (`strict`: >), else 0

    `drive` (B, T, N) is W o^{t, n-1} + b. f(0) is `decay`, f(1) `decay_after_spike`. Returns o, 0.0 or 1.0, and u.
    """
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
    """Derivative that replaces that of the step function: h1 to h4 of Wu et al. 2018, each of integral 1."""
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


def stbp_near(membrane: Tensor, neuron: Stbp) -> Tensor:
    """Bits (B, T, W) of the neurons whose surrogate derivative is not 0 at their `membrane` (B, T, N).

    The spikes of the others take no gradient, so the layer above need not compute one.
    """
    return pack(surrogate(membrane, neuron))


def only_near(grad_in: Tensor, near_in: Tensor | None) -> Tensor:
    """A gradient (B, T, I) of spikes, 0 for those without a bit in `near_in` (B, T, W), if it is given."""
    return grad_in if near_in is None else grad_in * unpack(near_in, grad_in.shape[2])


def stbp_scan_backward(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp
) -> Tensor:
    """The recursion backwards through time: dL/du (B, T, N), which is also dL/d(drive).

    `grad_spikes` is the gradient of the spikes from the layer above, the first sum of

        dL/do^t = sum_j dL/du_j^{t, n+1} w_ji + dL/du^{t+1} u^t f'(o^t),  dL/du^t = dL/do^t h(u^t) + dL/du^{t+1} f(o^t)

    (Wu et al. 2018, eq. 13-20 with corrected indices). A recurrent weight adds dL/du^{t+1} W_rec to dL/do^t.
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
