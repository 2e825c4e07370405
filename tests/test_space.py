"""What is searched: every point of a grid, and draws that keep to their interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnrun.sweep import space
from snnrun.sweep.space import Choice, Interval


def test_a_grid_has_every_combination_once() -> None:
    found = space.grid({"a": Choice(("1", "2")), "b": Choice(("x", "y", "z"))})
    assert [tuple(point.values()) for point in found] == [(a, b) for a in "12" for b in "xyz"]
    assert space.grid({}) == [{}], "a sweep over nothing is one point"


@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e3), st.booleans(), st.integers(0, 99))
def test_a_draw_lies_in_its_interval(low: float, factor: float, log: bool, number: int) -> None:
    high = low * factor
    drawn = float(space.draw({"x": Interval(low, high, log=log)}, 0, number)["x"])
    assert low * (1 - 1e-5) <= drawn <= high * (1 + 1e-5)


@given(st.integers(1, 50), st.integers(0, 50), st.booleans(), st.integers(0, 99))
def test_whole_numbers_stay_whole_and_reach_both_ends(low: int, more: int, log: bool, number: int) -> None:
    text = space.draw({"x": Interval(low, low + more, log=log, integer=True)}, 0, number)["x"]
    assert low <= int(text) <= low + more


def test_draws_are_uniform_and_by_logarithm() -> None:
    def many(entry: Choice | Interval) -> np.ndarray:
        return np.array([float(space.draw({"x": entry}, 7, number)["x"]) for number in range(2000)])

    assert abs(many(Interval(0.0, 1.0)).mean() - 0.5) < 0.03
    assert abs(np.log10(many(Interval(1e-4, 1e-2, log=True))).mean() + 3) < 0.06
    values, counts = np.unique(many(Interval(1, 4, integer=True)), return_counts=True)
    assert values.tolist() == [1, 2, 3, 4]
    assert counts.min() > 420
    assert np.unique(many(Interval(0.5, 2.0, step=0.5))).tolist() == [0.5, 1.0, 1.5, 2.0]
    values, counts = np.unique(many(Choice(("3", "9"))), return_counts=True)
    assert counts.min() > 900


@pytest.mark.parametrize("number", [0, 5])
def test_a_point_depends_on_seed_and_number_alone(number: int) -> None:
    searched = {"a": Interval(0.0, 1.0), "b": Choice(("x", "y"))}
    assert space.draw(searched, 1, number) == space.draw(searched, 1, number)
    assert space.draw(searched, 1, number) != space.draw(searched, 1, number + 1)
    assert space.draw(searched, 1, number)["a"] != space.draw(searched, 2, number)["a"]
