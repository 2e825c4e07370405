"""Optuna's study in a sweep's folder: it learns, goes on, and tries again what failed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from snnrun.errors import UsageError
from snnrun.sweep import study
from snnrun.sweep.points import Point
from snnrun.sweep.space import Choice, Interval

pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections
SPACE = {"train.lr": Interval(1e-4, 1e-1, log=True), "n": Interval(1, 9, integer=True), "m": Choice(("a", "b"))}


def opened(folder: Path, trials: int = 6, space: Any = SPACE) -> study.Study:
    return study.Study(folder, space, seed=0, startup=3, trials=trials)


def point(status: str = "FINISHED", objective: float | None = 0.5, history: tuple[float, ...] = ()) -> Point:
    return Point(0, "id", [], status=status, objective=objective, history=list(history))


def states(opened: study.Study) -> list[str]:
    return [trial.state.name for trial in opened._study.trials]


def test_a_study_ends_after_its_trials_and_can_be_given_more(tmp_path: Path) -> None:
    first = opened(tmp_path, 2)
    seen = []
    while first.left:
        [(trial, values)] = first.ask(1)
        assert set(values) == set(SPACE)
        assert 1e-4 <= float(values["train.lr"]) <= 1e-1
        assert int(values["n"]) in range(1, 10)
        first.tell(trial, point())
        seen.append(values)
    assert states(first) == ["COMPLETE"] * 2
    second = opened(tmp_path, 3)
    assert second.left == 1
    [(trial, values)] = second.ask(1)
    assert values not in seen, "the sampler does not begin its numbers anew"
    second.tell(trial, point("PRUNED", 0.1, (0.05, 0.1)))
    assert second.left == 0
    assert second._study.trials[-1].intermediate_values == {1: 0.05, 2: 0.1}
    assert states(second) == ["COMPLETE", "COMPLETE", "PRUNED"]


def test_what_failed_or_was_killed_is_tried_again_when_the_study_goes_on(tmp_path: Path) -> None:
    first = opened(tmp_path, 3)
    (failed, values), (_, killed_values) = first.ask(2)
    first.tell(failed, point("FAILED", None))
    assert first.left == 2, "not again in the same command, where it would fail again"
    for _ in range(2):  # goes on, is killed, goes on
        again = opened(tmp_path, 3)
        assert again.left == 3
    assert {text["train.lr"] for _, text in again.ask(2)} == {values["train.lr"], killed_values["train.lr"]}


@pytest.mark.parametrize("stops", [(), (1,), (1, 2, 4)])
def test_stops_cost_no_trial_and_change_no_proposal(tmp_path: Path, stops: tuple[int, ...]) -> None:
    """A trial whose process is killed is made again; one that failed by itself counts."""

    def begun(folder: Path) -> study.Study:
        folder.mkdir(exist_ok=True)
        return study.Study(
            folder, SPACE, seed=0, startup=3, trials=6, first={"train.lr": 0.01, "n": 2, "m": "a"}, retry=False
        )

    def ended(number: int) -> Point:
        return point("FAILED", None) if number == 3 else point(objective=0.1 * number)

    made = []
    for folder, when in (("whole", ()), ("stopped", stops)):
        search, proposed = begun(tmp_path / folder), list[Any]()
        while search.left:
            [(trial, values)] = search.ask(1)
            for _ in range(when.count(len(proposed))):
                search = begun(tmp_path / folder)
                [(trial, again)] = search.ask(1)
                assert again == values
            search.tell(trial, ended(len(proposed)))
            proposed.append(values)
        made.append(proposed)
    assert len(made[0]) == 6
    assert made[0] == made[1]


def test_a_study_over_another_space_is_refused(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.tell(first.ask(1)[0][0], point())
    with pytest.raises(UsageError, match=r"sweep\.resume: the study in .*with other bounds or keys"):
        opened(tmp_path, space={"train.lr": Interval(1e-4, 1e-2)})


def test_it_finds_what_is_better(tmp_path: Path) -> None:
    search = {"x": Interval(0.0, 1.0)}
    opened_ = study.Study(tmp_path, search, seed=1, startup=8, trials=30)
    drawn = []
    while opened_.left:
        for trial, values in opened_.ask(2):
            drawn.append(float(values["x"]))
            opened_.tell(trial, point(objective=-abs(drawn[-1] - 0.3)))
    near = [abs(x - 0.3) for x in drawn]
    assert sum(near[-10:]) < sum(near[:10]) / 2


def test_without_optuna_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"search=optuna: .*pip install 'snnrun\[sweep\]'"):
        study.require_optuna()
