"""No compiled loop writes beyond its arrays: each array that it is given lies between zones that must stay as they are.

The loops are called by the functions that users call, with layers of every ragged size. What they write into is theirs
alone here, also the rows of one array; what overruns one is found whether or not the memory after it is in use.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numba.core.dispatcher import Dispatcher
from torch import Tensor

from snnrun.compiled.jit import jit
from snnrun.compiled.turns import alone
from snnrun.compiled.vector import load, store, zeros32
from snnrun.data import distort, scatter
from snnrun.data.augment_spikes import displacements
from snnrun.encoders import bsa, draws, lyon
from snnrun.encoders import trains as even_trains
from snnrun.kernels import Alif, Lif, Srm, Stbp, Synapses, Wta, cpu, pack
from snnrun.kernels.cpu import (
    alif_loops,
    column_loops,
    conv_loops,
    conv_pair_loops,
    conv_table_loops,
    current_loops,
    delay_loops,
    forward_loops,
    image_error_loops,
    image_stbp_loops,
    pair_loops,
    plastic_loops,
    pool_loops,
    recurrent_loops,
    slope_loops,
    spike_loops,
    srm_loops,
    stbp_backward_loops,
    stbp_gradient_loops,
    stbp_loops,
    thinning_loops,
    usual_loops,
    wta_loops,
)
from snnrun.kernels.cpu.arrays import padded_size
from snnrun.kernels.neuron import Window
from snnrun.kernels.plastic import Liquids, Stdp

DENSE = (
    *(alif_loops, current_loops, delay_loops, forward_loops, pair_loops, plastic_loops, recurrent_loops),
    *(
        slope_loops,
        spike_loops,
        srm_loops,
        stbp_backward_loops,
        stbp_gradient_loops,
        stbp_loops,
        thinning_loops,
        usual_loops,
        wta_loops,
    ),
)
IMAGES = (
    *(column_loops, conv_loops, conv_pair_loops, conv_table_loops),
    *(image_error_loops, image_stbp_loops, pool_loops),
)

ZONE = 4096  # bytes before and after an array
# Signalling NaNs, which even the sum with 0 changes; two of them, whose other bits are each other's complement, so that
# neither setting nor clearing a bit goes unseen for long.
PATTERNS = {8: (0x7FF5A5A5A5A5A5A5, 0xFFF25A5A5A5A5A5A), 4: (0x7FA5A5A57FA5A5A5, 0xFF9A5A5AFF9A5A5A)}


class Guards:
    """Loops that get copies of their arrays, between zones, and give back what they wrote there."""

    def __init__(self) -> None:
        self.ran: set[Callable[..., Any]] = set()
        self._number = 0

    def around(self, loop: Any) -> Callable[..., Any]:
        """The loop; AssertionError if it changes a zone."""

        @functools.wraps(loop.py_func)
        def call(*arguments: Any) -> Any:
            self.ran.add(loop)
            self._number += 1
            copies: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
            result = loop(*[self._between_zones(argument, copies) for argument in arguments])
            for original, copy, buffer, zone in copies:
                for side, bytes_ in (("before", buffer[:ZONE]), ("beyond", buffer[ZONE + copy.nbytes :])):
                    assert np.array_equal(bytes_, zone), (
                        f"{loop.py_func.__name__} writes {side} an array {original.dtype} {original.shape}"
                    )
                if original.tobytes() != copy.tobytes():
                    original[...] = copy
            return result

        return call

    def _between_zones(self, value: Any, copies: list[Any]) -> Any:
        if isinstance(value, tuple):  # a NamedTuple
            return type(value)(*[self._between_zones(each, copies) for each in value])
        if not isinstance(value, np.ndarray):
            return value
        assert value.flags.c_contiguous
        pattern = PATTERNS[8 if value.dtype == np.float64 else 4][self._number % 2]
        zone = np.full(ZONE // 8, pattern, np.uint64).view(np.uint8)
        buffer = np.concatenate([zone, np.zeros(value.nbytes, np.uint8), zone])
        copy = buffer[ZONE : ZONE + value.nbytes].view(value.dtype).reshape(value.shape)
        copy[...] = value
        copy.flags.writeable = value.flags.writeable
        copies.append((value, copy, buffer, zone))
        return copy


def loops_of(module: ModuleType) -> list[Any]:
    """The loops that a module defines for callers who are not compiled."""
    found = [value for value in vars(module).values() if isinstance(value, Dispatcher)]
    return [
        loop
        for loop in found
        if loop.py_func.__module__ == module.__name__ and not loop.targetoptions.get("forceinline")
    ]


@pytest.fixture
def guards(monkeypatch):
    """Guards around all loops of the cpu kernels."""
    guards = Guards()
    for module in (*DENSE, *IMAGES):
        for loop in loops_of(module):
            monkeypatch.setattr(module, loop.py_func.__name__, guards.around(loop))
    return guards


def all_of(modules: tuple[ModuleType, ...]) -> set[Any]:
    return {loop for module in modules for loop in loops_of(module)}


# ---- the guards themselves ------------------------------------------------------------------------------------------


@jit
def add_to_lanes(array, added, index):
    store(array, index, load(array, index, zeros32()) + load(added, 0, zeros32()))


@jit
def set_bit(words, added, place):
    words[place] |= added[0]


@pytest.mark.parametrize(
    ("loop", "array", "added"),
    [(add_to_lanes, np.ones(32, np.float32), np.zeros(32, np.float32)), (set_bit, *np.ones((2, 1), np.uint64))],
)
def test_a_zone_that_a_loop_changes_is_found(loop, array, added):
    """Even where it adds zeros, or sets a bit that one of two zones has."""
    guarded = Guards().around(loop)
    for place in (1, -2, 0):  # Numba takes -1 for the last
        changed = [_changes_a_zone(lambda place=place: guarded(array, added, place)) for _ in PATTERNS[4]]
        assert any(changed) == (place != 0)


def _changes_a_zone(call: Callable[[], Any]) -> bool:
    try:
        call()
    except AssertionError:
        return True
    return False


def test_every_loop_of_the_kernels_is_tried():
    """By the tests below, which see to it that all loops of the modules in DENSE and IMAGES run."""
    modules = [importlib.import_module(f"{cpu.__name__}.{each.name}") for each in pkgutil.iter_modules(cpu.__path__)]
    assert {*filter(loops_of, modules)} == {*DENSE, *IMAGES}


# ---- dense layers ---------------------------------------------------------------------------------------------------

MOST_NEURONS = 130
INPUTS, STEPS, BATCHES = (1, 16, 17, 63, 64, 65, 130), (1, 2, 3, 63, 64, 65, 70, 130), (1, 1, 2, 1, 3)
LIFS = tuple(Lif(5.0, 4.0, t_ref, v_th) for t_ref, v_th in ((0, 0.5), (1, 2.0), (2, 0.5), (3, 1.0)))
DENSITIES = (1.0, 0.4, 0.0)  # of spikes and of synapses
STBPS = (Stbp(0.5, 0.5), Stbp(0.3, 0.6, "sigmoid", 0.5, strict=True), Stbp(0.5, 0.5, "polynomial", 0.7))
SRMS = (Srm(0.5, 3.0, 1.0), Srm(0.3, 2.0, 1.5, alpha=True))
WTAS = (Wta(5.0, 1.0, 0.4), Wta(5.0, 3.0))
RULES = ("strsbp", "hm2bp")
SLOPES = tuple(f"{rule}_by_{name}" for rule in RULES for name in ("tau_m", "tau_s"))


def turn_by_turn(number: int, *choices: Any) -> list[Any]:
    """One of each, so that neighbours meet other ones."""
    return [choice[number % len(choice)] for choice in choices]


def trains(shape: tuple[int, ...], density: float) -> Tensor:
    return pack(torch.rand(shape) < density)


def try_liquids(neurons: int, inputs: int, spikes_in: Tensor, pre: Tensor, post: Tensor, lif: Lif) -> None:
    """One liquid that has all inputs, and one that has none."""
    recurrent = Synapses(torch.randn(len(pre)), pre, post)
    from_, to = (torch.rand(inputs, neurons) < 0.5).nonzero().T.contiguous().unbind()
    liquids = Liquids(neurons, (0, inputs, inputs), from_, to, recurrent)
    weight, raised = torch.rand(len(from_)), torch.rand(2 * neurons)
    stdp = Stdp(lif, 9.0, 0.3, 2.0, 0.5, 0.2, 0.99, 2.0)
    cpu.liquid_learn(spikes_in, liquids, weight, raised, stdp, 0.1)
    cpu.liquid_respond(spikes_in, liquids, weight, raised, stdp)


def try_dense(neurons: int) -> None:
    """All functions of a layer."""
    inputs, steps, batch, lif, stbp = turn_by_turn(neurons, INPUTS, STEPS, BATCHES, LIFS, STBPS)
    density, coupled = turn_by_turn(neurons // 2, DENSITIES[:2], DENSITIES)
    spikes_in, spikes = trains((batch, steps, inputs), density), trains((batch, steps, neurons), density)
    weight, gain, credit = torch.rand(neurons, inputs), torch.ones(batch, neurons), torch.randn(batch, neurons)
    pre, post = (torch.rand(neurons, neurons) < coupled).nonzero().T.contiguous().unbind()
    recurrent = Synapses(torch.randn(len(pre)), pre, post)
    for synapses in (None, recurrent):
        cpu.lif_forward(spikes_in, weight, synapses, lif)
    counts = cpu.count_spikes(spikes, neurons)
    for rule in RULES:
        cpu.spsp_activation(rule, lif, spikes_in, spikes, weight)
        for taken, sent, slope in (
            (gain, credit, None),
            (gain, None, None),
            (None, credit, None),
            (gain, credit, credit),
        ):
            cpu.spsp_backward(rule, lif, spikes_in, spikes, taken, sent, weight, slope)
        e = cpu.recurrent_spsp(rule, lif, spikes, recurrent, neurons)
    for rule in SLOPES:
        cpu.spsp_activation(rule, lif, spikes_in, spikes, weight)
        cpu.recurrent_spsp(rule, lif, spikes, recurrent, neurons)
    theta = cpu.coupling(e, counts, recurrent, lif.v_th, 0.5)
    cpu.coupling_solve(theta / 1000, recurrent, torch.ones_like(gain), credit)
    cpu.recurrent_gradient(e, gain, recurrent)
    table, counts_in = torch.randn(6, 5, dtype=torch.float64), cpu.count_spikes(spikes_in, inputs)
    for synapses in (None, recurrent):
        cpu.slope_sum(table, counts_in, weight, synapses, counts)
    for bias, loop in ((None, None), (credit[0], recurrent.dense(neurons))):
        own, _, membrane = cpu.stbp_forward(spikes_in, weight, bias, loop, stbp)
        near_in = None if bias is None else spikes_in
        cpu.stbp_near(membrane, stbp)
        cpu.stbp_backward(
            torch.randn_like(membrane), spikes_in, own, membrane, weight, loop, stbp, True, near_in=near_in
        )
    keys = torch.randint(2**62, (batch,))
    cpu.thin(spikes, keys, 0.3)
    cpu.thin_gradient(torch.randn_like(membrane), keys, 0.3)
    for by in (torch.randint(-steps, steps + 1, (neurons,)), torch.full((neurons,), steps - 1)):
        cpu.delayed(spikes, by)
        cpu.advanced(torch.randn_like(membrane), by)
        cpu.delay_errors(spikes, by, torch.randn_like(membrane))
    try_currents(neurons, inputs, steps, batch, recurrent, lif, stbp)
    try_liquids(neurons, inputs, spikes_in, pre, post, lif)
    try_response(spikes_in, weight, recurrent.dense(neurons), *turn_by_turn(neurons, SRMS, WTAS))
    index = np.arange(7, dtype=np.uint16) % inputs
    rows = torch.rand(inputs * padded_size(neurons)).numpy()
    pair_loops.add_random_rows(rows, index, 3, np.zeros(padded_size(neurons), np.float32))


def try_currents(neurons: int, inputs: int, steps: int, batch: int, recurrent: Synapses, lif: Lif, stbp: Stbp) -> None:
    """All functions of a layer that gets currents: constant, and as many values as steps or some fewer."""
    for count in {1, steps, (steps + 2) // 3}:
        drive = cpu.current_drive(
            torch.rand(batch, count, inputs) * (torch.rand(inputs) < 0.7), torch.rand(neurons, inputs)
        )
        for synapses in (None, recurrent):
            spikes, counts = cpu.lif_driven(drive, synapses, lif, steps)
        for rule in (*RULES, *SLOPES):
            cpu.readout_sums(rule, lif, spikes, counts, count)
        for loop, strength in ((None, 1.8), (recurrent.dense(neurons), 0.7), (None, 0.0)):
            own, _, membrane = cpu.stbp_driven(drive, loop, stbp, steps)
            cpu.stbp_driven_backward(torch.randn_like(membrane), own, membrane, loop, stbp, count)
            alif = Alif(*torch.rand(2, neurons), strength)
            own, _, *membranes = cpu.alif_scan(drive, loop, alif, stbp, steps)
            cpu.alif_scan_backward(torch.randn_like(membrane), own, *membranes, loop, alif, stbp)


def try_response(spikes_in: Tensor, weight: Tensor, loop: Tensor, srm: Srm, wta: Wta) -> None:
    """The functions of the neurons of SLAYER and of Lee et al., dense and over a pool of one row."""
    for own in (None, loop):
        spikes, _, membrane = cpu.srm_forward(spikes_in, weight, own, srm)
        cpu.srm_backward(torch.randn_like(membrane), spikes_in, spikes, membrane, weight, own, srm, True)
    neurons, inputs = weight.shape
    pool = Window(1, 1, inputs, 1, 1, min(2, inputs), 1)
    _, _, membrane = cpu.srm_pool_forward(spikes_in, pool, 0.7, srm)
    cpu.srm_pool_backward(torch.randn_like(membrane), membrane, pool, 0.7, srm)
    cpu.wta_forward(spikes_in, weight, torch.rand(neurons) + 0.1, wta)
    cpu.trace(spikes_in, inputs, wta)


@pytest.mark.slow
def test_dense_layers_of_every_size_keep_to_their_arrays(guards):
    torch.manual_seed(0)
    for neurons in range(1, MOST_NEURONS + 1):
        try_dense(neurons)
    assert guards.ran >= all_of(DENSE)


def test_a_large_batch_keeps_to_its_arrays(guards):
    """Its gradient is added up in more parts."""
    torch.manual_seed(0)
    spikes_in, spikes = trains((70, 3, 65), 0.5), trains((70, 3, 17), 0.5)
    gain = torch.randn(70, 17)
    cpu.spsp_backward("strsbp", LIFS[0], spikes_in, spikes, gain, gain, torch.rand(17, 65))
    assert guards.ran


# ---- layers over images ---------------------------------------------------------------------------------------------

MOST_KERNELS, MOST_LANES = 70, 192
SIDES = tuple(itertools.product((1, 2, 3, 5), (1, 2, 3, 5)))  # window width and stride: as wide, wider, narrower


def windows() -> Iterator[Window]:
    """Every output width of one strip of lanes, and some of several strips, for each number of kernels."""
    number = 0
    for kernels in range(1, MOST_KERNELS + 1):
        whole = MOST_LANES // kernels
        for out_columns in (*range(1, whole + 2), 2 * whole + 1, 3 * whole + 2):
            (width, stride), pool, height, rows, channels = turn_by_turn(
                number, SIDES, (1, 2, 1, 3, 1), (1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 1, 1, 1, 2)
            )
            seen = (out_columns - 1) * stride + width
            padding = number % 3 if seen > 2 * (number % 3) and rows + height > 2 else 0
            yield Window(
                channels, (rows + height - 1) * pool, (seen - 2 * padding) * pool + pool // 2, kernels,
                height, width, stride, padding, pool,
            )  # fmt: skip
            number += 1


def try_convolution(number: int, window: Window) -> None:
    """All functions of a convolution; those after averages are STBP's alone."""
    density, steps, batch, lif, stbp, rule = turn_by_turn(
        number, DENSITIES[:2], (1, 2, 3), (1, 1, 1, 1, 2), LIFS, STBPS, RULES
    )
    weight = torch.rand(window.kernels, window.channels, window.height, window.width)
    whole = window._replace(rows=window.rows // window.pool, columns=window.columns // window.pool, pool=1)
    spikes_in, spikes = (trains((batch, steps, size), density) for size in (whole.inputs, whole.neurons))
    gain = torch.ones(batch, whole.neurons)
    cpu.conv_forward(spikes_in, weight, whole, lif)
    for readout in (rule, SLOPES[number % len(SLOPES)]):
        cpu.conv_activation(readout, lif, spikes_in, spikes, weight, whole)
    taken, sent = (gain if number % 4 else None), (gain if number % 3 or not number % 4 else None)
    cpu.conv_backward(rule, lif, spikes_in, spikes, taken, sent, weight, whole)
    cpu.conv_backward(rule, lif, spikes_in, spikes, gain, sent, weight, whole, gain)
    spikes_in, bias = trains((batch, steps, window.inputs), density), torch.rand(window.kernels) if number % 2 else None
    own, _, membrane = cpu.stbp_conv_forward(spikes_in, weight, bias, window, stbp)
    above = torch.randn_like(membrane)
    cpu.stbp_conv_backward(above, spikes_in, own, membrane, weight, window, stbp, number % 4 == 0)
    if number % 3 == 0:  # the neurons' own loops are tried in dense layers
        _, _, membrane = cpu.srm_conv_forward(spikes_in, weight, window, SRMS[0])
        cpu.srm_conv_backward(above, spikes_in, membrane, weight, window, SRMS[0], True)
        cpu.wta_conv_forward(spikes_in, weight, torch.rand(window.kernels) + 0.1, window, WTAS[0])


def try_pool(number: int, out_columns: int) -> None:
    """Both functions of a spiking pool, with either rule."""
    side, stride, channels, steps, lif = turn_by_turn(number, (2, 1, 3), (2, 1, 3, 1), (1, 2, 3), (1, 2, 3, 70), LIFS)
    window = Window(channels, side, (out_columns - 1) * stride + side, channels, side, side, stride)
    spikes_in, spikes = (trains((1, steps, size), 1.0) for size in (window.inputs, window.neurons))
    cpu.pool_forward(spikes_in, window, lif)
    for rule in RULES:
        cpu.pool_backward(rule, lif, spikes_in, spikes, torch.ones(1, window.neurons), window)


@pytest.mark.slow
def test_layers_over_images_of_every_size_keep_to_their_arrays(guards):
    torch.manual_seed(0)
    tried = [*windows()]
    for number, window in enumerate(tried):
        try_convolution(number, window)
    for number, out_columns in enumerate(range(1, MOST_NEURONS + 1)):
        try_pool(number, out_columns)
    assert guards.ran >= all_of(IMAGES)
    assert {(window.kernels, window.out_columns) for window in tried} >= {
        (kernels, columns) for kernels in range(1, MOST_KERNELS + 1) for columns in range(1, MOST_LANES // kernels + 1)
    }


# ---- encoders and augmentation --------------------------------------------------------------------------------------


def test_draws_keep_to_their_arrays():
    draw, draw_series = (Guards().around(loop) for loop in (draws.draw, draws.draw_series))
    for neurons, steps in itertools.product((1, 63, 64, 65, 130), (1, 2, 63, 64, 65, 66)):
        words = np.zeros((2, steps, (neurons + 63) // 64), np.uint64)
        for first_step in (0, 1):
            levels, keys = np.full((2, neurons), draws.ALWAYS // 2, np.int32), np.ones((2, 3), np.int64)
            draw(levels, keys, first_step, words, alone(2))
            for points in (1, 3, 70):
                draw_series(np.repeat(levels[:, None], points, 1), keys, first_step, words, alone(2))


def test_trains_keep_to_their_arrays():
    guards = Guards()
    regular, once, crossings = (
        guards.around(loop) for loop in (even_trains.regular, even_trains.once, even_trains.crossings)
    )
    for neurons, steps in itertools.product((1, 31, 32, 33, 63, 64, 65, 130), (1, 2, 63, 64, 65)):
        words = np.zeros((2, steps, (neurons + 63) // 64), np.uint64)
        for points in {1, steps, (steps + 1) // 2}:
            levels = np.full((2, points, neurons), draws.ALWAYS, np.int32)
            regular(levels, np.ones((2, 3), np.int64), words, alone(2))
            series = np.where(np.arange(points)[:, None] % 2 == 0, np.zeros(neurons), 1).astype(np.float32)
            both = np.zeros((2, steps, (2 * neurons + 63) // 64), np.uint64)
            crossings(np.stack([series, 1 - series]), 0.5, np.empty(neurons), both, alone(2))
        for time in (-1, 0, steps - 1):
            once(np.full((2, neurons), time, np.int32), words, alone(2))
    assert guards.ran == {*loops_of(even_trains)}


def test_distortions_keep_to_their_arrays():
    guards, rng = Guards(), np.random.default_rng(0)
    taps, strength = distort.gaussian(), np.array((30.0, 0.5, 1.0), np.float32)
    blur, displacements, warp, whole = (
        guards.around(loop) for loop in (distort._blur, distort.displacements, distort.warp, distort.distort)
    )
    for rows, columns in itertools.product((1, 2, 7, 21, 28), (1, 3, 8, 20, 33)):
        image = rng.integers(0, 256, (2, 2, rows, columns)).astype(np.uint8)
        for authors in (False, True):
            dv, dh, wide = np.zeros((3, rows, columns), np.float32)
            displacements(np.uint64(5), strength, taps, authors, dv, dh, wide)
            blur(dh, taps, wide)
            warp(image[0], dv, dh, authors, np.zeros_like(image[0]))
            whole(image, np.arange(2, dtype=np.uint64), strength, taps, authors, np.zeros_like(image), alone(2))
    assert guards.ran == {*loops_of(distort)}


def test_scattered_spikes_keep_to_their_arrays():
    guards, rng = Guards(), np.random.default_rng(0)
    loop = guards.around(scatter.scatter)
    for neurons, steps, reach in itertools.product((1, 63, 64, 65, 130), (1, 2, 65), (0, 1, 200)):
        words = rng.integers(0, 2**63, (3, steps, (neurons + 63) // 64)).astype(np.uint64)
        if neurons % 64:
            words[:, :, -1] &= np.uint64(2 ** (neurons % 64) - 1)
        keys, moves = rng.integers(0, 2**63, 3).astype(np.uint64), rng.integers(-reach, reach + 1, (3, 6))
        moves[:, 4], moves[:, 5] = (0, 1, 0), (1 << 32, 5 << 30, 3 << 30)
        for rows, columns in (0, 0), (1, neurons), (neurons, 1):
            for deviation, dropped in (0.0, 0), (0.3 + reach, 1 << 31):
                below, shown = displacements(deviation), np.empty_like(words)
                loop(words, keys, moves, dropped, below, neurons, rows, columns, shown, alone(3))
    assert guards.ran == {*loops_of(scatter)}


def test_bens_spiker_keeps_to_its_arrays(monkeypatch):
    """And to those that it makes, which NumPy guards where the loop is not compiled."""
    compiled = bsa._encode
    for encode in (Guards().around(compiled), compiled.py_func):
        monkeypatch.setattr(bsa, "_encode", encode)
        for steps, frames, channels, taps in itertools.product((1, 2, 30), (0, 1, 3), (1, 5), (1, 24)):
            bsa.bsa_encode(np.ones((channels, frames)), steps, taps=taps)


def test_the_ear_keeps_to_its_arrays(monkeypatch):
    """And to those that it makes, which its parts get one by one where the whole is not compiled."""
    guards, compiled = Guards(), lyon._hear
    parts = [
        value
        for value in vars(lyon).values()
        if isinstance(value, Dispatcher) and value.py_func.__module__ == lyon.__name__ and value is not compiled
    ]
    for hear in (guards.around(compiled), compiled.py_func):
        monkeypatch.setattr(lyon, "_hear", hear)
        for samples, decimation, step_factor in itertools.product((0, 1, 41), (1, 20), (1.0, 4.0)):
            for more in ({}, {"agc": False}, {"difference": False}):
                wave = np.sin(np.arange(samples))
                lyon.passive_ear(wave, 8000.0, decimation=decimation, step_factor=step_factor, **more)
        for part in parts:  # of the second round
            monkeypatch.setattr(lyon, part.py_func.__name__, guards.around(part))
    assert guards.ran == {compiled, *parts}
