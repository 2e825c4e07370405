"""The update of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from snnrun.train.optimiser import Optimiser


def parameters(share: float):
    """A dense parameter, and one of which a share of the entries exists; the same each time."""
    generator = torch.Generator().manual_seed(0)
    dense = nn.Parameter(torch.randn(6, 5, generator=generator).T)
    mask = torch.rand(40, 40, generator=generator) < share
    masked = nn.Parameter(torch.where(mask, torch.randn(40, 40, generator=generator), 0.0))
    return dense, masked, mask


def run(name: str, share: float, known: bool, clip: float | None = None):
    """Weights and norms of five steps, the optimiser told of the mask or not; between two the weights are changed."""
    dense, masked, mask = parameters(share)
    optimiser = Optimiser([(dense, None), (masked, mask if known else None)], name, 0.9)
    generator, norms = torch.Generator().manual_seed(1), []
    for step in range(5):
        optimiser.clear()
        dense.grad = torch.randn(dense.shape, generator=generator)
        masked.grad = torch.where(mask, torch.randn(mask.shape, generator=generator), 0.0)
        norms.append(optimiser.norm(clip).item())
        optimiser.step(0.1)
        if step == 2:
            with torch.no_grad():
                masked.mul_(0.5)
    return dense, masked, mask, norms, optimiser


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.9])
def test_entries_that_do_not_exist_make_no_difference(name, clip, share):
    dense, masked, mask, norms, optimiser = run(name, share, True, clip)
    dense_too, masked_too, _, norms_too, _ = run(name, share, False, clip)
    torch.testing.assert_close(masked, masked_too)
    torch.testing.assert_close(dense, dense_too)
    assert norms == pytest.approx(norms_too)
    assert not masked[~mask].any()
    start = parameters(share)
    assert (masked != start[1])[mask].all()
    assert (dense != start[0]).all()
    moments = [value for key, value in optimiser.state().items() if key.startswith("1/") and value.dim()]
    assert moments
    assert all(value.numel() == (mask.sum() if share < 0.5 else mask.numel()) for value in moments)


@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_the_updates_are_those_of_pytorchs_optimisers(name, decay):
    mine, other = (nn.Parameter(torch.randn(7, 5, generator=torch.Generator().manual_seed(3))) for _ in range(2))
    made = {
        "adam": lambda: torch.optim.Adam([other], weight_decay=decay, fused=True),
        "adamw": lambda: torch.optim.AdamW([other], weight_decay=decay, fused=True),
        "rmsprop": lambda: torch.optim.RMSprop([other], alpha=0.9, eps=1e-7, weight_decay=decay, momentum=0.9),
        "sgd": lambda: torch.optim.SGD([other], weight_decay=decay, momentum=0.9),
    }
    optimiser, theirs = Optimiser([(mine, None)], name, 0.9, decay), made[name]()
    generator = torch.Generator().manual_seed(1)
    for lr in (0.1, 0.05, 0.02):
        mine.grad = torch.randn(mine.shape, generator=generator)
        other.grad = mine.grad.clone()
        theirs.param_groups[0]["lr"] = lr
        theirs.step()
        optimiser.norm(None)
        optimiser.step(lr)
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_decoupled_decay_takes_a_share_of_the_weights_beside_the_update_without_decay(name):
    """w - lr d w + (the update of no decay), in a dense parameter and in the entries that exist of another."""
    dense, masked, mask = parameters(0.03)
    plain = [nn.Parameter(parameter.detach().clone()) for parameter in (dense, masked)]
    decayed = Optimiser([(dense, None), (masked, mask)], name, 0.9 * (name in ("sgd", "rmsprop")), 0.02, True)
    without = Optimiser([(plain[0], None), (plain[1], mask)], name, 0.9 * (name in ("sgd", "rmsprop")))
    generator = torch.Generator().manual_seed(1)
    for lr in (0.1, 0.05):
        before = [parameter.detach().clone() for parameter in (dense, masked)]
        start = [parameter.detach().clone() for parameter in plain]
        for one, other in ((dense, plain[0]), (masked, plain[1])):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimiser in (decayed, without):
            optimiser.norm(None)
            optimiser.step(lr)
        for new, old, other, first in zip((dense, masked), before, plain, start, strict=True):
            torch.testing.assert_close(new - (1 - lr * 0.02) * old, other - first)
    assert not masked[~mask].any()


def test_adam_with_decoupled_decay_is_adamw():
    one, two = parameters(0.9)[0], parameters(0.9)[0]
    adam, adamw = Optimiser([(one, None)], "adam", 0.0, 0.1, True), Optimiser([(two, None)], "adamw", 0.0, 0.1)
    for optimiser, parameter in ((adam, one), (adamw, two)):
        for step in range(3):
            parameter.grad = torch.full_like(parameter, 0.5 - step)
            optimiser.norm(None)
            optimiser.step(0.05)
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_it_goes_on_from_its_state(name):
    dense, masked, mask, _, optimiser = run(name, 0.03, True)
    again = Optimiser([(nn.Parameter(dense.detach().clone()), None), (nn.Parameter(masked.detach().clone()), mask)],
                      name, 0.9)  # fmt: skip
    again.restore(optimiser.state())
    for one in (optimiser, again):
        for parameter in one.parameters:
            parameter.grad = torch.ones_like(parameter)
        one.norm(None)
        one.step(0.1)
    assert all(torch.equal(a, b) for a, b in zip(optimiser.parameters, again.parameters, strict=True))


def test_the_state_of_other_parameters_is_refused():
    _, masked, mask, _, optimiser = run("adam", 0.03, True)
    other = mask.clone()
    other[0] = True
    with pytest.raises(ValueError, match=r"1/exp_avg has the shape"):
        Optimiser([(nn.Parameter(torch.zeros(6, 5).T), None), (masked, other)], "adam", 0.9).restore(optimiser.state())
