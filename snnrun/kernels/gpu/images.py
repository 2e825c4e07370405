"""The `gpu` backend's layers over images: convolutions, spiking pools and STBP's convolutions.

The forward pass of a layer is one launch (`image_loops`). It computes the drive from the bits of the input a few steps
at a time and never stores it. The backward pass computes the readouts in scans of their own and then takes all steps at
once. Weight gradient and error are correlations of readouts and bits, without an unfolded input. Every sum has a fixed
order: several programs that share a sum write it in parts, which are added afterwards.

Not measured, like all of `gpu`: interpreted and compiled, but no GPU has run it yet.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from snnrun.kernels.gpu import image_loops as loops
from snnrun.kernels.gpu.time import check_float32, launch, readout, stbp_scan_backward
from snnrun.kernels.neuron import Lif, Stbp, Window, slack_threshold
from snnrun.kernels.packed import words

# So many numbers of a readout are held at once, 256 MiB; larger batches are taken in parts.
READOUT = 2**26
# So many programs fill a large GPU. If samples and neurons give fewer, the steps are shared out as well.
PROGRAMS = 4096
BLOCK_TAPS = 32
BLOCK_PLACES = 32


# ---- spike-train-level rules ----------------------------------------------------------------------------------------


def conv_forward(spikes_in: Tensor, weight: Tensor, window: Window, lif: Lif) -> tuple[Tensor, Tensor]:
    """See `reference.images.conv_forward`."""
    check_float32(weight.dtype)
    return _lif_forward(spikes_in, _by_tap(weight), window, lif, lif.v_th)


def pool_forward(
    spikes_in: Tensor, window: Window, lif: Lif, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """See `reference.images.pool_forward`."""
    check_float32(dtype)
    return _lif_forward(spikes_in, None, window, lif, slack_threshold(lif.v_th))


def _lif_forward(
    spikes_in: Tensor, weight: Tensor | None, window: Window, lif: Lif, theta: float
) -> tuple[Tensor, Tensor]:
    bits = _bits(spikes_in)
    batch, steps, width = bits.shape
    spikes = spikes_in.new_zeros(batch, steps, words(window.neurons))
    counts = spikes_in.new_empty(batch, window.neurons, dtype=torch.float32)
    launch(
        loops.conv_lif_scan, (batch, words(window.neurons)), bits, weight, spikes, counts, steps, width,
        lif.decay_m, lif.decay_s, 1.0 / lif.tau_s, theta, lif.t_ref, **_geometry(window), num_warps=1,
    )  # fmt: skip
    return spikes, counts


def conv_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor, window: Window) -> Tensor:
    """See `reference.images.conv_activation`."""
    check_float32(weight.dtype)
    by_tap, neurons = _by_tap(weight), window.neurons
    total = weight.new_empty(len(spikes), neurons)
    for some in _samples(spikes, neurons):
        bits = _bits(spikes_in[some])
        batch, steps, width = bits.shape
        parts, share = _shared_out(steps, batch * words(neurons))
        partial = weight.new_empty(parts, batch, neurons)
        launch(
            loops.conv_activation, (batch, words(neurons), parts), readout(rule, spikes[some], neurons, lif), bits,
            by_tap, partial, steps, share, width, **_geometry(window), num_warps=1,
        )  # fmt: skip
        total[some] = partial.sum(dim=0)
    return total


def conv_backward(
    rule: str,
    lif: Lif,
    spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor | None,
    credit: Tensor | None,
    weight: Tensor,
    window: Window,
    gain_slope: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.images.conv_backward`."""
    check_float32(weight.dtype)
    whole = weight.new_zeros(len(spikes), 0)
    if gain_slope is not None:
        assert gain is not None, "a slope of no gain"
        gain = whole = gain + gain_slope * conv_activation(rule, lif, spikes_in, spikes, weight, window)
    by_tap = _by_tap(weight)
    gradient = torch.zeros_like(by_tap)
    error = weight.new_empty(len(spikes), 0 if credit is None else window.inputs)
    for some in _samples(spikes, window.neurons):
        bits = _bits(spikes_in[some])
        traces = readout(rule, spikes[some], window.neurons, lif)
        if gain is not None:
            gradient += _by_weight(traces, gain[some].contiguous(), bits, window)
        if credit is not None:
            error[some] = _at_spikes(traces, credit[some].contiguous(), bits, by_tap, window)
    return weight.new_zeros(0, 0, 0, 0) if gain is None else _by_kernel(gradient, window), error, whole


def pool_backward(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, credit: Tensor, window: Window) -> Tensor:
    """See `reference.images.pool_backward`."""
    check_float32(credit.dtype)
    error = credit.new_empty(len(credit), window.inputs)
    for some in _samples(spikes, window.neurons):
        traces = readout(rule, spikes[some], window.neurons, lif)
        error[some] = _at_spikes(traces, credit[some].contiguous(), _bits(spikes_in[some]), None, window)
    return error


# ---- STBP -----------------------------------------------------------------------------------------------------------


def stbp_conv_forward(
    spikes_in: Tensor, weight: Tensor, bias: Tensor | None, window: Window, neuron: Stbp
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.images.stbp_conv_forward`."""
    check_float32(weight.dtype)
    bits = _bits(spikes_in)
    batch, steps, width = bits.shape
    spikes = spikes_in.new_empty(batch, steps, words(window.neurons))
    counts, membrane = weight.new_empty(batch, window.neurons), weight.new_empty(batch, steps, window.neurons)
    launch(
        loops.stbp_conv_scan, (batch, words(window.neurons)), bits, _by_tap(weight),
        None if bias is None else bias.contiguous(), spikes, counts, membrane, steps, width,
        neuron.v_th, neuron.decay, neuron.decay_after_spike, STRICT=neuron.strict, **_geometry(window), num_warps=1,
    )  # fmt: skip
    return spikes, counts, membrane


def stbp_conv_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    window: Window,
    neuron: Stbp,
    wants_input: bool,
    wants_weight: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.images.stbp_conv_backward`."""
    check_float32(weight.dtype)
    grad_u = stbp_scan_backward(grad_spikes, spikes.contiguous(), membrane.contiguous(), None, neuron)
    batch, steps, _ = grad_u.shape
    grad_in = grad_u.new_empty((batch, steps, window.inputs) if wants_input else (batch, 0, 0))
    if wants_input:
        launch(
            loops.conv_error_by_step, (batch, words(window.inputs), triton.cdiv(steps, loops.STEPS.value)),
            grad_u, _by_tap(weight), grad_in, steps, **_geometry(window), num_warps=1,
        )  # fmt: skip
    if not wants_weight:
        return grad_in, grad_u.new_zeros(0, 0, 0, 0), grad_u.new_zeros(0)
    gradient = _by_weight(grad_u, None, _bits(spikes_in), window)
    grad_bias = grad_u.sum(dim=(0, 1)).reshape(window.kernels, -1).sum(dim=1)
    return grad_in, _by_kernel(gradient, window), grad_bias


# ---- sums -----------------------------------------------------------------------------------------------------------


def _by_weight(errors: Tensor, scale: Tensor | None, bits: Tensor, window: Window) -> Tensor:
    """`reference.images.drive_by_weight` of errors (B, T, N) times `scale` (B, N), tap by tap: (taps, K)."""
    batch, steps, width = bits.shape
    taps = window.channels * window.height * window.width
    block = min(max(16, triton.next_power_of_2(window.kernels)), 64)
    tiles = triton.cdiv(taps, BLOCK_TAPS), triton.cdiv(window.kernels, block)
    parts, share = _shared_out(steps, batch * tiles[0] * tiles[1])
    partial = errors.new_empty(batch * parts, taps, window.kernels)
    launch(
        loops.conv_gradient, (batch * parts, *tiles), errors, scale, bits, partial, steps, share, width,
        **_geometry(window), BLOCK_TAPS=BLOCK_TAPS, BLOCK_KERNELS=block, BLOCK_PLACES=BLOCK_PLACES, num_warps=4,
    )  # fmt: skip
    return partial.sum(dim=0)


def _at_spikes(traces: Tensor, credit: Tensor, bits: Tensor, weight: Tensor | None, window: Window) -> Tensor:
    """Sum over t of s_j(t) (transposed convolution of credit r(t))_j: (B, inputs)."""
    batch, steps, width = bits.shape
    parts, share = _shared_out(steps, batch * words(window.inputs))
    partial = traces.new_empty(parts, batch, window.inputs)
    launch(
        loops.conv_error, (batch, words(window.inputs), parts), traces, credit, bits, weight, partial,
        steps, share, width, **_geometry(window), num_warps=1,
    )  # fmt: skip
    return partial.sum(dim=0)


def _samples(spikes: Tensor, neurons: int) -> Iterator[slice]:
    """The batch in parts whose readouts have at most `READOUT` numbers, or in single samples."""
    batch, steps, _ = spikes.shape
    size = max(1, READOUT // max(1, steps * neurons))
    return (slice(begin, begin + size) for begin in range(0, batch, size))


def _shared_out(steps: int, programs: int) -> tuple[int, int]:
    """The number of parts into which the steps are cut, so that all `PROGRAMS` have work; and the steps of a part."""
    least = loops.STEPS.value
    parts = min(max(1, PROGRAMS // max(1, programs)), max(1, triton.cdiv(steps, least)))
    share = max(1, triton.cdiv(triton.cdiv(steps, parts), least)) * least
    return max(1, triton.cdiv(steps, share)), share


def _bits(spikes: Tensor) -> Tensor:
    """Bits (B, T, 2 W) int32 of bits (B, T, W) int64."""
    return spikes.contiguous().view(torch.int32)


def _by_tap(weight: Tensor) -> Tensor:
    """Weights (K, C, height, width) as (C * height * width, K), which is how layers store them."""
    return weight.permute(1, 2, 3, 0).contiguous().flatten(0, 2)


def _by_kernel(by_tap: Tensor, window: Window) -> Tensor:
    """The reverse of `_by_tap`."""
    return by_tap.reshape(window.channels, window.height, window.width, window.kernels).permute(3, 0, 1, 2)


def _geometry(window: Window) -> dict[str, int]:
    """A window as the kernels' constants."""
    sizes = {name.upper(): size for name, size in window._asdict().items()}
    return {**sizes, "OUT_ROWS": window.out_rows, "OUT_COLUMNS": window.out_columns}
