"""What the papers' own simulators computed: spikes, S-PSPs, errors and gradients to match."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from snnrun import kernels
from snnrun.kernels import Lif, Synapses, pack
from snnrun.rules import Hm2Bp, LayerKind, LayerWeights, SpikeTrain, StRsbp
from snnrun.rules import strsbp as strsbp_module
from snnrun.rules.base import synapse_index

HIDDEN = LayerKind(number=0, output=False, recurrent=False)
RECURRENT = LayerKind(number=0, output=False, recurrent=True)
OUTPUT = LayerKind(number=0, output=True, recurrent=False)


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def spikes_of(array: np.ndarray) -> Tensor:
    """Bits (1, T, W) of spikes (T, N)."""
    return pack(torch.from_numpy(np.array(array))[None])


def train_of(array: np.ndarray, dtype: torch.dtype = torch.float32) -> SpikeTrain:
    return SpikeTrain(spikes_of(array), torch.from_numpy(np.array(array)).sum(0).to(dtype)[None])


def synapses_of(matrix: Tensor) -> Synapses:
    pre, post = synapse_index(matrix != 0)
    return Synapses(matrix[post, pre], pre, post)


def spsp(lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor) -> Tensor:
    """S-PSP of every pair in one sample, (N, I): the weight gradient for a gain of 1."""
    gain = weight.new_ones(1, len(weight))
    return kernels.active().spsp_backward("strsbp", lif, spikes_in, spikes, gain, None, weight)[0]


def relative(actual: Tensor, expected: np.ndarray) -> float:
    """Largest difference as a share of the largest expected entry."""
    actual = actual.detach()
    wanted = torch.from_numpy(np.asarray(expected)).to(actual)
    return float((actual - wanted).abs().max() / wanted.abs().max())


def run(rule, kind, weights, train, error, labels=None):
    """One forward and backward pass from dE/dcount; returns spikes, error below, and the weights with .grad."""
    for tensor in (weights.weight, weights.recurrent_weight):
        if tensor is not None:
            tensor.requires_grad_()
    counts_in = train.counts.clone().requires_grad_()
    output = rule.layer(kind, weights, SpikeTrain(train.spikes, counts_in), labels)
    output.counts.backward(error)
    factor = rule.weight_penalty(kind, weights)
    tensors = (weights.weight, weights.recurrent_weight)
    grads = [None if tensor is None else tensor.grad for tensor in tensors]
    if factor is not None:
        grads = [g if g is None else g + factor[:, None] * w.detach() for g, w in zip(grads, tensors, strict=True)]
    return output, counts_in.grad, *grads


class TestStrsbp:
    """Random layers through the ST-RSBP authors' kernels; relative tolerance 1e-5."""

    @pytest.fixture
    def case(self, shared: Path) -> dict[str, np.ndarray]:
        return load(shared / "golden" / "strsbp_layer_40x30.npz")

    @pytest.fixture(params=["reference", "reference-float64", "cpu"])
    def dtype(self, request) -> torch.dtype:
        name, _, precision = request.param.partition("-")
        kernels.use(name)
        return torch.float64 if precision else torch.float32

    def rule(self, case, monkeypatch, **options) -> StRsbp:
        table = torch.from_numpy(case["coef"]).double()
        monkeypatch.setattr(strsbp_module, "slope_table", lambda *_: table)
        return StRsbp(
            v_th=[float(case["vth"])],
            tau_m=float(case["tau_m"]),
            tau_s=float(case["tau_s"]),
            t_ref=int(case["t_ref"]),
            slope="table",
            extrapolate_slope=True,
            self_coupling=False,
            regulariser=float(case["lam"]),
            regulariser_beta=float(case["beta"]),
            weight_limit=float(case["limit"]),
            regulariser_fan_in="authors",
            **options,
        )

    def tensors(self, case, dtype, recurrent: bool) -> LayerWeights:
        weight = torch.from_numpy(case["w"]).to(dtype)
        if not recurrent:
            return LayerWeights(weight)
        wr = torch.from_numpy(case["wr"]).to(dtype)
        return LayerWeights(weight, wr, wr != 0)

    def test_output_layer(self, case, dtype, monkeypatch):
        rule = self.rule(case, monkeypatch, silent_ratio=0.5)
        weights = self.tensors(case, dtype, recurrent=False)
        train = train_of(case["s_in"], dtype)
        label = torch.tensor([int(case["label"])])
        delta = torch.from_numpy(case["delta"]).to(dtype)[None]
        output, below, grad, _ = run(rule, OUTPUT, weights, train, delta, label)
        assert torch.equal(output.spikes, spikes_of(case["ff_spikes"]))

        revived, counts = rule.revived(output.spikes, output.counts, label)
        assert torch.equal(revived, spikes_of(case["ff_spikes_revived"]))
        assert counts[0].tolist() == case["ff_spikes_revived"].sum(0).tolist()
        lif, weight = rule.lif(OUTPUT), weights.weight.detach()
        factor = rule.lateral_share(output.spikes, output.counts, label, lif, rule.inhibition(LayerWeights(weight)))
        assert relative(factor[0], case["ff_lateral_factor"]) < 1e-5
        assert relative(spsp(lif, train.spikes, revived, weight), case["ff_spsp"]) < 1e-5
        assert relative(below[0], case["ff_below"]) < 1e-5
        assert relative(grad, case["ff_grad"]) < 1e-5

    def test_recurrent_layer_as_in_the_paper(self, case, dtype, monkeypatch):
        rule = self.rule(case, monkeypatch, silent_ratio=0.5)
        weights = self.tensors(case, dtype, recurrent=True)
        train = train_of(case["s_in"], dtype)
        delta = torch.from_numpy(case["delta"]).to(dtype)[None]
        output, below, grad, grad_recurrent = run(rule, RECURRENT, weights, train, delta)
        assert torch.equal(output.spikes, spikes_of(case["rec_spikes"]))
        lif, weight, own = rule.lif(RECURRENT), weights.weight.detach(), weights.recurrent()
        assert relative(spsp(lif, train.spikes, output.spikes, weight), case["rec_spsp_in"]) < 1e-5
        e = kernels.active().recurrent_spsp("strsbp", lif, output.spikes, own, len(weight), dtype)
        assert relative(own._replace(weight=e[0]).dense(len(weight)), case["rec_spsp_rec"]) < 1e-5
        assert relative(below[0], case["rec_below_paper"]) < 1e-5
        assert relative(grad, case["rec_grad_in"]) < 1e-5
        assert relative(grad_recurrent, case["rec_grad_rec"]) < 1e-5

    def test_recurrent_layer_as_the_authors_solve_it(self, case, dtype, monkeypatch):
        rule = self.rule(case, monkeypatch, silent_ratio=0.5, solve="authors")
        weights = self.tensors(case, dtype, recurrent=True)
        delta = torch.from_numpy(case["delta"]).to(dtype)[None]
        _, below, grad, _ = run(rule, RECURRENT, weights, train_of(case["s_in"], dtype), delta)
        assert relative(below[0], case["rec_below_authors"]) < 1e-5
        assert relative(grad, case["rec_grad_in"]) < 1e-5


class TestHm2bp:
    """A reservoir, a hidden and an output layer, trained once by SGD in the HM2-BP authors' simulator."""

    @pytest.fixture
    def case(self, shared: Path) -> dict[str, np.ndarray]:
        return load(shared / "golden" / "ti46_alpha_reservoir_64_26.npz")

    @pytest.fixture(params=["reference", "cpu"], autouse=True)
    def backend(self, request) -> None:
        kernels.use(request.param)

    def rule(self) -> Hm2Bp:
        return Hm2Bp(v_th=[20.0, 20.0, 5.0], effect_ratio=False, lateral=0.0)

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).clone()

    def test_spikes_of_every_layer(self, case):
        rule = self.rule()
        lif = Lif(rule.tau_m, rule.tau_s, rule.t_ref, 20.0)
        loop = synapses_of(self.tensor(case["w_res_rec"]))
        forward = kernels.active().lif_forward
        s_res, _ = forward(spikes_of(case["s_in"]), self.tensor(case["w_res"]), loop, lif)
        assert torch.equal(s_res, spikes_of(case["s_res"]))
        for suffix in ("", "_after"):
            s_hid, _ = forward(s_res, self.tensor(case["w_hid" + suffix]), None, lif)
            assert torch.equal(s_hid, spikes_of(case["s_hid" + suffix]))
            s_out, counts = forward(s_hid, self.tensor(case["w_out" + suffix]), None, lif._replace(v_th=5.0))
            assert torch.equal(s_out, spikes_of(case["s_out" + suffix]))
            assert counts[0].tolist() == case["s_out" + suffix].sum(0).tolist()

    def test_one_step_of_gradient_descent(self, case):
        rule = self.rule()
        w_hid, w_out = self.tensor(case["w_hid"]).requires_grad_(), self.tensor(case["w_out"]).requires_grad_()
        label = torch.tensor([int(case["label"])])
        hidden_kind = LayerKind(number=1, output=False, recurrent=False)
        output_kind = LayerKind(number=2, output=True, recurrent=False)
        hidden = rule.layer(hidden_kind, LayerWeights(w_hid), train_of(case["s_res"]), label)
        output = rule.layer(output_kind, LayerWeights(w_out), hidden, label)
        rule.sample_loss(output, label).sum().backward()
        for weight, name in ((w_hid, "w_hid"), (w_out, "w_out")):
            after = weight.detach() - 1e-5 * weight.grad
            expected = self.tensor(case[name + "_after"])
            assert (after - expected).abs().max() < 2e-6, name
            # The update is far larger than the tolerance, so an untrained network cannot pass.
            assert (expected - weight.detach()).abs().max() > 1e-4, name
