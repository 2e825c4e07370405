"""A silent label neuron gets a train to learn from, whatever the length of the run."""

from __future__ import annotations

import images_by_hand
import pytest
import torch

from snnrun import kernels
from snnrun.kernels import Lif, pack, unpack
from snnrun.rules import Hm2Bp, LayerKind, LayerWeights, SpikeTrain, StRsbp

OUTPUT = LayerKind(number=0, output=True, recurrent=False)
LENGTHS = (1, 5, 20, 104, 105, 700)
INPUTS = 20


def inputs(steps: int) -> torch.Tensor:
    """Spikes (1, T, INPUTS); an input of them fires whenever it can, and one never."""
    spikes = (torch.rand(1, steps, INPUTS, generator=torch.Generator().manual_seed(0)) < 0.2).to(torch.uint8)
    spikes[:, :, 0], spikes[:, :, 1] = 1, 0
    return spikes


def label_gradient(rule, steps: int, device: str) -> torch.Tensor:
    """Gradient (INPUTS,) of the weights of a label neuron whose threshold, 1 V, is out of reach."""
    spikes, label = inputs(steps).to(device), torch.tensor([1], device=device)
    weight = torch.full((3, INPUTS), 0.1, device=device).requires_grad_()
    layer = rule.layer(OUTPUT, LayerWeights(weight), SpikeTrain(pack(spikes), spikes.sum(1).float()), label)
    assert not layer.counts.any()
    rule.sample_loss(layer, label).sum().backward()
    return weight.grad[1].cpu()


def rule_of(cls, revive: bool = True):
    return cls(v_th=[1000.0], lateral=0.0, revive=revive)


def check_gradients(cls, lengths: tuple[int, ...] = LENGTHS, device: str = "cpu") -> None:
    """Of the right sign and the size that the imposed train gives it, which a longer run does not make smaller."""
    before = 0.0
    for steps in lengths:
        rule = rule_of(cls)
        with_train = label_gradient(rule, steps, device)
        without = label_gradient(rule_of(cls, revive=False), steps, device)
        assert (with_train <= 0).all(), "more weight makes the label fire"
        assert with_train[1] == 0, "a silent input learns nothing"
        if steps > 1 or cls is Hm2Bp:  # an S-PSP needs two steps
            assert with_train[0] < 0
        assert with_train.sum() <= without.sum(), "no worse off than without"
        assert abs(with_train.sum()) >= 0.99 * before, f"{steps} steps"
        before = abs(float(with_train.sum()))
        torch.testing.assert_close(with_train, expected_gradient(rule, steps), rtol=1e-4, atol=1e-7)


def expected_gradient(rule, steps: int) -> torch.Tensor:
    """delta_i e_ij by loops, delta = -35 / v_th, with HM2-BP's 1 + sigma and its effect 0.1 of a silent neuron."""
    lif, given = rule.lif(OUTPUT), inputs(steps)[0].numpy()
    bits, counts = rule.revived(pack(torch.zeros(1, steps, 3)), torch.zeros(1, 3), torch.tensor([1]))
    own, n = unpack(bits, 3)[0, :, 1].numpy(), float(counts[0, 1])
    by_hand = images_by_hand.closed_effect if isinstance(rule, Hm2Bp) else images_by_hand.stepwise_effect
    effects = torch.tensor([by_hand(given[:, j], own, lif) for j in range(INPUTS)])
    factor = 1.0
    if isinstance(rule, Hm2Bp):
        if n == 0:
            effects = 0.1 * torch.tensor(given.any(axis=0))
        ratio = effects / n if n else torch.full((INPUTS,), 0.5)
        factor = 1.0 + float(0.1 * ratio.sum()) / lif.v_th
    return (-35.0 / lif.v_th * factor * effects).float()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("cls", [StRsbp, Hm2Bp])
def test_a_silent_label_learns_in_runs_of_any_length(cls, backend):
    kernels.use(backend)
    check_gradients(cls)


@pytest.mark.parametrize("cls", [StRsbp, Hm2Bp])
def test_a_short_run_teaches_its_share_of_what_a_longer_one_does(cls):
    """At T = 105 the authors' interval is t_ref + 1, the shortest there is."""
    before, at, short = (-float(label_gradient(rule_of(cls), steps, "cpu").sum()) for steps in (104, 105, 20))
    assert before == pytest.approx(at, rel=0.05)
    assert short > 0.5 * at * 20 / 105


@pytest.mark.parametrize("t_ref", [0, 2, 5])
def test_every_imposed_spike_is_one_the_neuron_could_fire(t_ref):
    """More than t_ref steps after the one before, fewer than twice `desired`, and one at least where it can act."""
    for steps in range(1, 250):
        for cls in (StRsbp, Hm2Bp):
            rule = cls(v_th=[1.0], t_ref=t_ref)
            bits, counts = rule.revived(pack(torch.zeros(1, steps, 3)), torch.zeros(1, 3), torch.tensor([1]))
            train = unpack(bits, 3)[0, :, 1]
            times = torch.nonzero(train)[:, 0]
            assert (times.diff() > t_ref).all()
            assert len(times) == counts[0, 1] < 2 * rule.desired
            acts = {StRsbp: 1, Hm2Bp: t_ref + 2}[cls]
            lif = Lif(rule.tau_m, rule.tau_s, t_ref, 1.0)
            effect = {StRsbp: images_by_hand.stepwise_effect, Hm2Bp: images_by_hand.closed_effect}[cls]
            if len(times):
                assert effect(torch.ones(steps).numpy(), train.numpy(), lif) > 0
            elif cls is StRsbp:
                assert steps <= acts
            else:
                assert steps <= t_ref + 1 + acts


@pytest.mark.parametrize(("steps", "interval", "spikes"), [(700, 20, 34), (400, 11, 36), (450, 12, 37), (20, 3, 6)])
@pytest.mark.parametrize("label", [1, 63, 64, 129])
def test_revived_target_fires_at_regular_times(steps, interval, spikes, label):
    """Also where its bit is the highest of a word, or in another word."""
    rule = StRsbp(v_th=[1.0])
    trains = torch.zeros(2, steps, 130, dtype=torch.uint8)
    trains[1, 7, 2] = 1
    before = SpikeTrain(pack(trains), trains.sum(1).float())
    bits, counts = rule.revived(*before[:2], torch.tensor([label, 2]))
    revived = unpack(bits, 130)
    assert revived[0, :, label].sum() == spikes
    assert torch.nonzero(revived[0, :, label])[0].item() == interval
    assert torch.equal(revived[1], trains[1])
    assert revived[0].sum() == spikes, "no other neuron fires"
    assert torch.equal(bits, pack(revived)), "no bit beyond the last neuron is set"
    assert torch.equal(counts, revived.sum(1).float())
    assert before.spikes[0].sum() == 0, "the network's own spikes are left alone"
    assert before.counts[0].sum() == 0
