"""`snnrun resume` and `snnrun runs import` as a user meets them: killed, refused, without room, without a server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from made_runs import train, values
from mlflow import MlflowClient
from safetensors.torch import load_file

from snnrun import cli, tracking
from snnrun.errors import SnnrunError, UsageError
from snnrun.record import atomic, journal, names, run_folder, run_lock
from snnrun.run import build, checkpoint, experiment
from snnrun.run.resume import check
from snnrun.runs.collect import collect
from snnrun.sweep import points
from snnrun.tracking import mlflow_run

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


def only_run(outputs: Path) -> run_folder.RunFolder:
    (found,) = run_folder.folders(outputs)
    return found


def is_time(key: str) -> bool:
    return key.startswith("time/") or key == "samples_per_s"


def without_times(run_dir: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in entry.items() if not is_time(key) and key != "time"}
        for entry in journal.read(run_dir)
    ]


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


# ---- in one process -------------------------------------------------------------------------------------------------


def stopped(outputs: Path, after: int = 1, /, **sections: dict[str, Any]) -> Path:
    """The folder of a run that a kill has ended after so many epochs of two: nothing is closed, nothing is written."""

    class Killed(BaseException):
        pass

    def kill(metrics: Any) -> None:
        if metrics["epoch"] > after:
            raise Killed

    folder = outputs / "runs" / "r"
    folder.mkdir(parents=True)
    plain = values(outputs, "stbp", 0, **sections)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    with pytest.raises(Killed):
        experiment.run(plain, folder, command=["snnrun", "train"], on_epoch=kill)
    return folder


def resume(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["resume", *arguments])
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


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
    assert resume(capsys, str(folder), "train.epochs=1")[2].endswith("less than the 2 epochs that are trained already.")
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


def test_patience_that_would_have_ended_a_run_earlier_is_refused(tmp_path: Path) -> None:
    history = [{"validation/accuracy": value} for value in (0.5, 0.7, 0.7, 0.6)]
    before = values(tmp_path, "stbp", 0, train={"epochs": 9, "patience": None})
    for wanted, refused in ((1, True), (2, True), (3, False), (None, False)):
        now = before | {"train": before["train"] | {"patience": wanted}}
        with pytest.raises(UsageError, match="risen for 2 epochs already") if refused else contextlib.nullcontext():
            check(before, now, history)


def test_patience_without_validation_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=re.escape("there are no validation samples to go by. Set data.validation=0.1")
    ):
        train(tmp_path / "o", "w", "stbp", 0, train={"patience": 1}, data={"validation": 0.0})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=0.5", "this differs: train.lr: 0.02 -> 0.5"),
        ("encoder.steps=9", "this differs: encoder.steps: 12 -> 9"),
        ("train.epochs=9", "train.epochs: 2 -> 9: train.schedule=cosine takes the learning rate to 0"),
        ("train.lrr=1", "train.lrr: no such key"),
        ("train.epochs=x", "train.epochs: 'x' does not fit"),
        ("hardware.threads=0", "hardware.threads: 0 is out of range"),
        ("seed=3", "seed=3: no change that can be made here"),
        ("nonsense", "nonsense: no change that can be made here"),
    ],
)
def test_what_may_not_change_is_refused(
    override: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    plain = values(tmp_path, "stbp", 0, train={"schedule": "cosine"}, encoder={"frozen": True})
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    code, _, err = resume(capsys, str(folder), override)
    assert code == 2
    assert message in err


def test_an_edited_config_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path)
    plain = yaml.safe_load((folder / "config.yaml").read_text())
    plain["train"]["lr"] = 1.0
    (folder / "config.yaml").write_text(yaml.safe_dump(plain))
    code, _, err = resume(capsys, str(folder))
    assert code == 2
    assert "train.lr: 0.02 -> 1.0" in err


def test_other_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path)
    content = (folder / names.CHECKPOINT).read_bytes()
    digest = re.search(rb'\\"digest\\": \\"([0-9a-f]+)', content)
    assert digest is not None
    (folder / names.CHECKPOINT).write_bytes(content.replace(digest[1], b"f" * len(digest[1])))
    code, _, err = resume(capsys, str(folder))
    assert code == 1
    assert "no longer those that this run was trained on" in err


def test_a_second_process_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path)
    with run_lock.alone(folder):
        code, _, err = resume(capsys, str(folder))
        assert code == 2
        assert "is working on this run" in err
        assert cli.main(["runs", "import", str(folder)]) == 2


@pytest.mark.parametrize("damage", ["cut", "config"])
def test_a_damaged_run_is_one_message(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path)
    path = folder / {"cut": names.CHECKPOINT, "config": "config.yaml"}[damage]
    path.write_bytes(path.read_bytes()[:40] + b"{")
    code, _, err = resume(capsys, str(folder))
    assert code == 1
    assert err.startswith("snnrun: ")
    assert str(path) in err


def test_another_version_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(tmp_path)
    monkeypatch.setattr(tracking, "version", lambda: "9.9")
    code, _, err = resume(capsys, str(folder), "hardware.threads=2")
    assert code == 0
    assert "this is 9.9: its numbers may differ" in err


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


# ---- what is refused changes nothing --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a finished run of two epochs, which may be trained longer."""
    outputs = tmp_path_factory.mktemp("steady")
    folder = train(outputs, "r", "stbp", 0, train={"schedule": "constant"})
    (folder / "error.txt").write_text("what it failed of once")
    return outputs


@pytest.fixture
def outputs(steady: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(steady, tmp_path / "o"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_store(outputs: Path) -> Any:
    return MlflowClient(tracking.store_uri(outputs)).get_run(str(only_run(outputs).run_id))


def delete_in_mlflow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MlflowClient(tracking.store_uri(folder.parents[1])).delete_run(str(run_folder.RunFolder(folder).run_id))


def damage_checkpoints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (names.CHECKPOINT, names.CHECKPOINT_BEFORE):
        (folder / name).write_bytes(b"no checkpoint")


def change_corpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checkpoint.load(folder)
    assert found is not None
    (folder / names.CHECKPOINT).write_bytes(checkpoint.encode(found.snapshot, found.about | {"digest": "f" * 64}))


def lose_corpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(values: Any) -> Any:
        raise SnnrunError("digits: no files")

    monkeypatch.setattr(build, "load", missing)


def lose_plugin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "config.yaml").open("a") as file:
        file.write("plugin: plugin_that_is_gone\n")


def full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: bytes, before: Path | None = None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write", full)


LONGER = "train.epochs=3"


@pytest.mark.parametrize(
    ("spoil", "overrides", "message"),
    [
        (delete_in_mlflow, [LONGER], "was deleted in sqlite"),
        (None, [LONGER, "tracking.uri=http://127.0.0.1:9"], "the MLflow store http://127.0.0.1:9 cannot be used"),
        (None, [LONGER, "tracking.experiment=other", "tracking.uri=sqlite:///other.db"], "does not have this run"),
        (None, ["train.lr=0.5"], "train.lr: 0.02 -> 0.5"),
        (None, ["train.lrr=0.5"], "train.lrr: no such key"),
        (None, ["train.epochs=1"], "less than the 2 epochs that are trained already"),
        (None, [], "this run is finished"),
        (damage_checkpoints, [LONGER], "the checkpoint cannot be read"),
        (change_corpus, [LONGER], "no longer those that this run was trained on"),
        (lose_corpus, [LONGER, "data.root=nowhere"], "digits: no files"),
        (lose_plugin, [LONGER], "there is no module 'plugin_that_is_gone'"),
        (full_disk, [LONGER], "cannot be written"),
    ],
)
def test_a_refused_run_stays_as_it_is_to_the_byte(
    spoil: Any, overrides: list[str], message: str, outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(outputs.parent)
    folder = outputs / "runs" / "r"
    if spoil is not None:
        spoil(folder, monkeypatch)
    before = content(folder)
    code, _, err = resume(capsys, str(folder), *overrides)
    assert code in (1, 2)
    assert message in err
    assert content(folder) == before
    if spoil is not full_disk:
        assert in_store(outputs).info.status == "FINISHED"


def test_a_run_that_another_process_works_on_stays_as_it_is(outputs: Path, capsys: Any) -> None:
    folder = outputs / "runs" / "r"
    with run_lock.alone(folder):
        before = content(folder)
        code, _, err = resume(capsys, str(folder), LONGER)
        assert (code, content(folder)) == (2, before)
    assert "is working on this run" in err


def test_a_deleted_run_is_brought_back_by_an_import(outputs: Path, monkeypatch: Any, capsys: Any) -> None:
    folder = outputs / "runs" / "r"
    delete_in_mlflow(folder, monkeypatch)
    assert cli.main(["runs", "import", str(folder)]) == 0
    assert resume(capsys, str(folder), LONGER)[0] == 0
    assert in_store(outputs).info.status == "FINISHED"


def test_an_imported_run_began_and_ended_when_it_was_trained(tmp_path: Path, capsys: Any) -> None:
    outputs = tmp_path / "outputs"
    for name in ("older", "newer"):
        train(outputs, name, "stbp", 1, tracking={"kind": "none"})
    folder = outputs / "runs" / "older"
    before = [run["started"] for run in listed(outputs, capsys)]
    assert cli.main(["runs", "import", str(folder), "--outputs", str(outputs)]) == 0
    after = listed(outputs, capsys)
    assert [Path(run["folder"]).name for run in after] == ["newer", "older"]
    assert [run["started"] for run in after] == before
    run_id = run_folder.RunFolder(folder).run_id
    info = MlflowClient(tracking.store_uri(outputs)).get_run(str(run_id)).info
    assert (info.start_time, info.end_time) == tuple(
        int(1000 * moment) for moment in (journal.began(folder) or 0, journal.ended(folder) or 0)
    )


# ---- what a run was last trained with counts ------------------------------------------------------------------------


def listed(outputs: Path, capsys: Any, *more: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["runs", "list", "--json", "--outputs", str(outputs), *more]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("kind", ["mlflow", "none"])
def test_a_run_that_was_trained_longer_is_one_of_so_many_epochs(kind: str, outputs: Path, capsys: Any) -> None:
    train(outputs, "other", "stbp", 1, train={"schedule": "constant"})
    capsys.readouterr()
    code, out, _ = resume(capsys, "r", LONGER, f"tracking.kind={kind}", "--outputs", str(outputs), "-q")
    assert (code, out) == (0, "")
    [run] = listed(outputs, capsys, LONGER)
    assert (run["folder"], run["status"], run["metrics"]["epoch"]) == (str(outputs / "runs" / "r"), "finished", 3)
    assert run["changed"][LONGER.partition("=")[0]] == {"before": "2", "now": "3"}
    if kind == "mlflow":  # the store alone knows, too
        uri = tracking.store_uri(outputs)
        assert [entry["id"] for entry in listed(outputs, capsys, LONGER, "--uri", uri)] == [run["id"]]
    assert cli.main(["runs", "compare", "--outputs", str(outputs), "--json"]) == 0
    [section] = json.loads(capsys.readouterr().out)["sections"]
    assert sorted(group["settings"]["train.epochs"] for group in section["groups"]) == ["2", "3"]
    told = f"{run['id'][:8]} went on with train.epochs 3 in place of 2, which counts"
    assert told in section["notes"]
    assert cli.main(["runs", "list", "--outputs", str(outputs)]) == 0
    assert told in capsys.readouterr().out
    assert cli.main(["runs", "show", "r", "--outputs", str(outputs)]) == 0
    assert "train.epochs 2 -> 3" in capsys.readouterr().out


def test_a_killed_run_is_not_running_whatever_the_store_says(tmp_path: Path, capsys: Any) -> None:
    folder = stopped(tmp_path)
    MlflowClient(tracking.store_uri(tmp_path)).update_run(str(only_run(tmp_path).run_id), status="RUNNING")

    def status(*more: str) -> str:
        [run] = listed(tmp_path, capsys, *more)
        return str(run["status"])

    alone = ("--uri", tracking.store_uri(tmp_path))
    assert (status(), status(*alone)) == ("killed", "killed")
    (folder / names.RUNNING).write_text("process 1 on another-machine")
    assert status() == "unfinished"
    assert cli.main(["runs", "show", str(folder), "--outputs", str(tmp_path)]) == 0
    assert "whether process 1 on another-machine works on it still cannot be seen from here" in capsys.readouterr().out
    with run_lock.alone(folder):
        assert (status(), status(*alone)) == ("running", "running")
    shutil.rmtree(folder)  # as on another machine than the folder's
    assert status(*alone) == "running"
    assert cli.main(["runs", "show", "last", *alone]) == 0
    assert "only the machine with its folder can tell" in " ".join(capsys.readouterr().out.split())


def test_a_run_has_the_same_names_for_every_command(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """`train hydra.run.dir=mine` is a run like any other; so is a point of a sweep, and one by its name in MLflow."""
    monkeypatch.chdir(tmp_path)
    first = train(tmp_path / "outputs", "2026-01-01", "stbp", 5, tracking={"run_name": "the_first"})
    point = tmp_path / "outputs" / "sweeps" / "s" / "0"
    point.parent.mkdir(parents=True)
    train(tmp_path / "outputs", "p", "stbp", 6, tracking={"kind": "none"}).rename(point)
    mine = train(tmp_path / "outputs", "m", "stbp", 7).rename(tmp_path / "mine")
    capsys.readouterr()
    names = {
        first: ["the_first", "the_f", "2026", "./outputs/runs/2026-01-01"],
        point: ["s/0"],
        mine: ["./mine", "mine"],
    }
    for folder, several in names.items():
        for name in several:
            assert cli.main(["runs", "show", "--json", name]) == 0
            assert json.loads(capsys.readouterr().out)["folder"] == str(folder)
            assert run_folder.find(name, Path("outputs")).path.resolve() == folder
    assert (
        listed(tmp_path / "outputs", capsys, "seed=7", "--json")[0]["folder"] is None
    )  # its record names the old place


# ---- a server that goes away ----------------------------------------------------------------------------------------


class Server:
    """A tracking server that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
        log.close()
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.launches
def test_a_server_that_comes_back_gets_every_point(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow_run, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(mlflow_run, "FIRST_PAUSE", 0.0)

    def at(metrics: Any) -> None:
        if metrics["epoch"] == 2:
            server.stop()
        elif metrics["epoch"] == 4:
            server.start()

    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    plain = values(tmp_path, "stbp", 0, train={"epochs": 5}, tracking={"uri": server.uri})
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    experiment.run(plain, folder, command=["snnrun", "train"], on_epoch=at)
    assert "MLflow is tried again" in " ".join("".join(capsys.readouterr()).split())
    client = MlflowClient(server.uri)
    run = client.get_run(str(run_folder.RunFolder(folder).run_id))
    assert run.info.status == "FINISHED"
    for key in ("train/loss", "time/epoch_s"):
        assert [p.step for p in client.get_metric_history(run.info.run_id, key)] == [1, 2, 3, 4, 5]
    assert len(client.list_artifacts(run.info.run_id, "weights")) == 2


@pytest.mark.launches
def test_a_server_that_stays_away_loses_nothing(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def at(metrics: Any) -> None:
        server.stop()

    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    plain = values(tmp_path, "stbp", 0, tracking={"uri": server.uri})
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    result = experiment.run(plain, folder, command=["snnrun", "train"], on_epoch=at)
    assert result.status == "finished"
    assert f"snnrun runs import {folder}" in " ".join("".join(capsys.readouterr()).split())
    server.start()
    assert cli.main(["runs", "import", str(folder)]) == 0
    client = MlflowClient(server.uri)
    run = client.get_run(str(run_folder.RunFolder(folder).run_id))
    assert run.info.status == "FINISHED"
    assert [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2]
    assert "test/accuracy_last" in run.data.metrics


# ---- a disk without room --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_file_system_is_told_and_the_run_goes_on_after_space_is_made(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = values(small_disk, "stbp", 0, train={"epochs": 3}, tracking={"kind": "none"})
    plain["model"]["network"] = "64"
    whole = tmp_path / "whole"
    whole.mkdir()
    experiment.run(plain, whole, command=["test"])
    capsys.readouterr()
    ballast = small_disk / "ballast"

    def fill(metrics: Any) -> None:
        if metrics["epoch"] == 2:
            room = os.statvfs(small_disk)
            ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - 4096))

    folder = small_disk / "runs" / "r"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    with pytest.raises(Exception, match=rf"No space left on device.*snnrun resume {folder}"):
        experiment.run(plain, folder, command=["test"], on_epoch=fill)
    said = capsys.readouterr()
    assert "the next checkpoint is tried again" in " ".join((said.out + said.err).split())
    ballast.unlink()
    assert resume(capsys, str(folder))[0] == 0
    assert (folder / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
    assert without_times(folder) == without_times(whole)


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
