"""What `snnrun resume` refuses changes nothing, and what a run was last trained with counts."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_runs import train, values
from mlflow import MlflowClient
from resumed_runs import only_run, resume, stopped

from snnrun import cli, tracking
from snnrun.errors import SnnrunError, UsageError
from snnrun.record import atomic, journal, names, run_folder, run_lock
from snnrun.run import build, checkpoint
from snnrun.run.resume import check

pytestmark = [
    pytest.mark.slow,  # whole trainings, stopped and resumed
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # SQLAlchemy's, of MLflow's tables
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # SQLAlchemy's pool keeps its sqlite connections
]


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
        (None, ["train.epochs=1"], "train.epochs: 1: 2 epochs are trained already"),
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
