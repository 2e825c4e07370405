"""What is computed in which precision: a float64 run in float64 alone, and sums that cancel in float64 in every run."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from snnrun.kernels import Lif, Window, pack, reference
from snnrun.network import Network
from snnrun.rules import Hm2Bp, StbpRule, StRsbp
from snnrun.rules.passes import Pass
from snnrun.rules.slope_table import slope_table
from snnrun.rules.spike_train import away_from_zero
from snnrun.rules.views import Convolution, Dense

STEPS, IMAGE, CLASSES = 24, (2, 9, 9), 4
SPIKE_TRAIN = {"v_th": [1.0], "desired": 6.0, "undesired": 1.0, "margin": 1.0, "tau_m": 20.0, "regulariser": 0.1}


class OnlyFloat64(TorchDispatchMode):
    """Lists the operations that make a float tensor of another type, within the kernels' operators, too."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if operation.namespace == "snnrun":
            with self:
                result = operation._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *arguments, **keywords)
        else:
            result = operation(*arguments, **keywords)
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64:
                self.found.append(f"{operation} makes {value.dtype}")
        return result


def rules() -> list[Any]:
    """Every option of every rule that changes what is computed, each with each it can meet."""
    found: list[Any] = []
    for slope, solve, tables in itertools.product(
        ("none", "counts", "table"), ("paper", "authors"), ("own", "authors")
    ):
        if tables == "own" or slope == "table":
            found.append(StRsbp(slope=slope, solve=solve, slope_tables=tables, silent_ratio=0.5, **SPIKE_TRAIN))
    found.append(StRsbp(slope="table", extrapolate_slope=True, self_coupling=False, loss="softmax", **SPIKE_TRAIN))
    found.append(StRsbp(convolution="authors", regulariser_fan_in="authors", revive=False, **SPIKE_TRAIN))
    found.append(StRsbp(lateral=0.0, connectivity="one_sided", recurrent_init="sign", init="fixed", **SPIKE_TRAIN))
    for ratio, loss in itertools.product((True, False), ("count", "softmax")):
        found.append(Hm2Bp(effect_ratio=ratio, loss=loss, regulariser_fan_in="authors", **SPIKE_TRAIN))
    found.append(Hm2Bp(lateral_factor=False, revive=False, **SPIKE_TRAIN))
    for surrogate, reset in itertools.product(
        ("rectangle", "polynomial", "sigmoid", "gaussian"), ("hard", "exponential")
    ):
        found.append(StbpRule(v_th=[0.5], surrogate=surrogate, reset=reset, loss="mean_squared"))
    found.append(StbpRule(v_th=[0.5], temporal_gradient=False, strict_threshold=True, init="torch", bias=False))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["7-R6", "4C3-P2-3C2s2p1-P2", "P3-5"])
def test_a_float64_run_computes_nothing_in_float32(topology):
    """Forward, loss, backward and regulariser, from bits on, of every rule with every option."""
    spikes = pack(torch.rand(CLASSES, STEPS, 162, generator=torch.Generator().manual_seed(0)) < 0.15)
    labels = torch.arange(CLASSES)
    for rule in rules():
        net = Network(rule, inputs=162, topology=topology, outputs=CLASSES, image=IMAGE).double()
        with OnlyFloat64() as mode:
            activity = net(spikes, labels)
            rule.sample_loss(activity.output, labels).mean().backward()
            net.add_weight_penalty()
        assert not mode.found, rule


def test_a_float64_table_is_computed_in_float64():
    with OnlyFloat64() as mode:
        slope_table(20.0, 8.0, 2, 60, 12)
    assert not mode.found


def test_what_makes_float32_is_seen():
    with OnlyFloat64() as mode:
        torch.where(torch.tensor([True]), 1.0, 2.0)
        reference.lif_forward(torch.zeros(1, 3, 1, dtype=torch.int64), torch.zeros(2, 5), None, Lif(20.0, 8.0, 2, 1.0))
        torch.ops.snnrun.count_spikes(torch.zeros(1, 3, 1, dtype=torch.int64), 5)
    assert any("count_spikes" in line for line in mode.found)
    assert any("where" in line for line in mode.found)


def test_the_guard_is_exact_in_either_precision():
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([0.0, -0.0, 5e-5, -5e-5, -1e-4, 0.3, -2.0], dtype=dtype)
        expected = torch.tensor([1e-4, 1e-4, 1e-4, -1e-4, -1e-4, 0.3, -2.0], dtype=dtype)
        assert torch.equal(away_from_zero(x), expected)


# ---- D_i where its terms cancel -------------------------------------------------------------------------------------


def exact_denominator(table: torch.Tensor, weight: torch.Tensor, n_in: torch.Tensor, n: int, v_th: float) -> float:
    """D_i = 1 - (1 / v_th) sum_j w_ij D(n_j, n_i) in whole-number arithmetic."""
    slopes = []
    for *c, _ in table.tolist():
        c3, c2, c1, c0 = (Fraction(x) for x in c)
        slopes.append(4 * c3 * n**3 + 3 * c2 * n**2 + 2 * c1 * n + c0)
    pairs = zip(weight.tolist(), n_in.tolist(), strict=True)
    total = sum(Fraction(w) * slopes[min(max(int(m), 1), len(table)) - 1] for w, m in pairs)
    return float(1 - total / Fraction(v_th))


def cancelling(inputs: int, table: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights (1, inputs) float32 whose large terms leave D_i about -0.0145; counts of the inputs and of the neuron."""
    generator = torch.Generator().manual_seed(1)
    n_in = torch.randint(1, 40, (1, inputs), generator=generator).float()
    weight = torch.randn(1, inputs, generator=generator)
    weight *= 8.0 / weight.abs().max()
    # The last weight closes the sum, as far as float32 lets it.
    for _ in range(3):
        off = exact_denominator(table, weight[0], n_in[0], n, 1.0) + 0.0145
        row = table[int(n_in[0, -1]) - 1]
        slope = float(4 * row[0] * n**3 + 3 * row[1] * n**2 + 2 * row[2] * n + row[3])
        weight[0, -1] += off / slope
    return weight, n_in, torch.tensor([[float(n)]])


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [784, 65_536])
@pytest.mark.parametrize("layer", ["dense", "convolution"])
def test_the_slopes_of_a_layer_cancel_without_loss(inputs, layer, monkeypatch):
    table = slope_table(64.0, 8.0, 2, 400)
    n = 20
    weight, n_in, counts = cancelling(inputs, table, n)
    expected = exact_denominator(table, weight[0], n_in[0], n, 1.0)
    assert abs(expected) < 0.02
    rule = StRsbp(v_th=[1.0], slope="table")
    view, side = Dense(), int(inputs**0.5)
    if layer == "convolution":
        weight = weight.reshape(1, 1, side, side)
        view = Convolution(Window(1, side, side, 1, side, side))
    spikes_in, spikes, lif = pack(n_in[:, None]), pack(counts[:, None]), Lif(64.0, 8.0, 2, 1.0)
    p = Pass("strsbp", 0.0, lif, view, weight, spikes_in, n_in, spikes, counts, delta=counts)
    monkeypatch.setattr(StRsbp, "table", lambda *_: table)
    assert rule.diagonal(p).item() == pytest.approx(expected, rel=1e-6)
