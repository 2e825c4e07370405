"""What the `gpu` backend's layers share: scans of neurons, readouts, STBP's gradient, and launches."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from snnrun.kernels import reference
from snnrun.kernels.gpu import loops
from snnrun.kernels.neuron import Lif, Stbp, Synapses
from snnrun.kernels.packed import BITS, words


def readout(rule: str, spikes: Tensor, neurons: int, lif: Lif) -> Tensor:
    """See `reference.readout`. Derivatives by a time constant are the reference's, some launches a step."""
    name, _, by = rule.partition("_by_")
    if name not in ("strsbp", "hm2bp"):
        raise ValueError(f"no S-PSP of {rule!r}; there are strsbp and hm2bp")
    if by:
        return reference.readout(rule, spikes, neurons, lif)
    batch, steps, width = spikes.shape
    spikes = spikes.contiguous()
    out = torch.empty(batch, steps, neurons, dtype=torch.float32, device=spikes.device)
    if rule == "strsbp":
        launch(
            loops.strsbp_scan, (batch, width), spikes, out, steps, neurons, width,
            lif.decay_m, lif.decay_s, 1.0 / lif.tau_s, lif.t_ref, num_warps=1,
        )  # fmt: skip
    else:
        kernel, window, decay = _hm2bp_kernel(steps, lif, spikes.device)
        launch(
            loops.hm2bp_scan, (batch, width), spikes, kernel, out, steps, neurons, width,
            math.ceil(window), lif.tau_s, decay, num_warps=1,
        )  # fmt: skip
    return out


@lru_cache(maxsize=64)
def _hm2bp_kernel(steps: int, lif: Lif, device: torch.device) -> tuple[Tensor, float, float]:
    kernel, window, decay = reference.hm2bp_kernel(steps, lif)
    return kernel.to(device, torch.float32), window, decay


def stbp_scan_backward(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp
) -> Tensor:
    """See `reference.stbp_scan_backward`; takes the spikes as bits."""
    batch, steps, neurons = membrane.shape
    grad_u = torch.empty_like(membrane)
    loop = None if recurrent_weight is None or not neuron.temporal_gradient else recurrent_weight.contiguous()
    smooth = neuron.exponential_reset
    slopes = (-1.0, -math.exp(-1.0 / neuron.decay)) if smooth else (-neuron.decay, -neuron.decay)
    grid, block = programs(batch, neurons, loop)
    launch(
        # Read by its strides, since the gradient of the counts is one step expanded to all.
        loops.stbp_scan_backward, grid, grad_spikes, *grad_spikes.stride(), spikes, membrane, loop, grad_u,
        steps, neurons, words(neurons), neuron.v_th, neuron.decay, neuron.decay_after_spike, *slopes,
        *surrogate_constants(neuron), SURROGATE=neuron.surrogate, TEMPORAL=neuron.temporal_gradient, **block,
    )  # fmt: skip
    return grad_u


def surrogate_constants(neuron: Stbp) -> tuple[float, float]:
    """Height of the surrogate derivative, and the number that scales the distance from the threshold or bounds it."""
    a = neuron.width
    match neuron.surrogate:
        case "rectangle":
            return 1.0 / a, a / 2
        case "polynomial":
            return math.sqrt(a) / 2, a / 4
        case "sigmoid":
            return 1.0 / a, 1.0 / a
        case "gaussian":
            return 1.0 / math.sqrt(2 * math.pi * a), 1.0 / (2 * a)
    raise ValueError(f"unknown surrogate {neuron.surrogate!r}")


def lif_scan(drive: Tensor, recurrent: Synapses | None, lif: Lif, theta: float) -> tuple[Tensor, Tensor]:
    """Bits and counts of `reference.lif_scan`, for a drive (B, T, N)."""
    batch, steps, neurons = drive.shape
    spikes = torch.zeros(batch, steps, words(neurons), dtype=torch.int64, device=drive.device)
    counts = drive.new_empty(batch, neurons)
    loop = None if recurrent is None else recurrent.dense(neurons).T.contiguous()
    grid, block = programs(batch, neurons, loop)
    launch(
        loops.lif_scan, grid, drive, loop, names(batch, loop, block["BLOCK"]), spikes, counts,
        steps, neurons, words(neurons),
        lif.decay_m, lif.decay_s, 1.0 / lif.tau_s, theta, lif.t_ref, **block,
    )  # fmt: skip
    return spikes, counts


def stbp_scan(drive: Tensor, recurrent_weight: Tensor | None, neuron: Stbp) -> tuple[Tensor, Tensor, Tensor]:
    """Bits, counts and membranes of `reference.stbp_scan`, for a drive (B, T, N)."""
    batch, steps, neurons = drive.shape
    spikes = torch.empty(batch, steps, words(neurons), dtype=torch.int64, device=drive.device)
    counts, membrane = drive.new_empty(batch, neurons), torch.empty_like(drive)
    loop = None if recurrent_weight is None else recurrent_weight.T.contiguous()
    grid, block = programs(batch, neurons, loop)
    launch(
        loops.stbp_scan, grid, drive, loop, names(batch, loop, block["BLOCK"]), spikes, counts, membrane,
        steps, neurons, words(neurons), neuron.v_th, neuron.decay, neuron.decay_after_spike,
        STRICT=neuron.strict, **block,
    )  # fmt: skip
    return spikes, counts, membrane


# ---- launches -------------------------------------------------------------------------------------------------------


def programs(batch: int, neurons: int, loop: Tensor | None) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and block of a scan: a program has a word of bits, or the whole layer where `loop` couples its neurons."""
    block = BITS if loop is None else max(BITS, triton.next_power_of_2(neurons))
    return (batch, triton.cdiv(neurons, block)), {"BLOCK": block, "num_warps": warps(block)}


def names(batch: int, loop: Tensor | None, block: int) -> Tensor | None:
    """Scratch for the numbers of the neurons that fired at a step; None without recurrent synapses."""
    return None if loop is None else loop.new_empty(batch, block, dtype=torch.int32)


def warps(block: int) -> int:
    """Number of warps. Each thread has four neurons, read as 16 bytes. One word has one warp, so no barrier waits."""
    return min(max(block // 128, 1), 16)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel with one program for each place of the grid."""
    # Triton launches on the current device, which need not be that of the tensors. Without fusion, products are rounded
    # before they are added, as PyTorch does step by step; Triton's default differs by version.
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        kernel[grid](*arguments, **constants, enable_fp_fusion=False)


def check_float32(*types: torch.dtype) -> None:
    """Raise `ValueError` if a type is not float32."""
    for wrong in set(types) - {torch.float32}:
        raise ValueError(f"the gpu kernels compute in float32, not {wrong}; the reference takes float64 too")
