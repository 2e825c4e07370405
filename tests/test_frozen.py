"""Layers that are not trained (`model.frozen`), and weights that another run has trained (`model.weights`)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_runs
import yaml
from safetensors.torch import load_file, save_file

from snnrun import kernels
from snnrun.errors import SnnrunError, UsageError
from snnrun.kernels import ops
from snnrun.network import Network
from snnrun.rules import RULES, LeeRule, StRsbp
from snnrun.run import artifacts, experiment, pretrained

OPTIONS: dict[str, dict[str, Any]] = {
    "strsbp": {"v_th": [0.5], "margin": 0.0, "slope": "table"},
    "hm2bp": {"v_th": [0.5], "margin": 0.0},
    "stbp": {"v_th": [0.2]},
}
DENSE: dict[str, Any] = {"inputs": 70, "topology": "9-R8-7", "outputs": 3}
IMAGES: dict[str, Any] = {"inputs": 98, "topology": "3C3-P2-4C2-R5", "outputs": 3, "image": (2, 7, 7)}


def network(rule: str, shape: dict[str, Any], frozen: list[str]) -> Network:
    return Network(RULES[rule](**OPTIONS[rule], frozen=frozen), **shape, seed=3)


def gradients(net: Network) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    spikes = (torch.rand(5, 40, net.inputs, generator=generator) < 0.3).to(torch.uint8)
    labels = torch.tensor([0, 1, 2, 1, 0])
    net.rule.sample_loss(net(spikes, labels).output, labels).sum().backward()
    net.add_weight_penalty()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("rule", OPTIONS)
@pytest.mark.parametrize(
    ("shape", "frozen"),
    [
        (DENSE, ["hidden1"]),
        (DENSE, ["hidden2", "output"]),
        (DENSE, ["hidden"]),
        (IMAGES, ["conv1"]),
        (IMAGES, ["conv3", "hidden4"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else value["topology"],
)
def test_the_trained_layers_have_the_gradients_they_would_have_anyway(rule, backend, shape, frozen):
    """But for rounding, since the reference sums in another order; a frozen layer has none."""
    kernels.use(backend)
    if rule == "stbp" and shape is IMAGES:  # its pools are no layers
        frozen = [{"conv3": "conv2", "hidden4": "hidden3"}.get(name, name) for name in frozen]
    all_, some = (network(rule, shape, names) for names in ([], frozen))
    wanted, found = gradients(all_), gradients(some)
    names = [some.layer_names[int(name.split(".")[1])] for name in found]
    held = {*some.layer_names[:-1]} if frozen == ["hidden"] else {*frozen}
    assert held <= {*names}
    for layer, (name, gradient) in zip(names, found.items(), strict=True):
        if layer in held:
            assert gradient is None, name
        else:
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-4, msg=name)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in found.values()) > 0


@pytest.mark.parametrize("rule", OPTIONS)
def test_no_kernel_runs_back_through_what_nobody_trains(rule, monkeypatch):
    """Not through frozen layers below the last trained one, and no gradient of weights in those above it."""
    kernels.use("cpu")
    calls: Counter[str] = Counter()

    class Counting:
        def __getattr__(self, name):
            function = getattr(kernels.cpu, name)

            def call(*arguments):
                calls[name] += 1
                if name == "spsp_backward":
                    calls["gradient"] += arguments[4] is not None
                if name == "stbp_backward":
                    calls["gradient"] += arguments[8]
                return function(*arguments)

            return call

    monkeypatch.setattr(ops, "backend", Counting())
    back = "stbp_backward" if rule == "stbp" else "spsp_backward"
    for frozen, passes, with_gradient in (([], 4, 4), (["hidden1", "hidden2"], 2, 2), (["hidden2", "output"], 4, 2)):
        calls.clear()
        gradients(network(rule, DENSE, frozen))
        assert (calls[back], calls["gradient"]) == (passes, with_gradient), frozen


def test_frozen_weights_are_no_trained_weights():
    net, whole = (network("strsbp", DENSE, names) for names in (["hidden"], []))
    assert net.synapses() == 3 * 7
    assert [tuple(parameter.shape) for parameter, _ in net.trained()] == [(3, 7)]
    assert net.state_dict().keys() == whole.state_dict().keys()


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (
            ["hiden2"],
            r"^model\.frozen: 'hiden2' is no layer .*Allowed: hidden1, hidden2, hidden3, output, .*hidden2\?$",
        ),
        (["hidden", "output"], "every layer"),
        (["hidden1", "hidden2", "hidden3", "output"], "every layer"),
    ],
)
def test_wrong_names_are_refused_with_the_layers(frozen, message):
    with pytest.raises(UsageError, match=message):
        network("strsbp", DENSE, frozen)


def test_pools_have_no_weights_to_freeze():
    with pytest.raises(UsageError, match=r"'pool2' is no layer with weights .*Allowed: conv1, conv3, hidden4, output"):
        network("hm2bp", IMAGES, ["pool2"])


# ---- runs -----------------------------------------------------------------------------------------------------------


def train(folder: Path, seed: int, **model: Any) -> Path:
    folder.mkdir()
    values = trained_runs.values("strsbp")
    values |= {"seed": seed, "outputs": str(folder.parent), "train": values["train"] | {"epochs": 1}}
    values["model"] = values["model"] | {"v_th": [2.0], **model}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    experiment.run(values, folder, command=["test"])
    return folder


def test_a_run_leaves_frozen_weights_as_they_were_loaded(tmp_path, capsys):
    first = train(tmp_path / "first", 0, network="12-R8")
    second = train(tmp_path / "second", 1, network="12-R9", frozen=["hidden1"], weights=str(first))
    before, after = (load_file(folder / "last.safetensors") for folder in (first, second))
    assert torch.equal(load_file(first / "best.safetensors")["layers.0.weight"], after["layers.0.weight"])
    assert before["layers.1.weight"].shape == (8, 12)
    assert "the weights of hidden1. Those of hidden2, output are drawn." in " ".join(capsys.readouterr().out.split())


def test_the_figure_of_weights_begins_with_those_that_the_training_began_with(tmp_path, monkeypatch):
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(
        artifacts, "draw", lambda drawings, _: drawn.append({d.path.name: d.arguments for d in drawings})
    )
    first = train(tmp_path / "first", 0, network="12-R8")
    train(tmp_path / "second", 1, network="12-R9", frozen=["hidden1"], weights=str(first))
    panels = [figures["weights.png"][0] for figures in drawn]
    same = [{name: np.array_equal(*pair) for name, pair in layers.items()} for layers in panels]
    assert [name for layers in same for name, equal in layers.items() if equal] == ["hidden1 weight"]
    assert np.array_equal(panels[1]["hidden1 weight"][0], panels[0]["hidden1 weight"][1])


@pytest.fixture
def donor(tmp_path) -> Path:
    """A file of the weights of 7-5-R4-3."""
    path = tmp_path / "weights.safetensors"
    net = Network(StRsbp(v_th=[1.0]), inputs=7, topology="5-R4", outputs=3, seed=1)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)
    return path


@pytest.mark.parametrize(
    ("topology", "outputs", "taken", "drawn"),
    [("5-R4", 3, 3, "Nothing is drawn."), ("5-R4", 4, 2, "Those of output are drawn."), ("5-4", 3, 1, "hidden2")],
)
def test_the_leading_layers_that_fit_are_taken(donor, tmp_path, topology, outputs, taken, drawn):
    net, before = (Network(StRsbp(v_th=[1.0]), inputs=7, topology=topology, outputs=outputs) for _ in range(2))
    note = pretrained.take(net, str(donor), tmp_path, tmp_path)
    assert drawn in note
    wanted = {**before.state_dict(), **{k: v for k, v in load_file(donor).items() if int(k.split(".")[1]) < taken}}
    assert net.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in net.state_dict().items())


def test_delays_that_are_not_there_are_drawn(donor, tmp_path):
    how = {"inputs": 7, "topology": "5-R4", "outputs": 3}
    net, before = (Network(StRsbp(v_th=[1.0], delays="trained"), **how) for _ in range(2))
    assert "Nothing is drawn." in pretrained.take(net, str(donor), tmp_path, tmp_path)
    for name, value in net.state_dict().items():
        assert torch.equal(value, (before.state_dict() if name.endswith("delay") else load_file(donor))[name])


def test_weights_that_cannot_be_taken_are_refused(donor, tmp_path):
    def take(source: str, inputs: int = 7) -> None:
        net = Network(StRsbp(v_th=[1.0]), inputs=inputs, topology="5", outputs=3)
        pretrained.take(net, source, tmp_path, tmp_path / "own")

    with pytest.raises(UsageError, match=r"^model\.weights: .* its first layer is weight \(5, 7\), .* \(5, 8\)"):
        take(str(donor), inputs=8)
    with pytest.raises(UsageError, match=r"^model\.weights: nowhere: no run"):
        take("nowhere")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.yaml").write_text("{}")
    with pytest.raises(UsageError, match=r"^model\.weights: .* is this run itself"):
        take(str(tmp_path / "own"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("{}")
    with pytest.raises(UsageError, match=r"^model\.weights: .*empty: this run has no weights yet .*snnrun resume"):
        take(str(tmp_path / "empty"))
    donor.write_bytes(b"nothing")
    with pytest.raises(SnnrunError, match="damaged"):
        take(str(donor))


# ---- what the neurons were in the run that weights come from --------------------------------------------------------

SHAPE: dict[str, Any] = {"inputs": 7, "topology": "5-R4", "outputs": 3}


def source(folder: Path, rule: str, shape: dict[str, Any], constant: float = 1.0, **model: Any) -> Network:
    """A run of other weights than are drawn, with its config. Trained constants are about `constant` times initial."""
    net = Network(RULES[rule](**model), **shape, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith(("threshold", "tau_m", "tau_s", "tau_adaptation")):
                value.mul_(constant * (1 + 0.1 * torch.rand(value.shape, generator=generator)))
    folder.mkdir()
    values = {"model": {"name": rule, "network": shape["topology"], "of an older version": 1, **model}}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    save_file(state, folder / "last.safetensors")
    return net


def taken(folder: Path, rule: str, shape: dict[str, Any], **model: Any) -> tuple[Network, str]:
    """A network that begins with the weights of a run, and the note."""
    net = Network(RULES[rule](**model), **shape, seed=2)
    return net, pretrained.take(net, str(folder), folder.parent, folder.parent / "own")


def constants(net: Network) -> dict[str, torch.Tensor]:
    """The trained constants themselves."""
    found = {}
    for name, layer in zip(net.layer_names, net.layers, strict=True):
        weights = layer.weights()
        found |= {f"{name} {each.name}": each.values for each in net.rule.constants(layer.kind, weights)}
        if isinstance(net.rule, LeeRule):
            found[name] = weights.threshold * net.rule.initial_threshold(layer.kind, weights.weight[0].numel())
    return found


@pytest.mark.parametrize(
    ("rule", "shape", "old", "new"),
    [
        (
            "stbp",
            SHAPE,
            {"v_th": [0.2, 0.3, 0.4], "decay": 0.2, "train_constants": "all", "adaptation": "threshold"},
            {"v_th": [0.5], "decay": 0.5, "tau_adaptation": 50.0},
        ),
        ("strsbp", SHAPE, {"v_th": [2.0], "train_constants": "all"}, {"v_th": [1.0, 3.0, 2.0], "tau_m": 50.0}),
        ("hm2bp", IMAGES, {"v_th": [2.0], "train_constants": "thresholds"}, {"v_th": [1.5]}),
        ("lee", IMAGES | {"topology": "3C3-P2-4"}, {"v_th": [2.0]}, {"v_th": [5.0, 4.0, 3.0]}),
    ],
)
@pytest.mark.parametrize("file", [False, True])
def test_trained_constants_stay_what_they_were(rule, shape, old, new, file, tmp_path):
    if rule == "hm2bp":
        shape = shape | {"topology": "3C3-P2-4C2-5"}
    before = source(tmp_path / "run", rule, shape, constant=1.5, **old)
    net, note = taken(tmp_path / "run" / "last.safetensors" if file else tmp_path / "run", rule, shape, **old | new)
    wanted, found = constants(before), constants(net)
    assert wanted
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], msg=name)
    assert f"There model.v_th={old['v_th']}, here {new['v_th']}" in note
    assert "Constants that were trained there stay what they were." in note
    assert torch.equal(net.layers[0].weight, before.layers[0].weight)


def test_constants_of_the_same_initial_values_are_taken_bit_for_bit(tmp_path):
    model: dict[str, Any] = {"v_th": [0.3], "train_constants": "all"}
    before = source(tmp_path / "run", "stbp", SHAPE, constant=1.2, **model)
    net, note = taken(tmp_path / "run", "stbp", SHAPE, **model)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.state_dict().items())
    assert "There" not in note
    assert "Constants" not in note


@pytest.mark.parametrize(
    ("rule", "old", "new", "message"),
    [
        (
            "stbp",
            {"v_th": [0.2], "train_constants": "thresholds"},
            {"v_th": [2.0]},
            r"^model\.constants_range: .*safetensors: hidden1 has v_th from 0\.3.* to 0\.3.*between 0\.5 and 8\. Raise",
        ),
        (
            "strsbp",
            {"v_th": [2.0], "train_constants": "time_constants"},
            {"constants_range": 1.2},
            r"^model\.constants_range: .* hidden1 has tau_m from 1.* ms, and here it is between 53\.33 and 76\.8",
        ),
        ("lee", {"v_th": [0.2]}, {"v_th": [5.0]}, r"^model\.least_threshold: .*hidden1 has v_th .*Lower model\.least_"),
        (
            "stbp",
            {"v_th": [0.2], "delays": "trained", "max_delay": 30},
            {"max_delay": 3},
            r"^model\.max_delay: .*hidden1 has delays of up to .* the longest is 3\. Set model\.max_delay=\d\d ",
        ),
    ],
)
def test_constants_and_delays_beyond_what_is_allowed_here_are_refused(rule, old, new, message, tmp_path):
    shape = SHAPE | {"topology": "5"}
    source(tmp_path / "run", rule, shape, constant=1.5, **old)
    with pytest.raises(UsageError, match=message):
        taken(tmp_path / "run", rule, shape, **old | new)


@pytest.mark.parametrize(
    ("rule", "old", "new", "said"),
    [
        ("stbp", {"v_th": [0.15]}, {"v_th": [0.5]}, "There model.v_th=[0.15], here [0.5]."),
        ("stbp", {"v_th": [0.15, 0.15, 0.15]}, {"v_th": [0.15]}, ""),
        (
            "stbp",
            {"v_th": [0.5]},
            {"decay": 0.5, "strict_threshold": True, "reset": "exponential"},
            "There model.decay=0.2, here 0.5; model.strict_threshold=false, here true; model.reset=hard, here "
            "exponential.",
        ),
        ("stbp", {"v_th": [0.5]}, {"tau_adaptation": 50.0, "surrogate_width": 2.0}, ""),
        (
            "stbp",
            {"v_th": [0.5]},
            {"adaptation": "threshold", "tau_adaptation": 50.0},
            "There model.adaptation=none, here threshold; model.tau_adaptation=100.0, here 50.0.",
        ),
        (
            "strsbp",
            {"v_th": [2.0]},
            {"tau_m": 32.0, "tau_s": 4.0, "t_ref": 0, "lateral": 0.0},
            "There model.tau_m=64.0, here 32.0; model.tau_s=8.0, here 4.0; model.t_ref=2, here 0; model.lateral=1.0, "
            "here 0.0.",
        ),
        (
            "slayer",
            {"v_th": [2.0]},
            {"tau_r": 2.0, "refractory": "alpha"},
            "There model.tau_r=1.0, here 2.0; model.refractory=exponential, here alpha.",
        ),
    ],
)
def test_the_note_says_what_other_neurons_the_weights_are_of(rule, old, new, said, tmp_path):
    source(tmp_path / "run", rule, SHAPE, **old)
    _, note = taken(tmp_path / "run", rule, SHAPE, **old | new)
    assert note.endswith(f"Nothing is drawn.{said and ' '}{said}")


def test_only_the_layers_that_are_taken_are_compared(tmp_path):
    source(tmp_path / "run", "strsbp", SHAPE, v_th=[1.0, 2.0, 3.0])
    _, note = taken(tmp_path / "run", "strsbp", SHAPE | {"outputs": 4}, v_th=[1.0, 2.0, 4.0], lateral=0.0)
    assert note.endswith("Those of output are drawn.")
    _, note = taken(tmp_path / "run", "strsbp", SHAPE | {"outputs": 4}, v_th=[1.0, 3.0, 4.0])
    assert note.endswith("There model.v_th=[1.0, 2.0, 3.0], here [1.0, 3.0, 4.0].")
    _, note = taken(tmp_path / "run", "hm2bp", SHAPE | {"topology": "5-4"}, v_th=[1.0])
    assert note.endswith("Those of hidden2, output are drawn. There model=strsbp, here hm2bp.")


@pytest.mark.parametrize("beside", [None, "of: another program", "- no mapping", "model: {name: liquids}"])
def test_of_a_file_without_a_run_it_is_said_that_initial_values_are_not_known(beside, tmp_path):
    model: dict[str, Any] = {"v_th": [2.0], "train_constants": "all"}
    before = source(tmp_path / "run", "strsbp", SHAPE, **model)
    (tmp_path / "run" / "config.yaml").unlink()
    if beside is not None:
        (tmp_path / "run" / "config.yaml").write_text(beside)
    net, note = taken(tmp_path / "run" / "last.safetensors", "strsbp", SHAPE, **model | {"v_th": [1.0]})
    assert "The initial values that its trained tau_m, tau_s, v_th are stored over are not known" in note
    assert torch.equal(net.layers[0].threshold, before.layers[0].threshold)
