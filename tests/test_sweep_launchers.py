"""Sweeps whose points run in other processes, on a store that is not there yet; killed and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from snnrun import tracking
from snnrun.sweep import points
from snnrun.sweep.points import Point

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # SQLAlchemy's pool keeps its sqlite connections
]
TINY = [
    *("model=stbp", "tuned=none", "data.limit=20", "encoder.steps=5", "model.network=6", "train.epochs=1"),
    *("hardware=cpu", "hardware.kernels=reference"),
]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snnrun", "train", "-m", *arguments]


def train(folder: Path, *arguments: str) -> tuple[int, str, str]:
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    answer = subprocess.run(command(*arguments), cwd=folder, env=environment, capture_output=True, text=True)
    return answer.returncode, answer.stdout, answer.stderr


def the_sweep(folder: Path) -> Path:
    [sweep] = (folder / "outputs" / "sweeps").iterdir()
    return sweep


def attempts(folder: Path) -> list[Point]:
    return points.attempts(the_sweep(folder))


def recorded(folder: Path) -> tuple[Any, list[Any]]:
    """The parent run and the others."""
    with tracking.quiet():
        client = tracking.connect(tracking.store_uri(folder / "outputs"))
        experiment = client.get_experiment_by_name("snnrun")
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
    [parent] = [run for run in runs if "snnrun.sweep" in run.data.tags]
    return parent, [run for run in runs if run is not parent]


def need(module: str) -> None:
    pytest.importorskip(f"hydra_plugins.{module}", reason=f"the launcher {module} is not installed")


def test_eight_workers_on_a_fresh_store_lose_no_run_of_forty(tmp_path: Path) -> None:
    need("hydra_joblib_launcher")
    code, out, err = train(tmp_path, *TINY, *JOBLIB[:1], "hydra.launcher.n_jobs=8", "seed=range(40)")
    assert (code, err) == (0, "")
    assert sorted(int(point.swept[0].removeprefix("seed=")) for point in attempts(tmp_path)) == list(range(40))
    parent, children = recorded(tmp_path)
    assert parent.info.status == "FINISHED"
    assert sorted(int(run.data.params["seed"]) for run in children) == list(range(40))
    assert {run.info.status for run in children} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert all("validation/accuracy" in run.data.metrics for run in children)
    assert {run.data.params["hardware.threads"] for run in children} == {"1"}, "eight share the cores"
    assert out.count("finished") == 40
    assert out.count("FINISHED") == 40, "the table, in the process that the user sees"


def test_points_that_fail_in_workers_leave_the_others_alone(tmp_path: Path) -> None:
    need("hydra_joblib_launcher")
    diverging = ["model=strsbp", "model.v_th=2", "encoder.steps=20"]
    code, _, err = train(tmp_path, *TINY, *diverging, *JOBLIB, "train.lr=0.01,1e30", "seed=0,1", "train.epochs=3")
    assert code == 1
    assert Counter(point.status for point in attempts(tmp_path)) == {"FINISHED": 2, "FAILED": 2}
    assert err.count("Lower train.lr") == 2
    assert "2 of the points failed: point 2 (train.lr=1e+30 seed=0), point 3 (train.lr=1e+30 seed=1)" in err
    parent, children = recorded(tmp_path)
    assert parent.info.status == "FAILED"
    client = tracking.connect(tracking.store_uri(tmp_path / "outputs"))
    for run in children:
        failed = run.data.params["train.lr"] == "1e+30"
        assert run.info.status == ("FAILED" if failed else "FINISHED")
        assert ("snnrun.error" in run.data.tags) == failed
        assert ("error.txt" in {file.path for file in client.list_artifacts(run.info.run_id)}) == failed
    assert "Traceback" in (the_sweep(tmp_path) / "2" / "error.txt").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_killed_goes_on_with_what_is_missing(tmp_path: Path, number: signal.Signals) -> None:
    need("hydra_joblib_launcher")
    said = tmp_path / "said"
    with said.open("w") as file:
        process = subprocess.Popen(
            command(*TINY, *JOBLIB, "seed=range(8)", "train.epochs=3"),
            cwd=tmp_path,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    while "finished" not in said.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C does in a terminal: to the workers, too
    else:
        process.send_signal(number)
    process.wait(timeout=120)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert said.read_text().splitlines()[-1] == "snnrun: interrupted"
        assert recorded(tmp_path)[0].info.status == "KILLED"
        assert "RUNNING" not in {run.info.status for run in recorded(tmp_path)[1]}
    sweep = the_sweep(tmp_path)
    while any(points.busy(point.folder(sweep)) for point in attempts(tmp_path)):  # workers outlive who is killed
        time.sleep(0.1)
    done = {point.number for point in attempts(tmp_path) if point.status == "FINISHED"}
    assert 0 < len(done) < 8
    code, out, err = train(tmp_path, "sweep.resume=last")
    assert (code, err) == (0, "")
    assert "of them finished already" in out
    last = points.latest(attempts(tmp_path))
    assert [point.status for point in last] == ["FINISHED"] * 8
    assert done <= {point.number for point in last}, "these were not run again"
    parent, children = recorded(tmp_path)
    assert parent.info.status == "FINISHED"
    current = [run for run in children if "snnrun.superseded" not in run.data.tags]
    assert sorted(int(run.data.params["seed"]) for run in current if run.info.status == "FINISHED") == list(range(8))


def test_a_worker_that_dies_costs_its_own_point_alone(tmp_path: Path) -> None:
    need("hydra_joblib_launcher")
    process = subprocess.Popen(
        command(*TINY, *JOBLIB, "seed=range(5)", "train.epochs=40", "tracking=none"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    victim = None
    while victim is None and process.poll() is None:
        time.sleep(0.05)
        folders = list(tmp_path.glob("outputs/sweeps/*"))
        running = [p for folder in folders for p in points.attempts(folder) if p.status == "RUNNING" and p.history]
        victim = running[0].pid if running else None
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "its process died (out of memory?)" in err
    counted = Counter(point.status for point in attempts(tmp_path))
    # Joblib ends the worker beside it, too.
    assert 1 <= counted["FAILED"] <= 2
    assert counted["FINISHED"] == 5 - counted["FAILED"]
    assert "Traceback" not in out + err


def test_submitit_runs_a_sweep_on_this_machine(tmp_path: Path) -> None:
    need("hydra_submitit_launcher")
    code, out, err = train(tmp_path, *TINY, "hydra/launcher=submitit_local", "seed=0,1,2")
    assert (code, err) == (0, "")
    assert out.count("FINISHED") == 3
    parent, children = recorded(tmp_path)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in children} == {"FINISHED"}
    assert len(children) == 3


def test_ray_runs_a_sweep_on_this_machine(tmp_path: Path) -> None:
    need("hydra_ray_launcher")
    code, out, _ = train(tmp_path, *TINY, "hydra/launcher=ray", "seed=0,1,2")
    assert code == 0
    assert out.count("FINISHED") == 3
    assert {run.info.status for run in recorded(tmp_path)[1]} == {"FINISHED"}


def test_optuna_proposes_as_many_points_as_there_are_workers(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    need("hydra_joblib_launcher")
    code, out, err = train(tmp_path, *TINY, *JOBLIB, "search=optuna", "search.trials=4", "search.startup=2")
    assert (code, err) == (0, "")
    assert [point.workers for point in attempts(tmp_path)] == [2] * 4
    assert len({tuple(point.swept) for point in attempts(tmp_path)}) == 4
    assert len(recorded(tmp_path)[1]) == 4
    assert out.count("FINISHED") == 4
