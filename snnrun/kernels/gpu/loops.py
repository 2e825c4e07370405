# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""The loops of the `gpu` backend, in Triton; `gpu` prepares their arguments, see there.

Each program has one sample and runs through all of its steps. Without recurrent synapses it has one word of bits, that
is 64 neurons, because neurons do not depend on each other. With them it has the whole layer, padded to a power of 2
(`BLOCK`), because at each step every neuron needs the spikes of the others. Neurons of a program exchange values
through memory, between two barriers.

`spikes` are bits (B, T, words) int64, all else is as in `reference`. Arguments that may be absent are None.
"""

import triton
import triton.language as tl

# So many rows of a matrix, or steps, are read at once, so that the reads wait for memory together.
ROWS = tl.constexpr(8)


# ---- what neurons of a layer tell each other ------------------------------------------------------------------------


@triton.jit
def note_spikes(fired, names, neuron):
    """Write the numbers of the neurons that fired to `names`; returns how many fired."""
    fired = fired.to(tl.int32)
    tl.debug_barrier()
    tl.store(names + tl.cumsum(fired, axis=0) - 1, neuron, mask=fired != 0)
    tl.debug_barrier()
    return tl.sum(fired, axis=0)


@triton.jit
def sum_rows(names, count, matrix, neurons, neuron):
    """Sum of the rows of `matrix` (neurons, neurons) that the first `count` entries of `names` select."""
    total = tl.zeros((ROWS, neuron.shape[0]), tl.float32)
    for first in range(0, count, ROWS):
        place = first + tl.arange(0, ROWS)
        row = tl.load(names + place, mask=place < count, other=0)
        inside = (place < count)[:, None] & (neuron < neurons)[None, :]
        total += tl.load(matrix + row[:, None] * neurons + neuron[None, :], mask=inside, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def vector_times_matrix(vector, matrix, rows, neurons, neuron):
    """`vector` (rows,) in memory times `matrix` (rows, neurons)."""
    total = tl.zeros((ROWS, neuron.shape[0]), tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        factor = tl.load(vector + row, mask=row < rows, other=0.0)
        inside = (row < rows)[:, None] & (neuron < neurons)[None, :]
        entries = tl.load(matrix + row[:, None] * neurons + neuron[None, :], mask=inside, other=0.0)
        total += factor[:, None] * entries
    return tl.sum(total, axis=0)


@triton.jit
def store_bits(spikes, fired, words):
    """Store as bits which neurons fired at one step."""
    bits = tl.reshape(fired.to(tl.int64), (fired.shape[0] // 64, 64)) << tl.arange(0, 64)[None, :].to(tl.int64)
    word = tl.arange(0, fired.shape[0] // 64)
    tl.store(spikes + word, tl.sum(bits, axis=1), mask=word < words)


# ---- spike-train-level rules ----------------------------------------------------------------------------------------


@triton.jit
def lif_scan(
    drive, loop, names, spikes, counts, steps, neurons, words, decay_m, decay_s, rise, theta, t_ref, BLOCK: tl.constexpr
):  # fmt: skip
    """`reference.lif_forward` from the drive; `loop` (N, N) from row to column, `names` (B, BLOCK) int32 is scratch."""
    sample = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * BLOCK
    neuron = begin + tl.arange(0, BLOCK)
    mine = neuron < neurons
    drive += sample * steps * neurons + neuron
    spikes += sample * steps * words + begin // 64
    u = tl.zeros((BLOCK,), tl.float32)
    a = tl.zeros((BLOCK,), tl.float32)
    count = tl.zeros((BLOCK,), tl.float32)
    last = tl.zeros((BLOCK,), tl.int32) - 1 - t_ref
    if loop is not None:
        names += sample * BLOCK
    fired_before = 0
    for t in range(1, steps):
        a = a * decay_s + tl.load(drive + (t - 1) * neurons, mask=mine, other=0.0)
        if loop is not None:
            a += sum_rows(names, fired_before, loop, neurons, neuron)
        u = u * decay_m + a * rise
        u = tl.where(t - last <= t_ref, 0.0, u)
        fired = (u > theta) & mine
        u = tl.where(fired, 0.0, u)
        last = tl.where(fired, t, last)
        count += fired.to(tl.float32)
        store_bits(spikes + t * words, fired, words - begin // 64)
        if loop is not None:
            fired_before = note_spikes(fired, names, neuron)
    tl.store(counts + sample * neurons + neuron, count, mask=mine)


@triton.jit
def strsbp_scan(spikes, readout, steps, neurons, words, decay_m, decay_s, rise, t_ref):
    """`reference.strsbp_readout`."""
    sample = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1)
    bit = tl.arange(0, 64)
    neuron = word * 64 + bit
    mine = neuron < neurons
    spikes += sample * steps * words + word
    readout += sample * steps * neurons + neuron
    q = tl.zeros((64,), tl.float32)
    p = tl.zeros((64,), tl.float32)
    tl.store(readout + (steps - 1) * neurons, p, mask=mine)
    for t in range(steps - 1, 0, -1):
        fired = tl.load(spikes + t * words)
        held = fired ^ fired
        for lag in range(1, t_ref + 1):
            held |= tl.load(spikes + (t - lag) * words, mask=lag <= t, other=0)
        q = tl.where((fired >> bit) & 1 != 0, 1.0, q)
        q = tl.where((held >> bit) & 1 != 0, 0.0, q)
        p = p * decay_s + q * rise
        tl.store(readout + (t - 1) * neurons, p, mask=mine)
        q = q * decay_m


@triton.jit
def hm2bp_scan(spikes, kernel, readout, steps, neurons, words, window, tau_s, decay):
    """`reference.hm2bp_readout`; `kernel` of `reference.hm2bp_kernel`, `window` in whole steps.

    A pair of successive spikes gives a tail, from the first spike back to where the window of the last one begins. Only
    a forward scan knows both spikes at that step. So it writes to the readout's row there what the tail then loses.
    """
    sample = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1)
    bit = tl.arange(0, 64)
    neuron = word * 64 + bit
    mine = neuron < neurons
    spikes += sample * steps * words + word
    readout += sample * steps * neurons + neuron
    tail = tl.zeros((64,), tl.float32)
    tl.store(readout, tail, mask=mine)
    if window + 1 < steps:
        previous = tl.zeros((64,), tl.int32) - 1
        for last in range(0, steps):
            fired = (tl.load(spikes + last * words) >> bit) & 1 != 0
            begin = last - window
            if begin > 0:
                height = tl.load(kernel + last - previous, mask=fired & (previous >= begin), other=0.0)
                cut = height * tl.exp(-tl.maximum(previous - begin, 0) / tau_s)
                tl.store(readout + begin * neurons, cut, mask=mine)
            previous = tl.where(fired, last, previous)
        tl.debug_barrier()
    following = tl.zeros((64,), tl.int32) + 2 * steps
    for now in range(steps - 1, 0, -1):
        fired = (tl.load(spikes + now * words) >> bit) & 1 != 0
        height = tl.load(kernel + following - now)
        cut = tl.zeros((64,), tl.float32)
        if now + window < steps:
            cut = tl.load(readout + now * neurons, mask=mine, other=0.0)
        tl.store(readout + now * neurons, height + tail, mask=mine)
        tail = (tail + tl.where(fired, height, 0.0) - cut) * decay
        following = tl.where(fired, now, following)


@triton.jit
def sum_at_spikes(values, spikes, total, steps, neurons, words):
    """Sum over t of `values` (B, T, N) where a neuron fired: (B, N)."""
    sample = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1)
    bit = tl.arange(0, 64)
    neuron = word * 64 + bit
    mine = neuron < neurons
    spikes += sample * steps * words + word
    values += sample * steps * neurons
    partial = tl.zeros((ROWS, 64), tl.float32)
    for first in range(0, steps, ROWS):
        t = first + tl.arange(0, ROWS)
        bits = tl.load(spikes + t * words, mask=t < steps, other=0)
        fired = (bits[:, None] >> bit[None, :]) & 1 != 0
        partial += tl.load(values + t[:, None] * neurons + neuron[None, :], mask=fired & mine[None, :], other=0.0)
    tl.store(total + sample * neurons + neuron, tl.sum(partial, axis=0), mask=mine)


# ---- recurrent synapses ---------------------------------------------------------------------------------------------


@triton.jit
def synapse_scan(readout, spikes, pre, post, e, steps, neurons, words, synapses, BLOCK: tl.constexpr):
    """`reference.recurrent_spsp` from the readout; a program has a block of synapses."""
    sample = tl.program_id(1).to(tl.int64)
    synapse = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mine = synapse < synapses
    source = tl.load(pre + synapse, mask=mine, other=0)
    readout += sample * steps * neurons + tl.load(post + synapse, mask=mine, other=0)
    spikes += sample * steps * words + source // 64
    total = tl.zeros((BLOCK,), tl.float32)
    for t in range(0, steps):
        fired = (tl.load(spikes + t * words) >> (source % 64)) & 1 != 0
        total += tl.load(readout + t * neurons, mask=fired & mine, other=0.0)
    tl.store(e + sample * synapses + synapse, total, mask=mine)


@triton.jit
def coupling_sweeps(
    theta, first, post, diagonal, right, x, converged, neurons, synapses, sweeps, tolerance,
    SELF: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Iterate x = (right + theta^T x) / diagonal until x no longer changes; `converged` says for which samples it did.

    `first` (N + 1,): number of the first synapse of each pre-neuron.
    """
    sample = tl.program_id(0).to(tl.int64)
    neuron = tl.arange(0, BLOCK)
    mine = neuron < neurons
    theta += sample * synapses
    x += sample * neurons
    right_side = tl.load(right + sample * neurons + neuron, mask=mine, other=0.0)
    divisor = tl.load(diagonal + sample * neurons + neuron, mask=mine, other=1.0)
    begin = tl.load(first + neuron, mask=mine, other=0)
    end = tl.load(first + neuron + 1, mask=mine, other=0)
    longest = tl.max(end - begin, axis=0)
    value = right_side / divisor
    tl.store(x + neuron, value, mask=mine)
    sweep = 0
    change = tl.max(tl.abs(value), axis=0) + 1.0
    size = change * 0.0
    while (sweep < sweeps) & (change > tolerance * size):
        tl.debug_barrier()
        total = right_side
        for k in range(0, longest):
            inside = begin + k < end
            target = tl.load(post + begin + k, mask=inside, other=0)
            if not SELF:
                inside = inside & (target != neuron)
            total += tl.load(theta + begin + k, mask=inside, other=0.0) * tl.load(x + target, mask=inside, other=0.0)
        total = total / divisor
        change = tl.max(tl.abs(total - value), axis=0)
        size = tl.max(tl.abs(total), axis=0)
        value = total
        tl.debug_barrier()
        tl.store(x + neuron, value, mask=mine)
        sweep += 1
    tl.store(converged + sample, ((change <= tolerance * size) & (size < float("inf"))).to(tl.int32))


@triton.jit
def coupling_elimination(
    theta, pre, post, diagonal, right, x, converged, matrix, neurons, synapses, SELF: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Solve by Gauss-Jordan elimination with pivots the samples whose sweeps did not converge.

    `matrix` (B, N + 1, N) is scratch: row l has the coefficients of x_l in the N equations, row N the right side.
    """
    sample = tl.program_id(0).to(tl.int64)
    if tl.load(converged + sample) == 0:
        matrix += sample * (neurons + 1) * neurons
        fill_system(
            theta + sample * synapses, pre, post, diagonal + sample * neurons, right + sample * neurons, matrix,
            neurons, synapses, SELF, BLOCK,
        )  # fmt: skip
        equation = tl.arange(0, BLOCK)
        mine = equation < neurons
        free = mine
        solves = tl.zeros((BLOCK,), tl.int32)
        pivots = tl.zeros((BLOCK,), tl.float32) + 1.0
        for k in range(0, neurons):
            column = tl.load(matrix + k * neurons + equation, mask=mine, other=0.0)
            best = tl.argmax(tl.where(free, tl.abs(column), -1.0), axis=0)
            chosen = equation == best
            pivot = tl.sum(tl.where(chosen, column, 0.0), axis=0)
            solves = tl.where(chosen, k, solves)
            pivots = tl.where(chosen, pivot, pivots)
            free = free & (equation != best)
            eliminate(matrix, best, tl.where(chosen, 0.0, column / pivot), k, neurons, equation)
            tl.debug_barrier()
        value = tl.load(matrix + neurons * neurons + equation, mask=mine, other=0.0) / pivots
        tl.store(x + sample * neurons + solves, value, mask=mine)


@triton.jit
def fill_system(theta, pre, post, diagonal, right, matrix, neurons, synapses, SELF: tl.constexpr, BLOCK: tl.constexpr):
    """Write diag(diagonal) - theta, to row from column, and the right side below it."""
    neuron = tl.arange(0, BLOCK)
    mine = neuron < neurons
    own = tl.load(diagonal + neuron, mask=mine, other=0.0)
    for row in range(0, neurons):
        tl.store(matrix + row * neurons + neuron, tl.where(neuron == row, own, 0.0), mask=mine)
    tl.store(matrix + neurons * neurons + neuron, tl.load(right + neuron, mask=mine, other=0.0), mask=mine)
    tl.debug_barrier()
    for begin in range(0, synapses, BLOCK):
        synapse = begin + neuron
        inside = synapse < synapses
        target = tl.load(post + synapse, mask=inside, other=0)
        source = tl.load(pre + synapse, mask=inside, other=0)
        entry = -tl.load(theta + synapse, mask=inside, other=0.0)
        if SELF:
            entry += tl.load(diagonal + target, mask=inside & (target == source), other=0.0)
        else:
            inside = inside & (target != source)
        tl.store(matrix + target * neurons + source, entry, mask=inside)
    tl.debug_barrier()


@triton.jit
def eliminate(matrix, best, factor, k, neurons, equation):
    """Subtract `factor` times equation `best` from all other equations, for the unknowns after `k`."""
    for begin in range(k + 1, neurons + 1, ROWS):
        unknown = begin + tl.arange(0, ROWS)
        inside = unknown <= neurons
        subtracted = tl.load(matrix + unknown * neurons + best, mask=inside, other=0.0)
        entry = matrix + unknown[:, None] * neurons + equation[None, :]
        # Equation `best` itself is not written, because other threads read it here.
        others = inside[:, None] & ((equation < neurons) & (equation != best))[None, :]
        tl.store(entry, tl.load(entry, mask=others, other=0.0) - subtracted[:, None] * factor[None, :], mask=others)


# ---- STBP -----------------------------------------------------------------------------------------------------------


@triton.jit
def stbp_scan(
    drive, loop, names, spikes, counts, membrane, steps, neurons, words, v_th, decay, decay_after_spike,
    STRICT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """`reference.stbp_scan`; `loop` and `names` as in `lif_scan`."""
    sample = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * BLOCK
    neuron = begin + tl.arange(0, BLOCK)
    mine = neuron < neurons
    drive += sample * steps * neurons + neuron
    membrane += sample * steps * neurons + neuron
    spikes += sample * steps * words + begin // 64
    u = tl.zeros((BLOCK,), tl.float32)
    fired = neuron < 0
    count = tl.zeros((BLOCK,), tl.float32)
    if loop is not None:
        names += sample * BLOCK
    fired_before = 0
    for t in range(0, steps):
        u = u * tl.where(fired, decay_after_spike, decay) + tl.load(drive + t * neurons, mask=mine, other=0.0)
        if loop is not None:
            u += sum_rows(names, fired_before, loop, neurons, neuron)
        above = u > v_th if STRICT else u >= v_th
        fired = above & mine
        count += fired.to(tl.float32)
        tl.store(membrane + t * neurons, u, mask=mine)
        store_bits(spikes + t * words, fired, words - begin // 64)
        if loop is not None:
            fired_before = note_spikes(fired, names, neuron)
    tl.store(counts + sample * neurons + neuron, count, mask=mine)


@triton.jit
def surrogate(x, SURROGATE: tl.constexpr, peak, scale):
    """`reference.surrogate` of the distance x from the threshold; `peak` and `scale` from `gpu.surrogate_constants`."""
    if SURROGATE == "rectangle":
        h = tl.where(tl.abs(x) < scale, peak, 0.0)
    elif SURROGATE == "polynomial":
        h = tl.maximum(peak - scale * tl.abs(x), 0.0)
    elif SURROGATE == "sigmoid":
        tail = tl.exp(-scale * tl.abs(x))
        h = peak * tail / ((1.0 + tail) * (1.0 + tail))
    else:
        tl.static_assert(SURROGATE == "gaussian")
        h = peak * tl.exp(-scale * x * x)
    return h


@triton.jit
def stbp_scan_backward(
    grad_spikes, sample_stride, step_stride, neuron_stride, spikes, membrane, loop, grad_u, steps, neurons, words,
    v_th, decay, decay_after_spike, slope, slope_after_spike, peak, scale,
    SURROGATE: tl.constexpr, TEMPORAL: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """`reference.stbp_scan_backward`; `loop` (N, N) is to row from column; f and f' without and after a spike."""
    sample = tl.program_id(0).to(tl.int64)
    neuron = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mine = neuron < neurons
    grad_spikes += sample * sample_stride + neuron * neuron_stride
    spikes += sample * steps * words + neuron // 64
    membrane += sample * steps * neurons + neuron
    grad_u += sample * steps * neurons
    ahead = tl.zeros((BLOCK,), tl.float32)
    for t in range(steps - 1, -1, -1):
        u = tl.load(membrane + t * neurons, mask=mine, other=0.0)
        fired = (tl.load(spikes + t * words, mask=mine, other=0) >> (neuron % 64)) & 1 != 0
        grad_o = tl.load(grad_spikes + t * step_stride, mask=mine, other=0.0)
        kept = ahead * 0.0
        if TEMPORAL:
            grad_o += ahead * u * tl.where(fired, slope_after_spike, slope)
            kept = ahead * tl.where(fired, decay_after_spike, decay)
            if loop is not None:
                tl.debug_barrier()
                # The last step has none ahead, so no rows are read.
                rows = tl.where(t + 1 < steps, neurons, 0)
                grad_o += vector_times_matrix(grad_u + (t + 1) * neurons, loop, rows, neurons, neuron)
        ahead = grad_o * surrogate(u - v_th, SURROGATE, peak, scale) + kept
        tl.store(grad_u + t * neurons + neuron, ahead, mask=mine)
