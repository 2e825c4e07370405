"""`snnrun bench`: what it prints, its workloads and its messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from snnrun import cli
from snnrun.commands import bench
from snnrun.config.compose import compose
from snnrun.display import bench_tables
from snnrun.errors import UsageError

TINY = [
    *("data=digits", "model.network=20-R10", "model.v_th=1", "encoder.steps=20", "data.limit=40"),
    "hardware.kernels=reference",
]


SHORT = ["--warm-up", "64", "--batch", "8", "--repeats", "1", "--threads", "1"]


TIMES = {"ms_per_sample", "samples_per_s", "min_ms_per_sample", "cpu_ms_per_sample"}


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
