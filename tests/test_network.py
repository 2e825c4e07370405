"""Topologies and the stack of layers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnrun.errors import UsageError
from snnrun.kernels import pack, unpack
from snnrun.network import Network
from snnrun.network.topology import ConvSpec, LayerSpec, PoolSpec, parse_topology
from snnrun.rules import RULES, Hm2Bp, StbpRule, StRsbp


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 99_999))))
def test_a_topology_is_read_as_it_is_written(layers):
    text = "-".join(f"{'R' if recurrent else ''}{size}" for recurrent, size in layers)
    assert parse_topology(text) == [LayerSpec(size, recurrent) for recurrent, size in layers]


@pytest.mark.parametrize(
    "text", ["400-R40x", "400-", "-400", "R", "0", "400--R400", "400,R400", "-5", "4.5", "R 400", "RR4"]
)
def test_a_wrong_topology_is_refused_with_the_part_that_is_wrong(text):
    with pytest.raises(UsageError, match=r"model\.network: cannot read .* Allowed: .*400-R400"):
        parse_topology(text)


def test_layers_have_the_sizes_and_names_of_the_topology():
    net = Network(StRsbp(v_th=[1.0, 2.0, 3.0]), inputs=7, topology="5-R4", outputs=3)
    assert [tuple(layer.weight.shape) for layer in net.layers] == [(5, 7), (4, 5), (3, 4)]
    assert net.layer_names == ["hidden1", "hidden2", "output"]
    assert [layer.recurrent_weight is not None for layer in net.layers] == [False, True, False]
    assert [net.rule.threshold(layer.kind) for layer in net.layers] == [1.0, 2.0, 3.0]
    assert net.synapses() == 35 + 20 + 12 + int(net.layers[1].recurrent_mask.sum())


def test_one_threshold_serves_every_layer():
    net = Network(StRsbp(v_th=[2.0]), inputs=7, topology="5", outputs=3)
    assert [net.rule.threshold(layer.kind) for layer in net.layers] == [2.0, 2.0]


@pytest.mark.parametrize("v_th", [[1.0, 2.0], [1.0] * 4, []])
def test_thresholds_that_do_not_fit_are_refused(v_th):
    with pytest.raises(UsageError, match=r"model\.v_th: .*3 layers"):
        Network(StRsbp(v_th=v_th), inputs=7, topology="5-R4", outputs=3)


def test_the_seed_decides_the_weights():
    def weights(seed: int) -> list[torch.Tensor]:
        return list(Network(StRsbp(v_th=[1.0]), inputs=7, topology="R9", outputs=3, seed=seed).parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))


def inputs() -> torch.Tensor:
    return (torch.rand(2, 30, 70, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)


@pytest.mark.parametrize(
    "rule", [StRsbp(v_th=[0.5]), Hm2Bp(v_th=[0.5]), StbpRule(v_th=[0.5])], ids=["strsbp", "hm2bp", "stbp"]
)
def test_a_forward_pass_reports_every_layer(rule):
    net = Network(rule, inputs=70, topology="65-R4", outputs=3)
    activity = net(inputs())
    assert [tuple(train.spikes.shape) for train in activity.layers] == [(2, 30, 2), (2, 30, 1), (2, 30, 1)]
    assert [tuple(train.counts.shape) for train in activity.layers] == [(2, 65), (2, 4), (2, 3)]
    for train in activity.layers:
        assert train.spikes.dtype == torch.int64
        assert torch.equal(train.counts, unpack(train.spikes, train.counts.shape[1]).sum(1).float())
    assert activity.output is activity.layers[-1]


def test_spikes_and_their_bits_are_the_same_input():
    net = Network(StRsbp(v_th=[0.5]), inputs=70, topology="R9", outputs=3)
    dense, packed = net(inputs()), net(pack(inputs()))
    for a, b in zip(dense.layers, packed.layers, strict=True):
        assert torch.equal(a.spikes, b.spikes)


def test_weights_lie_in_memory_input_by_input():
    """A spike of an input adds a row of the transposed weights: a CPU backend must find it without a copy."""
    net = Network(StRsbp(v_th=[0.5]), inputs=70, topology="R9", outputs=3)
    optimizer = torch.optim.Adam(net.parameters())
    net(inputs(), torch.tensor([0, 1])).output.counts.sum().backward()
    optimizer.step()
    net.load_state_dict({name: value.clone().contiguous() for name, value in net.state_dict().items()})
    for layer in net.to("cpu").layers:
        assert layer.weight.T.is_contiguous()


def test_a_checkpoint_has_the_weights_and_the_synapses_that_exist():
    """The list of synapses follows from the mask, so files of weights do not hold it twice."""
    net = Network(StbpRule(v_th=[0.5]), inputs=7, topology="R9", outputs=3)
    assert list(net.state_dict()) == [
        *("layers.0.weight", "layers.0.recurrent_weight", "layers.0.bias", "layers.0.recurrent_mask"),
        *("layers.1.weight", "layers.1.bias"),
    ]
    layer = net.layers[0]
    synapses = layer.weights().recurrent()
    assert torch.equal(synapses._replace(weight=torch.ones(len(synapses.pre))).dense(9).bool(), layer.recurrent_mask)
    assert torch.equal(synapses.dense(9), layer.recurrent_weight)
    order = synapses.pre * 9 + synapses.post
    assert (order.diff() > 0).all(), "by pre-neuron, then by post-neuron"


# ---- layers over images ---------------------------------------------------------------------------------------------

IMAGE = {"inputs": 2 * 9 * 8, "outputs": 3, "image": (2, 9, 8)}


def numbers(low: int = 1):
    return st.integers(low, 999)


@given(
    st.lists(
        st.one_of(
            st.builds(ConvSpec, numbers(), numbers(), numbers(), numbers(), numbers(0)),
            st.builds(PoolSpec, numbers(), numbers()),
            st.builds(LayerSpec, numbers(), st.booleans()),
        )
    )
)
def test_a_topology_over_images_is_read_as_it_is_written(specs):
    def written(spec) -> str:
        match spec:
            case LayerSpec():
                return f"{'R' if spec.recurrent else ''}{spec.size}"
            case PoolSpec():
                return f"P{spec.size}" + (f"s{spec.stride}" if spec.stride != spec.size else "")
        text = f"{spec.kernels}C{spec.height}" + (f"x{spec.width}" if spec.width != spec.height else "")
        text += f"s{spec.stride}" if spec.stride != 1 else ""
        return text + (f"p{spec.padding}" if spec.padding else "")

    assert parse_topology("-".join(map(written, specs))) == specs


@pytest.mark.parametrize("text", ["15C", "C5", "15c5", "15C0", "P", "P0", "2P2", "15C5p", "15C5p1s2", "P2p1", "R15C5"])
def test_a_wrong_layer_over_images_is_refused(text):
    with pytest.raises(UsageError, match=r"model\.network: cannot read .* 15C5 \(15 kernels of 5 x 5; .* P2"):
        parse_topology(text)


def test_the_papers_network_has_the_sizes_of_the_paper():
    net = Network(
        StRsbp(v_th=[5, 2, 10, 4, 10, 5]), inputs=784, topology="15C5-P2-40C5-P2-300", outputs=10, image=(1, 28, 28)
    )
    assert net.layer_names == ["conv1", "pool2", "conv3", "pool4", "hidden5", "output"]
    assert net.sizes == [15 * 24 * 24, 15 * 12 * 12, 40 * 8 * 8, 40 * 4 * 4, 300, 10]
    assert [net.rule.threshold(layer.kind) for layer in net.layers] == [5, 2, 10, 4, 10, 5]
    assert net.synapses() == 15 * 25 + 40 * 15 * 25 + 640 * 300 + 300 * 10


def test_average_pools_are_no_layers():
    net = Network(StbpRule(v_th=[1.0, 2.0, 3.0, 4.0]), topology="4C3p1-P2-5C2s2p1-P2-R6", **IMAGE)
    assert net.layer_names == ["conv1", "conv2", "hidden3", "output"]
    assert net.sizes == [4 * 9 * 8, 5 * 3 * 3, 6, 3]
    assert tuple(net.layers[1].weight.shape) == (5, 4, 2, 2)
    assert tuple(net.layers[2].weight.shape) == (6, 5)
    assert [net.rule.threshold(layer.kind) for layer in net.layers] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("rule", "topology", "message"),
    [
        ("strsbp", "300-15C5", "'15C5' cannot follow a dense layer, .* before the dense layers"),
        ("hm2bp", "4C3-20-P2", "'P2' cannot follow a dense layer"),
        ("strsbp", "4C9", r"the window of '4C9', 9 x 9, is larger than what it looks at, 9 x 8\."),
        ("strsbp", "4C12p1", "12 x 12, is larger than what it looks at, 11 x 10 with its padding"),
        ("strsbp", "P4-P3", r"'P3', 3 x 3, is larger than what it looks at, 2 x 2\."),
        ("stbp", "P4-2C3", r"'2C3', 3 x 3, is larger than what it looks at, 2 x 2\."),
        ("stbp", "P4-P3", r"'P3', 3 x 3, is larger than what it looks at, 2 x 2\."),
        ("stbp", "P3s2-5", r"'P3s2' has a stride of its own, .* Write P3 or P2\."),
    ],
)
def test_layers_that_do_not_fit_are_refused(rule, topology, message):
    with pytest.raises(UsageError, match=r"^model\.network: .*" + message):
        Network(RULES[rule](v_th=[1.0]), topology=topology, **IMAGE)


def test_a_corpus_without_image_is_refused():
    with pytest.raises(UsageError, match=r"'4C3' looks at images, .* data=mnist"):
        Network(StRsbp(v_th=[1.0]), inputs=78, topology="4C3-20", outputs=3)


def test_the_synapses_of_loaded_weights_are_those_of_their_mask():
    net, other = (Network(StRsbp(v_th=[5.0]), inputs=3, topology="R20", outputs=2, seed=seed) for seed in (0, 1))
    assert not torch.equal(net.layers[0].recurrent_mask, other.layers[0].recurrent_mask)
    net.load_state_dict(other.state_dict())
    loaded, expected = (each.layers[0].weights().recurrent() for each in (net, other))
    assert all(torch.equal(a, b) for a, b in zip(loaded, expected, strict=True))
