"""The kernels in Triton, for a GPU, in float32.

Each recursion through time is one launch per layer (`loops`), with all samples and neurons in parallel. Sums over pairs
of neurons are matrix products of the unpacked spikes; the S-PSPs `e` of a sample are never stored. PyTorch computes
these products in full float32 as long as `torch.backends.cuda.matmul.allow_tf32` is False, its default. Layers over
images read the bits themselves, see `images`. SLAYER's neurons and those of Lee et al. have no kernels here: they run
the reference's PyTorch, a few launches a step. The host reads nothing back. There are no CUDA graphs, since with one
launch per scan they could save little.

Not measured: this has run in Triton's interpreter on a CPU (`TRITON_INTERPRET=1`) and has been compiled for NVIDIA
GPUs, but no GPU has run it yet. `checks` compares it with the reference wherever it runs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from snnrun.kernels.gpu import loops
from snnrun.kernels.gpu.alif import alif_scan, alif_scan_backward
from snnrun.kernels.gpu.currents import (
    current_drive,
    lif_driven,
    readout_sums,
    stbp_driven,
    stbp_driven_backward,
)
from snnrun.kernels.gpu.images import (
    conv_activation,
    conv_backward,
    conv_forward,
    pool_backward,
    pool_forward,
    stbp_conv_backward,
    stbp_conv_forward,
)
from snnrun.kernels.gpu.time import (
    check_float32,
    launch,
    lif_scan,
    readout,
    stbp_scan,
    stbp_scan_backward,
    surrogate_constants,
    warps,
)
from snnrun.kernels.neuron import Lif, Stbp, Synapses, slack_threshold
from snnrun.kernels.packed import count_spikes, unpack
from snnrun.kernels.reference import (  # plain PyTorch
    advanced,
    coupling,
    delay_errors,
    delayed,
    liquid_learn,
    liquid_respond,
    only_near,
    recurrent_gradient,
    slope_sum,
    srm_backward,
    srm_conv_backward,
    srm_conv_forward,
    srm_forward,
    srm_pool_backward,
    srm_pool_forward,
    stbp_near,
    thin,
    thin_gradient,
    trace,
    wta_conv_forward,
    wta_forward,
)

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
    "lif_driven",
    "lif_forward",
    "liquid_learn",
    "liquid_respond",
    "pool_backward",
    "pool_forward",
    "readout",
    "readout_sums",
    "recurrent_gradient",
    "recurrent_spsp",
    "slope_sum",
    "spsp_activation",
    "spsp_backward",
    "srm_backward",
    "srm_conv_backward",
    "srm_conv_forward",
    "srm_forward",
    "srm_pool_backward",
    "srm_pool_forward",
    "stbp_backward",
    "stbp_conv_backward",
    "stbp_conv_forward",
    "stbp_driven",
    "stbp_driven_backward",
    "stbp_forward",
    "stbp_near",
    "surrogate_constants",
    "thin",
    "thin_gradient",
    "trace",
    "wta_conv_forward",
    "wta_forward",
]

SYNAPSES_PER_PROGRAM = 128
# A series for the coupled system that shrinks by 0.8 or better per sweep gets there. Elimination solves slower ones.
SWEEPS = 64
SWEEP_TOLERANCE = 1e-6


# ---- spike-train-level rules ----------------------------------------------------------------------------------------


def lif_forward(spikes_in: Tensor, weight: Tensor, recurrent: Synapses | None, lif: Lif) -> tuple[Tensor, Tensor]:
    """See `reference.lif_forward`."""
    check_float32(weight.dtype)
    drive = unpack(spikes_in, weight.shape[1], weight.dtype) @ weight.T
    return lif_scan(drive, recurrent, lif, slack_threshold(lif.v_th))


def spsp_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor) -> Tensor:
    """See `reference.spsp_activation`."""
    check_float32(weight.dtype)
    drive = unpack(spikes_in, weight.shape[1], weight.dtype) @ weight.T
    return drive.mul_(readout(rule, spikes, len(weight), lif)).sum(dim=1)


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
    """See `reference.spsp_backward`."""
    check_float32(weight.dtype)
    batch, steps, width = spikes_in.shape
    neurons, inputs = weight.shape
    traces = readout(rule, spikes, neurons, lif)
    trains = unpack(spikes_in, inputs, weight.dtype)
    gradient, whole = weight.new_zeros(0, 0), weight.new_zeros(batch, 0)
    if gain_slope is not None:
        assert gain is not None, "a slope of no gain"
        gain = whole = gain + gain_slope * (trains @ weight.T).mul_(traces).sum(dim=1)
    if gain is not None:
        gradient = (trains.flatten(0, 1).T @ (traces * gain[:, None]).flatten(0, 1)).T
    if credit is None:
        return gradient, weight.new_zeros(batch, 0), whole
    # sum_i credit_i w_ij e_ij. The sum over the steps at which j fired comes last, so e is not needed.
    sent_back = traces.mul_(credit[:, None]) @ weight
    error = weight.new_empty(batch, inputs)
    launch(
        loops.sum_at_spikes, (batch, width), sent_back, spikes_in.contiguous(), error, steps, inputs, width, num_warps=1
    )
    return gradient, error, whole


# ---- recurrent layers: one value per synapse, (B, S) ----------------------------------------------------------------


def recurrent_spsp(
    rule: str, lif: Lif, spikes: Tensor, recurrent: Synapses, neurons: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """See `reference.recurrent_spsp`."""
    check_float32(recurrent.weight.dtype, dtype)
    batch, steps, width = spikes.shape
    synapses = len(recurrent.pre)
    e = recurrent.weight.new_empty(batch, synapses)
    launch(
        loops.synapse_scan, (triton.cdiv(synapses, SYNAPSES_PER_PROGRAM), batch),
        readout(rule, spikes, neurons, lif), spikes.contiguous(), recurrent.pre, recurrent.post, e,
        steps, neurons, width, synapses, BLOCK=SYNAPSES_PER_PROGRAM, num_warps=4,
    )  # fmt: skip
    return e


def coupling_solve(
    theta: Tensor, recurrent: Synapses, diagonal: Tensor, right: Tensor, self_coupling: bool = True
) -> Tensor:
    """See `reference.coupling_solve`.

    The series x = (right + theta^T x) / diagonal comes first, because it needs S products a sweep and a dense
    factorisation needs N^3 / 3. It diverges for rare samples whose theta is too large; these are solved by dense
    elimination. The program of each sample decides, so that the host need not wait.
    """
    check_float32(theta.dtype)
    batch, neurons = right.shape
    synapses = len(recurrent.pre)
    pre, post = recurrent.pre.contiguous(), recurrent.post.contiguous()
    first = torch.searchsorted(pre, torch.arange(neurons + 1, device=pre.device))
    x = torch.empty_like(right, memory_format=torch.contiguous_format)
    converged = torch.empty(batch, dtype=torch.int32, device=right.device)
    matrix = right.new_empty(batch, neurons + 1, neurons)
    values, diagonals, rights = theta.contiguous(), diagonal.contiguous(), right.contiguous()
    block = triton.next_power_of_2(neurons)
    constants: dict[str, Any] = {"SELF": self_coupling, "BLOCK": block, "num_warps": warps(block)}
    launch(
        loops.coupling_sweeps, (batch,), values, first, post, diagonals, rights, x, converged, neurons, synapses,
        SWEEPS, SWEEP_TOLERANCE, **constants,
    )  # fmt: skip
    launch(
        loops.coupling_elimination, (batch,), values, pre, post, diagonals, rights, x, converged, matrix,
        neurons, synapses, **constants,
    )  # fmt: skip
    return x


# ---- STBP -----------------------------------------------------------------------------------------------------------


def stbp_forward(
    spikes_in: Tensor, weight: Tensor, bias: Tensor | None, recurrent_weight: Tensor | None, neuron: Stbp
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.stbp_forward`."""
    check_float32(weight.dtype)
    drive = torch.nn.functional.linear(unpack(spikes_in, weight.shape[1], weight.dtype), weight, bias)
    return stbp_scan(drive, recurrent_weight, neuron)


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
    """See `reference.stbp_backward`."""
    check_float32(weight.dtype)
    grad_u = stbp_scan_backward(grad_spikes, spikes.contiguous(), membrane.contiguous(), recurrent_weight, neuron)
    grad_in = only_near(grad_u @ weight, near_in) if wants_input else grad_u.new_zeros(len(grad_u), 0, 0)
    grad_recurrent = grad_u.new_zeros(0, 0)
    if not wants_weight:
        return grad_in, grad_u.new_zeros(0, 0), grad_u.new_zeros(0), grad_recurrent
    trains = unpack(spikes_in, weight.shape[1], weight.dtype)
    grad_weight = (trains.flatten(0, 1).T @ grad_u.flatten(0, 1)).T
    if recurrent_weight is not None:
        own = unpack(spikes[:, :-1], len(weight), weight.dtype)
        grad_recurrent = (own.flatten(0, 1).T @ grad_u[:, 1:].flatten(0, 1)).T
    return grad_in, grad_weight, grad_u.sum(dim=(0, 1)), grad_recurrent
