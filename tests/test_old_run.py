"""A run of version 0.1.0, made before the modules moved into rooms, is as good as one of today."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from snnrun import cli

SOURCE = Path(__file__).parent / "old_run"
NAME = "before_the_rooms"

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `snnrun` beside a copy of the old run: what it printed, of a command that succeeds."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SOURCE, tmp_path / "outputs" / "runs" / NAME)

    def call(*arguments: str) -> str:
        code = cli.main(list(arguments))
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


def points(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_it_is_listed_evaluated_and_exported(run: Any, tmp_path: Path) -> None:
    [listed] = json.loads(run("runs", "list", "--json"))
    assert (listed["name"], listed["status"]) == (NAME, "finished")
    recorded = max(points(SOURCE), key=lambda point: point.get("test/accuracy_best_validation", -1.0))
    evaluated = json.loads(run("evaluate", NAME, "--json"))
    assert evaluated["accuracy"] == pytest.approx(recorded["test/accuracy_best_validation"])
    assert json.loads(run("predict", NAME, "test:0", "--json"))[0]["label"] is not None
    run("export", NAME, "--format", "safetensors", "--out", "network.safetensors")
    assert (tmp_path / "network.safetensors").stat().st_size > 0


def test_it_goes_on(run: Any, tmp_path: Path) -> None:
    run("resume", NAME, "train.epochs=3")
    folder = tmp_path / "outputs" / "runs" / NAME
    before, after = points(SOURCE), points(folder)
    epochs = [point for point in after if "train/loss" in point]
    assert [point["step"] for point in epochs] == [1, 2, 3]
    assert [point["train/loss"] for point in epochs[:2]] == [p["train/loss"] for p in before if "train/loss" in p]
    assert "test/accuracy_last" in after[-1]
