"""The kernels in plain PyTorch: short, readable, on any device and in float32 or float64. This is the truth.

The functions are vectorised over samples and neurons. The recursions through time, in `reference.time`, are Python
loops over steps. Layers over images are in `reference.images`, layers that get currents in `reference.currents`, the
neurons of SLAYER and of Lee et al. in `reference.srm` and `reference.wta`. Spikes come in and go out as bits (see
`packed`). Each is unpacked to one byte or float for the computation.

The spike-train-level rules need the S-PSP `e[b, i, j]` of each pair of neurons. ST-RSBP defines it step by step, HM2-BP
in closed form. Both definitions are linear in the spikes of the pre-neuron, so each is one product

    e_ij = sum over t of readout_i(t) s_j(t)

of the input spikes with a *readout* that depends on the post-neuron's spikes alone. The readout of ST-RSBP is the
adjoint of "filter the input to a membrane trace, read the trace at each spike, reset and hold it": a filter that runs
backwards in time. One readout serves the feed-forward and the recurrent synapses of a layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snnrun.kernels.neuron import Lif, Stbp, Synapses, slack_threshold
from snnrun.kernels.packed import count_spikes, pack, unpack
from snnrun.kernels.reference.alif import alif_scan, alif_scan_backward, keeps
from snnrun.kernels.reference.currents import (
    current_drive,
    held,
    held_sums,
    lif_driven,
    readout_sums,
    stbp_driven,
    stbp_driven_backward,
)
from snnrun.kernels.reference.delays import advanced, delay_errors, delayed
from snnrun.kernels.reference.images import (
    conv_activation,
    conv_backward,
    conv_forward,
    drive,
    drive_by_input,
    drive_by_weight,
    pool_backward,
    pool_forward,
    pool_weight,
    stbp_conv_backward,
    stbp_conv_forward,
    tap_by_tap,
)
from snnrun.kernels.reference.plastic import liquid_learn, liquid_respond
from snnrun.kernels.reference.slopes import slope_sum, slope_sum_by
from snnrun.kernels.reference.srm import (
    srm_backward,
    srm_conv_backward,
    srm_conv_forward,
    srm_forward,
    srm_pool_backward,
    srm_pool_forward,
    srm_scan,
    srm_scan_backward,
)
from snnrun.kernels.reference.thinning import thin, thin_gradient
from snnrun.kernels.reference.time import (
    hm2bp_kernel,
    hm2bp_kernel_slope,
    hm2bp_readout,
    lif_scan,
    only_near,
    readout,
    stbp_near,
    stbp_scan,
    stbp_scan_backward,
    strsbp_readout,
    surrogate,
)
from snnrun.kernels.reference.wta import trace, wta_conv_forward, wta_forward, wta_scan

__all__ = [
    "advanced",
    "alif_scan",
    "alif_scan_backward",
    "conv_activation",
    "conv_backward",
    "conv_forward",
    "count_spikes",
    "coupling",
    "coupling_solve",
    "current_drive",
    "delay_errors",
    "delayed",
    "drive",
    "drive_by_input",
    "drive_by_weight",
    "held",
    "held_sums",
    "hm2bp_kernel",
    "hm2bp_kernel_slope",
    "hm2bp_readout",
    "keeps",
    "lif_driven",
    "lif_forward",
    "lif_scan",
    "liquid_learn",
    "liquid_respond",
    "only_near",
    "pool_backward",
    "pool_forward",
    "pool_weight",
    "readout",
    "readout_sums",
    "recurrent_gradient",
    "recurrent_spsp",
    "slope_sum",
    "slope_sum_by",
    "spsp_activation",
    "spsp_backward",
    "srm_backward",
    "srm_conv_backward",
    "srm_conv_forward",
    "srm_forward",
    "srm_pool_backward",
    "srm_pool_forward",
    "srm_scan",
    "srm_scan_backward",
    "stbp_backward",
    "stbp_conv_backward",
    "stbp_conv_forward",
    "stbp_driven",
    "stbp_driven_backward",
    "stbp_forward",
    "stbp_near",
    "stbp_scan",
    "stbp_scan_backward",
    "strsbp_readout",
    "surrogate",
    "tap_by_tap",
    "thin",
    "thin_gradient",
    "trace",
    "wta_conv_forward",
    "wta_forward",
    "wta_scan",
]


def lif_forward(spikes_in: Tensor, weight: Tensor, recurrent: Synapses | None, lif: Lif) -> tuple[Tensor, Tensor]:
    """Simulate a layer of leaky integrate-and-fire neurons.

    Args:
        spikes_in: bits (B, T, W) of the I inputs.
        weight: (N, I), mV.
        recurrent: synapses among the N neurons, which act after one step; None if there are none.
        lif: neuron parameters.

    Returns:
        bits of the spikes (B, T, W), none at step 0; firing counts (B, N).
    """
    driven = unpack(spikes_in, weight.shape[1], weight.dtype) @ weight.T  # (B, T, N)
    loop = None if recurrent is None else recurrent.dense(len(weight))
    spikes = lif_scan(driven, loop, lif, slack_threshold(lif.v_th, driven.dtype))
    return pack(spikes), spikes.sum(dim=1).to(weight.dtype)


def spsp(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, like: Tensor) -> Tensor:
    """S-PSP of every pair, e (B, N, I), from the bits of the input spikes and of the layer's own.

    `like` (N, I) has the size and the type.
    """
    neurons, inputs = like.shape
    return _spsp(readout(rule, spikes, neurons, lif, like.dtype), unpack(spikes_in, inputs))


def _spsp(readout: Tensor, spikes_in: Tensor) -> Tensor:
    return torch.bmm(readout.transpose(1, 2), spikes_in.to(readout.dtype))


def spsp_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor) -> Tensor:
    """Total post-synaptic potential a_i = sum_j w_ij e_ij (ST-RSBP eq. 1), (B, N), without forming e."""
    driven = unpack(spikes_in, weight.shape[1], weight.dtype) @ weight.T
    return (readout(rule, spikes, len(weight), lif, weight.dtype) * driven).sum(dim=1)


def spsp_backward(
    rule: str,
    lif: Lif,
    spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor | None,
    credit: Tensor | None,
    weight: Tensor,
    gain_slope: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The two sums over pairs that a spike-train-level backward pass needs.

    Args:
        rule: the rule that defines the S-PSP, `strsbp` or `hm2bp`.
        lif: neuron parameters; `v_th` is not used.
        spikes_in: bits (B, T, W) of the I inputs.
        spikes: bits (B, T, W) of the layer's N neurons.
        gain: (B, N), multiplies e_ij in the weight gradient; None if nobody trains the weights.
        credit: (B, N), multiplies w_ij e_ij in the error of the layer below; None if no error goes below.
        weight: (N, I), mV.
        gain_slope: (B, N); with it the gain is gain + gain_slope a, where a_i = sum_j w_ij e_ij. It needs a gain.

    Returns:
        sum over b of gain_bi e_bij, (N, I), stored input by input as layers store their weights, or (0, 0) without
        gain; sum over i of credit_bi w_ij e_bij, (B, I), or (B, 0) without credit; gain + gain_slope a, (B, N), or
        (B, 0) without slope.
    """
    whole = spikes.new_zeros(len(spikes), 0, dtype=weight.dtype)
    if gain_slope is not None:
        assert gain is not None, "a slope of no gain"
        gain = whole = gain + gain_slope * spsp_activation(rule, lif, spikes_in, spikes, weight)
    trains = unpack(spikes_in, weight.shape[1])
    traces = readout(rule, spikes, len(weight), lif, weight.dtype)
    if credit is None:
        assert gain is not None, "nothing is asked for"
        gradient = trains.to(weight.dtype).flatten(0, 1).T @ (traces * gain[:, None]).flatten(0, 1)
        return gradient.T, gain.new_zeros(len(gain), 0), whole
    e = _spsp(traces, trains)
    error = torch.stack([credit[b] @ (weight * e[b]) for b in range(len(e))])
    if gain is None:
        return weight.new_zeros(0, 0), error, whole
    return torch.einsum("bi,bij->ij", gain, e).T.contiguous().T, error, whole


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
        silent_ratio: replaces e_lp / n_p if either neuron is silent.
    """
    n_pre, n_post = counts[:, recurrent.pre], counts[:, recurrent.post]
    ratio = torch.where((n_pre > 0) & (n_post > 0), e / n_pre.clamp(min=1.0), silent_ratio)
    return recurrent.weight * ratio / v_th


def coupling_solve(
    theta: Tensor, recurrent: Synapses, diagonal: Tensor, right: Tensor, self_coupling: bool = True
) -> Tensor:
    """Solution x (B, N) of (diag(diagonal) - theta)^T x = right (B, N); see `system`."""
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
    """Solution x (B, N, M) of matrix (B, N, N) @ x = right (B, N, M); not finite if a matrix is singular."""
    threads = torch.get_num_threads()
    # After torch.set_num_threads(n > 1), MKL runs several threads in each of PyTorch's own. Its LU factorisation of a
    # batch then fails with wrong pivots (seen with PyTorch 2.13 and MKL 2024.2).
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
        recurrent_weight: (N, N), which acts after one step, or None.
        neuron: parameters.

    Returns:
        bits of the spikes (B, T, W); firing counts (B, N); membrane potentials u (B, T, N) before the reset.
    """
    inputs = unpack(spikes_in, weight.shape[1], weight.dtype)
    driven = torch.nn.functional.linear(inputs, weight, bias)
    spikes, membrane = stbp_scan(driven, recurrent_weight, neuron)
    return pack(spikes), spikes.sum(dim=1), membrane


def stbp_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    neuron: Stbp,
    wants_input: bool,
    wants_weight: bool = True,
    near_in: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backpropagate through the steps of a layer.

    Args:
        grad_spikes: (B, T, N), dL/do from the layer above.
        spikes_in, spikes, membrane, weight, recurrent_weight, neuron: as in `stbp_forward`.
        wants_input: whether the layer below needs its gradient.
        wants_weight: whether the layer's own weights and biases need theirs.
        near_in: bits (B, T, W) of the inputs that need their gradient, see `stbp_near`; the others get 0. None for all.

    Returns:
        dL/d(input spikes) (B, T, I), or (B, 0, 0) if not wanted; dL/dW (N, I), stored input by input; dL/db (N,);
        dL/dW_rec (N, N), stored likewise, or (0, 0). Those of weights that are not wanted have no entries.
    """
    own = unpack(spikes, membrane.shape[2], membrane.dtype)
    grad_u = stbp_scan_backward(grad_spikes, own, membrane, recurrent_weight, neuron)
    grad_in = only_near(grad_u @ weight, near_in) if wants_input else grad_u.new_zeros(len(grad_u), 0, 0)
    grad_recurrent = grad_u.new_zeros(0, 0)
    if not wants_weight:
        return grad_in, grad_u.new_zeros(0, 0), grad_u.new_zeros(0), grad_recurrent
    grad_weight = (unpack(spikes_in, weight.shape[1], weight.dtype).flatten(0, 1).T @ grad_u.flatten(0, 1)).T
    if recurrent_weight is not None:
        grad_recurrent = (own[:, :-1].flatten(0, 1).T @ grad_u[:, 1:].flatten(0, 1)).T
    return grad_in, grad_weight, grad_u.sum(dim=(0, 1)), grad_recurrent
