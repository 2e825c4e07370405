"""The addresses of `snnrun ui`; what a browser shows at them was looked at with MLflow 3.17."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
from made_runs import invented

from snnrun import cli, tracking
from snnrun.commands.ui import comparison, newest
from snnrun.errors import SnnrunError
from snnrun.runs.collect import collect
from snnrun.tracking import sweep_run

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a sweep of two rules and two learning rates, and a run before it."""
    folder = tmp_path_factory.mktemp("made") / "outputs"
    record(folder, "alone", None, model="stbp", lr="0.1")
    parent = sweep_run.start_sweep(outputs=folder, run_name="sweep")
    for model in ("stbp", "hm2bp"):
        for lr in ("0.1", "0.2"):
            record(folder, f"{model}-{lr}", parent, model=model, lr=lr)
    return folder


def record(folder: Path, name: str, parent: str | None, *, model: str, lr: str) -> None:
    tracker = tracking.open_tracker(
        "mlflow", run_dir=folder / "elsewhere" / name, outputs=folder, run_name=name, parent_run_id=parent
    )
    tracker.params(
        {"data": {"name": "digits"}, "model": {"name": model, model: "its own"}, "train": {"lr": lr}, "seed": 0}
    )
    tracker.metrics({"validation/accuracy_best": 0.5, "test/accuracy_last": 0.5}, 1)
    tracker.finish("FINISHED")


def ui(outputs: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str, display: str = ":0") -> tuple[Any, list[str]]:
    """What the server is asked for, and the addresses opened once it answers."""
    calls: list[Any] = []
    opened: list[str] = []

    def serve(place: Path, tell: Any, **rest: Any) -> int:
        calls.append((place, rest))
        tell("http://127.0.0.1:5000")
        return 0

    monkeypatch.setattr(tracking, "serve", serve)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    assert cli.main(["ui", *arguments, "--outputs", str(outputs)]) == 0
    return calls[0], opened


def test_the_newest_sweep_is_opened_as_a_table_of_what_was_swept(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, [address] = ui(outputs, monkeypatch, "last")
    said = capsys.readouterr().out
    assert f"newest sweep  {address}" in said
    assert "compareRunsMode=CHART" in said
    assert "workflowType=machine_learning" in address
    client = tracking.connect(tracking.store_uri(outputs))
    tags = client.get_experiment_by_name("snnrun").tags
    view = json.loads(tags[f"mlflow.sharedViewState.{parse_qs(address.partition('?')[2])['viewStateShareKey'][0]}"])
    [parent] = [run for run in client.search_runs(["1"]) if "snnrun.sweep" in run.data.tags]
    assert view["searchFilter"] == f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    assert len(client.search_runs(["1"], view["searchFilter"], order_by=[view["orderByKey"]])) == 4
    assert view["selectedColumns"] == [
        *("metrics.`validation/accuracy_best`", "metrics.`test/accuracy`"),
        *("params.`model.name`", "params.`train.lr`"),
    ]
    assert max(map(len, tags.values())) < 5000  # MLflow's limit


def test_without_a_display_the_address_is_printed_alone(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ui(outputs, monkeypatch, "last", display="")[1] == []
    (place, rest), opened = ui(outputs, monkeypatch, "--port", "5001")
    assert (place, opened) == (outputs, [])
    assert rest == {"host": "127.0.0.1", "port": 5001, "uri": None}


def test_the_runs_that_filters_leave_are_compared(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, [address] = ui(outputs, monkeypatch, "compare", "model=hm2bp")
    known = collect(outputs, None, print)
    wanted = {run.run_id for run in known if run.params["model.name"] == "hm2bp"}
    asked = parse_qs(unquote(address).partition("?")[2])
    assert set(json.loads(asked["runs"][0])) == wanted
    assert json.loads(asked["experiments"][0]) == ["1"]


def test_a_store_that_takes_no_view_gets_an_address_that_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = invented("a")
    run.run_id, run.experiment_id, run.uri, run.tags = "1" * 32, "7", "foo://bar", {"mlflow.parentRunId": "p" * 32}
    page = parse_qs(newest([run])["newest sweep"].partition("?")[2])
    assert page["searchFilter"] == [f"tags.`mlflow.parentRunId` = '{'p' * 32}'"]
    assert page["orderByKey"] == ["metrics.`validation/accuracy_best`"]


def test_what_cannot_be_shown_is_told(outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SnnrunError, match="two are needed"):
        comparison([invented()])
    assert newest([]) == {}
    for arguments, message in (
        (["last"], "no runs yet"),
        (["lsat"], "ui lsat: allowed are last and compare"),
        (["last", "x=1"], "filters go with compare"),
    ):
        assert cli.main(["ui", *arguments, "--outputs", str(tmp_path)]) in (1, 2)
        assert message in capsys.readouterr().err


def test_a_run_alone_is_shown_by_its_page() -> None:
    run = invented()
    run.run_id, run.experiment_id, run.uri = "1" * 32, "7", "foo://bar"
    assert f"/#/experiments/7/runs/{run.run_id}?" in newest([run])["newest run"]


def test_an_experiment_is_one_of_machine_learning(outputs: Path) -> None:
    tags = tracking.connect(tracking.store_uri(outputs)).get_experiment_by_name("snnrun").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
