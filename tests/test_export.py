"""`snnrun export`: what the files say, against simulators that are not ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_runs
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file

from snnrun import cli, kernels
from snnrun.commands import export
from snnrun.errors import SnnrunError, UsageError
from snnrun.network import Network
from snnrun.nir import check
from snnrun.nir.graph import delay as delay_of
from snnrun.nir.graph import graph_of
from snnrun.record import run_folder
from snnrun.record.description import Description
from snnrun.rules import Hm2Bp, Rule, StbpRule, StRsbp
from snnrun.run import trained

nir = pytest.importorskip("nir")
Runs = Callable[[str], Path]
ABOUT = Description("digits", "recorded", "", "image", (5, 4), tuple("abc"), 40, {})


def loaded(run: Path, **model: Any) -> trained.Trained:
    values = run_folder.RunFolder(run).values()
    values["model"] |= model
    return trained.load(run, values)


def spikes_of(inputs: int, samples: int = 16, steps: int = 40, rate: float = 0.3) -> torch.Tensor:
    return torch.rand(samples, steps, inputs, generator=torch.Generator().manual_seed(1)) < rate


def euler(graph: Any, spikes: NDArray[np.bool_], dt: float) -> NDArray[np.bool_]:
    """NIR's equations of a chain of layers at steps of dt, in float64, from its documentation alone."""
    following = {}
    for source, target in graph.edges:
        following.setdefault(source, []).append(target)
    train, node = spikes.astype(np.float64), following["input"][0]
    while node != "output":
        synapses, neurons = graph.nodes[node], graph.nodes[following[node][0]]
        [name] = following[node]
        loops = [target for target in following[name] if name in following.get(target, [])]
        loop = graph.nodes[loops[0]].weight if loops else np.zeros((len(neurons.v_threshold),) * 2)
        drive = train @ synapses.weight.T.astype(np.float64) + getattr(synapses, "bias", 0.0)
        train = _neurons(neurons, drive, loop.astype(np.float64), dt)
        [node] = [target for target in following[name] if target not in loops]
    return train.astype(bool)


def _neurons(node: Any, drive: NDArray[np.float64], loop: NDArray[np.float64], dt: float) -> NDArray[np.float64]:
    v = np.zeros((len(drive), drive.shape[2]))
    current, fired, out = v.copy(), v.copy(), np.zeros_like(drive)
    for t in range(drive.shape[1]):
        arriving = drive[:, t] + fired @ loop.T
        if isinstance(node, nir.CubaLIF):
            current += dt / node.tau_syn * (node.w_in * arriving - current)
            v += dt / node.tau_mem * (node.v_leak - v + node.r * current)
        else:
            v += dt / node.tau * (node.v_leak - v + node.r * arriving)
        fired = (v > node.v_threshold).astype(np.float64)
        v = np.where(fired > 0, node.v_reset, v)
        out[:, t] = fired
    return out


CASES = {
    "stbp": StbpRule(v_th=[0.5]),
    "stbp strict, no bias": StbpRule(v_th=[0.5, 0.4, 0.3], strict_threshold=True, bias=False, decay=0.7),
    "stbp without memory": StbpRule(v_th=[0.5], decay=0.0),
    "strsbp": StRsbp(v_th=[0.6], t_ref=0),
    "strsbp, other constants": StRsbp(v_th=[0.3, 0.2, 0.1], t_ref=0, tau_m=20.0, tau_s=3.0, lateral=0.3),
    "hm2bp without inhibition": Hm2Bp(v_th=[0.6], t_ref=0, lateral=0.0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("topology", ["9", "9-R8"])
@pytest.mark.parametrize("dt", [1e-3, 1e-4])
def test_nirs_own_equations_give_our_spikes(case: str, topology: str, dt: float, tmp_path: Path) -> None:
    """Their sums are in float64 and ours in float32: no membrane of these samples is that near to its threshold."""
    rule = CASES[case]
    rule = type(rule)(**{**vars(rule), "v_th": list(rule.v_th)[-2:] if topology == "9" else rule.v_th})
    network = Network(rule, inputs=20, topology=topology, outputs=3, seed=2)
    spikes = spikes_of(20)
    graph, warnings = graph_of(network, ABOUT, dt=dt)
    assert warnings == []
    nir.write(str(tmp_path / "n.nir"), graph)
    back = nir.read(str(tmp_path / "n.nir"))
    delay = delay_of(network)
    ours = kernels.unpack(network(kernels.pack(spikes)).output.spikes, 3).numpy().astype(bool)
    theirs = np.zeros_like(ours)
    theirs[:, delay:] = euler(back, spikes[:, : 40 - delay].numpy(), dt)
    assert ours.any()
    assert (ours == theirs).all()
    assert back.metadata["dt"] == dt
    assert back.metadata["output_delay"] == delay == (0 if isinstance(rule, StbpRule) else len(network.layers))
    assert json.loads(back.metadata["classes"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "rule",
    [StbpRule(v_th=[0.5]), StbpRule(v_th=[0.5], time_constants_by="neuron"), StRsbp(v_th=[0.6], t_ref=0)],
)
def test_trained_constants_are_in_the_graph(rule: StbpRule | StRsbp) -> None:
    rule = dataclasses.replace(rule, train_constants="all")
    network = Network(rule, inputs=20, topology="9-R8", outputs=3, seed=2)
    untrained = network(spikes_of(20)).output.counts
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for constant in network.apart():
            constant.mul_(torch.rand(constant.shape, generator=generator) * 0.4 + 0.7)
    graph, warnings = graph_of(network, ABOUT, dt=1e-3)
    assert warnings == []
    delay, spikes = delay_of(network), spikes_of(20)
    ours = kernels.unpack(network(spikes).output.spikes, 3).numpy().astype(bool)
    theirs = np.zeros_like(ours)
    theirs[:, delay:] = euler(graph, spikes[:, : 40 - delay].numpy(), 1e-3)
    assert (ours == theirs).all()
    assert (network(spikes).output.counts != untrained).any()


def test_what_reaches_a_high_threshold_fires_in_nir_too() -> None:
    """NIR's neurons fire above a float32, which has no number 1e-6 below 33."""
    graph, _ = graph_of(Network(StRsbp(v_th=[33.0], t_ref=0), inputs=20, topology="6", outputs=3), ABOUT, dt=1e-3)
    thresholds = [node.v_threshold for node in graph.nodes.values() if hasattr(node, "v_threshold")]
    assert len(thresholds) == 2
    assert all((np.nextafter(np.float32(33), np.float32(0)) == each).all() for each in thresholds)


def test_what_nir_cannot_express_is_refused_by_name_or_left_out_with_a_warning() -> None:
    hold = Network(StRsbp(v_th=[5.0]), inputs=20, topology="6", outputs=3)
    with pytest.raises(UsageError, match=r"model.t_ref=2: NIR's neurons have no refractory period.*--allow t_ref"):
        graph_of(hold, ABOUT, dt=1e-3)
    graph, [warning] = graph_of(hold, ABOUT, dt=1e-3, allow=["t_ref"])
    assert warning.startswith("model.t_ref=2 is left out")
    assert graph.metadata["left_out"] == warning
    soft = Network(StbpRule(v_th=[0.5], reset="exponential"), inputs=20, topology="6", outputs=3)
    with pytest.raises(UsageError, match=r"model.reset=exponential: .*--allow reset"):
        graph_of(soft, ABOUT, dt=1e-3, allow=["t_ref"])
    assert len(graph_of(soft, ABOUT, dt=1e-3, allow=["reset"])[1]) == 1
    with pytest.raises(UsageError, match=r"--allow bias: nothing of this name can be left out. Allowed: t_ref, reset"):
        graph_of(soft, ABOUT, dt=1e-3, allow=["bias"])


def test_nir_refuses_adaptation() -> None:
    adaptive = Network(StbpRule(v_th=[0.5], adaptation="threshold"), inputs=20, topology="6", outputs=3)
    with pytest.raises(UsageError, match=r"model.adaptation=threshold: NIR has no neuron .* Use --format safetensors"):
        graph_of(adaptive, ABOUT, dt=1e-3, allow=["reset"])


def test_a_kernels_time_constant_is_that_of_all_its_neurons() -> None:
    rule = StbpRule(v_th=[0.5], train_constants="time_constants", time_constants_by="neuron", bias=False)
    network = Network(rule, inputs=20, topology="2C3", outputs=3, seed=2, image=(1, 5, 4))
    with torch.no_grad():
        network.layers[0].tau_m.copy_(torch.tensor([1.0, 2.0]))
    neurons = graph_of(network, ABOUT, dt=1.0)[0].nodes["conv1.lif"]
    assert neurons.tau.shape == (2, 3, 2)
    assert np.allclose(neurons.tau[0], 1.25)
    assert np.allclose(neurons.tau[1], 2.5)


def test_a_layer_that_is_not_mapped_is_refused_by_its_name() -> None:
    network = Network(StbpRule(v_th=[0.5]), inputs=20, topology="6", outputs=3)
    network.layers[0] = torch.nn.Identity()
    with pytest.raises(UsageError, match="layer hidden1: it is not mapped to NIR"):
        graph_of(network, ABOUT, dt=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("topology", ["4C3p1-P2-6C3-20", "4C3-P2-R10", "P2-10", "5C2s2"])
@pytest.mark.parametrize("rule", [StbpRule(v_th=[0.3]), StRsbp(v_th=[2.0], t_ref=0, tau_s=5.0)], ids=["stbp", "strsbp"])
def test_convolutions_and_pools_fire_the_same_in_spikingjelly(rule: Rule, topology: str, tmp_path: Path) -> None:
    pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    network = Network(rule, inputs=81, topology=topology, outputs=3, seed=1, image=(1, 9, 9))
    nir.write(str(tmp_path / "n.nir"), graph_of(network, ABOUT, dt=1e-3)[0])
    bits = kernels.pack(spikes_of(81, steps=60))
    delay = delay_of(network)
    found = check.agreement(network, tmp_path / "n.nir", bits, torch.zeros(16), dt=1e-3, delay=delay)
    assert found.spikes > 10
    assert found.same_spikes > 0.99
    assert found.same_counts > 0.99


def test_agreement_is_counted() -> None:
    ours, theirs = torch.zeros(2, 4, 3, dtype=torch.uint8), torch.zeros(2, 4, 3, dtype=torch.uint8)
    ours[0, :3, 1] = 1
    theirs[0, 1:4, 1] = 1  # the same count, one step later
    ours[1, 0, 2] = 1
    theirs[1, 0, 2] = theirs[1, 1, 0] = theirs[1, 2, 0] = 1
    found = check.compare(ours, theirs, torch.tensor([1, 2]))
    assert (found.samples, found.spikes) == (2, 4)
    assert found.same_spikes == 3 / 7
    assert found.same_trains == pytest.approx(4 / 6)
    assert found.same_counts == pytest.approx(5 / 6)
    assert (found.same_class, found.accuracies) == (0.5, (1.0, 0.5))
    silent = check.compare(ours * 0, ours * 0, torch.tensor([1, 2]))
    assert "nothing was compared" in str(silent)


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("rule", "exact"), [("stbp", True), ("strsbp_no_hold", True), ("strsbp", False)])
def test_spikingjelly_gives_the_same_spikes_on_the_digits(
    rule: str, exact: bool, digits_run: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sums in another order: a membrane within 1e-6 of its threshold may fire in one and not in the other."""
    pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    own = loaded(digits_run(rule))
    path = tmp_path / "n.nir"
    assert len(export.write_nir(own, path, allow=["t_ref"])) == (0 if exact else 1)
    found = export.check(own, path, dt=export.STEP_S, samples=60)
    assert found.samples == 60
    assert found.spikes > 100
    if exact:
        assert found.same_spikes > 0.999
        assert found.same_counts > 0.999
        assert found.same_class == 1.0
    else:
        assert found.same_spikes < 0.9  # the check sees what was left out
    command = [
        "export",
        str(digits_run(rule)),
        "--format",
        "nir",
        "--out",
        str(path),
        "--allow",
        "t_ref",
        "--check",
        "5",
    ]
    assert cli.main(command) == 0
    assert "in SpikingJelly: 5 samples" in capsys.readouterr().out


def test_the_graph_lies_in_the_runs_folder_unless_told_otherwise(
    digits_run: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_runs.copied(digits_run("stbp"), tmp_path)
    assert cli.main(["export", str(run), "--format", "nir"]) == 0
    assert capsys.readouterr().out == f"{run / 'network.nir'}: the best weights of run as nir\n"
    graph = nir.read(str(run / "network.nir"))
    weight = load_file(run / "best.safetensors")["layers.0.weight"].numpy()
    assert (graph.nodes["hidden1.w"].weight == weight).all()
    assert not [path for path in run.iterdir() if path.name.startswith(".network")]


def test_safetensors_say_what_they_are(digits_run: Runs, tmp_path: Path) -> None:
    run, path = digits_run("strsbp"), tmp_path / "n.safetensors"
    assert cli.main(["export", str(run), "--format", "safetensors", "--out", str(path), "--weights", "last"]) == 0
    for key, tensor in load_file(run / "last.safetensors").items():
        assert torch.equal(load_file(path)[key], tensor)
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        keys = set(file.keys())
    assert (meta["schema"], meta["weights"]) == ("snnrun.network/1", "last")
    assert json.loads(meta["classes"]) == list("0123456789")
    assert json.loads(meta["layers"])["hidden2"] == {"inputs": 30, "neurons": 12, "recurrent": True, "v_th": 2.0}
    assert set(json.loads(meta["tensors"])) == keys
    assert json.loads(meta["config"])["model"]["tau_m"] == 32.0
    assert json.loads(meta["units"])["tau_m"] == "ms"
    assert json.loads(meta["input"]) == {"kind": "image", "shape": [8, 8], "steps": 60, "data": "digits"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "nir"], 2, "model.t_ref=2: NIR's neurons have no refractory period"),
        (["--format", "safetensors", "--allow", "t_ref"], 2, "--allow: it is for --format nir"),
        (["--format", "safetensors", "--check"], 2, "--check: it is for --format nir, onnx, pytorch"),
        (["--format", "pytorch", "--out", "net.pt"], 2, "--out net.pt: --format pytorch writes a file .py"),
        (["--format", "nir", "--dt", "0"], 2, "--dt 0: a step in seconds is needed"),
        (["--format", "nir", "--check", "0"], 2, "--check 0: a whole number from 1 up"),
        (["--format", "safetensors", "--out", "."], 2, "--out .: this is a folder"),
        (["--format", "safetensors", "--out", "/proc/none/x"], 1, "/proc/none/x: it cannot be written"),
    ],
)
def test_a_wrong_request_is_one_message(
    arguments: list[str], code: int, message: str, digits_run: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(digits_run("strsbp")), *arguments]) == code
    err = capsys.readouterr().err
    assert err.startswith(f"snnrun: {message}")
    assert err.count("\n") == 1


def test_the_runs_own_weights_are_never_overwritten(digits_run: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    run = digits_run("stbp")
    before = (run / "last.safetensors").read_bytes()
    assert cli.main(["export", str(run), "--format", "safetensors", "--out", str(run / "last.safetensors")]) == 2
    assert "this file is the run's own" in capsys.readouterr().err
    assert (run / "last.safetensors").read_bytes() == before


def test_without_the_packages_the_remedy_is_named(
    digits_run: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = loaded(digits_run("stbp"))
    monkeypatch.setitem(__import__("sys").modules, "spikingjelly.activation_based.nir_exchange", None)
    export.write_nir(own, tmp_path / "n.nir")
    with pytest.raises(SnnrunError, match=r"pip install 'snnrun\[peers\]'"):
        export.check(own, tmp_path / "n.nir", dt=1e-3, samples=2)
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(SnnrunError, match=r"pip install 'snnrun\[export\]'"):
        export.write_nir(own, tmp_path / "n.nir")


@pytest.mark.parametrize("format_", ["nir", "safetensors"])
def test_a_read_only_file_system_is_one_message(
    format_: str, digits_run: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = digits_run("stbp")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("unlink", "replace"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(nir, "write", refuse)
    monkeypatch.setattr("safetensors.torch.save_file", refuse)
    code = cli.main(["export", str(run), "--format", format_])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (1, 1)
    assert "it cannot be written ([Errno 30] Read-only file system). Write elsewhere by --out FILE." in error
