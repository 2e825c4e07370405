"""Every backend against the reference: the same spikes, the same sums, the same bits whatever the threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnrun import kernels
from snnrun.errors import UsageError
from snnrun.kernels import Lif, cpu, reference
from snnrun.network import Network
from snnrun.rules import Hm2Bp, StRsbp

SHAPES = st.tuples(st.integers(1, 11), st.integers(2, 70), st.integers(1, 20), st.integers(1, 20))  # B, T, I, N
LIFS = st.builds(
    Lif,
    tau_m=st.sampled_from([5.0, 20.0, 64.0]),
    tau_s=st.sampled_from([4.0, 8.0]),
    t_ref=st.integers(0, 3),
    v_th=st.sampled_from([0.5, 2.0]),
)
SEEDS = st.integers(0, 2**31)


def layer(shape, seed) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """Input spikes from silent to dense, weights, and sparse recurrent weights."""
    batch, steps, inputs, neurons = shape
    generator = torch.Generator().manual_seed(seed)
    rate = torch.rand(batch, 1, inputs, generator=generator) ** 2
    rate[0, 0, 0] = 0.0
    spikes = (torch.rand(batch, steps, inputs, generator=generator) < rate).to(torch.uint8)
    weight = torch.randn(neurons, inputs, generator=generator)
    loop = torch.randn(neurons, neurons, generator=generator)
    loop *= torch.rand(neurons, neurons, generator=generator) < 0.3
    return spikes, weight, loop, generator


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """1e-5 of the largest entry."""
    scale = expected.abs().max().clamp(min=1e-6).item()
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=0.0, atol=1e-5 * scale)


def near_threshold(spikes_in: Tensor, weight: Tensor, loop: Tensor, lif: Lif) -> bool:
    """Whether a threshold 1e-4 mV lower or higher changes the reference's own spikes."""
    low, high = (
        reference.lif_forward(spikes_in, weight, loop, lif._replace(v_th=lif.v_th + shift)) for shift in (-1e-4, 1e-4)
    )
    return not torch.equal(low, high)


@given(SHAPES, SEEDS, LIFS)
@settings(deadline=None, max_examples=60)
def test_spikes_are_the_references(shape, seed, lif):
    """A difference is allowed only where the reference itself stands within 1e-4 mV of the threshold."""
    spikes, weight, loop, _ = layer(shape, seed)
    fired, expected = (backend.lif_forward(spikes, weight, loop, lif) for backend in (cpu, reference))
    assert torch.equal(fired, expected) or near_threshold(spikes, weight, loop, lif)


@given(SHAPES, SEEDS, LIFS)
@settings(deadline=None, max_examples=60)
def test_readouts_are_the_references(shape, seed, lif):
    spikes, *_ = layer(shape, seed)
    assert_close(cpu.strsbp_readout(spikes, lif), reference.strsbp_readout(spikes, lif))
    assert_close(cpu.hm2bp_readout(spikes, lif), reference.hm2bp_readout(spikes, lif, torch.float64))


@given(SHAPES, SEEDS)
@settings(deadline=None, max_examples=60)
def test_sums_over_pairs_are_the_references(shape, seed):
    spikes, weight, _, generator = layer(shape, seed)
    batch, steps, _, neurons = shape
    readout = torch.rand(batch, steps, neurons, generator=generator)
    gain, credit = torch.randn(2, batch, neurons, generator=generator).unbind()
    for backward in (credit, None):
        gradient, error = cpu.spsp_backward(readout, spikes, gain, backward, weight)
        wanted_gradient, wanted_error = reference.spsp_backward(readout, spikes, gain, backward, weight)
        assert_close(gradient, wanted_gradient)
        if backward is None:
            assert error is None
        else:
            assert_close(error, wanted_error)
    assert_close(cpu.spsp_activation(readout, spikes, weight), reference.spsp_activation(readout, spikes, weight))


@given(SHAPES, SEEDS, st.sampled_from([0.0, 0.5]), st.booleans(), st.sampled_from([0.5, 3.0]))
@settings(deadline=None, max_examples=60)
def test_recurrent_systems_are_the_references(shape, seed, silent_ratio, self_coupling, diagonal):
    """A small diagonal makes the sweeps diverge: then the reference solves."""
    _, _, loop, generator = layer(shape, seed)
    batch, steps, _, neurons = shape
    own = (torch.rand(batch, steps, neurons, generator=generator) < 0.2).to(torch.uint8)
    own[:, :, 0] = 0
    readout = torch.rand(batch, steps, neurons, generator=generator)
    counts, mask = own.sum(1).float(), loop != 0
    arguments = (readout, own, counts, loop, mask, 2.0, silent_ratio)
    theta, expected = cpu.coupling(*arguments), reference.coupling(*arguments)
    x = torch.randn(batch, neurons, generator=generator)
    assert_close(cpu.coupling_product(theta, x), reference.coupling_product(expected, x))
    diagonals = torch.full((batch, neurons), diagonal)
    solution = cpu.coupling_solve(theta, diagonals, x, self_coupling)
    matrix = -expected.double()
    if not self_coupling:
        matrix.diagonal(dim1=1, dim2=2).zero_()
    matrix.diagonal(dim1=1, dim2=2).add_(diagonal)
    residual = (matrix.transpose(1, 2) @ solution.double()[:, :, None]).squeeze(2) - x
    assert (residual.abs() <= 1e-5 * (1 + matrix.abs().sum((1, 2)).max() * solution.abs().max())).all()


@pytest.mark.parametrize("rule", [StRsbp, Hm2Bp])
@pytest.mark.parametrize("threads", [2, 4])
def test_the_bits_do_not_depend_on_the_threads(rule, threads):
    """Nor on whether a sample stands alone: partial sums are by sample number."""
    spikes, *_ = layer((19, 60, 24, 5), seed=1)
    labels = torch.arange(19) % 4
    kernels.use("cpu")
    results = []
    for number in (1, threads):
        torch.set_num_threads(number)
        net = Network(rule(v_th=[2.0], tau_m=20.0, lateral=0.5), inputs=24, topology="30-R20", outputs=4)
        net.rule.sample_loss(net(spikes, labels).output, labels).mean().backward()
        results.append([parameter.grad for parameter in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(grad.abs().max() > 0 for grad in results[0])


@pytest.mark.parametrize(
    "rule",
    [
        StRsbp(v_th=[2.0], tau_m=20.0),
        StRsbp(v_th=[2.0], tau_m=20.0, slope="table", silent_ratio=0.5, solve="authors"),
        StRsbp(v_th=[2.0], tau_m=20.0, slope="counts", self_coupling=False),
        Hm2Bp(v_th=[2.0], tau_m=20.0, lateral=0.5),
    ],
    ids=["strsbp", "strsbp-authors", "strsbp-counts", "hm2bp"],
)
def test_a_whole_network_has_the_references_gradients(rule):
    spikes, *_ = layer((9, 60, 24, 5), seed=2)
    labels = torch.arange(9) % 4
    results = []
    for name in ("reference", "cpu"):
        kernels.use(name)
        net = Network(rule, inputs=24, topology="30-R20", outputs=4)
        activity = net(spikes, labels)
        net.rule.sample_loss(activity.output, labels).mean().backward()
        results.append(
            ([train.spikes for train in activity.layers], [parameter.grad for parameter in net.parameters()])
        )
    (spikes_a, grads_a), (spikes_b, grads_b) = results
    assert all(torch.equal(a, b) for a, b in zip(spikes_a, spikes_b, strict=True))
    for a, b in zip(grads_a, grads_b, strict=True):
        assert_close(b, a)


def test_the_choice_of_a_backend():
    assert kernels.active() is reference
    assert kernels.use("cpu") == "cpu"
    assert kernels.active() is cpu
    assert kernels.use("reference") == "reference"
    assert kernels.ready(), "the reference has nothing to compile"
    assert kernels.use("auto", "cpu") == "cpu"
    assert kernels.use("auto", "cuda") == "reference"
    with pytest.raises(UsageError, match=r"hardware\.kernels: the cpu kernels need hardware\.device=cpu"):
        kernels.use("cpu", "cuda")
    with pytest.raises(UsageError, match=r"hardware\.kernels: there is no 'gpu'\. Allowed: auto, reference, cpu"):
        kernels.use("gpu")


def test_the_cpu_kernels_refuse_what_they_cannot_compute():
    spikes, weight, *_ = layer((1, 5, 3, 2), seed=0)
    with pytest.raises(ValueError, match="float32"):
        cpu.lif_forward(spikes, weight.double(), None, Lif(20.0, 8.0, 2, 1.0))
    with pytest.raises(ValueError, match="float64"):
        cpu.strsbp_readout(spikes, Lif(20.0, 8.0, 2, 1.0), torch.float64)
