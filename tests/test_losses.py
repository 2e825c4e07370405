"""Smoothed labels and the softmax of counts, for every rule."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from snnrun.kernels import pack
from snnrun.rules import Hm2Bp, LeeRule, SlayerRule, SpikeTrain, StbpRule, StRsbp

SOFT = {"temperature": 3.0, "label_smoothing": 0.1}
SMOOTHED = {
    "strsbp": (StRsbp(v_th=[1.0], label_smoothing=0.2, margin=1.0), StRsbp(v_th=[1.0], loss="softmax", **SOFT)),
    "hm2bp": (Hm2Bp(v_th=[1.0], label_smoothing=0.2, margin=1.0), Hm2Bp(v_th=[1.0], loss="softmax", **SOFT)),
    "stbp": (StbpRule(v_th=[1.0], label_smoothing=0.2), StbpRule(v_th=[1.0], loss="softmax", **SOFT)),
    "slayer": (SlayerRule(v_th=[1.0], label_smoothing=0.2), SlayerRule(v_th=[1.0], loss="softmax", **SOFT)),
    "lee": (LeeRule(v_th=[1.0], loss="softmax", label_smoothing=0.2), LeeRule(v_th=[1.0], loss="softmax", **SOFT)),
}


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", SMOOTHED)
def test_the_error_of_smoothed_targets_and_of_a_softmax_is_the_derivative_of_the_loss(name, which):
    """By finite differences of the counts. SLAYER hands it to the steps, each times its credit."""
    rule, labels = SMOOTHED[name][which], torch.tensor([2, 0])
    counts = torch.tensor([[3.0, 9.0, 14.0, 0.0], [7.0, 2.0, 8.0, 5.0]], dtype=torch.float64)
    spikes = pack(torch.zeros(2, 20, 4))

    def loss(values: torch.Tensor, link: torch.Tensor | None = None) -> torch.Tensor:
        return rule.sample_loss(SpikeTrain(spikes, values, link), labels)

    if name == "slayer":
        link = torch.zeros(2, 20, 4, dtype=torch.float64, requires_grad=True)
        loss(counts, link).sum().backward()
        error = link.grad[:, 0] / rule._credit(20, 0, 20)[0]
    else:
        given = counts.clone().requires_grad_()
        loss(given).sum().backward()
        error = given.grad
    for b, k in itertools.product(range(2), range(4)):
        step = torch.zeros_like(counts)
        step[b, k] = 1e-4
        slope = (loss(counts + step) - loss(counts - step))[b] / 2e-4
        assert error[b, k].item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-9)


def test_smoothing_blends_targets_and_a_temperature_divides_counts():
    smooth, sharp = StRsbp(v_th=[1.0], label_smoothing=0.2), StRsbp(v_th=[1.0])
    labels = torch.tensor([1])
    assert sharp.targets(labels, 4, torch.float64).tolist() == [[5.0, 35.0, 5.0, 5.0]]
    expected = [5 + 30 * 0.05, 5 + 30 * 0.85, 5 + 30 * 0.05, 5 + 30 * 0.05]
    assert smooth.targets(labels, 4, torch.float64)[0].tolist() == pytest.approx(expected)
    counts = torch.tensor([[4.0, 8.0]], dtype=torch.float64)
    rule = StbpRule(v_th=[1.0], loss="softmax", temperature=4.0, label_smoothing=0.2)
    loss = rule.sample_loss(SpikeTrain(pack(torch.zeros(1, 10, 2)), counts), torch.tensor([0])).item()
    p = 1 / (1 + math.e)
    assert loss == pytest.approx(-0.9 * math.log(p) - 0.1 * math.log(1 - p))


def test_smoothed_errors_of_lee_are_of_the_smoothed_label():
    counts = torch.tensor([[2.0, 8.0, 0.0]], requires_grad=True)
    rule = LeeRule(v_th=[1.0], label_smoothing=0.3)
    rule.sample_loss(SpikeTrain(pack(torch.zeros(1, 10, 3)), counts), torch.tensor([0])).sum().backward()
    assert counts.grad[0].tolist() == pytest.approx([0.25 - 0.8, 1.0 - 0.1, -0.1])
