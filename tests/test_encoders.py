from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrun import encoders
from snnrun.errors import UsageError

OPTIONS = {"poisson": {"steps": 30}, "bernoulli": {"steps": 12}}
names = st.sampled_from(sorted(encoders.ENCODERS))
reproducible = settings(deadline=None, derandomize=True, max_examples=30)
seeds = st.integers(0, 2**40)


def images(count: int, pixels: int, seed: int = 0) -> np.ndarray:
    """Images with silent, faint and white pixels."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((count, pixels)) < 0.4, 0, rng.integers(0, 256, (count, pixels))).astype(np.uint8)


def build(name: str, seed: int = 0, **options) -> encoders.Encoder:
    return encoders.build(name, seed=seed, **{**OPTIONS[name], **options})


@reproducible
@given(names, seeds, st.permutations(range(9)), st.integers(1, 9), st.integers(0, 5))
def test_spikes_do_not_depend_on_the_batch(name, seed, order, batch, epoch):
    samples, index = images(9, 20), np.arange(9) * 1000 + 7
    encoder = build(name, seed)
    whole = encoder.encode(samples, index, epoch)
    for start in range(0, 9, batch):
        rows = order[start : start + batch]
        assert np.array_equal(encoder.encode(samples[rows], index[rows], epoch), whole[rows])


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_spikes_do_not_depend_on_the_thread(name):
    samples, index = images(40, 50), np.arange(40)
    encoder = build(name)
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda i: encoder.encode(samples[i : i + 1], index[i : i + 1], 3), range(40))
        assert np.array_equal(np.concatenate(list(parts)), encoder.encode(samples, index, 3))


@reproducible
@given(names, seeds, st.integers(1, 1000))
def test_redrawn_each_epoch_unless_frozen(name, seed, epoch):
    samples, index = images(3, 40), np.array([0, 5, 70_001])
    fresh, frozen = build(name, seed), build(name, seed, frozen=True)
    evaluation = fresh.encode(samples, index, 0)
    assert np.array_equal(build(name, seed).encode(samples, index, 0), evaluation)
    assert not np.array_equal(fresh.encode(samples, index, epoch), evaluation)
    assert not np.array_equal(fresh.encode(samples, index, epoch), fresh.encode(samples, index, epoch + 1))
    assert np.array_equal(frozen.encode(samples, index, epoch), evaluation)


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_seed_and_index_change_the_draw(name):
    samples = np.repeat(images(1, 60), 2, axis=0)
    one = build(name, 1).encode(samples, np.array([3, 4]), 1)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one, build(name, 2).encode(samples, np.array([3, 4]), 1))


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_fewer_steps_give_the_beginning_of_the_same_train(name):
    samples, index = images(2, 33), np.arange(2)
    long, short = (build(name, steps=steps).encode(samples, index, 1) for steps in (25, 10))
    assert np.array_equal(long[:, :10], short)


@reproducible
@given(st.integers(0, 255), seeds, st.sampled_from([1.0, 2.0, 5.5]))
def test_rates_match_the_pixels(pixel, seed, attenuation):
    samples, index = np.full((1, 400), pixel, np.uint8), np.array([12])
    for encoder, p in (
        (encoders.build("poisson", seed=seed, steps=101, attenuation=attenuation), pixel / 255 / attenuation),
        (encoders.build("bernoulli", seed=seed, steps=100, attenuation=attenuation), pixel / 255 / attenuation),
    ):
        draws = 400 * 100
        spikes = encoder.encode(samples, index, 1)
        assert abs(spikes.sum(dtype=np.int64) - draws * p) <= 5 * np.sqrt(draws * p * (1 - p)) + 1e-6


def test_each_pixel_has_its_own_rate():
    pixels = np.random.default_rng(0).permutation(256).astype(np.uint8)
    for encoder, p in (
        (encoders.build("poisson", seed=3, steps=4001), pixels / 255 / 5.5),
        (encoders.build("bernoulli", seed=3, steps=4000), pixels / 255),
    ):
        counts = encoder.encode(pixels[None], np.array([0]), 0).sum(axis=1, dtype=np.int64)[0]
        assert (np.abs(counts - 4000 * p) <= 5 * np.sqrt(4000 * p * (1 - p)) + 1e-6).all()


def test_draws_of_steps_and_neighbours_are_independent():
    """Correlations of 2 x 80,000 pairs stay within 5 standard errors of zero."""
    spikes = encoders.build("bernoulli", seed=0, steps=400).encode(np.full((1, 400), 127, np.uint8), np.array([0]), 1)
    x = spikes[0].astype(float) - spikes.mean()
    for a, b in (x[:-1], x[1:]), (x[:, :-1], x[:, 1:]):
        assert abs((a * b).mean() / x.var()) < 5 / np.sqrt(a.size)


@reproducible
@given(seeds, st.integers(0, 2**31), st.integers(0, 50))
def test_poisson_is_silent_at_step_0(seed, index, epoch):
    samples = np.full((1, 64), 255, np.uint8)
    spikes = encoders.build("poisson", seed=seed, steps=40, attenuation=1).encode(samples, np.array([index]), epoch)
    assert not spikes[:, 0].any()
    assert spikes[:, 1:].all()  # p = 1 always fires


@reproducible
@given(seeds, st.integers(0, 2**31), st.integers(0, 50))
def test_black_never_fires_and_white_always(seed, index, epoch):
    samples = np.tile(np.array([0, 255], np.uint8), (1, 30))
    spikes = encoders.build("bernoulli", seed=seed, steps=40).encode(samples, np.array([index]), epoch)
    assert not spikes[:, :, 0::2].any()
    assert spikes[:, :, 1::2].all()
    assert (
        not encoders.build("poisson", seed=seed, steps=40).encode(samples, np.array([index]), epoch)[:, :, 0::2].any()
    )


@pytest.mark.parametrize(("word", "fires"), [(0, [0, 1, 1]), (2**64 - 1, [0, 0, 1])])
def test_extreme_words(monkeypatch, word, fires):
    """The lowest word fires whatever can fire, the highest only what has p = 1: the threshold is not one off."""

    class Constant:
        def __init__(self, sequence):
            pass

        def random_raw(self, size):
            return np.full(size, word, np.uint64)

    monkeypatch.setattr(np.random, "SFC64", Constant)
    spikes = encoders.build("bernoulli", seed=0, steps=5).encode(np.array([[0, 1, 255]], np.uint8), np.array([0]), 0)
    assert spikes[0].tolist() == [fires] * 5


def test_faint_pixels_never_fire():
    """p = 0.98e-5 is below the limit of 1e-5, p = 1.18e-5 is not: 4e5 draws, 4 spikes expected at either."""
    index = np.arange(100)
    for attenuation, fires in (400.0, False), (330.0, True):
        encoder = encoders.build("poisson", seed=0, steps=401, attenuation=attenuation)
        assert encoder.encode(np.full((100, 10), 1, np.uint8), index, 1).any() == fires


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_shape_and_type(name):
    spikes = build(name).encode(images(3, 7), np.arange(3), 1)
    assert spikes.shape == (3, OPTIONS[name]["steps"], 7)
    assert spikes.dtype == np.uint8
    assert set(np.unique(spikes)) == {0, 1}
    assert build(name).steps == OPTIONS[name]["steps"]
    assert build(name).kinds == ("image",)
    assert build(name).encode(np.zeros((2, 7), np.uint8), np.arange(2), 1).sum() == 0
    assert build(name).encode(np.zeros((0, 7), np.uint8), np.arange(0), 1).shape == (0, OPTIONS[name]["steps"], 7)


def test_defaults():
    poisson, bernoulli = encoders.build("poisson", seed=0), encoders.build("bernoulli", seed=0)
    assert (poisson.steps, poisson.attenuation, poisson.frozen) == (400, 5.5, False)
    assert (bernoulli.steps, bernoulli.frozen) == (20, False)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("poison", {}, ["encoder=poison", "poisson", "bernoulli"]),
        ("poisson", {"step": 3}, ["encoder.step:", "steps, frozen, attenuation"]),
        ("bernoulli", {"rate": 3}, ["encoder.rate:", "steps, frozen, attenuation"]),
        ("poisson", {"steps": 1}, ["encoder.steps=1", "at least 2"]),
        ("bernoulli", {"steps": 0}, ["encoder.steps=0", "at least 1"]),
        ("bernoulli", {"steps": -4}, ["encoder.steps=-4"]),
        ("poisson", {"attenuation": 0.5}, ["encoder.attenuation=0.5"]),
        ("poisson", {"attenuation": float("nan")}, ["encoder.attenuation=nan"]),
        ("poisson", {"attenuation": float("inf")}, ["encoder.attenuation=inf"]),
        ("poisson", {"seed": -1}, ["seed=-1"]),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(UsageError) as error:
        encoders.build(name, **{"seed": 0, **options})
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("samples", "index", "epoch"),
    [
        (np.zeros((2, 3)), np.arange(2), 0),
        (np.zeros(3, np.uint8), np.arange(3), 0),
        (np.zeros((2, 3), np.uint8), np.arange(3), 0),
        (np.zeros((2, 3), np.uint8), np.arange(2), -1),
    ],
)
def test_arrays_that_do_not_fit(samples, index, epoch):
    with pytest.raises(ValueError, match="want uint8 samples"):
        build("poisson").encode(samples, index, epoch)
