"""Finding a run again."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import snnrun
from snnrun.errors import SnnrunError, UsageError
from snnrun.record import names, run_folder


@pytest.fixture
def outputs(tmp_path):
    for number, (folder, run_id) in enumerate(
        {"runs/2026-01-01_a": "abc1", "runs/2026-01-02_b": "abd2", "sweeps/2026-01-03/0": "f00d"}.items()
    ):
        path = tmp_path / folder
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(f"seed: {number}\nmodel:\n  v_th: [5.0]\n")
        (path / "mlflow_run_id").write_text(f"{run_id}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "seed"), [("2026-01-01_a", 0), ("2026-01-02", 1), ("abc", 0), ("f", 2), ("abd2", 1), ("last", 2)]
)
def test_a_run_is_found_by_a_unique_beginning(outputs, name, seed):
    run = run_folder.find(name, outputs)
    assert run.values() == {"seed": seed, "model": {"v_th": [5.0]}}


def test_a_run_is_found_by_its_folder(outputs):
    run = run_folder.find(str(outputs / "sweeps/2026-01-03/0"), outputs / "elsewhere")
    assert (run.run_id, run.values()["seed"]) == ("f00d", 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ab", "2 runs begin so"),
        ("zz", "The latest: 2026-01-01_a, 2026-01-02_b, 0"),
        ("", "no config.yaml"),
    ],
)
def test_what_is_no_run_is_said(outputs, name, message):
    with pytest.raises(UsageError, match=message):
        run_folder.find(name, outputs)


def test_a_folder_that_is_no_run_is_said(outputs):
    with pytest.raises(UsageError, match=r"no config.yaml"):
        run_folder.find(str(outputs / "runs"), outputs)


@pytest.mark.parametrize("text", ["seed: [", "- 1", "a: ${nowhere}", "\x00"])
def test_a_damaged_config_is_said(outputs, text):
    (outputs / "runs/2026-01-01_a/config.yaml").write_text(text)
    with pytest.raises(SnnrunError, match=r"config.yaml"):
        run_folder.find("abc", outputs).values()


def test_what_lies_in_a_runs_folder_is_named_in_one_place():
    known = {value for key, value in vars(names).items() if key.isupper()}
    assert {"config.yaml", "metrics.jsonl", "error.txt"} <= known
    said = {
        (path.name, node.value)
        for path in Path(snnrun.__file__).parent.rglob("*.py")
        if path != Path(names.__file__)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in known
    }
    assert said == set()
