"""Means over seeds and their tests, against values worked out by hand and against SciPy's own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from snnrun.runs.significance import holm, mean_std, paired, welch

values = st.floats(0.0, 1.0).map(lambda value: round(value, 4))


def test_mean_and_deviation_of_a_sample() -> None:
    assert mean_std([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]) == (5.0, pytest.approx(math.sqrt(32 / 7)))
    assert mean_std([0.97]) == (0.97, None)
    with pytest.raises(ValueError, match="no values"):
        mean_std([])


def test_paired_by_hand() -> None:
    """Student's distribution is elementary for one and for two degrees of freedom."""
    # Differences 1 and 3: mean 2, deviation sqrt 2, t = 2.
    assert paired({"0": 2.0, "1": 5.0}, {"1": 2.0, "0": 1.0}) == pytest.approx(1 - 2 / math.pi * math.atan(2.0))
    # Differences 1, 2, 3: mean 2, deviation 1, t = 2 sqrt 3.
    p = paired({"0": 1.0, "1": 2.0, "2": 3.0}, {"0": 0.0, "1": 0.0, "2": 0.0})
    assert p == pytest.approx(1 - math.sqrt(12) / math.sqrt(2 + 12))


def test_welch_by_hand() -> None:
    # Variances 1 and 4 over three: t = -2 / sqrt(5 / 3), degrees of freedom (5/3)^2 / (1/18 + 8/9) = 50/17.
    assert welch([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(2 * stats.t.sf(2 / math.sqrt(5 / 3), 50 / 17))


@given(st.lists(values, min_size=2, max_size=8), st.lists(values, min_size=2, max_size=8))
def test_welch_agrees_with_scipy_and_has_no_side(first: list[float], second: list[float]) -> None:
    p = welch(first, second)
    if p is None:
        assert len(set(first)) == len(set(second)) == 1
        return
    assert p == pytest.approx(welch(second, first))
    if len(set(first)) > 1 and len(set(second)) > 1:  # SciPy warns of an exact side
        assert p == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, abs=1e-9)


@given(st.lists(st.tuples(values, values), min_size=2, max_size=8))
def test_paired_agrees_with_scipy(pairs: list[tuple[float, float]]) -> None:
    first = {str(seed): pair[0] for seed, pair in enumerate(pairs)}
    second = {str(seed): pair[1] for seed, pair in enumerate(pairs)}
    p = paired(first, second)
    differences = [a - b for a, b in pairs]
    if max(differences) - min(differences) > 1e-6:
        assert p == pytest.approx(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue, abs=1e-6)
    elif max(differences) == min(differences):
        assert p is None


def test_where_there_is_nothing_to_test() -> None:
    assert welch([0.9], [0.8, 0.7]) is None
    assert welch([0.9, 0.9], [0.9, 0.9]) is None
    assert paired({"0": 0.9}, {"0": 0.8}) is None
    assert paired({"0": 0.98, "1": 0.96}, {"0": 0.97, "1": 0.95}) is None  # the same step, but for rounding
    with pytest.raises(ValueError, match="seeds differ"):
        paired({"0": 0.9, "1": 0.8}, {"0": 0.9, "2": 0.8})


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.6, None, 0.7]) == [1.0, None, 1.0]
    assert holm([None]) == [None]


@given(st.lists(st.floats(0.0, 1.0), max_size=6))
def test_holm_never_lowers_and_keeps_the_order(ps: list[float]) -> None:
    corrected = [p for p in holm(ps) if p is not None]
    assert all(before <= after <= 1.0 for before, after in zip(ps, corrected, strict=True))
    order = sorted(range(len(ps)), key=lambda place: ps[place])
    assert [corrected[place] for place in order] == sorted(corrected)
