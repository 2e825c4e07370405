"""`snnrun resume` and `snnrun runs import` as a user meets them: killed, stopped, trained for longer."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from made_runs import train
from mlflow import MlflowClient
from resumed_runs import is_time, only_run, resume, stopped, without_times
from safetensors.torch import load_file

from snnrun import cli, tracking
from snnrun.errors import UsageError
from snnrun.record import journal, names, run_folder
from snnrun.run import checkpoint, experiment
from snnrun.runs.collect import collect
from snnrun.sweep import points

pytestmark = [
    pytest.mark.slow,  # whole trainings, stopped and resumed
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # SQLAlchemy's, of MLflow's tables
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # SQLAlchemy's pool keeps its sqlite connections
]

RUN = ["train", "data.limit=120", "model.network=R12", "encoder.steps=30", "train.epochs=4", "train.batch_size=16"]


RUN += ["train.lr=0.02", "hardware.kernels=reference", "hardware.threads=1", "checkpoint.every_minutes=0"]


# Runs a command in children, each of which kills itself at a call of a Python function once its training has begun: in
# the middle of an epoch, of a checkpoint, of writing to MLflow. The first trains, the others resume. Says how many were
# killed before one came to its end, and how many calls that one made. Children are forked: imports are paid for once.
DRIVER = """
import json, os, signal, sys
import matplotlib.figure, mlflow.store.tracking.sqlalchemy_store, sklearn.datasets
import snnrun.commands.train, snnrun.run.resume
from snnrun.run import experiment
from snnrun.cli import main

outputs, plan, arguments = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
training = experiment._train


def counted(*given):
    calls = 0

    def watch(frame, event, argument):
        nonlocal calls
        if event == "call":
            calls += 1
            if calls == left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    try:
        return training(*given)
    finally:
        sys.setprofile(None)
        with open(os.path.join(outputs, "calls"), "w") as file:
            file.write(str(calls))


experiment._train = counted
for kills, left in enumerate([*plan, 0]):
    child = os.fork()
    if not child:
        os._exit(main(["resume", "last", "--outputs", outputs] if kills else [*arguments, f"outputs={outputs}"]))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        break
with open(os.path.join(outputs, "calls")) as file:
    print(json.dumps({"code": code, "kills": kills, "calls": int(file.read())}))
"""


def driven(outputs: Path, plan: list[int]) -> dict[str, int]:
    outputs.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, str(outputs), json.dumps(plan), *RUN]
    ended = subprocess.run(command, cwd=outputs, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    assert said["code"] == 0, ended.stderr
    return said


def history_of(found: run_folder.RunFolder, uri: str) -> dict[str, list[tuple[int, float | None]]]:
    """Step and value of each point that MLflow has; of times the step alone."""
    client = MlflowClient(uri)
    run = client.get_run(str(found.run_id))
    return {
        key: [(p.step, None if is_time(key) else p.value) for p in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }


@pytest.mark.launches
@pytest.mark.parametrize("wanted", [2, pytest.param(20, marks=pytest.mark.long)])
def test_kills_change_nothing(wanted: int, tmp_path: Path) -> None:
    calls = driven(tmp_path / "whole", [])["calls"]
    generator, kills, runs = random.Random(0), 0, 0
    reference = only_run(tmp_path / "whole")
    while kills < wanted:
        outputs = tmp_path / f"killed{runs}"
        runs += 1
        kills += driven(outputs, [generator.randrange(1, calls // 8) for _ in range(wanted - kills)])["kills"]
        found = only_run(outputs)
        for name in ("last", "best"):
            file = f"{name}.safetensors"
            assert (found.path / file).read_bytes() == (reference.path / file).read_bytes()
        assert without_times(found.path) == without_times(reference.path)
        store = tracking.store_uri(outputs)
        client = MlflowClient(store)
        (run,) = client.search_runs([client.get_experiment_by_name("snnrun").experiment_id])
        assert run.info.status == "FINISHED"
        assert history_of(found, store) == history_of(reference, tracking.store_uri(tmp_path / "whole"))
        assert len(client.list_artifacts(run.info.run_id, "weights")) == 2


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return train(tmp_path / "whole", "w", "stbp", 0)


def test_a_run_goes_on_in_its_own_record(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path / "o")
    assert len(journal.read(folder)) == 3  # the second epoch was noted, then came the kill, before its checkpoint
    code, out, err = resume(capsys, str(folder))
    assert (code, err) == (0, "")
    assert "Going on in epoch 2" in out
    assert without_times(folder) == without_times(whole)
    assert (folder / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
    found = only_run(tmp_path / "o")
    assert history_of(found, tracking.store_uri(tmp_path / "o")) == history_of(
        only_run(tmp_path / "whole"), tracking.store_uri(tmp_path / "whole")
    )
    tags = MlflowClient(tracking.store_uri(tmp_path / "o")).get_run(str(found.run_id)).data.tags
    assert tags["snnrun.command"] == "snnrun train"
    assert tags["snnrun.resumed"].startswith("snnrun resume")


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped(tmp_path / "o", checkpoint={"every_minutes": 0})
    content = bytearray((folder / names.CHECKPOINT).read_bytes())
    content[-1] ^= 64
    (folder / names.CHECKPOINT).write_bytes(content)
    code, _, err = resume(capsys, str(folder))
    assert code == 0
    assert "its content is not what was written" in err
    assert err.endswith("The run goes on from the checkpoint before it.")
    assert without_times(folder) == without_times(whole)
    assert (folder / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
    assert history_of(only_run(tmp_path / "o"), tracking.store_uri(tmp_path / "o")) == history_of(
        only_run(tmp_path / "whole"), tracking.store_uri(tmp_path / "whole")
    )


def test_a_run_of_adaptive_neurons_goes_on_as_if_never_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"adaptation": "threshold", "train_constants": "all", "time_constants_by": "neuron", "decay": 0.5}
    sections: dict[str, dict[str, Any]] = {"model": own, "tracking": {"kind": "none"}, "hardware": {"kernels": "cpu"}}
    whole = train(tmp_path / "whole", "w", "stbp", 0, **sections)
    folder = stopped(tmp_path / "o", **sections)
    code, _, err = resume(capsys, str(folder))
    assert (code, err) == (0, "")
    assert without_times(folder) == without_times(whole)
    assert (folder / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
    weights = load_file(folder / "last.safetensors")
    assert weights["layers.0.tau_adaptation"].unique().numel() > 1
    assert weights["layers.0.tau_m"].unique().numel() > 1


def test_a_killed_run_has_plain_weights(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "outputs")
    kept = checkpoint.load(folder)
    assert kept is not None
    for name, part in (("last", "network/"), ("best", "best/")):
        weights = load_file(folder / f"{name}.safetensors")
        assert weights
        assert all(torch.equal(value, kept[0].tensors[part + key]) for key, value in weights.items())


def test_a_run_goes_on_in_its_mlflow_run_from_wherever_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    folder = stopped(Path("outputs")).resolve()
    run_id = (folder / "mlflow_run_id").read_text()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, said = resume(capsys, str(folder))
    assert code == 0, said
    assert (folder / "mlflow_run_id").read_text() == run_id
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_run_without_a_checkpoint_begins_again(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = stopped(tmp_path / "o")
    (folder / names.CHECKPOINT).unlink()
    (folder / names.RUN_ID).unlink()  # killed right after the run was made
    assert resume(capsys, "r", "--outputs", str(tmp_path / "o"))[0] == 0
    assert without_times(folder) == without_times(whole)
    client = MlflowClient(tracking.store_uri(tmp_path / "o"))
    (run,) = client.search_runs(["1"])
    assert [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2]


def test_a_kill_after_the_training_leaves_only_files_to_make(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(whole, tmp_path / "o" / "runs" / "r")
    entries = (folder / names.METRICS).read_text().splitlines()
    (folder / names.METRICS).write_text("\n".join(entries[:-1]) + '\n{"step": 2, "test/accu')
    (folder / "last.safetensors").unlink()
    code, out, _ = resume(capsys, str(folder), "tracking.kind=none")
    assert code == 0
    assert "Trained to its end" in out
    assert (folder / "last.safetensors").exists()
    assert without_times(folder) == without_times(whole)


def test_a_finished_run_says_so_and_may_be_trained_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steady = {"train": {"schedule": "constant"}}
    long = train(tmp_path / "long", "w", "stbp", 0, train={"schedule": "constant", "epochs": 3})
    folder = train(tmp_path / "o", "w", "stbp", 0, **steady)
    capsys.readouterr()
    code, _, err = resume(capsys, str(folder))
    assert code == 2
    assert "this run is finished, after 2 epochs" in err
    assert resume(capsys, str(folder), "train.epochs=1")[2].endswith(
        "2 epochs are trained already. Give more of them, or leave it as it was."
    )
    assert resume(capsys, str(folder), "train.epochs=3")[0] == 0
    assert (folder / "last.safetensors").read_bytes() == (long / "last.safetensors").read_bytes()
    assert without_times(folder) == without_times(long)
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["epochs"] == 3


def test_a_run_that_ended_early_is_finished_and_may_be_trained_longer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"schedule": "constant", "lr": 1e-9, "epochs": 4}  # validation stays as it is
    long = train(tmp_path / "long", "w", "stbp", 0, train=settings)
    folder = train(tmp_path / "o", "w", "stbp", 0, train=settings | {"patience": 1})
    assert "then ended early: validation has not risen for 1 epoch (train.patience)" in capsys.readouterr().out
    [found] = collect(tmp_path / "o", None, pytest.fail)
    assert (found.status, found.metrics["epoch"]) == ("finished", 2)
    code, _, err = resume(capsys, str(folder))
    assert code == 2
    assert "finished, after 2 epochs. Validation had not risen for long. To train it longer, give a larger" in err
    assert resume(capsys, str(folder), "train.patience=2")[0] == 0
    assert resume(capsys, str(folder), "train.patience=null")[0] == 0
    assert (folder / "last.safetensors").read_bytes() == (long / "last.safetensors").read_bytes()
    assert without_times(folder) == without_times(long)


def test_a_run_is_imported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(tmp_path, "w", "stbp", 0, tracking={"kind": "none"})
    for _ in range(2):
        assert cli.main(["runs", "import", str(folder), "--outputs", str(tmp_path)]) == 0
    client = MlflowClient(tracking.store_uri(tmp_path))
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2]
    assert run.data.params["train.lr"] == "0.02"
    assert run.data.tags["data.origin"] == "recorded"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"weights", "figures", "metrics.jsonl"}


def test_the_journal_forgets_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    lines = [{"step": 0, "time/data_s": 1.0}, {"step": 1, "epoch": 1.0}, {"step": 2, "epoch": 2.0}]
    lines += [{"step": 2, "test/accuracy_last": 0.5}]
    (tmp_path / names.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "ep')
    journal.cut_back(tmp_path, [{"epoch": 1.0}])
    assert journal.read(tmp_path) == lines[:2]
    journal.cut_back(tmp_path, [{"epoch": 1.0}, {"epoch": 2.0}])
    assert [{**entry, "time": 0} for entry in journal.read(tmp_path)] == [{**line, "time": 0} for line in lines[:3]]


def test_a_moved_folder_of_outputs_keeps_its_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    assert resume(capsys, "r", "--outputs", "new")[0] == 0
    found = only_run(tmp_path / "new")
    assert found.values()["outputs"] == str(tmp_path / "new")
    assert history_of(found, tracking.store_uri(tmp_path / "new"))["train/accuracy"][-1][0] == 2


def test_a_point_of_a_sweep_that_goes_on_is_finished_for_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped(tmp_path / "o")
    sweep = tmp_path / "o" / "sweeps" / "s"
    sweep.mkdir(parents=True)
    folder.rename(sweep / "0")
    points.Point(0, "i", ["seed=0"], epochs=2, status="KILLED", error="killed").save(sweep)
    assert resume(capsys, str(sweep / "0"))[0] == 0
    point = points.read_point(sweep / "0")
    assert point is not None
    assert (point.status, point.error, len(point.history)) == ("FINISHED", "", 2)
    assert point.objective == max(point.history)


def test_a_store_without_the_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path / "o")
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    code, _, err = resume(capsys, str(folder), f"tracking.uri={elsewhere}")
    assert code == 1
    assert "elsewhere.db does not have this run" in err
    assert cli.main(["runs", "import", str(folder), "--uri", elsewhere]) == 0
    assert resume(capsys, str(folder), f"tracking.uri={elsewhere}")[0] == 0


def test_a_new_run_does_not_go_into_the_folder_of_another(whole: Path) -> None:
    plain = yaml.safe_load((whole / "config.yaml").read_text())
    with pytest.raises(UsageError, match="has a run already"):
        experiment.run(plain, whole, command=["test"])
