"""The loop of `reference.lif_forward`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from snnrun.compiled.jit import Floats, Indices, Places, Times, Words, in_64_32_or_16, jit, part
from snnrun.compiled.masks import both, drop, exceeding, load_bits, store_bits
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import GROUP, above, choose, load, splat, store, zeros64
from snnrun.kernels.cpu.constants import LifConstants
from snnrun.kernels.cpu.spike_loops import (
    ROOM,
    Listed,
    count_sample,
    held_bits,
    last_step,
    list_sparse,
    list_spikes,
    room_to_list,
    valid_bits,
)

# After so many steps a loop checks whether any neuron can still fire. A current a adds at most a to a membrane in all;
# the margin covers rounding on both sides.
LOOK, MARGIN = 8, 1.0001


class Layer(NamedTuple):
    """A dense layer of N `neurons` with constants `lif`; `rows` (I * P,) has its weights by input, P is `padded`."""

    rows: Floats
    padded: int
    neurons: int
    lif: LifConstants


class Fours(NamedTuple):
    """Recurrent synapses by pre-neuron, each group of whole fours, see `arrays.in_fours`.

    Where the groups begin, (N + 1,); post-neurons, and weights. Synapses that fill up have the post-neuron P, weight 0.
    """

    first: Indices
    post: Places
    weight: Floats


class Coupled(NamedTuple):
    """The state of a sample of a recurrent layer, and room for a step.

    Membranes `u` (P,), currents `a` (P,), input from the recurrent synapses `loop` (P + 1,): each begins with a cache
    line. Bits of the neurons that are refractory, `held` (W,), and of those that exist, `valid` (W,). `inputs` and
    `own` are for the spikes of a step; `block` (64,) is scratch.
    """

    u: Floats
    a: Floats
    loop: Floats
    held: Words
    valid: Words
    inputs: Times
    own: Listed
    block: Words


def room_for_coupled(padded: int, words_in: int, words: int) -> Coupled:
    """Room for a layer of P neurons, whose inputs have `words_in` words and whose neurons have `words`."""
    u, a, loop = (torch.empty(floats).numpy() for floats in (padded, padded, padded + 1))
    return Coupled(
        u=u,
        a=a,
        loop=loop,
        held=np.empty(words, np.uint64),
        valid=np.empty(words, np.uint64),
        inputs=np.empty(64 * words_in + ROOM, np.uint16),
        own=room_to_list(words),
        block=np.empty(64, np.uint64),
    )


@part
def add_rows(like: Any, rows: Floats, stride: int, offset: int, index: Times, start: int, stop: int) -> Any:
    """Sum of the rows of `index[start:stop]`, one block wide."""
    sum_ = like
    for k in range(start, stop):
        sum_ = sum_ + load(rows, np.int64(index[k]) * stride + offset, like)
    return sum_


@part
def add_row_pairs(
    like: Any, rows: Floats, stride: int, offset: int, index: Times, start: int, stop: int
) -> tuple[Any, Any]:
    """`add_rows` for a block and the one after it."""
    a, b = like, like
    for k in range(start, stop):
        place = np.int64(index[k]) * stride + offset
        a = a + load(rows, place, like)
        b = b + load(rows, place + 64, like)
    return a, b


@part
def begin_coupled(words: Words, b: int, layer: Layer, room: Coupled) -> None:
    """Set the neurons of a sample to rest and its spikes to none."""
    for i in range(layer.padded):
        room.u[i] = room.a[i] = room.loop[i] = np.float32(0)
    for w in range(words.shape[2]):
        room.valid[w] = valid_bits(layer.neurons - 64 * w)
        for t in range(words.shape[1]):
            words[b, t, w] = np.uint64(0)


@part
def hold(words: Words, b: int, t: int, layer: Layer, room: Coupled) -> None:
    """Find the neurons that are refractory in step t."""
    for w in range(words.shape[2]):
        room.held[w] = held_bits(words, b, t, w, layer.lif.t_ref)


@part
def lif_step(like: Any, drive: Any, b: int, t: int, offset: int, layer: Layer, room: Coupled, words: Words) -> None:
    """Advance a block by one step with its synaptic input `drive`; writes the bits of those that fire."""
    lif, group = layer.lif, offset // GROUP
    current = load(room.a, offset, like) * splat(lif.decay_s, like) + drive
    store(room.a, offset, current)
    x = load(room.u, offset, like) * splat(lif.decay_m, like) + current * splat(lif.rise, like)
    x = drop(load_bits(room.held, group, like), x)
    fired = both(exceeding(x, splat(lif.threshold, like)), load_bits(room.valid, group, like))
    store(room.u, offset, drop(fired, x))
    store_bits(words, (b * words.shape[1] + t) * words.shape[2] * (64 // GROUP) + group, fired)


@part
def take_loop(like: Any, drive: Any, offset: int, room: Coupled) -> Any:
    """A drive with the input from the recurrent synapses, which becomes 0."""
    sum_ = drive + load(room.loop, offset, like)
    store(room.loop, offset, like)
    return sum_


@in_64_32_or_16
@part
def advance(
    like: Any, b: int, t: int, offset: int, layer: Layer, room: Coupled, count: int, looped: int, words: Words
) -> None:
    """Advance a block by one step, with the input spikes inputs[:count]."""
    drive = add_rows(like, layer.rows, layer.padded, offset, room.inputs, 0, count)
    if looped:
        drive = take_loop(like, drive, offset, room)
    lif_step(like, drive, b, t, offset, layer, room, words)


@part
def advance_pair(
    b: int, t: int, offset: int, layer: Layer, room: Coupled, count: int, looped: int, words: Words
) -> None:
    """`advance` for a block of 64 and the one after it."""
    drive, second = add_row_pairs(zeros64(), layer.rows, layer.padded, offset, room.inputs, 0, count)
    if looped:
        drive = take_loop(zeros64(), drive, offset, room)
        second = take_loop(zeros64(), second, offset + 64, room)
    lif_step(zeros64(), drive, b, t, offset, layer, room, words)
    lif_step(zeros64(), second, b, t, offset + 64, layer, room, words)


@part
def can_fire(u: Floats, a: Floats, threshold: float) -> Any:
    """Whether any neuron can reach the threshold without further input."""
    highest = np.float32(0)
    for i in range(u.shape[0]):
        highest = max(highest, max(u[i], np.float32(0)) + max(a[i], np.float32(0)))
    return highest * np.float32(MARGIN) > threshold


@in_64_32_or_16
@part
def run_block(
    like: Any,
    b: int,
    offset: int,
    layer: Layer,
    inputs: Times,
    begin: Indices,
    last: int,
    words: Words,
    counts: Floats,
) -> None:
    """All steps of a block of uncoupled neurons. The input spikes of step t are inputs[begin[t]:begin[t + 1]]."""
    lif = layer.lif
    decay_m, decay_s, rise = splat(lif.decay_m, like), splat(lif.decay_s, like), splat(lif.rise, like)
    theta, one, margin = splat(lif.threshold, like), splat(np.float32(1), like), splat(np.float32(MARGIN), like)
    valid, w = valid_bits(layer.neurons - offset), offset // 64
    u, a, n = like, like, like
    for t in range(1, words.shape[1]):
        a = a * decay_s + add_rows(like, layer.rows, layer.padded, offset, inputs, begin[t - 1], begin[t])
        u = u * decay_m + a * rise
        u = choose(held_bits(words, b, t, w, lif.t_ref), like, u)
        fired = above(u, theta) & valid
        u = choose(fired, like, u)
        n = choose(fired, n + one, n)
        words[b, t, w] = fired
        if t > last and t % LOOK == 0:
            highest = choose(above(u, like), u, like) + choose(above(a, like), a, like)
            if above(highest * margin, theta) & valid == np.uint64(0):
                break
    store(counts, b * layer.padded + offset, n)


@jit
def lif_forward(
    words_in: Words, layer: Layer, words: Words, counts: Floats, inputs: Times, begin: Indices, turn: Turn
) -> None:
    """The samples of a turn of `reference.lif_forward` without recurrent synapses, block by block.

    So the state of a block stays in registers and its weights in the nearest cache. `words` (B, T, W) and `counts`
    (B, P) are written. Scratch: `inputs` with room for a sample's spikes, `begin` (T + 1,). After the last input spike
    the simulation ends as soon as no membrane can reach the threshold.
    """
    steps = words_in.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        begin[0] = 0
        for t in range(steps):
            begin[t + 1] = list_spikes(words_in, b, t, inputs, begin[t])
            for w in range(words.shape[2]):
                words[b, t, w] = np.uint64(0)
        last = last_step(words_in, b)
        for offset in range(0, layer.padded, 64):
            run_block(min(64, layer.padded - offset), b, offset, layer, inputs, begin, last, words, counts)


@part
def add_recurrent(fired: int, fours: Fours, room: Coupled) -> None:
    """Add the weights of the synapses from the neurons own.neurons[:fired] to `loop`, four at a time."""
    post, weight, loop = fours.post, fours.weight, room.loop
    for k in range(fired):
        n = room.own.neurons[k]
        s, stop = np.uint64(fours.first[n]), np.uint64(fours.first[n + 1])
        while s < stop:
            for _ in range(4):
                loop[post[s]] += weight[s]
                s += np.uint64(1)


@part
def coupled_step(words_in: Words, b: int, t: int, layer: Layer, fours: Fours, room: Coupled, words: Words) -> None:
    """Advance a sample by one step."""
    looped = list_sparse(words, b, t - 1, room.own)
    add_recurrent(looped, fours, room)
    count = list_spikes(words_in, b, t - 1, room.inputs)  # by its end the sums of the synapses are in the cache
    hold(words, b, t, layer, room)
    pairs = layer.padded // 128 * 128
    for offset in range(0, pairs, 128):
        advance_pair(b, t, offset, layer, room, count, looped, words)
    for offset in range(pairs, layer.padded, 64):
        advance(min(64, layer.padded - offset), b, t, offset, layer, room, count, looped, words)


@part
def any_fires(words: Words, b: int, t: int) -> bool:
    """Whether any neuron fires in step t of sample b."""
    fired = np.uint64(0)
    for w in range(words.shape[2]):
        fired |= words[b, t, w]
    return bool(fired != np.uint64(0))


@jit
def coupled_forward(
    words_in: Words, layer: Layer, fours: Fours, words: Words, counts: Floats, room: Coupled, turn: Turn
) -> None:
    """`lif_forward` of a layer with recurrent synapses: step by step."""
    steps = words_in.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        begin_coupled(words, b, layer, room)
        last = last_step(words_in, b)
        for t in range(1, steps):
            coupled_step(words_in, b, t, layer, fours, room, words)
            over = t > last and t % LOOK == 0 and not any_fires(words, b, t)
            if over and not can_fire(room.u, room.a, layer.lif.threshold):
                break
        count_sample(words, b, room.block, counts, layer.neurons)
