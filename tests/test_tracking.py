from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrun import tracking
from snnrun.errors import SnnrunError, UsageError
from snnrun.record import journal
from snnrun.tracking import mlflow_run, server, sweep_run

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections


@dataclass
class Store:
    outputs: Path
    client: Any

    def open(self, run_dir: Path, **options: Any) -> tracking.Tracker:
        return tracking.open_tracker("mlflow", run_dir=run_dir, outputs=self.outputs, **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    outputs = tmp_path_factory.mktemp("outputs")
    first = tracking.open_tracker("mlflow", run_dir=outputs / "first", outputs=outputs)
    first.finish("FINISHED")
    return Store(outputs, tracking.connect(tracking.store_uri(outputs)))


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_flatten_writes_values_as_on_the_command_line() -> None:
    values = {"seed": 0, "model": {"v_th": [20.0, 5.0], "revive": True, "slope": None}, "train": {}, "a=b": "x" * 7000}
    assert tracking.flatten(values) == {
        "seed": "0",
        "model.v_th": "[20.0, 5.0]",
        "model.revive": "true",
        "model.slope": "null",
        "train": "{}",
        "a_b": "x" * 6000,
    }


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=3)
trees = st.recursive(leaves, lambda inner: st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=3))


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(st.text(min_size=1, max_size=4), trees, max_size=4))
def test_flatten_gives_what_mlflow_takes_and_is_idempotent(values: dict[str, object]) -> None:
    flat = tracking.flatten(values)
    assert all(re.fullmatch(r"[\w./: -]+", key) and len(value) <= 6000 for key, value in flat.items())
    assert tracking.flatten(flat) == flat


def test_a_run_is_recorded_whole(store: Store, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    tracker = store.open(run_dir, experiment="snnrun", run_name="digits-1", parent_run_id="f" * 32)
    tracker.params({f"key{i}": i for i in range(130)} | {"model": {"tau_m": 64.0}})
    tracker.tags(tracking.provenance(["snnrun", "train", "data=digits"]))
    tracker.dataset("digits", "d" * 64, {"train": 1293, "validation": 144, "test": 360})
    for epoch in (1, 2, 3):
        tracker.metrics({"train/loss": 1.0 / epoch, "rate/hidden1": 2.5}, epoch)
    (run_dir / "weights.txt").write_text("weights")
    tracker.artifact(run_dir / "weights.txt", "weights")
    tracker.finish("FINISHED")
    tracker.finish("FAILED")  # nothing: the first word holds

    assert tracker.run_id is not None
    run = store.client.get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name, tracker.run_name) == ("FINISHED", "digits-1", "digits-1")
    assert len(run.data.params) == 131
    assert run.data.params["model.tau_m"] == "64.0"
    assert run.data.tags["snnrun.command"] == "snnrun train data=digits"
    assert run.data.tags["snnrun.run_dir"] == str(run_dir)
    assert run.data.tags["mlflow.parentRunId"] == "f" * 32
    assert run.data.tags["data.digest"] == "d" * 64
    assert run.data.tags["data.validation_samples"] == "144"
    assert [(m.step, m.value) for m in store.client.get_metric_history(tracker.run_id, "train/loss")] == [
        (epoch, 1.0 / epoch) for epoch in (1, 2, 3)
    ]
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "d" * 36)
    assert [file.path for file in store.client.list_artifacts(tracker.run_id, "weights")] == ["weights/weights.txt"]
    assert run.info.artifact_uri.startswith((store.outputs / "mlartifacts").as_uri())
    assert (run_dir / "mlflow_run_id").read_text().strip() == tracker.run_id
    assert [line["step"] for line in lines(run_dir)] == [1, 2, 3]
    assert lines(run_dir)[1]["train/loss"] == 0.5


def test_metrics_wait_for_one_another_but_not_in_the_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = store.open(tmp_path)
    sizes: list[int] = []
    send = tracker._store._client.log_batch  # type: ignore[attr-defined]
    monkeypatch.setattr(
        tracker._store._client,  # type: ignore[attr-defined]
        "log_batch",
        lambda run_id, metrics: (sizes.append(len(metrics)), send(run_id, metrics=metrics)),
    )
    for epoch in range(1, 1202):
        tracker.metrics({"train/loss": 0.5, "lr": 0.1}, epoch)
    assert len(lines(tmp_path)) == 1201
    assert sizes[0] == 2
    tracker.finish("FINISHED")
    assert sum(sizes) == 2402
    assert max(sizes) == 1000


def test_a_store_that_fails_midway_costs_one_warning(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_run, "FLUSH_SECONDS", 0.0)
    warnings: list[str] = []
    tracker = store.open(tmp_path, warn=warnings.append)
    calls, away = [], True

    def broken(real: Callable[..., object], *args: object, **options: object) -> None:
        if not away:
            real(*args, **options)
            return
        calls.append(args)
        raise OSError("disk full\nand more")

    for method in ("log_batch", "log_artifact", "log_inputs"):
        real = getattr(tracker._store._client, method)  # type: ignore[attr-defined]
        monkeypatch.setattr(tracker._store._client, method, partial(broken, real))  # type: ignore[attr-defined]
    tracker.params({"seed": 1})
    tracker.dataset("digits", "d", {})
    for epoch in range(1, 6):
        tracker.metrics({"train/loss": float(epoch)}, epoch)
    tracker.artifact(tmp_path / "metrics.jsonl")
    tracker.artifact(tmp_path / "gone.png")
    assert len(calls) == 1  # a dead server is not asked at every epoch
    (warning,) = warnings
    assert "disk full)" in warning
    assert str(tmp_path) in warning
    assert [line["train/loss"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]

    away = False
    tracker.finish("FINISHED")  # the store answers again: what was kept is sent, but for a file that is no more
    assert len(store.client.get_metric_history(tracker.run_id, "train/loss")) == 5
    assert store.client.get_run(tracker.run_id).info.status == "FINISHED"
    assert len(warnings) == 2
    assert "gone.png" in warnings[1]
    assert store.client.get_run(tracker.run_id).data.params == {"seed": "1"}


def test_an_artifact_store_out_of_reach_keeps_no_points_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a server was told to let its clients write to a folder that is its own."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("/mlruns")

    warnings: list[str] = []
    tracker = store.open(tmp_path, warn=warnings.append)
    monkeypatch.setattr(tracker._store._client, "log_artifact", refused)  # type: ignore[attr-defined]
    tracker.artifact(tmp_path / "metrics.jsonl")
    tracker.tags({"after": "it"})
    for epoch in range(1, 4):
        tracker.metrics({"train/loss": float(epoch)}, epoch)
    tracker.finish("FINISHED")
    run = store.client.get_run(tracker.run_id)
    assert len(store.client.get_metric_history(tracker.run_id, "train/loss")) == 3
    assert (run.info.status, run.data.tags.get("after")) == ("FINISHED", "it")
    assert "snnrun runs import" in warnings[-1]


def test_a_journal_that_a_full_disk_did_not_take_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    tracker = tracking.open_tracker("none", run_dir=tmp_path, outputs=tmp_path, warn=warnings.append)
    tracker.metrics({"train/loss": 1.0}, 1)
    with monkeypatch.context() as patch:
        real = Path.open

        def half(self: Path, *arguments: Any, **options: Any) -> Any:
            with real(self, "a") as file:
                file.write('{"step": 2, ')
            raise OSError("No space left on device")

        patch.setattr(Path, "open", half)
        tracker.metrics({"train/loss": 0.5}, 2)
        tracker.metrics({"train/loss": 0.4}, 3)
    tracker.metrics({"train/loss": 0.3}, 4)
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 0.4), (4, 0.3)]
    assert len(warnings) == 1


def test_numbers_that_are_none(store: Store, tmp_path: Path) -> None:
    tracker = store.open(tmp_path)
    tracker.metrics({"train/loss": float("nan"), "grad/norm": float("inf")}, 1)
    tracker.finish("FAILED")
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert lines(tmp_path)[0]["train/loss"] is None
    assert "train/loss" in store.client.get_run(tracker.run_id).data.metrics


def test_tracking_none_writes_to_the_folder_alone(tmp_path: Path) -> None:
    tracker = tracking.open_tracker("none", run_dir=tmp_path / "run", outputs=tmp_path)
    tracker.params({"seed": 1})
    tracker.tags({"a": "b"})
    tracker.dataset("digits", "d", {})
    tracker.metrics({"train/loss": 0.25}, 1)
    tracker.artifact(tmp_path / "absent")
    tracker.finish("FINISHED")
    assert tracker.run_id is None
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path / "run")] == [(1, 0.25)]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["metrics.jsonl", "tags.json"]
    assert journal.read_tags(tmp_path / "run") == {"a": "b", "data.digest": "d"}
    (tmp_path / "run" / "tags.json").write_text("{")
    assert journal.read_tags(tmp_path / "run") == {}


def test_a_lost_journal_does_not_end_the_training(tmp_path: Path) -> None:
    warnings: list[str] = []
    tracker = tracking.open_tracker("none", run_dir=tmp_path, outputs=tmp_path, warn=warnings.append)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    tracker.metrics({"train/loss": 1.0}, 1)
    tracker.metrics({"train/loss": 1.0}, 2)
    assert len(warnings) == 1


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("kind", ["corrupt", "folder", "file_above", "dead_server", "scheme"])
def test_a_store_that_cannot_be_opened_ends_at_once(kind: str, tmp_path: Path) -> None:
    outputs, uri = tmp_path / "outputs", None
    if kind == "corrupt":
        outputs.mkdir()
        (outputs / "mlflow.db").write_text("this is no database, and long enough to be taken for one" * 20)
    elif kind == "folder":
        (outputs / "mlflow.db").mkdir(parents=True)
    elif kind == "file_above":
        outputs.write_text("a file where the folder should be")
    else:
        uri = f"http://127.0.0.1:{closed_port()}" if kind == "dead_server" else "foo://bar"
    begun = time.monotonic()
    with pytest.raises(SnnrunError, match=r"tracking\.uri.*tracking=none") as caught:
        tracking.open_tracker("mlflow", run_dir=tmp_path / "run", outputs=outputs, uri=uri)
    assert time.monotonic() - begun < 20
    assert str(outputs) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SnnrunError, match="outputs="):
        tracking.open_tracker("none", run_dir=tmp_path / "file" / "run", outputs=tmp_path)


def test_wrong_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"tracking\.kind"):
        tracking.open_tracker("wandb", run_dir=tmp_path, outputs=tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"tracking\.system_metrics.*snnrun\[system\]"):
        tracking.open_tracker("mlflow", run_dir=tmp_path, outputs=tmp_path, system_metrics=True)


def test_a_deleted_experiment_says_so(store: Store, tmp_path: Path) -> None:
    store.open(tmp_path, experiment="old").finish("FINISHED")
    store.client.delete_experiment(store.client.get_experiment_by_name("old").experiment_id)
    with pytest.raises(SnnrunError, match=r"'old' was deleted.*tracking\.experiment"):
        store.open(tmp_path, experiment="old")


def test_a_sweep_has_a_parent_with_its_files_and_buries_the_dead(store: Store, tmp_path: Path) -> None:
    parent = sweep_run.start_sweep(outputs=store.outputs, run_name="sweep", tags={"snnrun.command": "snnrun train -m"})
    children = [store.open(tmp_path / name, run_name=name, parent_run_id=parent) for name in ("dead", "old")]
    children[1].finish("FAILED")
    dead, old = (child.run_id for child in children)
    table = tmp_path / "sweep.csv"
    table.write_text("point\n0\n")
    where = {"outputs": store.outputs}
    sweep_run.close_sweep(
        parent, "FAILED", **where, files=[table], metrics={"objective_best": 0.5}, killed=[dead], superseded=[old]
    )
    run = store.client.get_run(parent)
    assert (run.info.status, run.data.tags["snnrun.command"]) == ("FAILED", "snnrun train -m")
    assert run.data.metrics == {"objective_best": 0.5}
    assert [file.path for file in store.client.list_artifacts(parent)] == ["sweep.csv"]
    assert store.client.get_run(dead).info.status == "KILLED"
    assert store.client.get_run(old).data.tags["snnrun.superseded"] == "true"
    sweep_run.reopen_sweep(parent, **where)
    assert store.client.get_run(parent).info.status == "RUNNING"
    children[0].finish("KILLED")


def test_a_sweep_that_is_lost_costs_a_warning(store: Store, tmp_path: Path) -> None:
    sweep_run.start_sweep(outputs=store.outputs)
    warnings: list[str] = []
    sweep_run.close_sweep("0" * 32, "FINISHED", outputs=store.outputs, warn=warnings.append)
    sweep_run.mark_point("0" * 32, {"a": "b"}, outputs=store.outputs, warn=warnings.append)
    sweep_run.delete_sweep("0" * 32, outputs=store.outputs, warn=warnings.append)
    assert len(warnings) == 3


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_provenance_names_commit_command_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    tags = tracking.provenance(["snnrun", "train", "model.v_th=[1, 2]"])
    assert tags["git.commit"] == "none"
    assert "git.dirty" not in tags
    assert tags["snnrun.command"] == "snnrun train 'model.v_th=[1, 2]'"
    assert tags["python.version"] == sys.version.split()[0]
    assert {"torch.version", "numpy.version", "mlflow.version", "host.cpu", "host.platform"} <= set(tags)

    (tmp_path / "file").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "untracked").write_text("")
    tags = tracking.provenance(["snnrun"])
    assert tags["git.commit"] == tags["mlflow.source.git.commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert tags["git.dirty"] == "false"
    (tmp_path / "file").write_text("2")
    assert tracking.provenance(["snnrun"])["git.dirty"] == "true"
    monkeypatch.setenv("PATH", "")
    assert tracking.provenance(["snnrun"])["git.commit"] == "none"


@pytest.mark.launches
def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, snnrun.tracking as t; t.provenance(['snnrun']);"
        "sys.exit(any(name in sys.modules for name in ('mlflow', 'torch', 'matplotlib', 'hydra')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.launches
def test_two_runs_that_start_together_on_a_fresh_store(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, snnrun.tracking as t; p = pathlib.Path(sys.argv[1]);"
        "t.open_tracker('mlflow', run_dir=p / sys.argv[2], outputs=p).finish('FINISHED')"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], stderr=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    assert [racer.communicate()[1] for racer in racers] == ["", ""]  # no failure, and no chatter of MLflow's
    client = tracking.connect(tracking.store_uri(tmp_path))
    assert len(client.search_runs([client.get_experiment_by_name("snnrun").experiment_id])) == 2


def test_ui_refuses_without_store_and_on_a_taken_port(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SnnrunError, match="snnrun train"):
        tracking.serve(tmp_path)
    with pytest.raises(SnnrunError, match="browser"):
        tracking.serve(tmp_path, uri="http://127.0.0.1:1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SnnrunError, match="--port"):
            tracking.serve(store.outputs, port=taken.getsockname()[1])


@pytest.mark.launches
def test_ui_serves_the_store_and_ends_on_an_interrupt(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port, seen = closed_port(), []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:  # the wait for the server's end: look at the page, then press Ctrl-C
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
                    seen.append(answer.status)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(server.subprocess, "Popen", Interrupted)
    assert tracking.serve(store.outputs, port=port) == 0
    assert seen == [200]
    assert f"http://127.0.0.1:{port}" in capsys.readouterr().out
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)
