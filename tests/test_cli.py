from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from snnrun import cli, errors, signals, tracking
from snnrun.config import options
from snnrun.record import run_lock
from snnrun.run import experiment
from snnrun.train import engine
from snnrun.train.training import Step, Training

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections

HEAVY = ("torch", "mlflow", "hydra", "omegaconf", "numpy")
# A run of a second: what is learnt does not matter here.
TINY = ["data.limit=20", "encoder.steps=8", "model.network=6", "model.v_th=2", "train.epochs=2", "hardware=cpu"]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `snnrun train` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["train", *arguments])
        return code, *capsys.readouterr()

    return call


def only(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


@pytest.mark.parametrize("number", signals.ENDING)
def test_every_signal_that_announces_an_end_is_an_interrupt(number: signal.Signals, monkeypatch: Any) -> None:
    monkeypatch.setitem(cli.COMMANDS, "config", (lambda _: signal.raise_signal(number), ""))
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this process was started with the signal ignored, which snnrun respects")
    before = signal.getsignal(number)
    assert cli.main(["config"]) == 130
    assert signal.getsignal(number) == before


def test_a_signal_that_nohup_ignores_stays_ignored(monkeypatch: Any) -> None:
    monkeypatch.setitem(cli.COMMANDS, "config", (lambda _: signal.raise_signal(signal.SIGHUP) or 0, ""))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert cli.main(["config"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_of_a_notebook_trains(train: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        code, _, err = pool.submit(train, *TINY, "tracking=none").result()
    assert (code, err) == (0, "")
    assert (only(tmp_path / "outputs" / "runs") / "last.safetensors").exists()


# ---- the dispatcher -------------------------------------------------------------------------------------------------


@pytest.mark.launches
def test_importing_the_command_loads_nothing_heavy() -> None:
    code = f"import snnrun.cli, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


@pytest.mark.launches
def test_a_run_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    unused = ("torch._dynamo", "torch._inductor", "sympy", "sklearn", "pandas", "librosa", "scipy.stats", "mlflow")
    code = f"import snnrun.cli, sys; snnrun.cli.main({['train', '-q', *TINY, 'tracking=none']!r})"
    code += f"; print([name for name in {unused!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.launches
def test_python_dash_m_is_the_command() -> None:
    answer = subprocess.run([sys.executable, "-m", "snnrun", "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("snnrun 0.")
    answer = subprocess.run([sys.executable, "-m", "snnrun", "trian"], capture_output=True, text=True, check=False)
    assert answer.returncode == 2


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["-h"], 0), ([], 2)])
def test_help_names_every_command(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == code
    out = capsys.readouterr().out
    for name, (_, about) in cli.COMMANDS.items():
        assert f"  {name} " in out
        assert about in out


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("Yes", " Did you mean yes?"), ("nno", " Did you mean no?"), ("perhaps", ""), ("", "")],
)
def test_what_is_unknown_is_named_with_the_nearest_once(word: str, nearest: str) -> None:
    assert errors.unknown("answer", word, ["yes", "no"]) == f"{word}: no such answer. Allowed: yes, no.{nearest}"


def test_an_unknown_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == (
        f"snnrun: trian: no such command. Allowed: {', '.join(cli.COMMANDS)}. Did you mean train?\n"
    )


def test_config_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "list"]) == 0
    out = capsys.readouterr().out
    for group, entry in options.groups().items():
        assert f"{group}: {entry.about}" in out
        assert all(f"  {name} " in out for name in entry.options)
    assert cli.main(["config", "list", "model"]) == 0
    assert "encoder" not in capsys.readouterr().out
    assert cli.main(["config", "show", "model/strsbp"]) == 0
    assert "tau_m: 64.0  " in capsys.readouterr().out
    assert cli.main(["config", "show", "model/strsb"]) == 2
    assert "Did you mean model/strsbp?" in capsys.readouterr().err
    assert cli.main(["config", "list", "modle"]) == 2
    assert "Did you mean model?" in capsys.readouterr().err


@pytest.mark.slow
def test_train_help_shows_groups_and_examples(train: Any) -> None:
    code, out, _ = train("--help")
    assert code == 0
    for group, entry in options.groups().items():
        assert f"{group} " in out
        assert entry.about in out
    for option in ("strsbp", "hm2bp", "stbp", "digits", "poisson", "gpu", "mlflow", "mnist_stbp_paper"):
        assert option in out
    assert out.count("\n  snnrun train") == 5
    assert "--cfg job" in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.launches
def test_hydras_own_flags_still_work(train: Any, tmp_path: Path) -> None:
    code, out, _ = train("--cfg", "job", "model=stbp", "train.epochs=7")
    assert code == 0
    shown = yaml.safe_load(out)
    assert (shown["model"]["name"], shown["train"]["epochs"]) == ("stbp", 7)
    command = [sys.executable, "-m", "snnrun", "train", "--info", "searchpath"]  # leaves Hydra's loggers at DEBUG
    assert "pkg://snnrun.conf" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert list(tmp_path.iterdir()) == []


# ---- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.figures
def test_a_run_leaves_config_weights_figures_and_metrics(train: Any, tmp_path: Path) -> None:
    code, out, err = train(*TINY, "tracking=none")
    assert (code, err) == (0, "")
    folder = only(tmp_path / "outputs" / "runs")
    assert folder.name.endswith("_strsbp_digits")
    for name in ("last.safetensors", "best.safetensors", "curves.png", "confusion.png", "raster.png", "metrics.jsonl"):
        assert (folder / name).stat().st_size > 0
    values = yaml.safe_load((folder / "config.yaml").read_text())
    assert values["model"]["v_th"] == [2.0]
    assert values["data"]["limit"] == 20
    assert yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text()) == [*TINY, "tracking=none"]
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert "64-6-10" in out


def test_a_folder_of_the_users_choice(train: Any, tmp_path: Path) -> None:
    code, _, _ = train(*TINY, "tracking=none", "hydra.run.dir=here", "model=stbp", "model.v_th=0.5")
    assert code == 0
    assert (tmp_path / "here" / "last.safetensors").exists()
    assert not (tmp_path / "outputs").exists()


def test_a_folder_that_is_taken_stays_as_it_is(train: Any, tmp_path: Path) -> None:
    def content(folder: Path) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    arguments = [*TINY, "tracking=none", "hydra.run.dir=mine"]
    assert train(*arguments)[0] == 0
    mine, before = tmp_path / "mine", content(tmp_path / "mine")
    code, _, err = train(*arguments, "train.lr=0.5")
    assert (code, err.count("\n")) == (2, 1)
    assert "mine: this folder has a run already. Go on with it by snnrun resume" in err
    assert content(mine) == before
    living = tmp_path / "living"
    living.mkdir()
    with run_lock.alone(living):
        before = content(living)
        code, _, err = train(*arguments[:-1], "hydra.run.dir=living")
        assert (code, content(living)) == (2, before)
    assert "is working on this run" in err
    assert not run_lock.at_work(mine)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_reached(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled = engine.shuffled

    def interrupt(order: Any, how: str, seed: int, epoch: int) -> Any:
        if epoch == 1:
            raise KeyboardInterrupt
        return shuffled(order, how, seed, epoch)

    monkeypatch.setattr(engine, "shuffled", interrupt)
    code, out, err = train(*TINY)
    assert code == 130
    assert err == "snnrun: interrupted\n"
    assert "interrupted" in out
    folder = only(tmp_path / "outputs" / "runs")
    assert (folder / "curves.png").exists()
    assert (folder / "last.safetensors").exists()
    assert status_of(folder) == "KILLED"


@pytest.mark.launches
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_real_command_with_what_it_has(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "snnrun", "train", *TINY, "tracking=none", "train.epochs=100000"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "snnrun: interrupted\n"
    assert "interrupted" in out


def status_of(folder: Path) -> str:
    client = tracking.connect(tracking.store_uri(folder.parents[1]))
    return str(client.get_run((folder / "mlflow_run_id").read_text().strip()).info.status)


# ---- failures at run time -------------------------------------------------------------------------------------------


def break_evaluation(monkeypatch: pytest.MonkeyPatch, seeds: tuple[int, ...] = (0,)) -> None:
    """Make every run with one of these seeds fail in the middle."""
    run_loop = engine.train

    def fail(*arguments: Any, seed: int, **rest: Any) -> Any:
        if seed in seeds:
            raise ZeroDivisionError("first line\nsecond line")
        return run_loop(*arguments, seed=seed, **rest)

    monkeypatch.setattr(engine, "train", fail)


def test_an_unexpected_error_is_one_line_and_a_traceback_in_the_folder(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_evaluation(monkeypatch)
    code, _, err = train(*TINY)
    assert code == 1
    assert err == ("snnrun: unexpected ZeroDivisionError: first line (set HYDRA_FULL_ERROR=1 for the traceback)\n")
    folder = only(tmp_path / "outputs" / "runs")
    report = (folder / "error.txt").read_text()
    assert "Traceback" in report
    assert "second line" in report
    assert status_of(folder) == "FAILED"


def test_the_user_can_ask_for_the_traceback(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, _, err = train("sed=1")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("snnrun: sed: ")
    assert os.environ["HYDRA_FULL_ERROR"] == "1"
    break_evaluation(monkeypatch)
    code, _, err = train(*TINY, "tracking=none")
    assert code == 1
    assert "in fail" in err


def test_a_missing_corpus_and_a_folder_that_cannot_be_made(train: Any, tmp_path: Path) -> None:
    code, _, err = train("data=mnist", "data.root=nowhere", "data.download=false", "tracking=none")
    assert code == 1
    assert err.startswith("snnrun: data=mnist: files are missing from ")
    assert "Traceback" not in err
    (tmp_path / "file").write_text("")
    code, _, err = train("outputs=file", "tracking=none")
    assert code == 1
    assert err.count("\n") == 1
    assert "outputs=FOLDER" in err


def test_a_diverged_training_is_a_failure_that_keeps_its_files(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(_: Training, at: Any, *__: Any) -> Step:
        return Step(float("nan"), 1.0, counts(len(at))[-1], counts(len(at)))

    monkeypatch.setattr(Training, "gradients", diverge)
    code, _, err = train(*TINY)
    assert code == 1
    assert "Lower train.lr" in err
    folder = only(tmp_path / "outputs" / "runs")
    assert (folder / "last.safetensors").exists()
    assert status_of(folder) == "FAILED"


def counts(samples: int) -> Any:
    import torch

    return [torch.zeros(samples, 6), torch.zeros(samples, 10)]


# ---- sweeps ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_has_one_parent_and_a_failing_point_stops_no_other(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_evaluation(monkeypatch, seeds=(0,))
    code, out, err = train(*TINY, "-m", "seed=0,1", "train.epochs=1")
    assert code == 1
    assert "snnrun: point 0 (" in err
    assert err.splitlines()[-1].startswith("snnrun: 1 of the points failed: point 0 (")
    assert "Traceback" not in err
    sweep = only(tmp_path / "outputs" / "sweeps")
    assert (sweep / "0" / "error.txt").exists()
    assert (sweep / "1" / "last.safetensors").exists()
    client = tracking.connect(tracking.store_uri(tmp_path / "outputs"))
    [lab] = [entry for entry in client.search_experiments() if entry.name == "snnrun"]
    runs = client.search_runs([lab.experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.params["seed"]: run.info.status for run in children} == {"0": "FAILED", "1": "FINISHED"}
    assert parent.info.status == "FAILED"
    rows = [line.split() for line in out.splitlines()[-4:] if line.strip()]
    assert [row[1:3] for row in rows[-2:]] == [["FAILED", "0"], ["FINISHED", "1"]]
    assert "SNNRUN_PARENT_RUN" not in os.environ


@pytest.mark.slow
def test_each_point_is_checked_before_it_starts(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[int] = []

    def run(values: Any, *_: Any, **__: Any) -> engine.Result:
        reached.append(values["train"]["batch_size"])
        return engine.Result()

    monkeypatch.setattr(experiment, "run", run)
    code, _, err = train("-m", "train.batch_size=0,3", "tracking=none")
    assert (code, reached) == (1, [3])
    assert "train.batch_size: 0 is out of range" in err
    code, _, err = train("-m", "train.batch_size=4,5", "tracking=none")
    assert (code, err, reached) == (0, "", [3, 4, 5])


def test_ctrl_c_ends_the_whole_sweep(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def run(*_: Any, **__: Any) -> engine.Result:
        calls.append(1)
        return engine.Result(status="interrupted")

    monkeypatch.setattr(experiment, "run", run)
    code, _, err = train("-m", "seed=0,1,2", "tracking=none")
    assert (code, err, calls) == (130, "snnrun: interrupted\n", [1])


def test_a_store_that_cannot_be_opened_ends_the_sweep_at_once(train: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_text("this is no database" * 100)
    code, out, err = train("-m", "seed=0,1", f"tracking.uri=sqlite:///{tmp_path}/broken.db")
    assert code == 1
    assert err.startswith("snnrun: the MLflow store ")
    assert "point" not in out


# ---- the objective --------------------------------------------------------------------------------------------------


def test_a_sweeper_is_given_the_validation_accuracy_and_never_a_test_accuracy() -> None:
    first = {"train/accuracy": 0.5, "validation/accuracy": 0.6, "test/accuracy": 0.9}
    second = {"train/accuracy": 0.7, "validation/accuracy": 0.4, "test/accuracy": 0.8}
    assert experiment.objective(engine.Result(history=[first, second], best_epoch=1)) == 0.6
    without = [{key: value for key, value in entry.items() if key[0] != "v"} for entry in (first, second)]
    assert experiment.objective(engine.Result(history=without, confusion=np.eye(2, dtype=np.int64))) == 0.7
    assert experiment.objective(engine.Result()) is None


@pytest.mark.launches
def test_a_reader_that_has_enough_is_no_failure() -> None:
    command = f"{sys.executable} -m snnrun config list --json | head -n 1"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("train", True),
        ("train -q train.epochs=1", True),
        ("train -m seed=0,1", True),
        ("train tracking=none", False),
        ("train --help", False),
        ("train --cfg job", False),
        ("runs", False),
        ("", False),
    ],
)
def test_mlflow_is_foreseen_where_it_will_be_wanted(line: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    foreseen: list[bool] = []
    monkeypatch.setattr(tracking, "foresee", lambda: foreseen.append(True))
    cli._foresee(line.split())
    assert foreseen == [True] * wanted
