"""`snnrun export` to files that need no snnrun: what they compute is what the model computes here."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from snnrun import cli, kernels
from snnrun.errors import UsageError
from snnrun.models import MODELS
from snnrun.network import Network
from snnrun.network.model import Signal
from snnrun.portable import onnx, onnx_graph, pytorch, quantise, tensors
from snnrun.portable.onnx_graph import OPSET
from snnrun.portable.parts import parts
from snnrun.portable.task import Task
from snnrun.record import journal
from snnrun.record.description import Description
from snnrun.rules import Currents, Hm2Bp, LeeRule, Rule, SlayerRule, StbpRule, StRsbp
from snnrun.run.trained import Trained

Runs = Callable[[str], Path]
STEPS = 30

RULES: dict[str, tuple[Rule, str]] = {
    "stbp": (StbpRule(v_th=[0.5]), "9-R8"),
    "stbp, a skip, strict, no bias": (StbpRule(v_th=[0.5], strict_threshold=True, bias=False), "9-8+1"),
    "stbp, another reset, delays": (StbpRule(v_th=[0.4], reset="exponential", delays="fixed", max_delay=5), "9"),
    "stbp, trained constants": (StbpRule(v_th=[0.4], train_constants="all"), "9-R8"),
    "stbp, adaptive": (
        StbpRule(v_th=[0.4], adaptation="threshold", tau_adaptation=6.0, strict_threshold=True),
        "9-R8",
    ),
    "stbp over images, adaptive, constants of each": (
        StbpRule(
            v_th=[0.2],
            adaptation="threshold",
            tau_adaptation=6.0,
            train_constants="all",
            time_constants_by="neuron",
            reset="exponential",
        ),
        "4C3p1-P2-6C3-R20",
    ),
    "stbp over images": (StbpRule(v_th=[0.2]), "4C3p1-P2-6C3-20"),
    "stbp, a pool before a dense layer": (StbpRule(v_th=[0.2]), "4C2-P2-10"),
    "strsbp": (StRsbp(v_th=[1.0], connectivity="full"), "9-R8"),
    "strsbp over images": (StRsbp(v_th=[0.3], tau_s=5.0), "4C3p1-P2-6C3s2-R9"),
    "hm2bp, no inhibition, no hold": (Hm2Bp(v_th=[0.6], t_ref=0, lateral=0.0), "9"),
    "slayer": (SlayerRule(v_th=[1.0], delays=True), "9-R8"),
    "slayer, alpha, over images": (SlayerRule(v_th=[1.0], refractory="alpha"), "4C3p1-P2-10"),
    "lee": (LeeRule(v_th=[0.6], t_ref=3.0), "9-8"),
    "lee over images": (LeeRule(v_th=[0.4]), "4C3-P2-10"),
}


def network_of(case: str) -> Network:
    rule, topology = RULES[case]
    network = Network(rule, inputs=81, topology=topology, outputs=3, seed=2, image=(1, 9, 9)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for constant in network.apart():
        constant.mul_(torch.rand(constant.shape, generator=generator) * 0.4 + 0.7)
    return network


def spikes_of(inputs: int, steps: int = STEPS, rate: float = 0.3) -> torch.Tensor:
    return (torch.rand(8, steps, inputs, generator=torch.Generator().manual_seed(1)) < rate).float()


def task_of(model: Any, signal: Signal, **more: Any) -> Task:
    given = {
        "name": "case",
        "options": None,
        "currents": False,
        "classes": tuple(f'the "{k}" of them' for k in range(40)),
        "title": "A case.",
    }
    return Task(model=model, signal=signal, **(given | more))


def in_pytorch(task: Task, folder: Path, *, quantised: bool = False) -> torch.nn.Module:
    """The model of the exported file."""
    program = pytorch.program(task)
    (folder / "n.py").write_text(pytorch.text(task, program, quantised=quantised))
    torch.save(program.packed() if quantised else program.state, folder / "n.pt")
    return pytorch.load(folder / "n.py")


def in_onnx(task: Task, folder: Path, *, quantised: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model of the exported file, run by onnxruntime."""
    (folder / "n.onnx").write_bytes(onnx.graph(task, quantised=quantised).SerializeToString())
    compute = onnx.compute(folder / "n.onnx")
    return lambda inputs: torch.from_numpy(compute(inputs.numpy()))


WRITERS = {"pytorch": in_pytorch, "onnx": in_onnx}


@pytest.mark.parametrize("written", WRITERS)
@pytest.mark.parametrize("case", RULES)
def test_networks_of_rules_fire_the_same(case: str, written: str, tmp_path: Path) -> None:
    network, spikes = network_of(case), spikes_of(81)
    found = WRITERS[written](task_of(network, Signal(81, STEPS, spikes=True)), tmp_path)(spikes)
    ours = network(spikes).output.counts
    assert ours.any()
    assert torch.equal(found, ours)


@pytest.mark.parametrize("written", WRITERS)
@pytest.mark.parametrize("values", [1, 4])
@pytest.mark.parametrize("case", ["stbp over images", "strsbp"])
def test_currents_are_held(case: str, values: int, written: str, tmp_path: Path) -> None:
    network, currents = network_of(case), torch.rand(8, values, 81, generator=torch.Generator().manual_seed(1))
    task = task_of(network, Signal(81, STEPS, spikes=False), currents=True)
    ours = network(Currents(currents, STEPS)).output.counts
    assert ours.any()
    assert torch.equal(WRITERS[written](task, tmp_path)(currents), ours)


SPIKES, IMAGE = Signal(81, STEPS, spikes=True), Signal(81, 0, spikes=False, image=(1, 9, 9))
SERIES = Signal(6, 20, spikes=False)
ANNS: dict[str, tuple[str, dict[str, Any], Signal]] = {
    "mlp": ("mlp", {"network": "20-10"}, IMAGE),
    "mlp, scaled bins and components": (
        "mlp",
        {"network": "20", "bin": 7, "standardise": True, "components": 12, "activation": "tanh", "bias": False},
        SPIKES,
    ),
    "cnn": ("cnn", {"network": "4C3p1-P2-6C3s2-20"}, IMAGE),
    "cnn of spikes, maxima": ("cnn", {"network": "4C3-P3s2", "pool": "max"}, SPIKES._replace(image=(1, 9, 9))),
    "lra": ("lra", {"network": "20-10", "bias": True, "init_scale": 0.5}, SERIES),
    "lstm, last": ("lstm", {"layers": [8, 7], "dense": [6], "readout": "last", "standardise": True}, SERIES),
    "lstm, rows": ("lstm", {"layers": [8]}, IMAGE),
    "gru of spikes": ("gru", {"layers": [8, 7], "bin": 4}, SPIKES),
    "gru, no bias": ("gru", {"layers": [8], "bias": False}, SERIES),
    "phased_lstm": ("phased_lstm", {"layers": [8, 7], "bin": 4}, SPIKES),
    "phased_lstm, bare": ("phased_lstm", {"layers": [8], "peephole": False, "bias": False}, SERIES),
}


def ann_of(case: str) -> tuple[Task, torch.Tensor]:
    """A model, and inputs as the exported file takes them."""
    name, options, signal = ANNS[case]
    design = MODELS[name](**options)
    model = design.build(signal, 3, seed=1).requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    for key, buffer in model.named_buffers():  # what it would have found in a corpus
        buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.1 * key.endswith("factor"))
    task = task_of(model, signal, name=name, options=design)
    if signal.spikes:
        inputs = spikes_of(signal.channels)
        inputs[2, 17:] = 0
        return task, inputs
    inputs = torch.rand(8, max(signal.steps, 1), signal.channels, generator=generator)
    if signal.steps:
        inputs[2, 11:] = torch.nan
    return task, inputs


@pytest.mark.parametrize("written", WRITERS)
@pytest.mark.parametrize("case", ANNS)
def test_models_without_spikes_give_the_same_logits(case: str, written: str, tmp_path: Path) -> None:
    task, inputs = ann_of(case)
    ours = task.model(kernels.pack(inputs) if task.signal.spikes else inputs).scores
    torch.testing.assert_close(WRITERS[written](task, tmp_path)(inputs), ours, rtol=1e-4, atol=1e-5)


# ---- int8 ----------------------------------------------------------------------------------------------------------


def test_weights_are_whole_numbers_of_at_most_127_times_an_exact_scale() -> None:
    weight = torch.randn(50, 40, generator=torch.Generator().manual_seed(3)) * torch.logspace(-6, 6, 50)[:, None]
    weight[7] = 0
    q, scale = quantise.levels(weight)
    assert q.dtype == torch.int8
    assert (q.abs().amax(1) == torch.where(weight.any(1), 127, 0)).all()
    assert ((q * scale - weight).abs() <= 0.5 * scale * (1 + 1e-6)).all()
    assert torch.equal((q * scale).double(), q.double() * scale.double())  # nothing is rounded
    again, same = quantise.levels(q * scale)
    assert torch.equal(again, q)
    assert torch.equal(same[weight.any(1)], scale[weight.any(1)])
    assert quantise.stored(weight) is None


@pytest.mark.parametrize("written", WRITERS)
@pytest.mark.parametrize("case", ["stbp", "stbp over images", "stbp, trained constants", "strsbp", "slayer", "lee"])
def test_networks_in_int8_fire_as_the_quantised_network(case: str, written: str, tmp_path: Path) -> None:
    network, spikes = network_of(case), spikes_of(81)
    before = network(spikes).output.counts
    quantise.quantise(network)
    ours, task = network(spikes).output.counts, task_of(network, SPIKES)
    found = WRITERS[written](task, tmp_path, quantised=True)(spikes)
    assert torch.equal(found, ours)
    assert (before - ours).abs().mean() < 1


@pytest.mark.parametrize("written", WRITERS)
@pytest.mark.parametrize(
    "case", ["mlp, scaled bins and components", "cnn", "lstm, last", "gru of spikes", "phased_lstm", "lra"]
)
def test_models_without_spikes_in_int8_give_the_logits_of_the_quantised_model(
    case: str, written: str, tmp_path: Path
) -> None:
    task, inputs = ann_of(case)
    quantise.quantise(task.model)
    ours = task.model(kernels.pack(inputs) if task.signal.spikes else inputs).scores
    found = WRITERS[written](task, tmp_path, quantised=True)(inputs)
    torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-5)


def test_thresholds_are_folded_into_the_weights_first() -> None:
    network = network_of("stbp, trained constants")
    spikes = spikes_of(81)
    before = network(spikes).output.counts
    quantise._fold_thresholds(network)
    assert torch.equal(network(spikes).output.counts, before)
    assert all((layer.threshold == 1).all() for layer in network.layers)


def test_files_in_int8_are_a_quarter_as_long(tmp_path: Path) -> None:
    network = Network(StbpRule(v_th=[0.5]), inputs=200, topology="200-R200", outputs=3).requires_grad_(False)
    quantise.quantise(network)
    task, sizes = task_of(network, Signal(200, STEPS, spikes=True)), {}
    for quantised in (False, True):
        for written in WRITERS:
            WRITERS[written](task, tmp_path, quantised=quantised)
        sizes[quantised] = {file: (tmp_path / file).stat().st_size for file in ("n.pt", "n.onnx")}
    assert all(sizes[True][file] < 0.3 * size for file, size in sizes[False].items()), sizes
    state = torch.load(tmp_path / "n.pt", weights_only=True)
    assert state["hidden2_loop"].dtype == torch.int8
    assert state["hidden2_loop_scale"].shape == (200, 1)


@pytest.mark.parametrize("format_", ["nir", "onnx", "pytorch", "safetensors"])
def test_the_accuracy_before_and_after_is_said_and_written(
    format_: str, digits_run: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(digits_run("stbp"), tmp_path / "run")
    assert cli.main(["export", str(run), "--format", format_, "--quantise", "int8"]) == 0
    [path] = run.glob("network_int8.*.json")
    facts = json.loads(path.read_text())
    assert facts["file"] == path.name.removesuffix(".json")
    assert (facts["format"], facts["split"], facts["samples"]) == (format_, "test", 360)
    before, after = facts["accuracy"]["before"], facts["accuracy"]["after"]
    _, said = capsys.readouterr().out.splitlines()
    assert f"{100 * after:.2f} % of 360 test samples are right, {100 * before:.2f} % before" in said
    [recorded] = [entry[key] for entry in journal.read(run) if (key := "test/accuracy_best_validation") in entry]
    assert before == pytest.approx(recorded)
    assert abs(before - after) < 0.1
    if format_ == "safetensors":
        ours, state = load_file(run / "best.safetensors"), load_file(run / "network_int8.safetensors")
        assert state["layers.1.recurrent_weight"].dtype == torch.int8
        weight = state["layers.0.weight"] * state["layers.0.weight_scale"]
        assert (weight - ours["layers.0.weight"]).abs().max() <= state["layers.0.weight_scale"].max()


# ---- the header of safetensors ---------------------------------------------------------------------------------------


def header_of(network: Network, *, quantised: bool = False) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a reader has: the header's layers, its tensors by name, and these."""
    about = Description("digits", "recorded", "", "image", (9, 9), tuple("abc"), STEPS, network.layout())
    own = Trained(Path("run"), {"model": {}, "encoder": {}, "seed": 0}, about, network, "last")
    header = tensors.header(own, quantised=quantised)
    found = {key: json.loads(header[key]) for key in ("layers", "tensors")}
    return found, tensors.state(own, quantised=quantised)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("case", RULES)
def test_the_header_names_every_axis_of_every_tensor(case: str, quantised: bool) -> None:
    network = network_of(case)
    if quantised:
        quantise.quantise(network)
    found, state = header_of(network, quantised=quantised)
    assert found["tensors"].keys() == state.keys()
    for key, tensor in state.items():
        match = re.match(r"layer (\w+): \(([^)]*)\)", found["tensors"][key])
        assert match is not None
        assert match[1] == network.layer_names[int(key.split(".")[1])]
        axes = [axis for axis in match[2].split(", ") if axis.rstrip(",")]
        assert len(axes) == tensor.dim()
        assert all(size == 1 for axis, size in zip(axes, tensor.shape, strict=True) if axis.rstrip(",") == "1")


def test_thresholds_in_the_header_are_those_that_the_stored_ones_are_over() -> None:
    for case in ("lee", "lee over images", "stbp, trained constants"):
        network = network_of(case)
        found, state = header_of(network)
        for number, layer in enumerate(found["layers"].values()):
            assert found["tensors"][f"layers.{number}.threshold"].endswith(
                ": the trained threshold over v_th of the layer"
            )
            thresholds = layer["v_th"] * state[f"layers.{number}.threshold"]
            if case == "stbp, trained constants":
                own = network.layers[number]
                constant, *_ = network.rule.constants(own.kind, own.weights())
                assert torch.equal(thresholds, constant.values)
            else:
                part = parts(network)[number]
                assert torch.equal(thresholds.repeat_interleave(part.neurons // len(thresholds)), part.threshold)


def test_the_header_says_how_delays_become_whole_and_what_time_constants_began_with() -> None:
    whole = {"floor(d)": torch.floor, "round(d)": torch.round}
    for case in ("slayer", "stbp, another reset, delays"):
        network = network_of(case)
        found, state = header_of(network)
        for number, part in enumerate(parts(network)):
            key = f"layers.{number}.delay"
            match = re.search(r"spikes of an input with delay d come (\S+) steps later$", found["tensors"][key])
            assert match is not None
            assert torch.equal(whole[match[1]](state[key]), part.delay.float())
    found, _ = header_of(network_of("stbp, trained constants"))
    assert found["tensors"]["layers.0.tau_m"].endswith("of the membrane over its initial value, 1.25 steps")


def test_the_header_has_the_weights_of_pools_that_fire() -> None:
    assert header_of(network_of("slayer, alpha, over images"))[0]["layers"]["pool2"]["pool_weight"] == pytest.approx(
        1.1
    )
    assert header_of(network_of("strsbp over images"))[0]["layers"]["pool2"]["pool_weight"] == 1.0


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["stbp", "strsbp"])
def test_a_run_is_exported_and_checked_on_its_test_samples(
    rule: str, digits_run: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sums in another order than the compiled kernels': a membrane within 1e-6 of its threshold may fire in one."""
    for format_, suffix, reader in (("pytorch", ".py", "plain PyTorch"), ("onnx", ".onnx", "onnxruntime")):
        path = tmp_path / f"n{suffix}"
        command = ["export", str(digits_run(rule)), "--format", format_, "--out", str(path), "--check", "60"]
        assert cli.main(command) == 0
        written, checked = capsys.readouterr().out.splitlines()
        assert written == f"{path}: the best weights of {digits_run(rule).name} as {format_}"
        match = re.match(rf"in {reader}: 60 samples: ([\d.]+) % of the counts and ([\d.]+) % of the classes", checked)
        assert match is not None
        assert min(map(float, match.groups())) > 99
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.onnx", "n.pt", "n.py"]


def test_the_modules_file_runs_where_there_is_no_snnrun(digits_run: Runs, tmp_path: Path) -> None:
    path = tmp_path / "n.py"
    assert cli.main(["export", str(digits_run("stbp")), "--format", "pytorch", "--out", str(path)]) == 0
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    assert found == {"__future__", "pathlib", "torch"}
    network = pytorch.load(path)
    assert network(spikes_of(64)).shape == (8, 10)


def test_onnx_files_say_what_they_are_and_are_as_long_for_any_number_of_steps() -> None:
    sizes = []
    for steps in (10, 1000):
        model = onnx.graph(task_of(network_of("strsbp"), Signal(81, steps, spikes=True)))
        sizes.append(len(model.SerializeToString()))
    assert abs(sizes[1] - sizes[0]) < 10
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["steps"] == "1000"
    assert facts["chain"] == "81-9-R8-3"
    assert json.loads(facts["classes"])[0] == 'the "0" of them'
    assert model.opset_import[0].version == OPSET


@pytest.mark.parametrize("written", [pytorch.program, onnx.graph])
def test_what_cannot_be_written_is_refused_by_name(written: Callable[[Task], Any]) -> None:
    class Own(StbpRule):
        def layer(self, *_: Any) -> Any: ...

    network = Network(Own(v_th=[0.5]), inputs=81, topology="6", outputs=3)
    with pytest.raises(UsageError, match=r"The layers of Own run by code of its own.*safetensors"):
        written(task_of(network, SPIKES))
    liquid = MODELS["lsm"]().build(SPIKES, 3, seed=1)
    with pytest.raises(UsageError, match=r"model=lsm cannot be written in this format.*mlp, cnn"):
        written(task_of(liquid, SPIKES, name="lsm"))


def test_without_the_packages_of_onnx_the_remedy_is_named(
    digits_run: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(digits_run("stbp")), "--format", "onnx", "--out", str(tmp_path / "n.onnx")]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli.main([*command, "--check", "5"]) == 2
    assert "pip install 'snnrun[onnx]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.main(command) == 2
    assert "pip install 'snnrun[onnx]'" in capsys.readouterr().err


def test_a_file_beyond_what_onnx_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 1000)
    with pytest.raises(UsageError, match=r"a file has 2 GiB at most.*--format pytorch"):
        onnx.graph(task_of(network_of("stbp"), SPIKES))
