# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""The loops of the `gpu` backend's layers over images, in Triton; `images` prepares their arguments, see there.

A program has one sample and a word of bits, that is 64 neurons or inputs. In `conv_gradient` it has a tile of the
weights. It takes `STEPS` steps at once. For each tap of the window it tests the one bit of each step that a neuron sees
there.

Names in capitals are those of `neuron.Window`; Triton compiles a kernel for each of their values. Kernels read spikes
as bits (B, T, words) int32, which a GPU shifts faster. `weight` is tap by tap, (C * HEIGHT * WIDTH, K), or None for a
pool, whose neurons have the weight 1 and see their own channel only. All else is as in `reference.images`. If several
programs share a sum, each writes its part, and the host adds the parts in a fixed order.
"""

import triton
import triton.language as tl

from snnrun.kernels.gpu.loops import store_bits

STEPS = tl.constexpr(8)


# ---- what a neuron sees, and what sees an input ---------------------------------------------------------------------


@triton.jit
def inputs_at(
    spikes, channel, row, column, inside, ROWS: tl.constexpr, COLUMNS: tl.constexpr, POOL: tl.constexpr
):  # fmt: skip
    """The inputs of the image after averaging, 0 if not `inside`; `spikes` points to the bits of a step."""
    corner = (channel * ROWS + row * POOL) * COLUMNS + column * POOL
    fired = (tl.load(spikes + (corner >> 5), mask=inside, other=0) >> (corner & 31)) & 1
    for pixel in range(1, POOL * POOL):
        number = corner + pixel // POOL * COLUMNS + pixel % POOL
        fired += (tl.load(spikes + (number >> 5), mask=inside, other=0) >> (number & 31)) & 1
    return fired.to(tl.float32) / (POOL * POOL)


@triton.jit
def window_of(
    neuron, mine, HEIGHT: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    OUT_ROWS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Kernel of a neuron, and the first row and column that it sees; if not `mine`, a window above the image."""
    top = neuron // OUT_COLUMNS % OUT_ROWS * STRIDE - PADDING
    left = neuron % OUT_COLUMNS * STRIDE - PADDING
    return neuron // (OUT_ROWS * OUT_COLUMNS), tl.where(mine, top, -HEIGHT), left


@triton.jit
def drive(
    spikes, seen, weight, kernel, top, left,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KERNELS: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """Weighted sums (steps, neurons); `spikes` (steps, 1) points to steps, whose bits are 0 if not `seen`."""
    total = tl.zeros((spikes.shape[0], kernel.shape[0]), tl.float32)
    for tap in range(0, HEIGHT * WIDTH if weight is None else CHANNELS * HEIGHT * WIDTH):
        row = top + tap // WIDTH % HEIGHT
        column = left + tap % WIDTH
        inside = (row >= 0) & (row < ROWS // POOL) & (column >= 0) & (column < COLUMNS // POOL)
        looks = seen & inside[None, :]
        if weight is None:
            total += inputs_at(
                spikes, kernel[None, :], row[None, :], column[None, :], looks, ROWS, COLUMNS, POOL
            )  # fmt: skip
        else:
            factor = tl.load(weight + tap * KERNELS + kernel, mask=inside, other=0.0)
            channel = tap // (HEIGHT * WIDTH)
            total += factor[None, :] * inputs_at(
                spikes, channel, row[None, :], column[None, :], looks, ROWS, COLUMNS, POOL
            )  # fmt: skip
    return total


@triton.jit
def sent_back(
    errors, scale, wanted, weight, channel, row, column,
    KERNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    OUT_ROWS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Weighted sums (steps, inputs), where `wanted`, of the errors of all neurons that see an input of the image.

    `errors` (steps, 1) points to steps; `scale` (N,) multiplies them, or is None.
    """
    total = tl.zeros((errors.shape[0], row.shape[0]), tl.float32)
    for tap in range(0, HEIGHT * WIDTH):
        # The neuron whose window begins at this place has this tap on the input.
        top = row + PADDING - tap // WIDTH
        left = column + PADDING - tap % WIDTH
        exists = (top >= 0) & (top % STRIDE == 0) & (top // STRIDE < OUT_ROWS)
        exists = exists & (left >= 0) & (left % STRIDE == 0) & (left // STRIDE < OUT_COLUMNS)
        place = top // STRIDE * OUT_COLUMNS + left // STRIDE
        for k in range(0, 1 if weight is None else KERNELS):
            if weight is None:
                neuron = channel * (OUT_ROWS * OUT_COLUMNS) + place
                factor = tl.where(exists, 1.0, 0.0)
            else:
                neuron = k * (OUT_ROWS * OUT_COLUMNS) + place
                factor = tl.load(weight + (channel * HEIGHT * WIDTH + tap) * KERNELS + k, mask=exists, other=0.0)
            if scale is not None:
                factor *= tl.load(scale + neuron, mask=exists, other=0.0)
            error = tl.load(errors + neuron[None, :], mask=wanted & exists[None, :], other=0.0)
            total += factor[None, :] * error
    return total


@triton.jit
def image_of(
    number, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, POOL: tl.constexpr, PADDING: tl.constexpr
):  # fmt: skip
    """Channel, row and column of an input after averaging; if there is no such input, a row above all windows."""
    row = number // COLUMNS % ROWS // POOL
    column = number % COLUMNS // POOL
    real = (number < CHANNELS * ROWS * COLUMNS) & (row < ROWS // POOL) & (column < COLUMNS // POOL)
    return number // (ROWS * COLUMNS), tl.where(real, row, -PADDING - 1), column


# ---- forward --------------------------------------------------------------------------------------------------------


@triton.jit
def conv_lif_scan(
    spikes_in, weight, spikes, counts, steps, words_in, decay_m, decay_s, rise, theta, t_ref,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KERNELS: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, POOL: tl.constexpr,
    OUT_ROWS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
):  # fmt: skip
    """`reference.images.conv_forward`, and `pool_forward` without `weight`; `spikes` (B, T, words) int64 are 0."""
    NEURONS: tl.constexpr = KERNELS * OUT_ROWS * OUT_COLUMNS
    sample = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1)
    neuron = word * 64 + tl.arange(0, 64)
    mine = neuron < NEURONS
    kernel, top, left = window_of(neuron, mine, HEIGHT, STRIDE, PADDING, OUT_ROWS, OUT_COLUMNS)
    spikes_in += sample * steps * words_in
    spikes += sample * steps * ((NEURONS + 63) // 64) + word
    step = tl.arange(0, STEPS)
    u = tl.zeros((64,), tl.float32)
    a = tl.zeros((64,), tl.float32)
    count = tl.zeros((64,), tl.float32)
    last = tl.zeros((64,), tl.int32) - 1 - t_ref
    for first in range(0, steps - 1, STEPS):
        t = (first + step)[:, None]
        driven = drive(
            spikes_in + t * words_in, t < steps, weight, kernel, top, left,
            CHANNELS, ROWS, COLUMNS, KERNELS, HEIGHT, WIDTH, POOL,
        )  # fmt: skip
        for now in range(first + 1, tl.minimum(first + 1 + STEPS, steps)):
            a = a * decay_s + tl.sum(tl.where(t == now - 1, driven, 0.0), axis=0)
            u = u * decay_m + a * rise
            u = tl.where(now - last <= t_ref, 0.0, u)
            fired = (u > theta) & mine
            u = tl.where(fired, 0.0, u)
            last = tl.where(fired, now, last)
            count += fired.to(tl.float32)
            store_bits(spikes + now * ((NEURONS + 63) // 64), fired, 1)
    tl.store(counts + sample * NEURONS + neuron, count, mask=mine)


@triton.jit
def stbp_conv_scan(
    spikes_in, weight, bias, spikes, counts, membrane, steps, words_in, v_th, decay, decay_after_spike,
    STRICT: tl.constexpr,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KERNELS: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, POOL: tl.constexpr,
    OUT_ROWS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
):  # fmt: skip
    """`reference.images.stbp_conv_forward`; `spikes` (B, T, words) int64."""
    NEURONS: tl.constexpr = KERNELS * OUT_ROWS * OUT_COLUMNS
    sample = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1)
    neuron = word * 64 + tl.arange(0, 64)
    mine = neuron < NEURONS
    kernel, top, left = window_of(neuron, mine, HEIGHT, STRIDE, PADDING, OUT_ROWS, OUT_COLUMNS)
    spikes_in += sample * steps * words_in
    spikes += sample * steps * ((NEURONS + 63) // 64) + word
    membrane += sample * steps * NEURONS + neuron
    step = tl.arange(0, STEPS)
    rest = tl.zeros((64,), tl.float32)
    if bias is not None:
        rest += tl.load(bias + kernel, mask=mine, other=0.0)
    u = tl.zeros((64,), tl.float32)
    fired = neuron < 0
    count = tl.zeros((64,), tl.float32)
    for first in range(0, steps, STEPS):
        t = (first + step)[:, None]
        driven = drive(
            spikes_in + t * words_in, t < steps, weight, kernel, top, left,
            CHANNELS, ROWS, COLUMNS, KERNELS, HEIGHT, WIDTH, POOL,
        )  # fmt: skip
        for now in range(first, tl.minimum(first + STEPS, steps)):
            u = u * tl.where(fired, decay_after_spike, decay)
            u += tl.sum(tl.where(t == now, driven, 0.0), axis=0) + rest
            above = u > v_th if STRICT else u >= v_th
            fired = above & mine
            count += fired.to(tl.float32)
            tl.store(membrane + now * NEURONS, u, mask=mine)
            store_bits(spikes + now * ((NEURONS + 63) // 64), fired, 1)
    tl.store(counts + sample * NEURONS + neuron, count, mask=mine)


# ---- sums over pairs ------------------------------------------------------------------------------------------------


@triton.jit
def conv_activation(
    readout, spikes_in, weight, partial, steps, share, words_in,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KERNELS: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, POOL: tl.constexpr,
    OUT_ROWS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum over t of readout times drive, (parts, B, N); each part has `share` steps."""
    NEURONS: tl.constexpr = KERNELS * OUT_ROWS * OUT_COLUMNS
    sample = tl.program_id(0).to(tl.int64)
    neuron = tl.program_id(1) * 64 + tl.arange(0, 64)
    part = tl.program_id(2)
    mine = neuron < NEURONS
    kernel, top, left = window_of(neuron, mine, HEIGHT, STRIDE, PADDING, OUT_ROWS, OUT_COLUMNS)
    readout += sample * steps * NEURONS + neuron[None, :]
    spikes_in += sample * steps * words_in
    total = tl.zeros((STEPS, 64), tl.float32)
    for first in range(part * share, tl.minimum(part * share + share, steps), STEPS):
        t = (first + tl.arange(0, STEPS))[:, None]
        driven = drive(
            spikes_in + t * words_in, t < steps, weight, kernel, top, left,
            CHANNELS, ROWS, COLUMNS, KERNELS, HEIGHT, WIDTH, POOL,
        )  # fmt: skip
        total += driven * tl.load(readout + t * NEURONS, mask=(t < steps) & mine[None, :], other=0.0)
    partial += (part * tl.num_programs(0) + sample) * NEURONS + neuron
    tl.store(partial, tl.sum(total, axis=0), mask=mine)


@triton.jit
def conv_gradient(
    errors, scale, spikes_in, partial, steps, share, words_in,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KERNELS: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, POOL: tl.constexpr,
    OUT_ROWS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
    BLOCK_TAPS: tl.constexpr, BLOCK_KERNELS: tl.constexpr, BLOCK_PLACES: tl.constexpr,
):  # fmt: skip
    """`reference.images.drive_by_weight` of errors (B, T, N) times `scale` (B, N) or None: (B, parts, taps, K).

    This is a product of two matrices. One has, by tap and place, the inputs seen there. The other has, by place and
    kernel, the errors. Places are those of all steps, one after another. Neither matrix is in memory: the kernel reads
    bits and errors block by block.
    """
    PLACES: tl.constexpr = OUT_ROWS * OUT_COLUMNS
    TAPS: tl.constexpr = CHANNELS * HEIGHT * WIDTH
    parts = (steps + share - 1) // share
    program = tl.program_id(0).to(tl.int64)
    sample = program // parts
    begin = (program % parts).to(tl.int32) * share
    end = tl.minimum(begin + share, steps)
    tap = (tl.program_id(1) * BLOCK_TAPS + tl.arange(0, BLOCK_TAPS))[:, None]
    kernel = (tl.program_id(2) * BLOCK_KERNELS + tl.arange(0, BLOCK_KERNELS))[None, :]
    errors += sample * steps * (KERNELS * PLACES) + kernel * PLACES
    spikes_in += sample * steps * words_in
    if scale is not None:
        scale += sample * (KERNELS * PLACES) + kernel * PLACES
    total = tl.zeros((BLOCK_TAPS, BLOCK_KERNELS), tl.float32)
    for first in range(0, (end - begin) * PLACES, BLOCK_PLACES):
        index = first + tl.arange(0, BLOCK_PLACES)
        t = begin + index // PLACES
        place = index % PLACES
        row = (place // OUT_COLUMNS * STRIDE - PADDING)[None, :] + tap // WIDTH % HEIGHT
        column = (place % OUT_COLUMNS * STRIDE - PADDING)[None, :] + tap % WIDTH
        inside = (row >= 0) & (row < ROWS // POOL) & (column >= 0) & (column < COLUMNS // POOL)
        inside = inside & (tap < TAPS) & (t < end)[None, :]
        step = spikes_in + (t * words_in)[None, :]
        seen = inputs_at(step, tap // (HEIGHT * WIDTH), row, column, inside, ROWS, COLUMNS, POOL)
        wanted = (t < end)[:, None] & (kernel < KERNELS)
        error = tl.load(errors + (t * (KERNELS * PLACES) + place)[:, None], mask=wanted, other=0.0)
        if scale is not None:
            error *= tl.load(scale + place[:, None], mask=wanted, other=0.0)
        total = tl.dot(seen, error, total, input_precision="ieee")
    partial += (program * TAPS + tap) * KERNELS + kernel
    tl.store(partial, total, mask=(tap < TAPS) & (kernel < KERNELS))


@triton.jit
def conv_error(
    errors, scale, spikes_in, weight, partial, steps, share, words_in,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KERNELS: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, POOL: tl.constexpr,
    OUT_ROWS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum of what is sent back to an input, over the steps at which it fired, (parts, B, I); see `conv_activation`."""
    sample = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1) * 64 + tl.arange(0, 64)
    part = tl.program_id(2)
    mine = number < CHANNELS * ROWS * COLUMNS
    channel, row, column = image_of(number, CHANNELS, ROWS, COLUMNS, POOL, PADDING)
    errors += sample * steps * (KERNELS * OUT_ROWS * OUT_COLUMNS)
    scale += sample * (KERNELS * OUT_ROWS * OUT_COLUMNS)
    spikes_in += sample * steps * words_in + (number >> 5)[None, :]
    total = tl.zeros((STEPS, 64), tl.float32)
    for first in range(part * share, tl.minimum(part * share + share, steps), STEPS):
        t = (first + tl.arange(0, STEPS))[:, None]
        bits = tl.load(spikes_in + t * words_in, mask=(t < steps) & mine[None, :], other=0)
        fired = (bits >> (number & 31)[None, :]) & 1
        if tl.max(tl.max(fired, axis=1), axis=0) > 0:
            total += sent_back(
                errors + t * (KERNELS * OUT_ROWS * OUT_COLUMNS), scale, fired != 0, weight, channel, row, column,
                KERNELS, HEIGHT, WIDTH, STRIDE, PADDING, OUT_ROWS, OUT_COLUMNS,
            )  # fmt: skip
    partial += (part * tl.num_programs(0) + sample) * (CHANNELS * ROWS * COLUMNS) + number
    tl.store(partial, tl.sum(total, axis=0), mask=mine)


@triton.jit
def conv_error_by_step(
    errors, weight, out, steps,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KERNELS: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, POOL: tl.constexpr,
    OUT_ROWS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
):  # fmt: skip
    """`reference.images.drive_by_input` of errors (B, T, N): (B, T, I). A program has `STEPS` steps of 64 inputs."""
    sample = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1) * 64 + tl.arange(0, 64)
    t = (tl.program_id(2) * STEPS + tl.arange(0, STEPS))[:, None]
    channel, row, column = image_of(number, CHANNELS, ROWS, COLUMNS, POOL, PADDING)
    errors += (sample * steps + t) * (KERNELS * OUT_ROWS * OUT_COLUMNS)
    total = sent_back(
        errors, None, t < steps, weight, channel, row, column,
        KERNELS, HEIGHT, WIDTH, STRIDE, PADDING, OUT_ROWS, OUT_COLUMNS,
    )  # fmt: skip
    out += (sample * steps + t) * (CHANNELS * ROWS * COLUMNS) + number[None, :]
    inside = (t < steps) & (number < CHANNELS * ROWS * COLUMNS)[None, :]
    tl.store(out, total / (POOL * POOL), mask=inside)
