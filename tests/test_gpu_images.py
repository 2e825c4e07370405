"""The gpu kernels of layers over images against the reference; see `triton_here` for where they run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_image_kernels import lifs, windows
from triton_here import DEVICE, MARKS, gpu, guarded, interpreter  # noqa: F401

from snnrun import kernels
from snnrun.kernels import Lif, Stbp, Window, pack, reference, unpack
from snnrun.kernels.checks import images as image_checks
from snnrun.kernels.checks.images import Case, Data
from snnrun.kernels.gpu import images as gpu_images
from snnrun.network import Network
from snnrun.rules import Hm2Bp, StbpRule, StRsbp

pytestmark = MARKS

LIF = Lif(20.0, 8.0, 2, 0.5)
# Steps are taken eight at a time. More taps than a tile of the gradient has; more kernels, and an oblong image, with
# neurons for several words; pixels that no window reaches.
CASES = (
    Case(1, 10, Window(4, 3, 3, 2, 3, 3, 1, 1), LIF),
    Case(2, 9, Window(1, 4, 7, 17, 2, 3, 2, 1), Lif(5.0, 4.0, 3, 0.5), seed=1),
    Case(2, 17, Window(2, 8, 7, 3, 2, 2, 3), Lif(2.6, 2.0, 0, 1.0), seed=2),
)
CHECKS = [(check, options) for check, variants in image_checks.CHECKS for options in variants]
TITLES = [
    " ".join([check.__name__, options.get("rule", ""), "average" * options.get("average", False)]).strip()
    for check, options in CHECKS
]

cases = st.builds(Case, st.integers(1, 2), st.integers(2, 18), windows(), lifs, st.integers(0, 2**31))


def run(check, options, case):
    result = check(gpu, DEVICE, case, **options)
    assert result.passed, result


@pytest.mark.parametrize("case", CASES, ids=["more taps", "more kernels", "unseen"])
@pytest.mark.parametrize(("check", "options"), CHECKS, ids=TITLES)
@pytest.mark.usefixtures("guarded")
def test_chosen_layers_are_the_references(check, options, case):
    run(check, options, case)


@given(cases)
@settings(deadline=None, max_examples=3)
def test_any_layer_is_the_references(case):
    for check, options in CHECKS:
        run(check, options, case)


@given(
    st.builds(
        Stbp,
        v_th=st.sampled_from([0.3, 1.0]),
        decay=st.sampled_from([0.2, 0.6]),
        surrogate=st.sampled_from(["rectangle", "sigmoid", "gaussian"]),
        width=st.sampled_from([0.5, 2.0]),
        strict=st.booleans(),
        exponential_reset=st.booleans(),
        temporal_gradient=st.booleans(),
    ),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=4)
def test_any_stbp_neuron_is_the_references(neuron, seed):
    case = Case(1, 9, Window(2, 3, 4, 2, 2, 2), LIF, seed)
    run(image_checks.check_stbp_conv_forward, {"neuron": neuron, "average": False}, case)
    run(image_checks.check_stbp_conv_backward, {"neuron": neuron, "average": False}, case)


@pytest.mark.parametrize("side", [3, 4])
def test_averages_over_larger_squares(side):
    window = Window(1, 2 * side + 1, 3 * side, 2, 2, 2, 1, 0, side)
    data, neuron = Data(Case(1, 9, window, LIF), window), Stbp(0.2, 0.5, width=2.0)
    data.bias += 0.3 - data.bias.mean()
    weight, bias, bits = (tensor.to(DEVICE) for tensor in (data.weight.float(), data.bias.float(), data.spikes_in))
    spikes, counts, membrane = gpu.stbp_conv_forward(bits, weight, bias, window, neuron)
    expected = reference.stbp_conv_forward(data.spikes_in, data.weight, data.bias, window, neuron)
    assert torch.equal(spikes.cpu(), expected[0])
    assert 0 < counts.sum() < 9 * window.neurons
    torch.testing.assert_close(membrane.cpu(), expected[2].float())
    actual = gpu.stbp_conv_backward(membrane, bits, spikes, membrane, weight, window, neuron, True)
    wanted = reference.stbp_conv_backward(
        expected[2], data.spikes_in, expected[0], expected[2], data.weight, window, neuron, True
    )
    for ours, theirs in zip(actual, wanted, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs.float(), rtol=1e-4, atol=1e-5)


# ---- special cases --------------------------------------------------------------------------------------------------


def tensors(window: Window, batch: int = 3, steps: int = 20):
    data = Data(Case(batch, steps, window, LIF), window)
    spikes_in, spikes = data.spikes_in.clone(), data.spikes.clone()
    spikes_in[1], spikes[-1] = 0, 0  # a sample without input, one that never fires
    values = (data.gain.float(), data.credit.float(), data.weight.float())
    return tuple(tensor.to(DEVICE) for tensor in (spikes_in, spikes, *values))


@pytest.mark.parametrize("rule", ["strsbp", "hm2bp"])
def test_silent_samples_add_exactly_nothing(rule):
    window = Window(2, 4, 4, 3, 2, 2, 1, 1)
    spikes_in, spikes, gain, credit, weight = tensors(window)
    gradient, error, _ = gpu.conv_backward(rule, LIF, spikes_in, spikes, gain, credit, weight, window)
    assert not error[1:].any()
    alone, first, _ = gpu.conv_backward(rule, LIF, spikes_in[:1], spikes[:1], gain[:1], credit[:1], weight, window)
    assert alone.any()
    torch.testing.assert_close(gradient, alone)
    torch.testing.assert_close(error[:1], first)
    counts = gpu.conv_forward(spikes_in, weight, window, LIF)[1]
    assert counts[0].any()
    assert not counts[1].any()


def test_nothing_depends_on_how_the_work_is_shared_out(monkeypatch):
    """Readouts of single samples at a time, and steps in as many parts as there are or in one."""
    window = Window(2, 3, 3, 2, 2, 2)
    spikes_in, spikes, gain, credit, weight = tensors(window)

    def results():
        sums = gpu.conv_backward("strsbp", LIF, spikes_in, spikes, gain, credit, weight, window)
        return (*sums, gpu.conv_activation("strsbp", LIF, spikes_in, spikes, weight, window))

    assert gpu_images._shared_out(20, 3) == (3, 8)
    expected = results()
    monkeypatch.setattr(gpu_images, "PROGRAMS", 1)
    assert gpu_images._shared_out(20, 3) == (1, 24)
    in_one = results()
    monkeypatch.setattr(gpu_images, "READOUT", 1)
    assert len(list(gpu_images._samples(spikes, window.neurons))) == 3
    by_sample = results()
    for a, b, c in zip(expected, in_one, by_sample, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize(("steps", "programs"), [(0, 1), (1, 1), (7, 0), (400, 4096), (400, 700), (400, 1), (10**4, 3)])
def test_all_steps_are_shared_out(steps, programs):
    parts, share = gpu_images._shared_out(steps, programs)
    assert share % 8 == 0
    assert (parts - 1) * share < max(steps, 1) <= parts * share
    assert parts == 1 or parts * programs <= gpu_images.PROGRAMS


def test_thresholds_of_convolution_and_pool():
    """As the reference's: a membrane that reaches the threshold exactly fires in a pool, not in a convolution."""
    window, lif = Window(1, 1, 1, 1, 1, 1), Lif(64.0, 8.0, 2, 0.125)
    spikes = torch.zeros(1, 2, 1, dtype=torch.int64, device=DEVICE)
    spikes[0, 0] = 1
    assert gpu.pool_forward(spikes, window, lif)[1].item() == 1
    assert gpu.conv_forward(spikes, torch.ones(1, 1, 1, 1, device=DEVICE), window, lif)[1].item() == 0
    window, lif = Window(1, 6, 6, 1, 6, 6), Lif(64.0, 1.0, 2, 33.0)  # float32 has no number 1e-6 below 33
    spikes = torch.zeros(2, 2, 36)
    spikes[0, 0, :33] = spikes[1, 0, :32] = 1
    assert gpu.pool_forward(pack(spikes).to(DEVICE), window, lif)[1].tolist() == [[1], [0]]


def test_gradients_are_stored_tap_by_tap():
    window = Window(2, 4, 4, 3, 2, 2)
    spikes_in, spikes, gain, _, weight = tensors(window)
    gradient, nothing, _ = gpu.conv_backward("strsbp", LIF, spikes_in, spikes, gain, None, weight, window)
    assert gradient.permute(1, 2, 3, 0).is_contiguous()
    assert nothing.shape == (3, 0)
    u = torch.zeros(3, 20, window.neurons, device=DEVICE)
    below, gradient, bias = gpu.stbp_conv_backward(u, spikes_in, spikes, u, weight, window, Stbp(0.5, 0.5), False)
    assert gradient.permute(1, 2, 3, 0).is_contiguous()
    assert below.shape == (3, 0, 0)
    assert bias.shape == (3,)


def test_no_samples():
    window = Window(2, 4, 4, 2, 2, 2)
    spikes_in, spikes, gain, credit, weight = (
        tensor if tensor.dim() == 4 else tensor[:0] for tensor in tensors(window)
    )
    assert gpu.conv_forward(spikes_in, weight, window, LIF)[1].shape == (0, window.neurons)
    assert gpu.conv_activation("strsbp", LIF, spikes_in, spikes, weight, window).shape == (0, window.neurons)
    gradient, error, _ = gpu.conv_backward("strsbp", LIF, spikes_in, spikes, gain, credit, weight, window)
    assert gradient.shape == weight.shape
    assert not gradient.any()
    assert error.shape == (0, window.inputs)
    assert gpu.pool_backward("hm2bp", LIF, spikes_in, spikes, credit, window).shape == (0, window.inputs)


def test_only_float32():
    window, spikes = Window(1, 2, 2, 1, 2, 2), torch.zeros(1, 3, 1, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match=r"float32, not torch\.float64"):
        gpu.pool_forward(spikes, window, LIF, torch.float64)
    with pytest.raises(ValueError, match=r"float32, not torch\.float64"):
        gpu.conv_forward(spikes, torch.ones(1, 1, 2, 2, device=DEVICE).double(), window, LIF)


# ---- whole networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "topology"),
    [
        (StRsbp(v_th=[0.3], tau_m=20.0, desired=8.0, undesired=1.0, margin=0.0), "3C3-P2-R4"),
        (Hm2Bp(v_th=[0.3], tau_m=20.0, desired=8.0, undesired=1.0, margin=0.0), "3C3-P2-4"),
        (StbpRule(v_th=[0.3], decay=0.4), "3C3-P2-2C2-4"),
    ],
    ids=["strsbp", "hm2bp", "stbp"],
)
def test_a_whole_network_has_the_references_gradients(rule, topology, monkeypatch):
    generator = torch.Generator().manual_seed(2)
    spikes = pack(torch.rand(2, 17, 36, generator=generator) < 0.4)
    results = []
    for backend, device in ((reference, "cpu"), (gpu, DEVICE)):
        monkeypatch.setattr(kernels.ops, "backend", backend)
        net = Network(rule, inputs=36, topology=topology, outputs=3, seed=1, image=(1, 6, 6)).to(device)
        labels = torch.tensor([0, 2], device=device)
        activity = net(spikes.to(device), labels)
        rule.sample_loss(activity.output, labels).mean().backward()
        results.append(([train.spikes.cpu() for train in activity.layers], [p.grad.cpu() for p in net.parameters()]))
    (expected_spikes, expected), (fired, gradients) = results
    assert all(unpack(bits, 64).any() for bits in expected_spikes[:-1])
    assert all(torch.equal(a, b) for a, b in zip(fired, expected_spikes, strict=True))
    for actual, wanted in zip(gradients, expected, strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(actual, wanted, rtol=0.0, atol=1e-5 * wanted.abs().max().item())
