"""Encoders of values and series, populations, and the encoder that `auto` chooses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_encoders import OPTIONS, build, mixed, reproducible, spikes_of

from snnrun import encoders

# ---- values and series ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_values_are_drawn_as_pixels_are(name):
    """0, 128/256 and 1 have no rounding in either form."""
    pixels = np.array([[0, 255, 255, 0] * 20], np.uint8)
    values = (pixels / 255).astype(np.float32)
    encoder = build(name)
    index = np.array([7])
    assert np.array_equal(encoder.encode(values, index, 2), encoder.encode(pixels, index, 2))
    faint = np.full((1, 60), 1e-7, np.float32)
    assert spikes_of(build(name, attenuation=1.0), faint, [0]).sum() == 0


def test_rates_match_the_values():
    values = np.linspace(0, 1, 64, dtype=np.float32)[None]
    counts = spikes_of(encoders.build("bernoulli", seed=3, steps=4000), values).sum(axis=1, dtype=np.int64)[0]
    p = values[0].astype(float)
    assert (np.abs(counts - 4000 * p) <= 5 * np.sqrt(4000 * p * (1 - p)) + 1e-6).all()


@pytest.mark.parametrize(("name", "first_step"), [("poisson", 1), ("bernoulli", 0)])
@pytest.mark.parametrize("steps", [7, 30])
def test_series_are_the_comparisons_of_random_words(name, first_step, steps):
    """Point floor(t P / T) at step t, its probability against the upper 24 bits of the step's word."""
    step, points = 0x9E3779B97F4A7C15, 7
    series = np.random.default_rng(0).random((2, points, 66), np.float32)
    series[1, 4:] = np.nan
    encoder = encoders.build(name, seed=5, steps=steps)
    expected = np.zeros((2, steps, 66), np.uint8)
    for b, index in enumerate((3, 2**33)):
        key = 0
        for part in (5, 1, index):
            key = mixed((key + step + part) % 2**64)
        for n in range(66):
            lane = mixed((key + (n + 1) * step) % 2**64)
            for t in range(first_step, steps):
                value = float(series[b, t * points // steps, n])
                level = 0 if np.isnan(value) else int(np.rint(value / encoder.attenuation * 2**24))
                expected[b, t, n] = mixed((lane + (t - first_step + 1) * step) % 2**64) >> 40 < level
    bits = encoder.encode(series, np.array([3, 2**33]), 1)
    assert np.array_equal(np.unpackbits(bits.view(np.uint8), axis=2, bitorder="little", count=66), expected)


@pytest.mark.parametrize("value", [-0.01, 1.01, np.inf])
def test_values_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="from 0 to 1"):
        build("poisson").encode(np.full((1, 3), value, np.float32), np.zeros(1, np.int64), 0)


# ---- population and auto ---------------------------------------------------------------------------------------------


def test_a_population_fires_where_the_value_is_its_own():
    """Triangular fields: 0.25 is the centre of the second of five, and 0.375 lies between it and the third."""
    encoder = encoders.build("population", seed=0, steps=4000, fields=5, attenuation=1.0)
    values = np.array([[0.25, 0.375, 1.0]], np.float32)
    assert encoders.inputs(encoder, 3) == 15
    bits = encoder.encode(values, np.zeros(1, np.int64), 0)
    counts = (
        np.unpackbits(bits.view(np.uint8), axis=2, bitorder="little", count=15).sum(axis=1, dtype=int).reshape(3, 5)
    )
    assert counts[0].tolist() == [0, 4000, 0, 0, 0]
    assert counts[2].tolist() == [0, 0, 0, 0, 4000]
    assert np.flatnonzero(counts[1]).tolist() == [1, 2]
    assert abs(counts[1, 1] - 2000) < 5 * np.sqrt(1000)
    assert abs(counts[1, 2] - 2000) < 5 * np.sqrt(1000)


@reproducible
@given(st.floats(0, 1, width=32), st.integers(2, 20))
def test_a_population_makes_as_many_spikes_for_every_value(value, fields):
    encoder = encoders.build("population", seed=0, steps=10, fields=fields)
    felt = encoder._felt(np.full((1, 1), value, np.float32))
    assert felt.sum() == pytest.approx(1.0, abs=1e-6)
    assert (felt > 0).sum() <= 2


def test_a_population_of_a_series_is_silent_after_its_end():
    series = np.full((2, 10, 3), 0.4, np.float32)
    series[1, 5:] = np.nan
    bits = encoders.build("population", seed=0, steps=20).encode(series, np.arange(2), 0)
    assert bits[0, 10:].any()
    assert not bits[1, 10:].any()
    with pytest.raises(ValueError, match="want values"):
        encoders.build("population", seed=0).encode(np.zeros((1, 3), np.uint8), np.zeros(1, np.int64), 0)


def test_auto_chooses_by_the_kind_and_the_rule():
    auto = encoders.build("auto", seed=4)
    for kind in auto.kinds:
        for reads in "trains", "steps", "values":
            chosen = encoders.chosen(auto, kind, 9, reads, 4)
            assert kind in chosen.kinds
            assert encoders.build(seed=4, **encoders.settings(chosen)) == chosen
    long = encoders.chosen(encoders.build("auto", seed=0, steps=77, attenuation=3.0), "series", 9, "steps", 0)
    assert (long.steps, long.attenuation) == (77, 3.0)
    for points, steps in (24, 216), (100, 200), (150, 300), (1000, 1000):
        assert encoders.chosen(auto, "series", points, "trains", 0).steps == steps
