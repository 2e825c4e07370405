"""The cpu kernels of layers over images against the reference: the same spikes, sums and bits whatever the threads."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import LIFS, SEEDS, STBPS, assert_close, assert_same_spikes, single, thresholds
from torch import Tensor

from snnrun.compiled import parallel
from snnrun.kernels import Lif, Stbp, cpu, pack, unpack
from snnrun.kernels.cpu.columns import Image, columns_of
from snnrun.kernels.neuron import Window
from snnrun.kernels.reference import images as reference

RULES = st.sampled_from(["strsbp", "hm2bp"])


# Strips are cut at 192 lanes and computed 32 or 64 at a time; words of bits hold 64 neurons.
WINDOWS = st.builds(
    Window,
    channels=st.integers(1, 4),
    rows=st.integers(1, 9),
    columns=st.integers(1, 14),
    kernels=st.one_of(st.integers(1, 20), st.sampled_from([33, 64, 100, 200])),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    stride=st.sampled_from([1, 1, 2, 3]),
    padding=st.integers(0, 2),
    pool=st.just(1),
).filter(lambda window: window.out_rows > 0 and window.out_columns > 0)


class Case(NamedTuple):
    """Random tensors of a layer, in float64 with the values of float32."""

    window: Window
    spikes_in: Tensor  # bits of the inputs
    spikes: Tensor  # bits of the layer itself, at rates of their own
    gain: Tensor
    credit: Tensor
    weight: Tensor


def case(window: Window, batch: int, steps: int, rate: float, seed: int, silent: bool = False) -> Case:
    """Trains from silent to dense; `silent`: half of the samples have neither input nor gain."""
    generator = torch.Generator().manual_seed(seed)
    some = torch.arange(batch)[:, None] % 2 == 0 if silent else torch.ones(batch, 1, dtype=torch.bool)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).double()

    def trains(size: int) -> Tensor:
        rates = rate * 2 * torch.rand(batch, 1, size, generator=generator) ** 2
        return torch.rand(batch, steps, size, generator=generator) < rates

    weight = normal(window.kernels, window.channels, window.height, window.width)
    return Case(
        window, pack(trains(window.inputs) & some[:, None]), pack(trains(window.neurons)),
        normal(batch, window.neurons) * some, normal(batch, window.neurons) * some, reference.tap_by_tap(weight),
    )  # fmt: skip


CASES = st.builds(
    case,
    window=WINDOWS,
    batch=st.integers(1, 4),
    steps=st.one_of(st.integers(1, 30), st.sampled_from([1, 2, 64, 65, 90])),
    rate=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=SEEDS,
    silent=st.booleans(),
)
POOLS = CASES.map(
    lambda layer: case(
        layer.window._replace(kernels=layer.window.channels), *layer.spikes_in.shape[:2], 0.2, len(layer.gain)
    )
)


# ---- spikes ---------------------------------------------------------------------------------------------------------


@given(CASES, LIFS)
@settings(max_examples=60)
def test_spikes_of_convolutions_are_the_references(layer, lif):
    spikes, counts = cpu.conv_forward(*single(layer.spikes_in, layer.weight), layer.window, lif)
    expected = [
        reference.conv_forward(layer.spikes_in, layer.weight, layer.window, near)[0] for near in thresholds(lif)
    ]
    assert_same_spikes(spikes, counts, *expected, False)


@given(POOLS, LIFS)
@settings(max_examples=60)
def test_spikes_of_pools_are_the_references(layer, lif):
    spikes, counts = cpu.pool_forward(layer.spikes_in, layer.window, lif)
    expected = [
        reference.pool_forward(layer.spikes_in, layer.window, near, torch.float64)[0] for near in thresholds(lif)
    ]
    assert_same_spikes(spikes, counts, *expected, False)


@given(
    st.builds(
        case, window=WINDOWS, batch=st.just(2), steps=st.integers(2, 10), rate=st.sampled_from([0.2, 1.0]), seed=SEEDS
    ),
    LIFS,
    st.sampled_from([17, 100]),
)
@settings(max_examples=15)
def test_spikes_long_after_the_input_are_the_references(layer, lif, silence):
    """A simulation ends early where nothing can fire any more, and no sooner; nor does it begin too late."""
    for before, after in ((0, silence), (silence, 3)):
        spikes_in = torch.nn.functional.pad(layer.spikes_in, (0, 0, before, after))
        weight = layer.weight.abs() * 3
        spikes, counts = cpu.conv_forward(*single(spikes_in, weight), layer.window, lif)
        expected = [reference.conv_forward(spikes_in, weight, layer.window, near)[0] for near in thresholds(lif)]
        assert_same_spikes(spikes, counts, *expected, False)
        pool = layer.window._replace(kernels=layer.window.channels)
        spikes, counts = cpu.pool_forward(spikes_in, pool, lif)
        expected = [reference.pool_forward(spikes_in, pool, near, torch.float64)[0] for near in thresholds(lif)]
        assert_same_spikes(spikes, counts, *expected, False)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 28])
@pytest.mark.parametrize("last", range(20))
def test_the_last_input_spike_acts_at_whatever_step_it_comes(channels, last):
    """A membrane near its threshold, then one spike that lifts it above; by tables, by spikes, and in a pool."""
    spikes_in = torch.zeros(1, 22, channels)
    spikes_in[0, : last + 1 : 2] = 1
    spikes_in[0, last] = 1
    window, lif = Window(channels, 1, 1, 1, 1, 1), Lif(200.0, 2.0, 2, 2.0)
    weight = torch.full((1, channels, 1, 1), 1.0 / channels).double()
    spikes, counts = cpu.conv_forward(*single(pack(spikes_in), weight), window, lif)
    expected = [reference.conv_forward(pack(spikes_in), weight, window, near)[0] for near in thresholds(lif)]
    assert_same_spikes(spikes, counts, *expected, False)
    window = window._replace(kernels=channels)
    spikes, counts = cpu.pool_forward(pack(spikes_in), window, lif)
    expected = [reference.pool_forward(pack(spikes_in), window, near, torch.float64)[0] for near in thresholds(lif)]
    assert_same_spikes(spikes, counts, *expected, False)


def test_columns_that_a_layer_keeps_are_those_of_its_bits():
    """Also after someone has changed the bits in place."""
    window, lif = Window(1, 9, 7, 20, 3, 3), Lif(20.0, 4.0, 2, 1.0)
    spikes_in = pack(torch.rand(3, 70, 63, generator=torch.Generator().manual_seed(0)) < 0.2)
    weight = torch.rand(20, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    spikes, counts = cpu.conv_forward(spikes_in, weight, window, lif)
    assert counts.sum() > 0
    image = Image(window.kernels, window.out_rows * window.out_columns)
    kept = columns_of(spikes, image)
    assert columns_of(spikes, image) is kept
    assert np.array_equal(columns_of(spikes.clone(), image), kept)
    spikes[0] = 0
    assert not columns_of(spikes, image)[0].any()
    assert np.array_equal(columns_of(spikes, image)[1:], kept[1:])


def test_a_convolution_without_a_refractory_period_is_reset_at_each_spike():
    """One spike of input, slow traces, a low threshold: what is left of the membrane would fire on."""
    spikes_in = torch.zeros(1, 12, 1)
    spikes_in[0, 0] = 1
    window, weight = Window(1, 1, 1, 1, 1, 1), torch.full((1, 1, 1, 1), 9.0).double()
    lif = Lif(20.0, 4.0, 0, 0.5)
    spikes, counts = cpu.conv_forward(*single(pack(spikes_in), weight), window, lif)
    expected = [reference.conv_forward(pack(spikes_in), weight, window, near)[0] for near in thresholds(lif)]
    assert_same_spikes(spikes, counts, *expected, False)
    assert 0 < counts.item() < 11


def test_a_convolution_fires_above_its_threshold_alone_and_a_pool_at_it():
    """tau_s = 1 and one input spike of weight 1: the membrane is exactly 1 at the next step."""
    spikes_in = torch.zeros(1, 4, 1)
    spikes_in[0, 0] = 1
    window, lif = Window(1, 1, 1, 1, 1, 1), Lif(20.0, 1.0, 2, 1.0)
    assert cpu.conv_forward(pack(spikes_in), torch.ones(1, 1, 1, 1), window, lif)[1].item() == 0
    assert cpu.conv_forward(pack(spikes_in), torch.full((1, 1, 1, 1), 1.001), window, lif)[1].item() == 1
    assert cpu.pool_forward(pack(spikes_in), window, lif)[1].item() == 1


@pytest.mark.parametrize("v_th", [17.0, 20.0, 32.0, 33.0, 40.0, 64.0, 100.0, 1000.0])
def test_a_pool_fires_at_a_threshold_where_float32_is_coarser_than_the_slack(v_th):
    """tau_s = 1: the membrane is the number of spikes that a neuron sees."""
    side = math.ceil(math.sqrt(v_th)) + 1
    window, lif = Window(1, side, side, 1, side, side), Lif(20.0, 1.0, 2, v_th)
    spikes_in = torch.zeros(3, 2, window.inputs)
    for sample, more in enumerate((-1, 0, 1)):
        spikes_in[sample, 0, : int(v_th) + more] = 1
    for dtype in (torch.float32, torch.float64):
        assert reference.pool_forward(pack(spikes_in), window, lif, dtype)[1].tolist() == [[0], [1], [1]]
    assert cpu.pool_forward(pack(spikes_in), window, lif)[1].tolist() == [[0], [1], [1]]


# ---- sums over pairs ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(CASES, LIFS, RULES)
@settings(max_examples=60)
def test_sums_over_windows_are_the_references(layer, lif, rule):
    for credit, slope in itertools.product((layer.credit, None), (None, layer.gain)):
        weight = layer.weight if slope is None else layer.weight.abs()  # so that gain and slope do not cancel
        arguments = (layer.spikes_in, layer.spikes, layer.gain, credit, weight)
        results = cpu.conv_backward(rule, lif, *single(*arguments), layer.window, *single(slope))
        expected = reference.conv_backward(rule, lif, *arguments, layer.window, slope)
        for actual, wanted in zip(results, expected, strict=True):
            assert_close(actual, wanted)
        assert results[0].permute(1, 2, 3, 0).is_contiguous(), "stored as the weights are"


@given(CASES, LIFS, RULES)
@settings(max_examples=60)
def test_activations_of_convolutions_are_the_references(layer, lif, rule):
    arguments = (layer.spikes_in, layer.spikes, layer.weight)
    actual = cpu.conv_activation(rule, lif, *single(*arguments), layer.window)
    assert_close(actual, reference.conv_activation(rule, lif, *arguments, layer.window))


@given(POOLS, LIFS, RULES)
@settings(max_examples=60)
def test_errors_below_pools_are_the_references(layer, lif, rule):
    arguments = (layer.spikes_in, layer.spikes, layer.credit)
    actual = cpu.pool_backward(rule, lif, *single(*arguments), layer.window)
    assert_close(actual, reference.pool_backward(rule, lif, *arguments, layer.window))


@pytest.mark.parametrize("rule", ["strsbp", "hm2bp"])
def test_a_silent_layer_has_no_gradient(rule):
    layer, lif = case(Window(2, 6, 7, 20, 3, 3), 3, 20, 0.3, 0), Lif(20.0, 8.0, 2, 1.0)
    silent = torch.zeros_like(layer.spikes)
    arguments = single(layer.spikes_in, silent, layer.gain, layer.credit, layer.weight)
    gradient, error, _ = cpu.conv_backward(rule, lif, *arguments, layer.window)
    assert gradient.shape == layer.weight.shape
    assert not gradient.any()
    assert not error.any()


# ---- STBP -----------------------------------------------------------------------------------------------------------

AVERAGED = st.builds(
    lambda layer, pool: case(
        layer.window._replace(
            rows=layer.window.rows * pool + pool // 2, columns=layer.window.columns * pool, pool=pool
        ),
        *layer.spikes_in.shape[:2],
        0.4,
        pool,
    ),
    CASES.filter(lambda layer: layer.spikes.shape[1] <= 30),
    st.integers(1, 3),
)


@given(AVERAGED, STBPS, st.booleans())
@settings(max_examples=60)
def test_stbp_spikes_and_membranes_are_the_references(layer, neuron, has_bias):
    bias = layer.weight[:, 0, 0, 0] if has_bias else None
    spikes, counts, membrane = cpu.stbp_conv_forward(*single(layer.spikes_in, layer.weight, bias), layer.window, neuron)
    expected = [
        reference.stbp_conv_forward(layer.spikes_in, layer.weight, bias, layer.window, near)
        for near in thresholds(neuron)
    ]
    same = assert_same_spikes(spikes, counts, *(result[0] for result in expected), False)
    assert_close(torch.where(same, membrane, 0.0), torch.where(same, expected[0][2], 0.0))


@given(AVERAGED, STBPS, st.booleans())
@settings(max_examples=60)
def test_stbp_gradients_are_the_references(layer, neuron, wants_input):
    shape = (*layer.spikes.shape[:2], layer.window.neurons)
    membrane, above = torch.randn(2, *shape, generator=torch.Generator().manual_seed(shape[1])).double().unbind()
    arguments = (above, layer.spikes_in, layer.spikes, membrane, layer.weight)
    results = cpu.stbp_conv_backward(*single(*arguments), layer.window, neuron, wants_input)
    expected = reference.stbp_conv_backward(*arguments, layer.window, neuron, wants_input)
    for actual, wanted in zip(results, expected, strict=True):
        assert_close(actual, wanted)
    assert results[1].permute(1, 2, 3, 0).is_contiguous(), "stored as the weights are"


@pytest.mark.parametrize("strict", [False, True])
def test_stbp_spikes_at_the_threshold_are_the_references(strict):
    """Sums of eighths, averages and halves of them are exact, and often exactly the threshold."""
    generator = torch.Generator().manual_seed(0)
    window, neuron = Window(2, 12, 12, 20, 3, 3, 1, 1, 2), Stbp(0.5, 0.5, strict=strict)
    spikes_in = pack(torch.rand(3, 10, window.inputs, generator=generator) < 0.2)
    weight, bias = (torch.randint(-4, 5, shape, generator=generator) / 8 for shape in ((20, 2, 3, 3), (20,)))
    arguments = (spikes_in, reference.tap_by_tap(weight), bias, window, neuron)
    results = zip(cpu.stbp_conv_forward(*arguments), reference.stbp_conv_forward(*arguments), strict=True)
    assert all(torch.equal(actual, expected) for actual, expected in results)


# ---- batches and threads --------------------------------------------------------------------------------------------

LARGE = Window(3, 13, 14, 40, 5, 4, 1, 1)


def everything(layer: Case) -> list[Tensor]:
    """The results of all functions, those that hold a value for each sample first."""
    lif, neuron = Lif(20.0, 8.0, 2, 1.0), Stbp(0.5, 0.5)
    pool = Window(LARGE.kernels, LARGE.out_rows, LARGE.out_columns, LARGE.kernels, 2, 2, 2)
    pooled = layer.spikes_in.new_zeros(*layer.spikes.shape[:2], -(-pool.neurons // 64))
    pooled[:] = layer.spikes[:, :, : pooled.shape[2]]
    pooled = pack(unpack(pooled, pool.neurons))
    weight = layer.weight.float()
    gain, credit = single(layer.gain, layer.credit)
    sums = [
        cpu.conv_backward(rule, lif, layer.spikes_in, layer.spikes, gain, credit, weight, LARGE, slope)
        for rule, slope in (("strsbp", None), ("hm2bp", None), ("hm2bp", credit))
    ]
    spikes, counts, membrane = cpu.stbp_conv_forward(layer.spikes_in, weight, weight[:, 0, 0, 0], LARGE, neuron)
    by_step = membrane.detach() * layer.gain.float()[:, None]
    grads = cpu.stbp_conv_backward(by_step, layer.spikes_in, spikes, membrane, weight, LARGE, neuron, True)
    return [
        *cpu.conv_forward(layer.spikes_in, weight, LARGE, lif), *cpu.pool_forward(layer.spikes, pool, lif),
        cpu.conv_activation("hm2bp", lif, layer.spikes_in, layer.spikes, weight, LARGE),
        cpu.pool_backward("strsbp", lif, layer.spikes, pooled, layer.gain[:, : pool.neurons].float(), pool),
        spikes, counts, membrane, grads[0], *(error for _, error, _ in sums), sums[2][2],
        *(gradient for gradient, *_ in sums), *grads[1:],
    ]  # fmt: skip


PER_SAMPLE = 14


def test_the_bits_do_not_depend_on_the_threads():
    results = []
    layer = case(LARGE, 19, 40, 0.2, 0)
    for number in (1, 2, 4):
        parallel.set_threads(number)
        results.append(everything(layer))
    assert all(result.any() for result in results[0])
    for threaded in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], threaded, strict=True))


def test_a_batch_gives_what_its_samples_give_and_the_sum_of_their_gradients():
    layer = case(LARGE, 18, 40, 0.2, 1)
    together = everything(layer)
    one_by_one = [
        everything(
            layer._replace(**{name: getattr(layer, name)[[b]] for name in ("spikes_in", "spikes", "gain", "credit")})
        )
        for b in range(len(layer.gain))
    ]
    for k, whole in enumerate(together):
        parts = [results[k] for results in one_by_one]
        if k < PER_SAMPLE:
            assert torch.equal(whole, torch.cat(parts))
        else:
            assert_close(whole, torch.stack(parts).double().sum(0))


def test_what_cannot_be_computed_is_refused():
    window, lif = Window(1, 3, 3, 2, 5, 5), Lif(20.0, 8.0, 2, 1.0)
    with pytest.raises(ValueError, match="larger than the image"):
        cpu.conv_forward(torch.zeros(1, 5, 1, dtype=torch.int64), torch.zeros(2, 1, 5, 5), window, lif)
    with pytest.raises(ValueError, match="float32"):
        cpu.conv_forward(
            torch.zeros(1, 5, 1, dtype=torch.int64), torch.zeros(2, 1, 2, 2).double(), Window(1, 3, 3, 2, 2, 2), lif
        )


def test_more_neurons_than_16_bits_count():
    """A spike beyond input 65,535, in an image of that many pixels."""
    window, lif = Window(2, 300, 120, 2, 1, 1), Lif(20.0, 1.0, 2, 1.0)
    spikes_in = torch.zeros(1, 4, window.inputs)
    spikes_in[0, 0, -2:] = 1
    weight = torch.tensor([[1.0, 2.0], [0.0, 2.0]])[:, :, None, None]
    spikes, counts = cpu.conv_forward(pack(spikes_in), weight, window, lif)
    assert counts.nonzero()[:, 1].tolist() == [35998, 35999, 71998, 71999]
    _, error, _ = cpu.conv_backward("strsbp", lif, pack(spikes_in), spikes, counts, counts, weight, window)
    assert error.nonzero()[:, 1].tolist() == [71998, 71999]
