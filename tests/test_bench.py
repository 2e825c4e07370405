from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnrun import cli, data, kernels
from snnrun.bench import measure, phases
from snnrun.commands import bench
from snnrun.compiled import parallel
from snnrun.config.compose import compose
from snnrun.display import bench_tables
from snnrun.errors import SnnrunError, UsageError
from snnrun.run import build
from snnrun.train.training import Step, Training

TINY = [
    *("data=digits", "model.network=20-R10", "model.v_th=1", "encoder.steps=20", "data.limit=40"),
    "hardware.kernels=reference",
]
SHORT = ["--warm-up", "64", "--batch", "8", "--repeats", "1", "--threads", "1"]
TIMES = {"ms_per_sample", "samples_per_s", "min_ms_per_sample", "cpu_ms_per_sample"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `snnrun bench fashion --json` prints for a tiny network."""
    command = [sys.executable, "-m", "snnrun", "bench", "fashion", *TINY, *SHORT, "--json"]
    folder = tmp_path_factory.mktemp("bench")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert "training on 64 samples" in done.stderr
    assert list(folder.iterdir()) == []
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `snnrun bench` in an empty folder, from the values in which it measures: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["bench", *arguments])
        return code, *capsys.readouterr()

    return call


def values(*overrides: str) -> dict[str, Any]:
    return bench.compose("fashion", [*TINY, "train.batch_size=8", *overrides])


def training_of(settings: dict[str, Any], samples: int = 16) -> Training:
    return measure._training(settings, measure._measured(settings, build.load(settings), samples), CPU)


# ---- what is printed ------------------------------------------------------------------------------------------------


@pytest.mark.launches
def test_the_json_says_what_was_measured(result: dict[str, Any]) -> None:
    assert result["workload"] == "fashion"
    assert result["command"].startswith("snnrun bench fashion data=digits model.network=20-R10 ")
    assert (result["model"], result["network"]) == ("strsbp", "64-20-R10-10")
    assert (result["data"], result["encoder"], result["steps"], result["batch"]) == ("digits", "poisson", 20, 8)
    assert (result["kernels"], result["device"], result["threads"]) == ("reference", "CPU", 1)
    assert result["warm_up"] == 64
    assert set(result["machine"]) == {
        *("cpu", "cores", "memory_gib", "python", "torch", "numba", "snnrun", "commit"),
    }
    assert result["machine"]["torch"] == torch.__version__


@pytest.mark.launches
def test_the_json_has_the_measurements_of_every_number_of_threads(result: dict[str, Any]) -> None:
    assert list(result["by_threads"]) == ["1"]
    for key, value in result["by_threads"]["1"].items():
        assert result[key] == value
    for task in ("training", "inference"):
        times = result[task]
        assert set(times) == TIMES
        assert 0 < times["min_ms_per_sample"] <= times["ms_per_sample"]
        assert times["ms_per_sample"] * times["samples_per_s"] == pytest.approx(1000)


@pytest.mark.launches
def test_the_phases_are_those_of_every_layer(result: dict[str, Any]) -> None:
    layers = ["hidden1", "hidden2", "output"]
    assert list(result["phases"]) == [
        *("encode", "count"),
        *(f"forward {layer}" for layer in layers),
        *(f"backward {layer}" for layer in reversed(layers)),
        *("solve", "rest", "optimiser"),
    ]
    assert all(value > 0 for value in result["phases"].values())


@pytest.mark.launches
def test_row_additions_are_spikes_times_neurons_forward_and_backward(result: dict[str, Any]) -> None:
    spikes, additions = result["spikes_per_sample"], result["row_additions"]
    assert list(spikes) == ["input", "hidden1", "hidden2", "output"]
    by_hand = 2 * (spikes["input"] * 20 + spikes["hidden1"] * 10 + spikes["hidden2"] * 10)
    assert additions["per_sample"] == pytest.approx(by_hand)
    assert additions["rate_gadd_s"] == pytest.approx(by_hand / result["training"]["ms_per_sample"] * 1e-6)
    assert additions["share"] == pytest.approx(additions["rate_gadd_s"] / additions["bound_gadd_s"])
    assert 0 < additions["share"] < 1


@pytest.mark.launches
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
def test_peak_memory_is_that_of_the_measuring_process(result: dict[str, Any]) -> None:
    assert 0 < result["peak_memory_mib"] < result["peak_process_mib"] < 4096
    assert result["peak_device_memory_mib"] is None


@pytest.mark.launches
def test_the_tables_show_it(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    bench_tables.show(result)
    out = capsys.readouterr().out
    for words in ("64-20-R10-10", "digits  (poisson, 20 steps, batches of 8)", "reference on CPU", "backward hidden2"):
        assert words in out
    assert "…" not in out
    assert "times as fast" not in out
    assert max(map(len, out.splitlines()[8:])) <= 80
    unknown = {"peak_memory_mib": None, "row_additions": {"rate_gadd_s": 0.5, "bound_gadd_s": None, "share": None}}
    bench_tables.show({**result, "by_threads": {"1": {**result["by_threads"]["1"], **unknown}}})
    assert " -" in capsys.readouterr().out
    bench_tables.show({**result, "threads": 2, "speed_up": 1.876})
    assert "2 threads train 1.88 times as fast as 1" in capsys.readouterr().out


# ---- the measuring itself -------------------------------------------------------------------------------------------


def test_what_is_measured_are_trained_weights_that_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "row_rate", lambda *_: 1e9)
    settings = values()
    training = training_of(settings, 40)
    initial = {name: value.clone() for name, value in training.network.state_dict().items()}
    measure._warm_up(training, 100)  # more than there are: a second epoch
    inputs = build.Inputs(training.dataset, training.encoder)
    trained = {name: value.clone() for name, value in training.network.state_dict().items()}
    assert not torch.equal(trained["layers.0.weight"], initial["layers.0.weight"])
    entry = measure.measure(measure.Job(settings, inputs, trained, threads=1, repeats=2), CPU, "reference", None)
    again = measure.measure(measure.Job(settings, inputs, trained, threads=1, repeats=1), CPU, "reference", None)
    assert entry["spikes_per_sample"] == again["spikes_per_sample"]
    assert entry["compiled_code_mib"] is None  # nobody said what the process had before
    assert entry["peak_memory_mib"] >= 0
    activity = training.network(batch_of(training)[0])
    assert entry["spikes_per_sample"]["hidden1"] == pytest.approx(activity.layers[0].counts.sum().item() / 40)
    assert entry["spikes_per_sample"]["input"] == pytest.approx(dense_of(training).sum().item() / 40)


def test_the_speed_up_is_that_of_pairs_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is slower in the second pair and a neighbour comes in the third: neither counts."""
    now, pace = [0.0], iter([1, 1, 5, 5, 1, 9])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def task() -> None:
        now[0] += next(pace) * {1: 1.0, 2: 0.5}[parallel.threads()]

    assert measure._speed_up(task, 2, 3) == 2.0
    assert parallel.threads() == 2


def batch_of(training: Training) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(phases.in_turn(training, measure.EPOCH))
    return torch.cat([spikes for _, spikes, _ in parts]), torch.cat([labels for _, _, labels in parts])


def dense_of(training: Training) -> torch.Tensor:
    return kernels.unpack(batch_of(training)[0], training.dataset.channels)


def test_the_reachable_rate_weighs_layers_by_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build.network(values(), data.load("digits"))
    rates = {(64, 20): 4e9, (20, 10): 2e9, (10, 10): 1e9}
    monkeypatch.setattr(measure, "row_rate", lambda inputs, neurons: rates[inputs, neurons])
    spikes = {"input": 100.0, "hidden1": 50.0, "hidden2": 25.0, "output": 9.0}
    additions = measure._row_additions(network, spikes, 0.001, 2, CPU)
    total = 2 * (100 * 20 + 50 * 10 + 25 * 10)
    fastest = 2 * (100 * 20 / 4e9 + 50 * 10 / 2e9 + 25 * 10 / 1e9) / 2  # seconds on two cores
    assert additions["per_sample"] == total
    assert additions["rate_gadd_s"] == pytest.approx(total / 1e-6 / 1e9)
    assert additions["bound_gadd_s"] == pytest.approx(total / fastest / 1e9)
    assert additions["share"] == pytest.approx(fastest / 1e-6)


def test_row_additions_of_a_convolution_are_its_weights_times_their_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spike that k x k positions see adds k^2 rows of weights; at the edges of 8 x 8 fewer do."""
    monkeypatch.setattr(measure, "row_rate", lambda rows, columns: {(9, 4): 1e9, (36, 10): 2e9}[rows, columns])
    settings = values("model.network=4C3-P2", "model.v_th=[1,1,1]")
    network = build.network(settings, data.load("digits"))
    spikes = {"input": 64.0, "conv1": 50.0, "pool2": 25.0, "output": 9.0}
    additions = measure._row_additions(network, spikes, 0.001, 1, CPU)
    synapses = 6 * 6 * 9 * 4  # one spike of each pixel crosses each once
    assert additions["per_sample"] == 2 * (synapses + 25 * 10)
    assert additions["bound_gadd_s"] == pytest.approx((synapses + 250) / (synapses / 1e9 + 250 / 2e9) / 1e9)


def test_no_spikes_and_no_cpu_have_no_reachable_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "row_rate", None)
    network = build.network(values(), data.load("digits"))
    for count, device in ((0.0, CPU), (1.0, torch.device("cuda"))):
        spikes = dict.fromkeys(["input", "hidden1", "hidden2", "output"], count)
        additions = measure._row_additions(network, spikes, 1.0, 1, device)
        assert additions["bound_gadd_s"] is additions["share"] is None


class Clock:
    """A backend in which every call takes a second, and the calls of two steps of a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(phases.time, "perf_counter", lambda: self.now)

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> str:
            self.now += 1
            return name

        return call


def test_calls_are_booked_on_the_layer_they_belong_to(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = phases._TimedBackend(Clock(monkeypatch), ["hidden1", "output"], CPU)
    for _ in range(2):
        timed.count_spikes()
        assert timed.lif_forward(1) == "lif_forward"
        timed.lif_forward(2)
        timed.recurrent_spsp()  # of the lateral inhibition
        timed.spsp_backward()
        timed.recurrent_spsp()
        timed.spsp_activation()
        timed.coupling()
        timed.coupling_solve()
        timed.spsp_backward()
        timed.recurrent_gradient()
    assert timed.seconds == {
        "count": 2.0,
        "forward hidden1": 2.0,
        "forward output": 2.0,
        "backward output": 4.0,
        "backward hidden1": 8.0,
        "solve": 4.0,
    }


def test_calls_of_a_layer_that_gets_currents_are_booked_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = phases._TimedBackend(Clock(monkeypatch), ["hidden1", "output"], CPU)
    for _ in range(2):
        timed.current_drive()
        timed.lif_driven()
        timed.lif_forward()
        timed.spsp_backward()
        timed.recurrent_spsp()
        timed.readout_sums()
        timed.recurrent_gradient()
    assert timed.seconds == {
        **{"count": 0.0, "forward hidden1": 4.0, "forward output": 2.0, "backward output": 2.0},
        **{"backward hidden1": 6.0, "solve": 0.0},
    }


def test_calls_of_adaptive_layers_are_booked_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = phases._TimedBackend(Clock(monkeypatch), ["hidden1", "hidden2", "output"], CPU)
    for _ in range(2):
        timed.current_drive()
        timed.alif_scan()
        timed.stbp_forward()
        timed.alif_scan()
        timed.stbp_near()
        timed.stbp_forward()
        timed.stbp_backward()
        timed.alif_scan_backward()
        timed.stbp_backward()  # of the recurrent weights
        timed.stbp_backward()
        timed.alif_scan_backward()
    assert timed.seconds == {
        **{"count": 0.0, "forward hidden1": 4.0, "forward hidden2": 6.0, "forward output": 2.0, "solve": 0.0},
        **{"backward output": 2.0, "backward hidden2": 6.0, "backward hidden1": 2.0},
    }


@pytest.mark.parametrize("network", ["20-R10", "2C3-P2-R5"])
@pytest.mark.parametrize("model", ["strsbp", "hm2bp", "stbp"])
def test_every_rule_has_phases_and_the_backend_comes_back(model: str, network: str) -> None:
    training = training_of(values(f"model={model}", f"model.network={network}", "model.v_th=1"))
    backend = kernels.ops.backend
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    times = phases.phases(training, 1, 1)
    assert kernels.ops.backend is backend
    assert all(value > 0 for phase, value in times.items() if phase != "solve")
    assert (times["solve"] > 0) == (model != "stbp")
    for name, value in training.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_training_that_diverges_is_told() -> None:
    training = training_of(values())
    with torch.no_grad():
        training.network.get_parameter("layers.0.weight").fill_(float("nan"))
    training.gradients = lambda *_: Step(float("nan"), 1.0, torch.zeros(0, 10))  # type: ignore[method-assign]
    with pytest.raises(SnnrunError, match=rf"diverged\. Lower train\.lr \(now {training.options.lr:g}\)"):
        measure._warm_up(training, 8)


def test_a_network_without_a_gradient_is_not_measured() -> None:
    training = training_of(values())
    measure._try(training)
    training.gradients = lambda *_: Step(1.0, float("inf"), torch.zeros(0, 10))  # type: ignore[method-assign]
    with pytest.raises(SnnrunError, match="gradient of the first batch is not finite"):
        measure._try(training)


def test_samples_are_repeated_where_a_corpus_has_too_few() -> None:
    settings = values()
    inputs = build.load(settings)
    train = measure._measured(settings, inputs, 90).dataset.train
    assert len(train) == 90
    assert set(train.index) == set(inputs.dataset.train.index)
    assert np.array_equal(train.index[40:80], train.index[:40])


def test_a_batch_for_other_libraries_is_what_is_measured() -> None:
    spikes, labels = bench.batch("fashion", 10, TINY)
    assert (spikes.dtype, spikes.shape) == (np.uint8, (10, 20, 64))
    assert (labels.dtype, labels.shape) == (np.int64, (10,))
    training = training_of(values())
    assert np.array_equal(spikes, dense_of(training)[:10].numpy())
    assert labels.tolist() == training.dataset.train.labels[:10].tolist()
    spikes, _ = bench.batch("alpha", 2, ["data.samples=1", "data.classes=2"])
    assert spikes.shape == (2, 700, 78)
    assert spikes.max() == 1


# ---- workloads and messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", bench.WORKLOADS)
def test_every_workload_composes(workload: str) -> None:
    settings = bench.compose(workload, [])
    made = bench.WORKLOADS[workload]
    assert settings["model"]["network"] in made.about
    assert settings["tuned"]["about"] is None, "measurements would change with a tuning"
    keys = {"data", "model", "model.network", "model.v_th", "model.tau_m", "encoder.steps"}
    assert set(map(key_of, [*made.words, *made.settings])) <= keys | {"train.batch_size", "train.lr"}


def test_another_model_takes_the_settings_of_its_pair() -> None:
    stbp = bench.compose("fashion", ["model=stbp"])
    assert stbp["model"]["network"] == "400-R400"
    assert stbp["model"]["v_th"] == compose(["model=stbp", "data=fashion_mnist"])["model"]["v_th"]


def key_of(override: str) -> str:
    return override.partition("=")[0]


def test_workloads_have_the_constants_of_the_published_runs() -> None:
    fashion, alpha, alpha3 = (bench.compose(name, []) for name in ("fashion", "alpha", "alpha3"))
    assert (fashion["model"]["v_th"], fashion["model"]["tau_m"]) == ([20.0, 20.0, 15.0], 64.0)
    assert (alpha["model"]["v_th"], alpha["model"]["tau_m"]) == ([8.0], 128.0)
    assert (alpha3["model"]["v_th"], alpha3["model"]["tau_m"]) == ([10.0, 8.0, 8.0, 8.0], 128.0)
    assert bench.compose("alpha", ["model.network=R5", "model=hm2bp"])["model"]["network"] == "R5"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            "fashoin",
            ["fashoin: no such workload. Allowed: fashion, alpha, alpha3, mnist, cnn, stbp_cnn. Did you mean fashion?"],
        ),
        ("mnist model.tau_mm=3", ["model.tau_mm: model=stbp has no such key", "Did you mean"]),
        ("model=strsbq", ["model: there is no 'strsbq'", "Did you mean strsbp?"]),
        ("train.batch_size=0", ["train.batch_size: 0 is out of range"]),
        ("tuned=strsbp_mnits", ["tuned: there is no 'strsbp_mnits'", "Did you mean strsbp_mnist?"]),
        ("alpha train.lr=1,2", ["train.lr: several values"]),
        ("alpha fashion", ["fashion: no value is given. Write fashion=VALUE."]),
        ("--threads 1000000", ["--threads: 1000000 is more than the"]),
    ],
)
def test_a_wrong_request_is_one_message(request_: str, words: list[str], run: Any) -> None:
    code, out, err = run(*request_.split())
    assert (code, out) == (2, "")
    assert err.startswith("snnrun: ")
    assert err.count("\n") == 1
    for part in words:
        assert part in err


@pytest.mark.parametrize(("flag", "text", "least"), [
    ("--batch", "0", 1), ("--repeats", "x", 1), ("--warm-up", "-1", 0), ("--threads", "1.5", 1),
])  # fmt: skip
def test_a_wrong_number_is_named(flag: str, text: str, least: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", f"{flag}={text}"]) == 2
    assert capsys.readouterr().err == f"snnrun: {flag} {text}: a whole number from {least} up is needed.\n"


def test_a_wrong_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "--jsn"])
    assert end.value.code == 2
    assert "--jsn" in capsys.readouterr().err


def test_help_lists_the_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for name, (about, *_) in bench.WORKLOADS.items():
        assert f"  {name} " in out
        assert about in out


def test_a_missing_corpus_has_the_usual_message(run: Any) -> None:
    code, out, err = run("data.root=nowhere", "data.download=false")
    assert (code, out) == (1, "")
    assert err.startswith("snnrun: data=fashion_mnist: files are missing from ")
    assert "SNNRUN_DATA" in err


def test_the_threads_are_one_and_all_unless_told() -> None:
    assert bench._threads(None, 4) == [1, 4]
    assert bench._threads(None, 1) == [1]
    assert bench._threads(3, 4) == [3]
    with pytest.raises(UsageError, match="more than the 4 cores"):
        bench._threads(5, 4)


@pytest.mark.launches
def test_a_measuring_process_that_dies_is_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    code, out, err = run(*TINY, *SHORT)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "snnrun: The process that measures 1 threads ended with 1: without a word"


@pytest.mark.launches
def test_ctrl_c_ends_it_with_one_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "snnrun", "bench", *TINY, *SHORT, "--warm-up", "1000000", "--json"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    assert "training on" in process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "snnrun: interrupted\n")
