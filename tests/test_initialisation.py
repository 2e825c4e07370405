"""Which synapses a layer has, the weights it begins with, and their regulariser."""

from __future__ import annotations

import pytest
import torch
from test_rules import gradients, network

from snnrun.kernels import pack
from snnrun.network import Network
from snnrun.rules import LayerKind, LayerWeights, StbpRule, StRsbp
from snnrun.rules.base import synapse_index
from snnrun.rules.connectivity import connect, grid


def test_two_sided_connectivity_has_the_density_of_the_rule():
    """4,387 synapses are the mean for 400 neurons without the authors' wrap-around."""
    counts = [int(connect(400, "two_sided", torch.Generator().manual_seed(s))[0].sum()) for s in range(20)]
    assert sum(counts) / 20 == pytest.approx(4387, rel=0.04)


def test_one_sided_connectivity_has_no_loops():
    mask, _ = connect(400, "one_sided", torch.Generator().manual_seed(0))
    assert not mask.tril(-1).any(), "a synapse runs from a higher to a lower neuron, or to itself"
    assert mask.diagonal().any()
    assert int(mask.sum()) == pytest.approx(1322, rel=0.15)


@pytest.mark.parametrize("neurons", [1, 7, 12, 100, 135, 400, 800, 997])
def test_grids_hold_every_neuron(neurons):
    a, b, c = grid(neurons)
    assert a * b * c == neurons


def test_initial_weights():
    kind = LayerKind(0, output=False, recurrent=True)
    generator = torch.Generator().manual_seed(0)
    uniform = StRsbp(v_th=[1.0], init_scale=0.5).initialise(kind, 200, 100, generator)
    assert 0.49 < uniform.weight.abs().max() <= 0.5
    sign = StRsbp(v_th=[1.0], recurrent_init="sign").initialise(kind, 20, 100, generator)
    assert set(sign.recurrent_weight.unique().tolist()) == {-1.0, 0.0, 1.0}
    fixed = StRsbp(v_th=[1.0], init="fixed", init_fixed_inputs=5).initialise(kind, 200, 10, generator)
    assert ((fixed.weight != 0).sum(1) <= 5).all()
    assert set(fixed.weight.unique().tolist()) == {-1.0, 0.0, 1.0}
    stbp = StbpRule(v_th=[1.0]).initialise(kind, 200, 10, generator)
    torch.testing.assert_close(stbp.weight.norm(dim=1), torch.ones(10))


def test_the_error_of_stbp_survives_many_steps_of_loops():
    """Where loops began with norm 1 it was 4e10 here, and infinite over the steps of speech."""
    layers = network(StbpRule(v_th=(0.5,), decay=0.9), "9-R100", seed=0)
    spikes = pack((torch.rand(2, 400, 9, generator=torch.Generator().manual_seed(0)) < 0.1).to(torch.uint8))
    norms = [gradient.norm() for gradient in gradients(layers, spikes, torch.tensor([0, 1]))]
    assert max(norms) < 1e3
    assert min(norms) > 0


def test_regulariser_by_hand():
    """L b (w / W) exp(b (q - 1)) with q the mean square of w / W."""
    rule = StRsbp(v_th=[1.0], regulariser=10.0, regulariser_beta=0.04, weight_limit=8.0)
    kind = LayerKind(0, output=False, recurrent=False)
    factor = rule.weight_penalty(kind, LayerWeights(torch.tensor([[8.0, -16.0]])))
    torch.testing.assert_close(factor, 10 * 0.04 / 8 * torch.tensor([0.04 * (2.5 - 1)]).exp())
    assert StRsbp(v_th=[1.0]).weight_penalty(kind, LayerWeights(torch.ones(1, 2))) is None


@pytest.mark.parametrize(("fan_in", "sizes"), [("own", [5, 4, 3]), ("authors", [10, 10, 10])])
def test_the_regulariser_counts_the_synapses_that_exist(fan_in, sizes):
    """Three inputs and 2, 1 or 0 recurrent synapses; in the authors' code I + 1 and all six of the layer's."""
    rule = StRsbp(v_th=[1.0], regulariser=10.0, regulariser_beta=0.4, regulariser_fan_in=fan_in)
    net = Network(rule, inputs=3, topology="R3", outputs=2)
    layer = net.layers[0]
    mask = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    if fan_in == "authors":
        mask = ~torch.eye(3, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    layer.recurrent_mask.copy_(mask)
    layer.recurrent_pre, layer.recurrent_post = synapse_index(mask)
    layer.recurrent_weight.data.copy_(torch.where(mask, torch.randn(3, 3, generator=generator), 0.0))
    weight, recurrent = layer.weight.detach(), layer.recurrent_weight.detach()
    q = ((weight / 8).square().sum(1) + (recurrent / 8).square().sum(1)) / torch.tensor(sizes)
    expected = 10 * 0.4 / 8 * torch.exp(0.4 * (q - 1))
    layer.weight.grad, layer.recurrent_weight.grad = torch.ones(3, 3), torch.ones(3, 3)
    net.add_weight_penalty()
    torch.testing.assert_close(layer.weight.grad, 1 + expected[:, None] * weight)
    torch.testing.assert_close(layer.recurrent_weight.grad, 1 + expected[:, None] * recurrent)
