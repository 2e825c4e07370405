"""The rules against `golden/*.npz`, numbers of an independent simulation that knows nothing of this package.

They need nothing but that folder. Spikes must be equal, gradients within 1e-5 of the largest entry, weights within
2e-6. The simulation itself is held to the numbers of the authors' simulators where those files are.
"""

from __future__ import annotations

from pathlib import Path

import make_golden
import numpy as np
import pytest
import simulation as sim
import torch
from test_golden import OUTPUT, RECURRENT, load, relative, run, spikes_of, spsp, train_of
from torch import Tensor

from snnrun import kernels
from snnrun.encoders.bsa import bsa_encode
from snnrun.kernels import Window, unpack
from snnrun.network import Network
from snnrun.rules import Hm2Bp, LayerKind, LayerWeights, SpikeTrain, StbpRule, StRsbp
from snnrun.rules import strsbp as strsbp_module

GOLDEN = Path(__file__).parent / "golden"
REGULARISER = {"regulariser": 10.0, "regulariser_beta": 0.04, "weight_limit": 8.0, "regulariser_fan_in": "authors"}


@pytest.fixture(params=["reference", "reference-float64", "cpu"])
def dtype(request) -> torch.dtype:
    name, _, precision = request.param.partition("-")
    kernels.use(name)
    return torch.float64 if precision else torch.float32


def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.array(array)).to(dtype)


def label_of(case: dict[str, np.ndarray]) -> Tensor:
    return torch.tensor([int(case["label"])])


# ---- HM2-BP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hm2bp_network", "hm2bp_bare_weights"])
def test_hm2bp_one_step_of_gradient_descent(name, dtype):
    """Two layers, one neuron of the hidden one silent, the label silent too; inhibition and regulariser on."""
    case = load(GOLDEN / f"{name}.npz")
    rule = Hm2Bp(
        v_th=case["v_th"].tolist(), tau_m=float(case["tau_m"]), lateral=float(case["lateral"]),
        effect_ratio=bool(case["effect_ratio"]), silent_ratio=1.0, **REGULARISER,
    )  # fmt: skip
    net = Network(rule, inputs=10, topology="7", outputs=5).to(dtype)
    with torch.no_grad():
        for layer, weight in zip(net.layers, ("w_hid", "w_out"), strict=True):
            layer.weight.copy_(tensor(case[weight], dtype))
    activity = net(spikes_of(case["s_in"]), label_of(case))
    for layer, spikes in zip(activity.layers, ("s_hid", "s_out"), strict=True):
        assert torch.equal(layer.spikes, spikes_of(case[spikes]))
        assert layer.counts[0].tolist() == case[spikes].sum(0).tolist()
    activity.layers[0].counts.retain_grad()
    rule.sample_loss(activity.output, label_of(case)).sum().backward()
    net.add_weight_penalty()
    assert relative(activity.layers[0].counts.grad[0], case["below"]) < 1e-5
    for layer, which in zip(net.layers, ("hid", "out"), strict=True):
        assert relative(layer.weight.grad, case[f"grad_{which}"]) < 1e-5
        after = layer.weight.detach() - float(case["rate"]) * layer.weight.grad
        expected = tensor(case[f"w_{which}_after"], dtype)
        assert (after - expected).abs().max() < 2e-6
        assert (expected - layer.weight.detach()).abs().max() > 1e-4, "an untrained network cannot pass"


# ---- ST-RSBP --------------------------------------------------------------------------------------------------------


def strsbp_rule(case: dict[str, np.ndarray], monkeypatch, **options) -> StRsbp:
    monkeypatch.setattr(strsbp_module, "slope_table", lambda *_: torch.from_numpy(case["table"]))
    return StRsbp(
        v_th=[float(case["v_th"])], tau_m=float(case["tau_m"]), silent_ratio=float(case["silent"]), slope="table",
        extrapolate_slope=True, self_coupling=False, **REGULARISER, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["strsbp_output", "strsbp_output_short"])
def test_strsbp_output_layer(name, dtype, monkeypatch):
    """Spikes, lateral factor, revived train, S-PSP, error below and gradient."""
    case = load(GOLDEN / f"{name}.npz")
    rule, label = strsbp_rule(case, monkeypatch), label_of(case)
    weights, train = LayerWeights(tensor(case["w"], dtype)), train_of(case["s_in"], dtype)
    output, below, grad, _ = run(rule, OUTPUT, weights, train, tensor(case["error"], dtype)[None], label)
    assert torch.equal(output.spikes, spikes_of(case["spikes"]))
    revived, counts = rule.revived(output.spikes, output.counts, label)
    assert torch.equal(revived, spikes_of(case["taught"]))
    assert counts[0].tolist() == case["taught"].sum(0).tolist()
    lif, weight = rule.lif(OUTPUT), weights.weight.detach()
    factor = rule.lateral_share(output.spikes, output.counts, label, lif, rule.inhibition(LayerWeights(weight)))
    assert relative(factor[0], case["factor"]) < 1e-5
    assert relative(spsp(lif, train.spikes, revived, weight), case["spsp"]) < 1e-5
    assert relative(below[0], case["below"]) < 1e-5
    assert relative(grad, case["grad"]) < 1e-5


@pytest.mark.parametrize("solve", ["paper", "authors"])
@pytest.mark.parametrize("name", ["strsbp_recurrent", "strsbp_recurrent_square"])
def test_strsbp_recurrent_layer(name, solve, dtype, monkeypatch):
    """Spikes, both S-PSPs, the error below as paper and authors solve it, both gradients."""
    case = load(GOLDEN / f"{name}.npz")
    rule = strsbp_rule(case, monkeypatch, solve=solve)
    loop = tensor(case["wr"], dtype)
    weights, train = LayerWeights(tensor(case["w"], dtype), loop, loop != 0), train_of(case["s_in"], dtype)
    output, below, grad, grad_recurrent = run(rule, RECURRENT, weights, train, tensor(case["error"], dtype)[None])
    assert torch.equal(output.spikes, spikes_of(case["spikes"]))
    lif, weight, own = rule.lif(RECURRENT), weights.weight.detach(), weights.recurrent()
    assert relative(spsp(lif, train.spikes, output.spikes, weight), case["spsp_in"]) < 1e-5
    e = kernels.active().recurrent_spsp("strsbp", lif, output.spikes, own, len(weight), dtype)
    assert relative(own._replace(weight=e[0]).dense(len(weight)), case["spsp_rec"]) < 1e-5
    assert relative(below[0], case[f"below_{solve}"]) < 1e-5
    assert relative(grad, case["grad_in"]) < 1e-5
    assert relative(grad_recurrent, case["grad_rec"]) < 1e-5


# ---- layers over images ---------------------------------------------------------------------------------------------

CONV = LayerKind(0, output=False, recurrent=False, window=Window(2, 6, 6, 3, 3, 3))
POOL = LayerKind(1, output=False, recurrent=False, window=Window(3, 4, 4, 3, 2, 2, 2), pool=True)
IMAGE_RULES = {"hm2bp": Hm2Bp, "strsbp": StRsbp, "authors": StRsbp}


@pytest.mark.parametrize("name", IMAGE_RULES)
def test_convolution_and_pool(name, dtype):
    """ST-RSBP's own convolution and pool, and the authors' pool, which keeps HM2-BP's closed form."""
    case = load(GOLDEN / "images.npz")
    options = {"hm2bp": {"silent_ratio": 1.0}, "strsbp": {"silent_ratio": 0.5}, "authors": {"convolution": "authors"}}[
        name
    ]
    rule = IMAGE_RULES[name](v_th=[float(case["v_conv"]), float(case["v_pool"])], tau_m=float(case["tau_m"]), **options)
    s_in, s_conv = train_of(case["s_in"], dtype), train_of(case["s_conv"], dtype)
    conv, below, grad, _ = run(
        rule, CONV, LayerWeights(tensor(case["w"], dtype)), s_in, tensor(case["error_conv"], dtype)[None]
    )
    assert torch.equal(conv.spikes, spikes_of(case["s_conv"]))
    if name != "authors":
        assert relative(grad, case[f"{name}_grad"]) < 1e-5
        assert relative(below[0], case[f"{name}_below"]) < 1e-5
    ones = LayerWeights(torch.ones(3, 1, 2, 2, dtype=dtype))
    counts_in = s_conv.counts.requires_grad_()
    pool = rule.layer(POOL, ones, SpikeTrain(s_conv.spikes, counts_in), None)
    assert torch.equal(pool.spikes, spikes_of(case["s_pool"]))
    pool.counts.backward(tensor(case["error_pool"], dtype)[None])
    assert relative(counts_in.grad[0], case[f"{name}_pool_below"]) < 1e-5


# ---- STBP -----------------------------------------------------------------------------------------------------------

STBP_RULES = {
    "rectangle": {"surrogate_width": 1.0},
    "polynomial": {"surrogate": "polynomial", "surrogate_width": 1.5},
    "sigmoid": {"surrogate": "sigmoid", "surrogate_width": 0.7},
    "gaussian": {"surrogate": "gaussian", "surrogate_width": 0.6, "strict_threshold": True},
    "exponential": {"surrogate_width": 1.0, "reset": "exponential"},
    "sdbp": {"surrogate_width": 1.0, "temporal_gradient": False},
}


def check_stbp(case: dict[str, np.ndarray], name: str, net: Network, dtype: torch.dtype) -> None:
    with torch.no_grad():
        for number, layer in enumerate(net.layers):
            layer.weight.copy_(tensor(case[f"w{number}"], dtype))
            layer.bias.copy_(tensor(case[f"b{number}"], dtype))
    activity = net(spikes_of(case["s_in"]), label_of(case))
    net.rule.sample_loss(activity.output, label_of(case)).sum().backward()
    for number, (layer, train) in enumerate(zip(net.layers, activity.layers, strict=True)):
        expected = case[f"{name}_s{number}"]
        assert unpack(train.spikes, expected.shape[1])[0].tolist() == expected.tolist()
        assert relative(layer.weight.grad, case[f"{name}_grad{number}"]) < 1e-5
        assert relative(layer.bias.grad, case[f"{name}_bias{number}"]) < 1e-5


@pytest.mark.parametrize("name", STBP_RULES)
def test_stbp_dense_layers(name, dtype):
    rule = StbpRule(v_th=[0.5], decay=0.3, **STBP_RULES[name])
    check_stbp(
        load(GOLDEN / "stbp_dense.npz"), name, Network(rule, inputs=10, topology="8", outputs=4).to(dtype), dtype
    )


def test_stbp_convolution_and_average_pool(dtype):
    rule = StbpRule(v_th=[0.5], decay=0.3)
    net = Network(rule, inputs=72, topology="3C3-P2", outputs=4, image=(2, 6, 6)).to(dtype)
    check_stbp(load(GOLDEN / "stbp_images.npz"), "rectangle", net, dtype)


def test_bsa():
    case = load(GOLDEN / "bsa.npz")
    assert np.array_equal(bsa_encode(case["signal"], len(case["spikes"])), case["spikes"])


# ---- the simulation itself ------------------------------------------------------------------------------------------


def test_the_stored_cases_are_what_the_simulation_makes():
    for name, make in make_golden.CASES.items():
        stored, made = load(GOLDEN / f"{name}.npz"), make()
        assert stored.keys() == made.keys(), name
        for key, value in made.items():
            np.testing.assert_allclose(stored[key], value, rtol=1e-9, atol=1e-12, err_msg=f"{name} {key}")


def near(actual: object, expected: np.ndarray) -> bool:
    """Within 1e-5 of the largest entry, the precision of the authors' kernels."""
    return float(np.abs(np.asarray(actual) - expected).max()) < 1e-5 * float(np.abs(expected).max())


def test_the_simulation_equals_the_strsbp_authors_kernels(shared):
    case = load(shared / "golden" / "strsbp_layer_40x30.npz")
    v_th, tau_m, tau_s, t_ref = (case[key].item() for key in ("vth", "tau_m", "tau_s", "t_ref"))
    neuron, label, s_in, table = sim.Neuron(v_th, tau_m, tau_s, t_ref), int(case["label"]), case["s_in"], case["coef"]
    w, wr, error = (case[key].astype(float) for key in ("w", "wr", "delta"))
    seen = sim.dense(30, 40)
    spikes, _ = sim.fire(seen, w, s_in, neuron, np.eye(30) - 1, 1e-6)
    assert np.array_equal(spikes, case["ff_spikes"])
    factor = sim.lateral_factor("strsbp", spikes, label, neuron, 1.0, 0.5)
    assert near(factor, case["ff_lateral_factor"])
    taught = sim.revived(spikes, label, 35.0, t_ref)
    assert np.array_equal(taught, case["ff_spikes_revived"])
    assert near(sim.effects("strsbp", seen, s_in, taught, neuron), case["ff_spsp"])
    grad, below, d = sim.strsbp_backward(seen, w, s_in, taught, error, neuron, silent=0.5, table=table, factor=factor)
    assert near(d, case["ff_denominator"])
    assert near(below, case["ff_below"])
    assert near(grad, case["ff_grad"])

    spikes, _ = sim.fire(seen, w, s_in, neuron, wr, 1e-6)
    assert np.array_equal(spikes, case["rec_spikes"])
    made = sim.strsbp_recurrent_backward(w, wr, s_in, spikes, error, neuron, silent=0.5, table=table)
    for key, value in made.items():
        if key != "system":
            assert near(value, case[f"rec_{key}"]), key


def test_the_simulation_equals_the_hm2bp_authors_simulator(shared):
    """All spikes, before and after; the update of the output layer and of every eighth hidden neuron."""
    case = load(shared / "golden" / "ti46_alpha_reservoir_64_26.npz")
    at, at_output = sim.Neuron(20.0, 64.0, 8.0, 2), sim.Neuron(5.0, 64.0, 8.0, 2)
    layers = [("s_in", "s_res", "w_res", at), ("s_res", "s_hid", "w_hid", at), ("s_hid", "s_out", "w_out", at_output)]
    for below, own, name, neuron in layers:
        for suffix in ("", "_after") if name != "w_res" else ("",):
            weight = case[name + suffix].astype(float)
            given = case[below + (suffix if below == "s_hid" else "")]
            loop = case["w_res_rec"].astype(float) if name == "w_res" else None
            spikes, _ = sim.fire(sim.dense(*weight.shape), weight, given, neuron, loop, 1e-6)
            assert np.array_equal(spikes, case[own + suffix]), own + suffix
    w_hid, w_out, label = case["w_hid"].astype(float), case["w_out"].astype(float), int(case["label"])
    error = sim.output_error(case["s_out"].sum(0), label, 35.0, 5.0, 5.0)
    taught = sim.revived(case["s_out"], label, 35.0, 2)
    grad, below = sim.hm2bp_backward(
        sim.dense(26, 64), w_out, case["s_hid"], taught, error, at_output, effect_ratio=False
    )
    assert np.abs(w_out - 1e-5 * grad - case["w_out_after"]).max() < 2e-6
    rows = slice(0, 64, 8)
    grad, _ = sim.hm2bp_backward(
        sim.dense(8, 135), w_hid[rows], case["s_res"], case["s_hid"][:, rows], below[rows], at, effect_ratio=False
    )
    assert np.abs(w_hid[rows] - 1e-5 * grad - case["w_hid_after"][rows]).max() < 2e-6
    assert np.abs(grad).max() > 10, "an untrained network cannot pass"


def test_the_simulation_equals_the_authors_bsa(shared):
    case = load(shared / "golden" / "bsa_f1_u10_c0.npz")
    assert np.array_equal(sim.bsa(case["lyon"].astype(float), 658), case["spikes"])
