"""Finished runs as small files: what is kept, what is left out, and that they stand for the runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import invented, train
from resumed_runs import stopped

from snnrun import cli
from snnrun.errors import SnnrunError
from snnrun.runs import records
from snnrun.runs.collect import Run, collect, history
from snnrun.runs.compare import settings_of

EPOCHS = [
    {"epoch": 1.0, "train/loss": 2.123456789, "test/accuracy": 0.5, "time/epoch_s": 1.0, "lr": 0.1},
    {"epoch": 2.0, "train/loss": 1.0, "test/accuracy": 0.75, "time/epoch_s": 1.0},
]


def finished() -> Run:
    run = invented("2026_strsbp", validation=0.9, test=1 / 3, data_root="/home/me/corpora", hardware_device="cpu")
    run.tags |= {
        "snnrun.command": "snnrun train model=strsbp 'outputs=/home/me/runs' data.root=/home/me/corpora seed=0 -q",
        "mlflow.user": "me",
        "snnrun.run_dir": "/home/me/runs/1",
        "host.platform": "Linux-me",
        "snnrun.git.commit": "d" * 40,
        "device": "CPU, 2 threads",
    }
    return run


def test_a_record_is_the_run_again_without_where_it_was_made(tmp_path: Path) -> None:
    run = finished()
    path = records.keep(run, EPOCHS, 123, tmp_path / "strsbp")
    text = path.read_text("utf-8")
    assert "me" not in text.replace("name", "").replace("metrics", "").replace("time", "").replace("parameters", "")
    assert json.loads(text)["command"] == "snnrun train model=strsbp seed=0"
    [again] = collect(tmp_path, None, pytest.fail)
    assert (again.name, again.status, again.started, again.parameters) == (run.name, "finished", run.started, 123)
    assert (settings_of(again), again.data) == (settings_of(run), run.data)
    assert again.metrics["test/accuracy_best_validation"] == 0.333333
    kept = [{key: value for key, value in epoch.items() if key != "lr"} for epoch in EPOCHS]
    assert history(again) == [kept[0] | {"train/loss": 2.12346}, kept[1]]
    assert again.tags["snnrun.git.commit"] == "d" * 40


def test_one_file_for_settings_and_seed(tmp_path: Path) -> None:
    paths = [
        records.keep(invented("a", seed=seed, train_lr=rate, test=0.5), EPOCHS, None, tmp_path)
        for seed in (0, 1)
        for rate in (0.1, 0.2, 0.1)
    ]
    assert len(set(paths)) == len(records.files(tmp_path)) == 4
    assert paths[0].name.startswith("fsdd_strsbp_400-R400_")
    assert paths[0].name.endswith("_seed0.run.json")


def test_settings_on_other_samples_have_a_file_of_their_own(tmp_path: Path) -> None:
    real = invented("real", test=0.9, digest="a" * 64)
    for _ in range(2):  # whichever comes first, each replaces its own
        for run in (real, invented("made", test=0.99, origin="surrogate", digest="b" * 64)):
            records.keep(run, EPOCHS, None, tmp_path)
    found = {run.origin: run.metrics["test/accuracy_best_validation"] for run in collect(tmp_path, None, pytest.fail)}
    assert found == {"recorded": 0.9, "surrogate": 0.99}
    assert len(records.files(tmp_path)) == 2


def test_numbers_that_json_lacks_are_left_out_of_a_record(tmp_path: Path) -> None:
    run = finished()
    run.metrics["grad/norm"] = float("nan")
    records.keep(run, [EPOCHS[0] | {"train/loss": float("inf")}, EPOCHS[1]], 1, tmp_path)
    [again] = collect(tmp_path, None, pytest.fail)
    assert "grad/norm" not in again.metrics
    assert [sorted(epoch) for epoch in history(again)] == [["epoch", "test/accuracy", "time/epoch_s"]] * 2


def test_a_record_of_a_record_loses_nothing(tmp_path: Path) -> None:
    run = finished()
    run.changed = {"train.lr": ("0.1", "0.2")}
    first = records.keep(run, EPOCHS, 1, tmp_path / "one")
    [again] = collect(tmp_path / "one", None, pytest.fail)
    assert again.changed == run.changed
    second = records.keep(again, history(again), again.parameters, tmp_path / "two")
    assert second.read_bytes() == first.read_bytes()


def test_what_is_no_record_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = records.keep(finished(), EPOCHS, 1, tmp_path)
    text = path.read_text("utf-8")
    for name, content in {
        "cut": text[:200],
        "later": text.replace('"format": 1', '"format": 99'),
        "other": "[]",
        "lacking": text.replace('"epochs"', '"eras"'),
        "binary": "\x00\x01",
    }.items():
        (tmp_path / f"{name}{records.SUFFIX}").write_text(content, "utf-8")
    said: list[str] = []
    assert [run.name for run in collect(tmp_path, None, said.append)] == ["2026_strsbp"]
    assert [Path(line.split(":")[0]).name.partition(".")[0] for line in said] == sorted(
        ["binary", "cut", "lacking", "later", "other"]
    )
    assert "written by a later version of snnrun" in said[3]


def test_a_number_that_json_lacks_is_null_in_a_listing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = records.keep(finished(), EPOCHS, 1, tmp_path)
    path.write_text(path.read_text("utf-8").replace("0.333333", "NaN"), "utf-8")
    assert cli.main(["runs", "list", "--json", "--outputs", str(tmp_path)]) == 0
    [run] = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert run["metrics"]["test/accuracy_best_validation"] is None


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SnnrunError, match=r"cannot be written .* Name another folder by --to"):
        records.keep(finished(), EPOCHS, 1, tmp_path / "file")


@pytest.mark.slow
def test_the_runs_of_a_folder_are_kept_and_read_like_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "outputs", "one", "stbp", 0)
    capsys.readouterr()
    kept = tmp_path / "kept"
    assert cli.main(["runs", "keep", "--outputs", str(tmp_path / "outputs"), "--to", str(kept)]) == 0
    assert capsys.readouterr().out == f"1 record in {kept}\n"
    told = []
    for outputs in (tmp_path / "outputs", kept):
        assert cli.main(["runs", "compare", "--outputs", str(outputs), "--json"]) == 0
        [section] = json.loads(capsys.readouterr().out)["sections"]
        told.append([(group["settings"], group["n"]) for group in section["groups"]])
    assert told[0] == told[1]
    [run] = collect(kept, None, pytest.fail)
    assert run.parameters is not None
    assert run.parameters > 0
    assert cli.main(["runs", "show", run.name, "--outputs", str(kept)]) == 0
    assert "stbp" in capsys.readouterr().out


@pytest.mark.slow
def test_only_finished_runs_are_kept_whatever_the_filter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record is read back as a finished run."""
    stopped(tmp_path / "outputs")
    arguments = [
        "runs",
        "keep",
        "status!=running",
        "--outputs",
        str(tmp_path / "outputs"),
        "--to",
        str(tmp_path / "kept"),
    ]
    capsys.readouterr()
    assert cli.main(arguments) == 1
    assert "nothing to keep: a record is of a finished run" in capsys.readouterr().err
    train(tmp_path / "outputs", "one", "stbp", 0)
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert said.out.endswith("1 record in " + str(tmp_path / "kept") + "\n")
    assert "left out: 1 failed" in said.err
