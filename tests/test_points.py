"""The records of a sweep's folder: what a point is known by, which is at work, and which sweep is meant."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnrun.errors import SnnrunError, UsageError
from snnrun.sweep import points
from snnrun.sweep.points import Point, Sweep

VALUES = {
    "seed": 1,
    "outputs": "outputs",
    "data": {"name": "digits", "download": True, "limit": 5},
    "hardware": {"threads": None, "device": "cpu"},
    "tracking": {"uri": None},
    "model": {"v_th": [1.0, 2.0]},
}


def changed(section: str, key: str, value: object) -> dict[str, object]:
    return VALUES | {section: VALUES[section] | {key: value}}


def test_a_point_is_what_it_computes_not_where() -> None:
    known = points.identity(VALUES)
    assert known == points.identity(dict(reversed(VALUES.items())))
    for same in (
        VALUES | {"outputs": "elsewhere"},
        changed("tracking", "uri", "http://host"),
        changed("hardware", "threads", 3),
        changed("data", "download", False),
    ):
        assert points.identity(same) == known
    for other in (
        VALUES | {"seed": 2},
        changed("hardware", "device", "cuda"),
        changed("data", "limit", None),
        changed("model", "v_th", [1.0, 2.5]),
    ):
        assert points.identity(other) != known


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    point = Point(3, "abc", ["seed=1"], ["seed=1"], epochs=2, objective=0.5, history=[0.25, 0.5])
    point.save(tmp_path)
    assert points.read_point(tmp_path / "3") == point
    assert points.attempts(tmp_path) == [point]
    assert points.read_point(tmp_path) is None
    (tmp_path / "3" / "point.json").write_text('{"number": 3')
    with pytest.raises(SnnrunError, match=r"point\.json: damaged .*Remove its folder"):
        points.attempts(tmp_path)


def test_the_last_attempt_at_a_point_counts() -> None:
    every = [Point(0, "a", [], status="FAILED"), Point(1, "b", []), Point(2, "a", [], status="FINISHED")]
    assert [(point.number, point.status) for point in points.latest(every)] == [(1, "WAITING"), (2, "FINISHED")]


accuracies = st.lists(st.floats(0, 1), min_size=1, max_size=4)


@given(accuracies, st.lists(accuracies, max_size=9), st.integers(1, 3))
def test_a_point_lags_behind_the_median_of_the_others(mine, others, after) -> None:
    point = Point(99, "mine", [], epochs=5, history=mine)
    rivals = [Point(i, str(i), [], epochs=5, history=history) for i, history in enumerate(others)]
    bars = [max(history[: len(mine)]) for history in others if len(history) >= len(mine)]
    expected = len(mine) >= after and len(bars) >= 5 and max(mine) < statistics.median(bars)
    # Neither its own earlier attempts nor points of another length are rivals.
    extra = [Point(50, "mine", [], epochs=5, history=[1.0] * 4), Point(51, "x", [], epochs=9, history=[1.0] * 9)] * 9
    assert points.lags(point, rivals + extra, after) == expected
    point.epochs = len(mine)
    assert not points.lags(point, rivals, after), "after its last epoch there is nothing to save"


def test_a_point_whose_sweep_is_gone_is_an_orphan() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = socket.gethostname()
    for owner, orphaned in ((None, False), ([here, os.getpid()], False), ([here, ended.pid], True)):
        assert Point(0, "a", [], owner=owner).orphaned == orphaned
    assert not Point(0, "a", [], owner=["elsewhere", ended.pid]).orphaned, "it cannot be seen from here"


def test_a_folder_has_one_worker(tmp_path: Path) -> None:
    assert not points.busy(tmp_path / "new")
    assert not (tmp_path / "new").exists(), "who asks leaves no folder"
    with points.hold(tmp_path):
        assert points.busy(tmp_path)
        with pytest.raises(UsageError, match="another process is at work on it"), points.hold(tmp_path):
            pass
    assert not points.busy(tmp_path)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for name, parent in {"2026-01-01_a": "abc1", "2026-01-02_b": "abd2", "2026-01-02_bc": None}.items():
        Sweep(["seed=0,1"], parent).save(tmp_path / "sweeps" / name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("last", "2026-01-02_bc"),
        ("2026-01-01", "2026-01-01_a"),
        ("2026-01-02_b", "2026-01-02_b"),
        ("abd", "2026-01-02_b"),
    ],
)
def test_a_sweep_is_found_by_name_or_run(outputs: Path, name: str, found: str) -> None:
    assert points.find_sweep(name, outputs) == outputs / "sweeps" / found
    assert points.find_sweep(str(outputs / "sweeps" / found), Path("nowhere")) == outputs / "sweeps" / found


def test_a_sweep_that_is_not_there_or_not_alone(outputs: Path) -> None:
    with pytest.raises(UsageError, match=r"sweep\.resume: 'x' is no sweep's .*The latest: .*2026-01-02_bc"):
        points.find_sweep("x", outputs)
    with pytest.raises(UsageError, match=r"sweep\.resume: 2 sweeps begin with 'ab': .*Write more"):
        points.find_sweep("ab", outputs)
    with pytest.raises(UsageError, match="The latest: none"):
        points.find_sweep("last", outputs / "nothing")
