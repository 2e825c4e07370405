"""The reference kernels of layers over images against loops over single neurons, steps and pairs of spikes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from images_by_hand import CONV, POOL, closed_effect, field, forward, number, positions, stepwise_effect, train_of
from torch import Tensor
from torch.nn import functional

from snnrun.kernels import Lif, Stbp, Window, pack, reference, unpack

EFFECTS = {"strsbp": stepwise_effect, "hm2bp": closed_effect}
lifs = st.builds(
    Lif,
    tau_m=st.sampled_from([5.0, 64.0]),
    tau_s=st.sampled_from([4.0, 8.0]),
    t_ref=st.integers(0, 3),
    v_th=st.sampled_from([0.3, 1.0]),
)


@st.composite
def windows(draw, pool: bool = False) -> Window:
    """Any that fits: oblong images and kernels, strides, padding, rows that no window reaches."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    padding = draw(st.integers(0, 2)) if not pool else 0
    height = draw(st.integers(1, min(4, rows + 2 * padding)))
    width = draw(st.integers(1, min(4, columns + 2 * padding)))
    channels = draw(st.integers(1, 3))
    kernels = channels if pool else draw(st.integers(1, 3))
    return Window(channels, rows, columns, kernels, height, width, draw(st.integers(1, 3)), padding)


class Layer:
    """Random spikes in and out, weights, gain and credit, float64; some neurons silent, some as fast as they can."""

    def __init__(self, window: Window, seed: int, steps: int = 25, batch: int = 2) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.window = window
        self.spikes_in = self._trains(batch, steps, window.inputs, generator)
        self.spikes = self._trains(batch, steps, window.neurons, generator)
        for t in range(1, steps):  # at most one spike in four steps, the longest hold
            self.spikes[:, t] &= 1 - self.spikes[:, max(0, t - 3) : t].amax(dim=1)
        self.weight, self.gain, self.credit = (
            torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape in (
                (window.kernels, window.channels, window.height, window.width),
                (batch, window.neurons),
                (batch, window.neurons),
            )
        )

    @staticmethod
    def _trains(batch: int, steps: int, neurons: int, generator: torch.Generator) -> Tensor:
        rate = torch.rand(batch, 1, neurons, generator=generator)
        rate[0, 0, 0], rate[-1, 0, -1] = 0.0, 1.0  # silent, and at every step from 0 to T - 1
        return (torch.rand(batch, steps, neurons, generator=generator) < rate).to(torch.uint8)

    def images(self, b: int) -> np.ndarray:
        """Input spikes of a sample, (T, C, rows, columns)."""
        return self.spikes_in[b].reshape(-1, self.window.channels, self.window.rows, self.window.columns).numpy()

    def maps(self, b: int) -> np.ndarray:
        """Output spikes of a sample."""
        w = self.window
        return self.spikes[b].reshape(-1, w.kernels, w.out_rows, w.out_columns).numpy()


def test_neurons_are_numbered_as_pytorch_flattens():
    window = Window(2, 5, 4, 3, 2, 2)
    place = torch.arange(window.neurons).reshape(3, window.out_rows, window.out_columns)
    for neuron in positions(window):
        assert place[neuron] == number(*neuron, window.out_rows, window.out_columns)
    # One kernel looks at input (1, 3, 2) alone: only the output (0, 2, 1), to which that is tap (1, 1, 1), can fire.
    weight = torch.zeros(3, 2, 2, 2)
    weight[0, 1, 1, 1] = 50.0
    spikes = torch.zeros(1, 5, window.inputs, dtype=torch.uint8)
    spikes[0, 1, number(1, 3, 2, 5, 4)] = 1
    _, counts = reference.conv_forward(pack(spikes), weight, window, Lif(20.0, 8.0, 2, 1.0))
    assert counts.nonzero().tolist() == [[0, number(0, 2, 1, window.out_rows, window.out_columns)]]


@settings(max_examples=60)
@given(windows(), lifs, st.integers(0, 2**31))
def test_a_convolution_fires_as_its_neurons_do_one_by_one(window, lif, seed):
    layer = Layer(window, seed)
    bits, counts = reference.conv_forward(pack(layer.spikes_in), layer.weight, window, lif)
    spikes = unpack(bits, window.neurons)
    assert torch.equal(counts, spikes.sum(1).double())
    for b in range(2):
        by_hand = forward(layer.images(b), layer.weight.numpy(), window, lif)
        np.testing.assert_array_equal(spikes[b].numpy(), by_hand.reshape(len(by_hand), -1))


@settings(max_examples=60)
@given(windows(pool=True), lifs, st.integers(0, 2**31))
def test_a_pool_fires_as_its_neurons_do_one_by_one(window, lif, seed):
    layer = Layer(window, seed)
    bits, _ = reference.pool_forward(pack(layer.spikes_in), window, lif, torch.float64)
    for b in range(2):
        by_hand = forward(layer.images(b), None, window, lif)
        np.testing.assert_array_equal(unpack(bits, window.neurons)[b].numpy(), by_hand.reshape(len(by_hand), -1))


def test_thresholds_of_convolution_and_pool():
    """One spike through weight 1 leaves u = 1 / tau_s, exact in binary: a pool fires at that threshold, not a conv."""
    window = Window(1, 1, 1, 1, 1, 1)
    spikes = torch.zeros(1, 2, 1, dtype=torch.uint8)
    spikes[0, 0] = 1
    lif = Lif(64.0, 8.0, 2, 0.125)
    assert reference.pool_forward(pack(spikes), window, lif)[1].item() == 1
    assert reference.conv_forward(pack(spikes), torch.ones(1, 1, 1, 1), window, lif)[1].item() == 0
    assert reference.conv_forward(pack(spikes), torch.ones(1, 1, 1, 1), window, lif._replace(v_th=0.1249))[1] == 1


@settings(max_examples=60)
@given(windows(), lifs, st.integers(0, 2**31), st.sampled_from(list(EFFECTS)))
def test_sums_over_a_convolution_are_sums_over_pairs(window, lif, seed, rule):
    layer = Layer(window, seed, steps=15)
    activation, gradient = torch.zeros(2, window.neurons).double(), torch.zeros_like(layer.weight)
    error = torch.zeros(2, window.inputs).double()
    for b in range(2):
        for i, neuron in enumerate(positions(window)):
            for pre, tap in field(window, CONV, neuron):
                e = EFFECTS[rule](train_of(layer.images(b), pre), train_of(layer.maps(b), neuron), lif)
                activation[b, i] += layer.weight[tap] * e
                gradient[tap] += layer.gain[b, i] * e
                j = number(*pre, window.rows, window.columns)
                error[b, j] += layer.credit[b, i] * layer.weight[tap] * e
    bits = pack(layer.spikes_in), pack(layer.spikes)
    assert_close(reference.conv_activation(rule, lif, *bits, layer.weight, window), activation)
    backward = reference.conv_backward(rule, lif, *bits, layer.gain, layer.credit, layer.weight, window)
    assert_close(backward[0], gradient)
    assert_close(backward[1], error)
    alone, *nothing = reference.conv_backward(rule, lif, *bits, layer.gain, None, layer.weight, window)
    assert_close(alone, gradient)
    assert [each.shape for each in nothing] == [(2, 0)] * 2
    sloped = reference.conv_backward(rule, lif, *bits, layer.gain, layer.credit, layer.weight, window, layer.credit)
    whole = layer.gain + layer.credit * activation
    by_whole, *_ = reference.conv_backward(rule, lif, *bits, whole, None, layer.weight, window)
    for actual, expected in zip(sloped, (by_whole, error, whole), strict=True):
        assert_close(actual, expected)
    assert backward[0].permute(1, 2, 3, 0).is_contiguous()


@settings(max_examples=60)
@given(windows(pool=True), lifs, st.integers(0, 2**31), st.sampled_from(list(EFFECTS)))
def test_sums_over_a_pool_are_sums_over_pairs(window, lif, seed, rule):
    layer = Layer(window, seed, steps=15)
    error = torch.zeros(2, window.inputs).double()
    for b in range(2):
        for i, neuron in enumerate(positions(window)):
            for pre, _ in field(window, POOL, neuron):
                e = EFFECTS[rule](train_of(layer.images(b), pre), train_of(layer.maps(b), neuron), lif)
                error[b, number(*pre, window.rows, window.columns)] += layer.credit[b, i] * e
    bits = pack(layer.spikes_in), pack(layer.spikes)
    assert_close(reference.pool_backward(rule, lif, *bits, layer.credit, window), error)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


# ---- what a convolution has in common with other layers -------------------------------------------------------------


@pytest.mark.parametrize("rule", EFFECTS)
@pytest.mark.parametrize("shape", [(2, 4, 3), (5, 1, 1)])
def test_a_kernel_that_covers_the_image_is_a_dense_layer(rule, shape):
    window = Window(*shape, 6, *shape[1:])
    layer, lif = Layer(window, seed=1, steps=60), Lif(20.0, 8.0, 2, 1.0)
    dense, bits = layer.weight.flatten(1), pack(layer.spikes_in)
    ours = reference.conv_forward(bits, layer.weight, window, lif)
    theirs = reference.lif_forward(bits, dense, None, lif)
    assert ours[1].any()
    assert torch.equal(ours[0], theirs[0])
    own = pack(layer.spikes)
    assert_close(
        reference.conv_activation(rule, lif, bits, own, layer.weight, window),
        reference.spsp_activation(rule, lif, bits, own, dense),
    )
    gradient, error, _ = reference.conv_backward(rule, lif, bits, own, layer.gain, layer.credit, layer.weight, window)
    expected = reference.spsp_backward(rule, lif, bits, own, layer.gain, layer.credit, dense)
    assert_close(gradient.flatten(1), expected[0])
    assert_close(error, expected[1])


def test_a_convolution_follows_its_input_across_the_image():
    window, lif = Window(1, 9, 9, 2, 3, 3), Lif(20.0, 8.0, 2, 0.3)
    weight = Layer(window, seed=2).weight
    spikes = torch.zeros(2, 40, 9, 9, dtype=torch.uint8)
    patch = torch.rand(40, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.4
    spikes[0, :, 2:6, 2:6], spikes[1, :, 3:7, 4:8] = patch, patch
    bits, _ = reference.conv_forward(pack(spikes.flatten(2)), weight, window, lif)
    maps = unpack(bits, window.neurons).reshape(2, 40, 2, 7, 7)
    assert maps[0].any()
    assert torch.equal(maps[0, ..., :6, :5], maps[1, ..., 1:, 2:])


def test_a_pool_is_a_convolution_with_ones_on_its_channel():
    """Above a threshold that no membrane reaches exactly, where their thresholds agree."""
    window, lif = Window(2, 5, 6, 2, 2, 3, 2), Lif(20.0, 8.0, 2, 0.37)
    layer = Layer(window, seed=3)
    ones = torch.zeros_like(layer.weight)
    ones[0, 0], ones[1, 1] = 1.0, 1.0
    bits = pack(layer.spikes_in)
    assert torch.equal(
        reference.pool_forward(bits, window, lif, torch.float64)[0], reference.conv_forward(bits, ones, window, lif)[0]
    )
    own = pack(layer.spikes)
    _, error, _ = reference.conv_backward("strsbp", lif, bits, own, layer.gain, layer.credit, ones, window)
    assert_close(reference.pool_backward("strsbp", lif, bits, own, layer.credit, window), error)


# ---- STBP -----------------------------------------------------------------------------------------------------------


class _Step(torch.autograd.Function):
    """A step function with a rectangle of width 1 for its derivative."""

    @staticmethod
    def forward(ctx, u, v_th):
        ctx.save_for_backward(u)
        ctx.v_th = v_th
        return (u >= v_th).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * ((ctx.saved_tensors[0] - ctx.v_th).abs() < 0.5), None


@settings(max_examples=60)
@given(windows(), st.integers(1, 3), st.integers(0, 2**31), st.booleans())
def test_stbp_is_what_autograd_makes_of_the_unrolled_network(window, pool, seed, biased):
    """Average pool, convolution and neurons, step after step. Ragged: the last rows and columns fill no square."""
    ragged = seed % pool
    window = window._replace(rows=window.rows * pool + ragged, columns=window.columns * pool + ragged, pool=pool)
    layer, neuron = Layer(window, seed, steps=8), Stbp(0.5, 0.6)
    weight = layer.weight.clone().requires_grad_()
    bias = layer.gain[0, : window.kernels].clone().requires_grad_() if biased else None
    inputs = layer.spikes_in.double().requires_grad_()

    shape = (2, 8, window.channels, window.rows, window.columns)
    u = o = torch.zeros(2, window.neurons).double()
    outputs, membranes = [], []
    for t in range(8):
        image = functional.avg_pool2d(inputs.reshape(shape)[:, t], pool)
        x = functional.conv2d(image, weight, bias, stride=window.stride, padding=window.padding)
        u = u * 0.6 * (1 - o) + x.flatten(1)
        o = _Step.apply(u, 0.5)
        outputs.append(o)
        membranes.append(u)
    above = torch.randn(2, 8, window.neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (torch.stack(outputs, 1) * above).sum().backward()

    arguments = (weight.detach(), window, neuron)
    plain_bias = None if bias is None else bias.detach()
    bits, counts, membrane = reference.stbp_conv_forward(
        pack(layer.spikes_in), arguments[0], plain_bias, *arguments[1:]
    )
    assert_close(membrane, torch.stack(membranes, 1).detach())
    assert torch.equal(unpack(bits, window.neurons, torch.float64), torch.stack(outputs, 1).detach())
    assert torch.equal(counts, torch.stack(outputs, 1).detach().sum(1))
    below, gradient, of_bias = reference.stbp_conv_backward(
        above, pack(layer.spikes_in), bits, membrane, *arguments, wants_input=True
    )
    assert_close(below, inputs.grad)
    assert_close(gradient, weight.grad)
    if bias is not None:
        assert_close(of_bias, bias.grad)
    assert gradient.permute(1, 2, 3, 0).is_contiguous()


def test_stbp_without_a_layer_below_returns_no_error():
    window = Window(1, 4, 4, 2, 3, 3)
    layer = Layer(window, seed=0)
    above = torch.ones(2, 25, window.neurons).double()
    below, *_ = reference.stbp_conv_backward(
        above, pack(layer.spikes_in), pack(layer.spikes), above, layer.weight, window, Stbp(0.5, 0.2), False
    )
    assert below.shape == (2, 0, 0)
