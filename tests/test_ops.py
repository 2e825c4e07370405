"""The kernels as operators of PyTorch: what tracing, export and compilation are told of them is true."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrun import kernels
from snnrun.kernels import Lif, Srm, Stbp, Synapses, Window, Wta, pack
from snnrun.kernels.reference.images import tap_by_tap
from snnrun.network import Network
from snnrun.rules import Hm2Bp, LeeRule, SlayerRule, StbpRule, StRsbp
from snnrun.rules.base import synapse_index

BACKENDS = ["reference", "cpu"]
TARGETS = {"tau_m": 20.0, "desired": 8.0, "undesired": 1.0, "margin": 1.0}
RULES = {
    "strsbp": StRsbp(v_th=[0.2], **TARGETS),
    "hm2bp": Hm2Bp(v_th=[0.2], lateral=0.5, **TARGETS),
    "stbp": StbpRule(v_th=[0.5]),
    "slayer": SlayerRule(v_th=[1.0], tau_s=4.0, desired=8.0, undesired=1.0),
    "lee": LeeRule(v_th=[0.2], inhibition=0.1),
}
FORWARD = {
    "strsbp": "lif_forward",
    "hm2bp": "lif_forward",
    "stbp": "stbp_forward",
    "slayer": "srm_forward",
    "lee": "wta_forward",
}


def operator_cases() -> dict[str, list[tuple]]:
    """Arguments for each operator: 3 samples, 20 steps, 9 inputs and 5 neurons, which fill no block."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def trains(neurons: int) -> Tensor:
        return torch.rand(3, 20, neurons, generator=generator) < 0.3

    own = trains(5)
    spikes_in, spikes, counts = pack(trains(9)), pack(own), own.sum(1).float()
    by_neuron, gain, credit = normal(5, 9), normal(3, 5), normal(3, 5)
    by_input = by_neuron.T.contiguous().T  # as layers store it
    pre, post = synapse_index(torch.rand(5, 5, generator=generator) < 0.5)
    synapses, e, loop = Synapses(normal(len(pre)), pre, post), normal(3, len(pre)), normal(5, 5)
    table = normal(4, 5).double()
    above, membrane = normal(3, 20, 5), normal(3, 20, 5)
    lif, stbp, srm, wta = Lif(20.0, 8.0, 2, 1.0), Stbp(0.5, 0.2), Srm(1.0, 4.0, 1.0), Wta(20.0, 1.0, 0.3)
    own_decays = torch.full((5,), 0.2), torch.full((5,), 0.9)
    by = torch.arange(9) * 3 - 7
    every_step = gain[:, None].expand(3, 20, 5)
    # 2 channels of 4 x 5 to 3 kernels of 2 x 3
    window, averaged, pool = (
        Window(2, 4, 5, 3, 2, 3, 2, 1),
        Window(2, 4, 5, 3, 2, 1, pool=2),
        Window(2, 4, 5, 2, 2, 2, 1),
    )
    image, kernel = pack(trains(40)), normal(3, 2, 2, 3)
    tapped, slim, out = tap_by_tap(kernel), tap_by_tap(normal(3, 2, 2, 1)), pack(trains(window.neurons))
    map_gain, map_credit = normal(3, window.neurons), normal(3, window.neurons)
    maps, averaged_maps = normal(3, 20, window.neurons), normal(3, 20, averaged.neurons)
    return {
        "conv_forward": [(image, kernel, [*window], *lif), (image, tapped, [*window], *lif)],
        "conv_activation": [(rule, image, out, tapped, [*window], *lif) for rule in ("strsbp", "hm2bp")],
        "conv_backward": [
            ("strsbp", image, out, map_gain, map_credit, tapped, [*window], None, *lif),
            ("strsbp", image, out, map_gain, None, kernel, [*window], None, *lif),
            ("hm2bp", image, out, map_gain, map_credit, kernel, [*window], map_credit, *lif),
            ("hm2bp", image, out, None, map_credit, kernel, [*window], None, *lif),
        ],
        "pool_forward": [(image, [*pool], *lif)],
        "pool_backward": [
            (rule, image, pack(trains(pool.neurons)), normal(3, pool.neurons), [*pool], *lif)
            for rule in ("strsbp", "hm2bp")
        ],
        "stbp_conv_forward": [
            (image, tapped, None, [*window], *stbp),
            (image, slim, normal(3), [*averaged], *stbp),
        ],
        "stbp_conv_backward": [
            (maps, image, out, maps, tapped, [*window], True, True, *stbp),
            (maps, image, out, maps, kernel, [*window], False, True, *stbp),
            (
                averaged_maps,
                image,
                pack(trains(averaged.neurons)),
                averaged_maps,
                slim,
                [*averaged],
                True,
                False,
                *stbp,
            ),
        ],
        "current_drive": [(normal(3, 4, 9), weight) for weight in (by_neuron, by_input)],
        "lif_driven": [
            (normal(3, 4, 5), None, None, None, *lif, 20, True),
            (normal(3, 1, 5), *synapses, *lif, 20, False),
        ],
        "readout_sums": [(rule, spikes, gain, *lif, count) for rule, count in (("strsbp", 1), ("hm2bp", 7))],
        "stbp_driven": [(normal(3, 20, 5), None, *stbp, 20), (normal(3, 3, 5), loop, *stbp, 20)],
        "stbp_driven_backward": [
            (above, spikes, membrane, None, *stbp, 1),
            (every_step, spikes, membrane, loop, *stbp, 3),
        ],
        "srm_forward": [(spikes_in, by_input, None, *srm), (spikes_in, by_neuron, loop, *srm)],
        "srm_backward": [
            (above, spikes_in, spikes, membrane, by_input, None, True, True, *srm),
            (every_step, spikes_in, spikes, membrane, by_neuron, loop, False, False, *srm),
        ],
        "srm_conv_forward": [(image, tapped, [*window], *srm)],
        "srm_conv_backward": [
            (maps, image, maps, tapped, [*window], True, True, *srm),
            (maps, image, maps, kernel, [*window], False, False, *srm),
        ],
        "srm_pool_forward": [(image, [*pool], 1.1, *srm)],
        "srm_pool_backward": [(normal(3, 20, pool.neurons), normal(3, 20, pool.neurons), [*pool], 1.1, *srm)],
        "wta_forward": [(spikes_in, by_input, gain[0].abs() + 0.1, *wta)],
        "wta_conv_forward": [(image, slim, normal(3).abs() + 0.1, [*averaged], *wta)],
        "trace": [(spikes_in, 9, *wta)],
        "alif_scan": [
            (normal(3, 20, 5), None, *own_decays, 1.8, *stbp, 20),
            (normal(3, 3, 5), loop, *own_decays, 0.0, *stbp, 20),
        ],
        "alif_scan_backward": [
            (above, spikes, membrane, normal(3, 20, 5), None, *own_decays, 1.8, *stbp),
            (every_step, spikes, membrane, normal(0, 0, 0), loop, *own_decays, 0.0, *stbp),
        ],
        "count_spikes": [(spikes_in, 9)],
        "lif_forward": [(spikes_in, by_neuron, None, None, None, *lif), (spikes_in, by_input, *synapses, *lif)],
        "spsp_activation": [(rule, spikes_in, spikes, by_input, *lif) for rule in ("strsbp", "hm2bp")],
        "spsp_backward": [
            ("strsbp", spikes_in, spikes, gain, credit, by_input, None, *lif),
            ("strsbp", spikes_in, spikes, gain, None, by_neuron, None, *lif),
            ("hm2bp", spikes_in, spikes, gain, credit, by_neuron, credit, *lif),
            ("hm2bp", spikes_in, spikes, None, credit, by_neuron, None, *lif),
        ],
        "recurrent_spsp": [(rule, spikes, *synapses, 5, *lif) for rule in ("strsbp", "hm2bp")],
        "slope_sum": [
            (table, trains(9).sum(1).float(), by_neuron, None, None, None, counts),
            (table, trains(9).sum(1).float(), by_input, *synapses, counts),
        ],
        "coupling": [(e, counts, *synapses, 1.0, 0.5)],
        "coupling_solve": [(0.1 * e, *synapses, 1 + 0.1 * credit, gain, own) for own in (True, False)],
        "recurrent_gradient": [(e, gain, *synapses)],
        "stbp_forward": [(spikes_in, by_input, None, None, *stbp), (spikes_in, by_neuron, gain[0], loop, *stbp)],
        "stbp_backward": [
            (above, spikes_in, spikes, membrane, by_input, None, True, True, None, *stbp),
            (above, spikes_in, spikes, membrane, by_neuron, loop, True, False, spikes_in, *stbp),
            (every_step, spikes_in, spikes, membrane, by_input, loop, False, True, None, *stbp),
        ],
        "stbp_near": [(membrane, *stbp)],
        "delayed": [(spikes_in, by)],
        "advanced": [(normal(3, 20, 9), by)],
        "delay_errors": [(spikes_in, by, normal(3, 20, 9))],
    }


CASES = operator_cases()
# A fourth, test_autograd_registration, has nothing to test: the rules' own autograd functions are around the operators.
CHECKS = ["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "number"), [(name, k) for name in CASES for k in range(len(CASES[name]))])
def test_an_operator_is_what_it_says(name, number, backend):
    """It changes no argument, returns no view of one, and its fake has the shapes, types and strides of its results."""
    kernels.use(backend)
    torch.library.opcheck(getattr(torch.ops.snnrun, name).default, CASES[name][number], test_utils=CHECKS)


def test_every_operator_is_checked():
    names = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("snnrun::")}
    assert names == set(CASES)


# ---- whole networks -------------------------------------------------------------------------------------------------


class Counts(nn.Module):
    """A network as what an application wants of it."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, spikes: Tensor) -> Tensor:
        return self.net(spikes).output.counts


def network(rule: str, outputs: int = 4) -> Network:
    topology = "9-R8" if RULES[rule].recurrent_layers else "9-8"
    return Network(RULES[rule], inputs=7, topology=topology, outputs=outputs)


def batch(size: int = 3, steps: int = 25) -> Tensor:
    return (torch.rand(size, steps, 7, generator=torch.Generator().manual_seed(size)) < 0.3).to(torch.uint8)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_an_exported_network_counts_the_same(rule, packed):
    net = network(rule)
    spikes = pack(batch()) if packed else batch()
    expected = net(spikes)
    program = torch.export.export(net, (spikes,))
    operators = [node.target for node in program.graph.nodes if str(node.target).startswith("snnrun.")]
    forward = getattr(torch.ops.snnrun, FORWARD[rule]).default
    assert operators == [torch.ops.snnrun.count_spikes.default, forward, forward, forward]
    assert expected.output.counts.any()
    for backend in BACKENDS:  # whichever is in use when the program runs
        kernels.use(backend)
        actual = program.module()(spikes)
        for ours, theirs in zip(expected.layers, actual.layers, strict=True):
            assert torch.equal(ours.counts, theirs.counts)
            assert torch.equal(ours.spikes, theirs.spikes)


@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_a_network_can_be_exported_before_it_has_run(rule):
    """And runs after it: nothing of the tracing is left behind. No other test has 11 outputs, so nothing is cached."""
    net = network(rule, outputs=11)
    program = torch.export.export(net, (batch(),))
    assert torch.equal(net(batch()).output.counts, program.module()(batch()).output.counts)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.filterwarnings("ignore:No complete tensor found")  # said of weights that lie in memory input by input
@torch.no_grad()
def test_an_exported_network_takes_other_batches_and_can_be_saved(rule):
    net = Counts(network(rule))
    net(batch())
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("steps")}
    file = io.BytesIO()
    torch.export.save(torch.export.export(net, (batch(),), dynamic_shapes=(sizes,)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for spikes in (batch(), batch(5, 40)):
        assert torch.equal(loaded(spikes), net(spikes))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated")  # Dynamo itself does
def test_a_compiled_network_counts_and_learns_the_same(rule, backend):
    """In one graph, forward and backward."""
    kernels.use(backend)
    torch.compiler.reset()
    net, labels = network(rule), torch.tensor([0, 1, 3])
    results = []
    for function in (net, torch.compile(net, backend="aot_eager", fullgraph=True)):
        net.zero_grad()
        with torch.no_grad():
            counts = function(batch()).output.counts
        activity = function(batch(), labels)
        net.rule.sample_loss(activity.output, labels).mean().backward()
        results.append((counts, activity.output.counts.detach(), [parameter.grad for parameter in net.parameters()]))
    plain, compiled = results
    assert torch.equal(plain[0], compiled[0])
    assert torch.equal(plain[1], compiled[1])
    for a, b in zip(plain[2], compiled[2], strict=True):
        assert a.any()
        torch.testing.assert_close(b, a)


@pytest.mark.filterwarnings("ignore:No complete tensor found")  # said of weights that lie in memory input by input
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated")  # Dynamo itself does
def test_what_the_documentation_compiles_and_exports_counts_the_same(tmp_path, monkeypatch):
    """The first and the last two examples of `docs/python.md`, in one namespace; the others need no operators."""
    monkeypatch.chdir(tmp_path)
    torch.compiler.reset()
    document = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    made, *_, exported, loaded = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    for example in (made, exported, loaded):
        exec(example, names)
    counts = names["model"](names["spikes"])
    assert counts.any()
    assert torch.equal(names["activity"].output.counts, counts)
    assert torch.equal(names["counts"], counts)
    other = (torch.rand(3, 150, 64) < 0.3).to(torch.uint8)
    assert torch.equal(names["loaded"](other), names["model"](other))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated")  # Dynamo itself does
def test_a_network_over_images_is_exported_and_compiled(rule):
    torch.compiler.reset()
    topology = "4C3-P2-3C1-R5" if RULES[rule].recurrent_layers else "4C3-P2-3C1-5"
    net = Network(RULES[rule], inputs=42, topology=topology, outputs=3, image=(1, 7, 6))
    spikes = (torch.rand(3, 25, 42, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    labels = torch.tensor([0, 1, 2])
    with torch.no_grad():
        exported = torch.export.export(net, (spikes,)).module()(spikes)
        for ours, theirs in zip(net(spikes).layers, exported.layers, strict=True):
            assert torch.equal(ours.counts, theirs.counts)
    results = []
    for function in (net, torch.compile(net, backend="aot_eager", fullgraph=True)):
        net.zero_grad()
        net.rule.sample_loss(function(spikes, labels).output, labels).mean().backward()
        results.append([parameter.grad for parameter in net.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a)
