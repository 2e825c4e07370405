"""Finding, reading and filtering runs."""

from __future__ import annotations

import json
import math
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from made_runs import invented

from snnrun import tracking
from snnrun.errors import SnnrunError, UsageError
from snnrun.runs import filters
from snnrun.runs.collect import Run, collect, find, history
from snnrun.runs.filters import ordered, select

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections

SUMMARY = {"test/accuracy_last": 0.9, "test/accuracy_max_over_epochs": 0.95}


def folder(outputs: Path, name: str, *lines: dict[str, object], **config: object) -> Path:
    """A run's folder as `tracking=none` leaves it."""
    path = outputs / "runs" / name
    path.mkdir(parents=True)
    plain = {"seed": 0, "data": {"name": "digits"}, "model": {"name": "stbp"}, "train": {"epochs": 2}} | config
    (path / "config.yaml").write_text(yaml.safe_dump(plain))
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def epoch(number: int, **metrics: float | None) -> dict[str, object]:
    return {"step": number, "time": 1.0, "epoch": float(number), "train/loss": 1.0 / number} | metrics


# ---- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_tells_what_became_of_its_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder(tmp_path, "a", epoch(1), epoch(2), {"step": 2, "time": 2.0} | SUMMARY)
    folder(tmp_path, "b", epoch(1), {"step": 1, "time": 2.0} | SUMMARY)
    folder(tmp_path, "c", epoch(1))
    (folder(tmp_path, "d") / "error.txt").write_text("seed=0\n\nTraceback")
    folder(tmp_path, "e", epoch(1), {"step": 1, "time": 2.0} | SUMMARY, train={"lr": 0.1})  # how long, nobody knows
    found = {run.name: run for run in collect(tmp_path, None, pytest.fail)}
    assert {name: run.status for name, run in found.items()} == {
        "a": "finished",
        "b": "interrupted",
        "c": "killed",
        "d": "failed",
        "e": "finished",
    }
    assert found["a"].params == {"seed": "0", "data.name": "digits", "model.name": "stbp", "train.epochs": "2"}
    assert found["a"].metrics["test/accuracy_last"] == 0.9
    assert [entry["train/loss"] for entry in history(found["a"])] == [1.0, 0.5]
    assert found["a"].origin == "recorded"


def test_a_damaged_folder_is_warned_of_and_hides_no_other(tmp_path: Path) -> None:
    folder(tmp_path, "good", epoch(1), {"step": 1} | SUMMARY)
    (folder(tmp_path, "bad") / "config.yaml").write_text("seed: [1\n")
    warnings: list[str] = []
    assert [run.name for run in collect(tmp_path, None, warnings.append)] == ["good"]
    assert len(warnings) == 1
    assert str(tmp_path / "runs" / "bad") in warnings[0]


def test_lines_of_metrics_that_were_cut(tmp_path: Path) -> None:
    """A killed process leaves half a last line; anything else is worth a warning. NaN is null in the file."""
    path = folder(tmp_path, "a", epoch(1, **{"grad/norm": None})) / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 2, "train/l')
    [run] = collect(tmp_path, None, pytest.fail)
    assert run.metrics == {"epoch": 1.0, "train/loss": 1.0}
    path.write_text("garbage\n" + json.dumps(epoch(1)) + "\n")
    warnings: list[str] = []
    [run] = collect(tmp_path, None, warnings.append)
    assert run.metrics["epoch"] == 1.0
    assert [warning.partition(":")[0] for warning in warnings] == [f"{path.resolve()}, line 1"]


def test_an_epoch_that_was_trained_again_counts_once(tmp_path: Path) -> None:
    folder(tmp_path, "a", epoch(1), epoch(2), epoch(2, **{"test/accuracy": 0.8}))
    [run] = collect(tmp_path, None, pytest.fail)
    assert [entry.get("test/accuracy") for entry in history(run)] == [None, 0.8]


def test_no_runs_yet(tmp_path: Path) -> None:
    with pytest.raises(SnnrunError, match=r"no runs yet below .*--outputs FOLDER"):
        collect(tmp_path / "nowhere", None, pytest.fail)


def test_a_damaged_store_is_warned_of_and_the_folders_are_read(tmp_path: Path) -> None:
    folder(tmp_path, "a", epoch(1))
    (tmp_path / "mlflow.db").write_text("no database at all, " * 100)
    warnings: list[str] = []
    assert [run.name for run in collect(tmp_path, None, warnings.append)] == ["a"]
    assert len(warnings) == 1
    assert "mlflow.db cannot be read" in warnings[0]


@pytest.mark.parametrize("uri", ["sqlite:////nowhere/mlflow.db", "http://127.0.0.1:9", "gopher://x"])
def test_a_store_that_is_not_there_is_one_message(uri: str, tmp_path: Path) -> None:
    folder(tmp_path, "a", epoch(1))
    with pytest.raises(SnnrunError, match=f"the MLflow store {uri} cannot be read") as caught:
        collect(tmp_path, uri, pytest.fail)
    assert "\n" not in str(caught.value)


# ---- the store ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 300 runs: one real, the others its copies with their own seed and figure."""
    outputs = tmp_path_factory.mktemp("crowd")
    tracker = tracking.open_tracker("mlflow", run_dir=outputs / "gone", outputs=outputs, run_name="first")
    tracker.params({"seed": 0, "model": {"name": "stbp"}, "data": {"name": "digits"}})
    tracker.tags({"data.origin": "recorded"})
    tracker.metrics({"validation/accuracy_best": 0.5, "odd": math.nan}, 1)
    tracker.finish("FINISHED")
    with closing(sqlite3.connect(outputs / "mlflow.db")) as store:
        for number in range(1, 300):
            copy = uuid.uuid4().hex
            for table in ("runs", "params", "tags", "latest_metrics"):
                columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
                chosen = ", ".join("?" if column == "run_uuid" else column for column in columns)
                where = f"FROM {table} WHERE run_uuid = ?"
                store.execute(f"INSERT INTO {table} SELECT {chosen} {where}", (copy, tracker.run_id))
            store.execute("UPDATE params SET value = ? WHERE run_uuid = ? AND key = 'seed'", (str(number), copy))
        store.commit()
    return outputs


@pytest.mark.slow
def test_a_large_store_is_read_by_pages(crowd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snnrun.runs.collect.PAGE", 64)
    found = collect(crowd, None, pytest.fail)
    assert sorted(int(run.params["seed"]) for run in found) == list(range(300))
    assert {run.status for run in found} == {"finished"}
    assert found[0].metrics == {"validation/accuracy_best": 0.5}  # NaN is no figure
    assert collect(crowd / "elsewhere", tracking.store_uri(crowd), pytest.fail)[0].uri == tracking.store_uri(crowd)


def test_runs_of_others_in_the_store_are_passed_over(crowd: Path) -> None:
    client = tracking.connect(tracking.store_uri(crowd))
    experiment = client.get_experiment_by_name("snnrun").experiment_id
    alien = client.create_run(experiment, run_name="alien")
    sweep = client.create_run(experiment, run_name="sweep", tags={"snnrun.sweep": "true", "snnrun.run_dir": "x"})
    names = {run.name for run in collect(crowd, None, pytest.fail)}
    client.delete_run(alien.info.run_id)
    client.delete_run(sweep.info.run_id)
    assert names == {"first"}


# ---- finding one ----------------------------------------------------------------------------------------------------


def test_find_by_name_by_the_beginning_of_an_id_and_the_latest() -> None:
    first = Run("strsbp_digits_0", "finished", 1.0, run_id="abcdef0123")
    second = Run("strsbp_digits_1", "finished", 2.0, run_id="abc9990123")
    known = [second, first]
    assert find(known, "abcd") is first
    assert find(known, "strsbp_digits_1") is second
    assert find(known, "last") is second
    with pytest.raises(UsageError, match=r"abc: 2 runs begin so: abc99901 \(strsbp_digits_1\)"):
        find(known, "abc")
    with pytest.raises(
        UsageError, match=r"xyz: no run of this folder, name or MLflow id. The latest: abc99901, abcdef01"
    ):
        find(known, "xyz")


# ---- filters --------------------------------------------------------------------------------------------------------

KNOWN = [
    invented("a", seed=0, train_lr=0.001, last=0.90, started=1.7e9),
    invented("b", seed=1, train_lr="1e-2", model_name="hm2bp", last=0.95, started=1.6e9),
    invented("c", seed=2, status="failed", data_name="ti46_alpha", origin="surrogate", model_v_th="[20.0, 5.0]"),
]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ([], "abc"),
        (["model=strsbp"], "ac"),
        (["model.name=strsbp", "status=finished"], "a"),
        (["model=strsbp,hm2bp", "data!=ti46_alpha"], "ab"),
        (["train.lr=0.01"], "b"),
        (["train.lr>0.001"], "bc"),
        (["train.lr >= 1e-3"], "abc"),
        (["test/accuracy_last<0.95"], "a"),
        (["test/accuracy_last!=0.95"], "ac"),  # a run without the figure does not have this one
        (["origin=surrogate"], "c"),
        (["model.v_th=[20.0,5.0]"], "c"),
        (["name~B"], "b"),
        (["seed==1,2"], "bc"),
        (["started>2021"], "a"),
        (["status=running"], ""),
    ],
)
def test_filters(filters: list[str], names: str) -> None:
    found, _ = select(KNOWN, filters)
    assert "".join(run.name for run in found) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strsbp", "not a filter. Write KEY=VALUE"),
        ("seed=>1", "not a filter. Write 'seed>=1'."),
        ("train.lr", "needs quotes"),
        ("modle=strsbp", "modle: no run has this key.*Did you mean model?"),
        ("lr=0.1", "Did you mean train.lr?"),
        ("model=strsbq", "no run has model.name=strsbq. There are hm2bp, strsbp. Did you mean strsbp?"),
        ("seed=7", "no run has seed=7. There are 0, 1, 2."),
        ("status=done", "There are finished, interrupted, failed, running, killed, unfinished."),
        ("seed>many", "'many' is not a number, which > needs"),
        ("model>3", "no run has a number under model.name"),
        ("model=", "a value is missing"),
    ],
)
def test_wrong_filters_are_one_message(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?").replace(".*", "(.*)")) as caught:
        select(KNOWN, [text])
    assert "\n" not in str(caught.value)


def test_order() -> None:
    def names(key: str, *, reverse: bool = False) -> str:
        return "".join(run.name for run in ordered(KNOWN, key, reverse=reverse))

    assert names("test/accuracy_last") == "bac"  # without the figure: last
    assert names("test/accuracy_last", reverse=True) == "abc"
    assert names("train.lr") == "bca"
    assert names("model.name") == "bac"


def test_facts_can_be_asked_for_by_name() -> None:
    assert set(filters.FACTS) <= set(filters.keys(KNOWN))
    assert filters.key_named("data", KNOWN) == "data.name"
