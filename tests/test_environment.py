"""The variables that users of MLflow and of OpenMP know: defaults here too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import values

from snnrun import cli, tracking
from snnrun.config.compose import compose
from snnrun.run import experiment
from snnrun.runs.collect import collect
from snnrun.train import hardware

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections


def test_mlflows_variables_are_defaults_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = compose([])["tracking"]
    assert (plain["uri"], plain["experiment"]) == (None, "snnrun")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "lab")
    plain = compose([])["tracking"]
    assert (plain["uri"], plain["experiment"]) == ("http://host:5000", "lab")
    plain = compose(["tracking.uri=null", "tracking.experiment=mine"])["tracking"]
    assert (plain["uri"], plain["experiment"]) == (None, "mine")


@pytest.mark.slow
def test_a_run_says_its_store_and_who_reads_stores_looks_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/elsewhere.db"
    (tmp_path / "run").mkdir()
    plain = values(tmp_path / "outputs", "stbp", 0, tracking={"uri": uri}, train={"epochs": 1})
    experiment.run(plain, tmp_path / "run", command=["test"])
    assert f") in {uri}" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    [run] = collect(tmp_path / "outputs", None, print)
    assert run.uri == uri
    cli.main(["doctor", "--json"])
    assert f'"uri": "{uri}"' in capsys.readouterr().out
    calls: list[Any] = []
    monkeypatch.setattr(tracking, "serve", lambda *_, uri, **__: calls.append(uri) or 0)
    assert cli.main(["ui"]) == 0
    assert calls == [uri]


def test_a_store_that_the_environment_names_and_cannot_be_read_hides_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    warnings: list[str] = []
    assert [run.name for run in collect(tmp_path, None, warnings.append)] == ["a"]
    assert "none.db" in warnings[0]


def test_a_password_is_not_printed() -> None:
    assert tracking.place_of("http://me:secret@host:5000/x", Path("outputs")) == "http://host:5000/x"
    assert tracking.place_of(None, Path("outputs")) == "outputs/mlflow.db"


def test_omp_num_threads_bounds_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: 8)
    assert (hardware.share(1), hardware.share(2), hardware.share(20)) == (8, 4, 1)
    for text, threads in (("3", 3), ("2,1", 2), ("99", 8), ("0", 8), ("x", 8), ("1", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert hardware.share(1) == threads
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # torchrun's own, where the user has said nothing
    assert hardware.share(2) == 4
