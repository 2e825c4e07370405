# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""The loops of the `gpu` backend for STBP's adaptive neurons, in Triton; `gpu.alif` prepares their arguments.

Programs are as in `gpu.loops`. What each neuron has of its own is (N,): f(o) and f'(o) without a spike and `_after`
one, df(o)/d(decay) after one, and rho. `effective` is None if no neuron adapts.
"""

import triton
import triton.language as tl

from snnrun.kernels.gpu.loops import note_spikes, store_bits, sum_rows, surrogate, vector_times_matrix


@triton.jit
def alif_scan(
    drive, loop, names, kept, kept_after, rho, spikes, counts, membrane, effective, steps, neurons, words, v_th, rise,
    STRICT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """`reference.alif_scan` with a drive of each step; `loop` and `names` as in `gpu.loops.lif_scan`."""
    sample = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * BLOCK
    neuron = begin + tl.arange(0, BLOCK)
    mine = neuron < neurons
    drive += sample * steps * neurons + neuron
    membrane += sample * steps * neurons + neuron
    spikes += sample * steps * words + begin // 64
    f = tl.load(kept + neuron, mask=mine, other=0.0)
    f_after = tl.load(kept_after + neuron, mask=mine, other=0.0)
    remains = tl.load(rho + neuron, mask=mine, other=0.0)
    if effective is not None:
        effective += sample * steps * neurons + neuron
    u = tl.zeros((BLOCK,), tl.float32)
    a = tl.zeros((BLOCK,), tl.float32)
    fired = neuron < 0
    count = tl.zeros((BLOCK,), tl.float32)
    if loop is not None:
        names += sample * BLOCK
    fired_before = 0
    for t in range(0, steps):
        u = u * tl.where(fired, f_after, f) + tl.load(drive + t * neurons, mask=mine, other=0.0)
        if loop is not None:
            u += sum_rows(names, fired_before, loop, neurons, neuron)
        tl.store(membrane + t * neurons, u, mask=mine)
        x = u
        if effective is not None:
            a = a * remains + tl.where(fired, 1.0 - remains, 0.0)
            x = u - rise * a
            tl.store(effective + t * neurons, x, mask=mine)
        above = x > v_th if STRICT else x >= v_th
        fired = above & mine
        count += fired.to(tl.float32)
        store_bits(spikes + t * words, fired, words - begin // 64)
        if loop is not None:
            fired_before = note_spikes(fired, names, neuron)
    tl.store(counts + sample * neurons + neuron, count, mask=mine)


@triton.jit
def alif_scan_backward(
    grad_spikes, sample_stride, step_stride, neuron_stride, spikes, membrane, effective, loop,
    kept, kept_after, sloped, sloped_after, by_decay_after, rho, grad_u, grad_decay, grad_rho,
    steps, neurons, words, v_th, rise, fall, peak, scale,
    SURROGATE: tl.constexpr, TEMPORAL: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """`reference.alif_scan_backward`; `loop` (N, N) to row from column; `grad_decay` and `grad_rho` (B, N)."""
    sample = tl.program_id(0).to(tl.int64)
    neuron = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mine = neuron < neurons
    grad_spikes += sample * sample_stride + neuron * neuron_stride
    spikes += sample * steps * words + neuron // 64
    membrane += sample * steps * neurons + neuron
    grad_u += sample * steps * neurons
    f = tl.load(kept + neuron, mask=mine, other=0.0)
    f_after = tl.load(kept_after + neuron, mask=mine, other=0.0)
    slope = tl.load(sloped + neuron, mask=mine, other=0.0)
    slope_after = tl.load(sloped_after + neuron, mask=mine, other=0.0)
    by_after = tl.load(by_decay_after + neuron, mask=mine, other=0.0)
    remains = tl.load(rho + neuron, mask=mine, other=0.0)
    if effective is not None:
        effective += sample * steps * neurons + neuron
    ahead = tl.zeros((BLOCK,), tl.float32)
    adaptation = tl.zeros((BLOCK,), tl.float32)
    by_decay = tl.zeros((BLOCK,), tl.float32)
    by_rho = tl.zeros((BLOCK,), tl.float32)
    for t in range(steps - 1, -1, -1):
        u = tl.load(membrane + t * neurons, mask=mine, other=0.0)
        fired = (tl.load(spikes + t * words, mask=mine, other=0) >> (neuron % 64)) & 1 != 0
        grad_o = tl.load(grad_spikes + t * step_stride, mask=mine, other=0.0)
        by_decay += ahead * u * tl.where(fired, by_after, 1.0)
        x = u
        if effective is not None:
            x = tl.load(effective + t * neurons, mask=mine, other=0.0)
            by_rho += adaptation * ((u - x) * fall - tl.where(fired, 1.0, 0.0))
        if TEMPORAL:
            grad_o += ahead * u * tl.where(fired, slope_after, slope) + (1.0 - remains) * adaptation
            if loop is not None:
                tl.debug_barrier()
                # The last step has none ahead, so no rows are read.
                rows = tl.where(t + 1 < steps, neurons, 0)
                grad_o += vector_times_matrix(grad_u + (t + 1) * neurons, loop, rows, neurons, neuron)
            ahead = ahead * tl.where(fired, f_after, f)
            adaptation = adaptation * remains
        else:
            ahead = ahead * 0.0
            adaptation = adaptation * 0.0
        error = grad_o * surrogate(x - v_th, SURROGATE, peak, scale)
        ahead += error
        adaptation -= rise * error
        tl.store(grad_u + t * neurons + neuron, ahead, mask=mine)
    tl.store(grad_decay + sample * neurons + neuron, by_decay, mask=mine)
    tl.store(grad_rho + sample * neurons + neuron, by_rho, mask=mine)
