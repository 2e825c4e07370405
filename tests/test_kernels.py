"""The reference kernels against the definitions, step by step and pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnrun.kernels import Lif, Stbp, Synapses, pack, unpack
from snnrun.kernels import reference as kernels
from snnrun.kernels.reference import surrogate

lifs = st.builds(
    Lif,
    tau_m=st.sampled_from([5.0, 64.0, 128.0]),
    tau_s=st.sampled_from([4.0, 8.0]),
    t_ref=st.integers(0, 3),
    v_th=st.sampled_from([0.5, 2.0, 5.0]),
)


@st.composite
def trains(draw, neurons: int = 4) -> Tensor:
    """Random spikes (B, T, N), from silent to firing at every step."""
    steps, batch = draw(st.integers(2, 60)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rate = torch.rand(batch, 1, neurons, generator=generator)
    rate[0, 0, 0], rate[-1, 0, -1] = 0.0, 1.0
    return (torch.rand(batch, steps, neurons, generator=generator) < rate).to(torch.uint8)


def spsp(readout: Tensor, spikes: Tensor) -> Tensor:
    """S-PSP of every pair, e_ij = sum over t of readout_i(t) s_j(t), (B, N, I)."""
    return torch.einsum("bti,btj->bij", readout, spikes.to(readout.dtype))


def lif_by_hand(spikes, weight, recurrent, lif: Lif):
    """Section by section: leak, drive with a delay, hold, fire. One sample, plain floats."""
    steps, _ = spikes.shape
    neurons = len(weight)
    out = np.zeros((steps, neurons), dtype=np.uint8)
    u, a, r = np.zeros(neurons), np.zeros(neurons), np.zeros(neurons, dtype=int)
    for t in range(1, steps):
        for i in range(neurons):
            u[i] *= 1 - 1 / lif.tau_m
            a[i] *= 1 - 1 / lif.tau_s
            a[i] += float(weight[i] @ spikes[t - 1])
            if recurrent is not None:
                a[i] += float(recurrent[i] @ out[t - 1])
        for i in range(neurons):
            u[i] += a[i] / lif.tau_s
            if r[i] > 0:
                u[i], r[i] = 0.0, r[i] - 1
            if u[i] > lif.v_th - 1e-6:
                out[t, i], u[i], r[i] = 1, 0.0, lif.t_ref
    return out


def strsbp_spsp_by_hand(pre, post, lif: Lif) -> float:
    """One unit-weight input, resets and holds imposed at the post-neuron's spikes, membrane summed before each."""
    p = q = total = 0.0
    hold = lif.t_ref if post[0] else 0
    for t in range(1, len(pre)):
        p = p * (1 - 1 / lif.tau_s) + pre[t - 1]
        q = q * (1 - 1 / lif.tau_m) + p / lif.tau_s
        if hold > 0:
            q, hold = 0.0, hold - 1
        if post[t]:
            total, q, hold = total + q, 0.0, lif.t_ref
    return total


def hm2bp_effect_by_hand(pre, post, lif: Lif) -> float:
    """The closed form, spike pair by spike pair."""
    total, previous = 0.0, None
    for t_f in np.flatnonzero(post):
        reference = 1 if previous is None else previous + lif.t_ref
        s = t_f - reference
        for t_j in np.flatnonzero(pre):
            if max(1, math.floor(t_f - 4 * lif.tau_m)) <= t_j <= t_f - lif.t_ref:
                t = t_f - t_j - lif.t_ref
                shared = math.exp(-min(s, t) / lif.tau_m) - math.exp(-min(s, t) / lif.tau_s)
                total += math.exp(-max(t - s, 0) / lif.tau_s) * shared / (1 - lif.tau_s / lif.tau_m)
        previous = t_f
    return total


def refractory(spikes: Tensor, t_ref: int) -> Tensor:
    """The train without the spikes that follow another within the hold."""
    spikes = spikes.clone()
    for sample in spikes:
        for n in range(sample.shape[1]):
            last = -t_ref - 1
            for t in range(sample.shape[0]):
                if sample[t, n] and t - last <= t_ref:
                    sample[t, n] = 0
                elif sample[t, n]:
                    last = t
    return spikes


def test_membrane_of_one_input_spike_by_hand():
    """tau_m = 4, tau_s = 2, weight 4, input at step 0: a = 4, 2, 1, ... and u = 2, 1.5 + 1, 1.875 + 0.5 from step 1 on.

    u is 2 at step 1 and 2.5 at step 2, so a threshold of 2.25 is crossed at step 2; held at 3 and 4; afterwards
    a = 1/4, 1/8 ... is too weak.
    """
    spikes = torch.zeros(1, 10, 1, dtype=torch.uint8)
    spikes[0, 0, 0] = 1
    fired, counts = kernels.lif_forward(pack(spikes), torch.tensor([[4.0]]), None, Lif(4.0, 2.0, 2, 2.25))
    assert unpack(fired, 1)[0, :, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert counts.tolist() == [[1.0]]


@given(trains(), lifs, st.booleans(), st.integers(0, 1000))
@settings(max_examples=60)
def test_forward_equals_the_step_by_step_definition(spikes, lif, recurrent, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, spikes.shape[2], generator=generator, dtype=torch.float64) * 2
    loop = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    pre, post = (torch.rand(5, 5, generator=generator) < 0.6).nonzero().unbind(1)
    synapses = Synapses(loop[post, pre], pre, post) if recurrent else None
    fired, counts = kernels.lif_forward(pack(spikes), weight, synapses, lif)
    for b, sample in enumerate(spikes.numpy()):
        expected = lif_by_hand(sample, weight.numpy(), None if synapses is None else synapses.dense(5).numpy(), lif)
        assert np.array_equal(unpack(fired, 5)[b].numpy(), expected)
        assert counts[b].tolist() == expected.sum(0).tolist()


def same_size(pre: Tensor, post: Tensor) -> tuple[Tensor, Tensor]:
    steps, batch = min(pre.shape[1], post.shape[1]), min(pre.shape[0], post.shape[0])
    return pre[:batch, :steps], post[:batch, :steps]


def assert_every_pair(e: Tensor, pre: Tensor, post: Tensor, by_hand, tolerance: float) -> None:
    """`e` (B, N, I) against a function of the trains of one pair."""
    for b, i, j in np.ndindex(*e.shape):
        expected = by_hand(pre[b, :, j].numpy(), post[b, :, i].numpy())
        assert e[b, i, j].item() == pytest.approx(expected, abs=tolerance)


@given(trains(), trains(), lifs)
@settings(max_examples=60)
def test_strsbp_spsp_equals_the_step_by_step_definition(pre, post, lif):
    """Also for imposed trains that violate the refractory period."""
    pre, post = same_size(pre, post)
    e = spsp(kernels.strsbp_readout(post, lif, torch.float64), pre)
    assert_every_pair(e, pre, post, lambda s, o: strsbp_spsp_by_hand(s.tolist(), o.tolist(), lif), 1e-10)


@given(trains(), trains(), lifs)
@settings(max_examples=60)
def test_hm2bp_effect_equals_the_closed_form(pre, post, lif):
    pre, post = same_size(pre, post)
    post = refractory(post, lif.t_ref)
    e = spsp(kernels.hm2bp_readout(post, lif, torch.float64), pre)
    assert_every_pair(e, pre, post, lambda s, o: hm2bp_effect_by_hand(s, o, lif), 1e-7)


def test_the_two_spsps_converge():
    """With time constants far above the step, the stepwise S-PSP tends to the closed form: error ~ 1/tau."""
    gaps = []
    for scale in (1, 2, 4):
        lif = Lif(64.0 * scale, 8.0 * scale, 1, 1.0)
        pre, post = torch.zeros(2, 1, 400 * scale, 1, dtype=torch.uint8).unbind()
        pre[0, [10 * scale, 50 * scale, 90 * scale]] = 1
        post[0, [40 * scale, 100 * scale]] = 1
        stepwise, closed = (
            spsp(readout(post, lif, torch.float64), pre).item()
            for readout in (kernels.strsbp_readout, kernels.hm2bp_readout)
        )
        gaps.append(abs(stepwise - closed) / closed)
    assert gaps[1] < 0.6 * gaps[0]
    assert gaps[2] < 0.6 * gaps[1]


RULES = st.sampled_from(["strsbp", "hm2bp"])


@given(trains(), lifs)
@settings(max_examples=30)
def test_activation_is_the_membrane_summed_before_each_spike(spikes, lif):
    """a_i = sum_j w_ij e_ij reaches the threshold at every spike, so a_i >= n_i v_th (up to the slack)."""
    weight = torch.rand(3, spikes.shape[2], generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    bits = pack(spikes)
    fired, counts = kernels.lif_forward(bits, weight, None, lif)
    activation = kernels.spsp_activation("strsbp", lif, bits, fired, weight)
    assert (activation >= counts * (lif.v_th - 1e-5) - 1e-9).all()


@given(trains(), trains(neurons=3), lifs, RULES, st.integers(0, 1000))
@settings(max_examples=40)
def test_sums_over_pairs(pre, post, lif, rule, seed):
    """Activation, gradient and error are the sums over pairs that they are described as."""
    pre, post = same_size(pre, post)
    generator = torch.Generator().manual_seed(seed)
    batch, inputs = len(pre), pre.shape[2]
    gain, credit = torch.randn(2, batch, 3, generator=generator, dtype=torch.float64).unbind()
    weight = torch.randn(3, inputs, generator=generator, dtype=torch.float64)
    e = spsp(kernels.readout(rule, pack(post), 3, lif, torch.float64), pre)
    arguments = (rule, lif, pack(pre), pack(post))
    gradient, error, no_gain = kernels.spsp_backward(*arguments, gain, credit, weight)
    alone, nothing, _ = kernels.spsp_backward(*arguments, gain, None, weight)
    torch.testing.assert_close(gradient, sum(gain[b][:, None] * e[b] for b in range(batch)))
    torch.testing.assert_close(error, torch.stack([credit[b] @ (weight * e[b]) for b in range(batch)]))
    torch.testing.assert_close(alone, gradient)
    assert nothing.shape == no_gain.shape == (batch, 0)
    activation = torch.einsum("ij,bij->bi", weight, e)
    torch.testing.assert_close(kernels.spsp_activation(*arguments, weight), activation)
    whole = gain + credit * activation
    by_slope = kernels.spsp_backward(*arguments, gain, credit, weight, credit)
    torch.testing.assert_close(by_slope[0], sum(whole[b][:, None] * e[b] for b in range(batch)))
    torch.testing.assert_close(by_slope[1:], (error, whole))
    assert torch.equal(kernels.spsp(rule, lif, pack(pre), pack(post), e[0]), e)


@given(trains(), lifs, RULES, st.integers(0, 1000), st.sampled_from([0.0, 0.5]), st.booleans())
@settings(max_examples=40)
def test_values_by_synapse(own, lif, rule, seed, silent_ratio, self_coupling):
    """Recurrent S-PSPs, theta, the system and the gradient, synapse by synapse."""
    generator = torch.Generator().manual_seed(seed)
    batch, _, neurons = own.shape
    pre, post = (torch.rand(neurons, neurons, generator=generator) < 0.6).nonzero().unbind(1)
    synapses = Synapses(torch.randn(len(pre), generator=generator, dtype=torch.float64), pre, post)
    gain, right = torch.randn(2, batch, neurons, generator=generator, dtype=torch.float64).unbind()
    counts = own.sum(1).double()
    e = kernels.recurrent_spsp(rule, lif, pack(own), synapses, neurons, torch.float64)
    theta = kernels.coupling(e, counts, synapses, lif.v_th, silent_ratio)
    gradient = kernels.recurrent_gradient(e, gain, synapses)
    pairs = spsp(kernels.readout(rule, pack(own), neurons, lif, torch.float64), own)
    matrix = torch.zeros(batch, neurons, neurons, dtype=torch.float64)
    for s, (w, p, q) in enumerate(zip(*synapses, strict=True)):
        torch.testing.assert_close(e[:, s], pairs[:, q, p])
        torch.testing.assert_close(gradient[s], (gain[:, q] * e[:, s]).sum())
        for b in range(batch):
            silent = counts[b, p] == 0 or counts[b, q] == 0
            expected = w * (silent_ratio if silent else e[b, s] / counts[b, p]) / lif.v_th
            torch.testing.assert_close(theta[b, s], expected.double())
        if p != q or self_coupling:
            matrix[:, q, p] -= theta[:, s]
    size = matrix.abs().sum((1, 2)).max() + 1  # regular, whatever theta is
    matrix += size * torch.eye(neurons, dtype=torch.float64)
    x = kernels.coupling_solve(theta, synapses, torch.full_like(right, size), right, self_coupling)
    torch.testing.assert_close(torch.einsum("bqp,bq->bp", matrix, x), right)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_of_systems_is_solved_whatever_the_threads(threads):
    """LAPACK under PyTorch's own threads has returned wrong pivots for this size."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.eye(400) + 0.02 * torch.randn(8, 400, 400, generator=generator)
    expected = torch.randn(8, 400, 1, generator=generator)
    torch.testing.assert_close(kernels.solve(matrix, matrix @ expected), expected, rtol=1e-3, atol=1e-3)
    assert torch.get_num_threads() == threads
    singular = torch.zeros(1, 3, 3)
    assert not kernels.solve(singular, torch.ones(1, 3, 1)).isfinite().any()


# ---- STBP -----------------------------------------------------------------------------------------------------------


class SmoothStep(torch.autograd.Function):
    """Step function whose derivative is the surrogate: what automatic differentiation of the model needs."""

    @staticmethod
    def forward(ctx, u, neuron):
        ctx.save_for_backward(u)
        ctx.neuron = neuron
        return (u >= neuron.v_th).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * surrogate(ctx.saved_tensors[0], ctx.neuron), None


SURROGATES = ["rectangle", "polynomial", "sigmoid", "gaussian"]


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("smooth_reset", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("temporal", [False, True])
def test_stbp_backward_equals_automatic_differentiation(name, smooth_reset, recurrent, temporal):
    neuron = Stbp(0.5, 0.3, name, 1.0, exponential_reset=smooth_reset, temporal_gradient=temporal)
    generator = torch.Generator().manual_seed(1)
    drive = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64).requires_grad_()
    loop = torch.randn(3, 3, generator=generator, dtype=torch.float64) if recurrent else None
    above = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    u = o = torch.zeros(2, 3, dtype=torch.float64)
    outputs = []
    for t in range(7):
        before, fired = (u, o) if temporal else (u.detach(), o.detach())
        keep = 0.3 * torch.exp(-fired / 0.3) if smooth_reset else 0.3 * (1 - fired)
        u = before * keep + drive[:, t] + (0 if loop is None else fired @ loop.T)
        o = SmoothStep.apply(u, neuron)
        outputs.append(o)
    expected = torch.stack(outputs, dim=1)
    (expected * above).sum().backward()
    spikes, membrane = kernels.stbp_scan(drive.detach(), loop, neuron)
    assert torch.equal(spikes, expected.detach())
    torch.testing.assert_close(kernels.stbp_scan_backward(above, spikes, membrane, loop, neuron), drive.grad)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_stbp_gradients_of_the_weights_equal_automatic_differentiation(recurrent, bias):
    """What comes before the scan, W x + b, and the recurrent weights."""
    neuron = Stbp(0.5, 0.3, "gaussian", 1.0)
    generator = torch.Generator().manual_seed(2)
    inputs = (torch.rand(2, 9, 70, generator=generator) < 0.3).double().requires_grad_()
    weight = (0.2 * torch.randn(3, 70, generator=generator, dtype=torch.float64)).requires_grad_()
    offset = torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_() if bias else None
    loop = torch.randn(3, 3, generator=generator, dtype=torch.float64).requires_grad_() if recurrent else None
    above = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64)
    drive = torch.nn.functional.linear(inputs, weight, offset)
    u = o = torch.zeros(2, 3, dtype=torch.float64)
    outputs = []
    for t in range(9):
        u = u * 0.3 * (1 - o) + drive[:, t] + (0 if loop is None else o @ loop.T)
        o = SmoothStep.apply(u, neuron)
        outputs.append(o)
    (torch.stack(outputs, dim=1) * above).sum().backward()
    arguments = [None if x is None else x.detach() for x in (weight, offset, loop)]
    bits = pack(inputs.detach())
    spikes, counts, membrane = kernels.stbp_forward(bits, *arguments, neuron)
    assert torch.equal(unpack(spikes, 3).double(), torch.stack(outputs, dim=1).detach())
    assert torch.equal(counts, sum(outputs).detach())
    weights = (arguments[0], arguments[2])
    grad_in, *grads = kernels.stbp_backward(above, bits, spikes, membrane, *weights, neuron, True)
    torch.testing.assert_close(grad_in, inputs.grad)
    torch.testing.assert_close(grads[0], weight.grad)
    if offset is not None:
        torch.testing.assert_close(grads[1], offset.grad)
    torch.testing.assert_close(grads[2], torch.zeros(0, 0, dtype=torch.float64) if loop is None else loop.grad)
    assert kernels.stbp_backward(above, bits, spikes, membrane, *weights, neuron, False)[0].shape == (2, 0, 0)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("width", [0.5, 1.0, 2.5])
def test_surrogates_integrate_to_one(name, width):
    u = torch.linspace(-60, 60, 1_200_001, dtype=torch.float64)
    neuron = Stbp(0.5, 0.2, name, width)
    assert torch.trapezoid(surrogate(u, neuron), u).item() == pytest.approx(1.0, abs=1e-3)
    assert surrogate(torch.tensor([0.5]), neuron) >= surrogate(u, neuron).max() - 1e-6  # peak at the threshold


def test_strict_threshold_is_the_authors_comparison():
    drive = torch.full((1, 1, 1), 0.5)
    assert kernels.stbp_scan(drive, None, Stbp(0.5, 0.2))[0].item() == 1.0
    assert kernels.stbp_scan(drive, None, Stbp(0.5, 0.2, strict=True))[0].item() == 0.0
