"""Encoders that draw: what a draw depends on, its distribution, and its generator."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrun import data, encoders
from snnrun.compiled import parallel, splitmix
from snnrun.encoders import draws
from snnrun.errors import UsageError
from snnrun.train.batches import batches

OPTIONS = {"poisson": {"steps": 30}, "bernoulli": {"steps": 12}}


names = st.sampled_from(sorted(OPTIONS))


reproducible = settings(max_examples=30)


seeds = st.integers(0, 2**40)


def images(count: int, pixels: int, seed: int = 0) -> np.ndarray:
    """Images with silent, faint and white pixels."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((count, pixels)) < 0.4, 0, rng.integers(0, 256, (count, pixels))).astype(np.uint8)


def build(name: str, seed: int = 0, **options) -> encoders.Encoder:
    return encoders.build(name, seed=seed, **{**OPTIONS[name], **options})


def spikes_of(encoder: encoders.Encoder, samples: np.ndarray, index=None, epoch: int = 1) -> np.ndarray:
    """Spikes (B, T, N) of 0 and 1 from the bits that an encoder makes."""
    bits = encoder.encode(samples, np.arange(len(samples)) if index is None else np.asarray(index), epoch)
    return np.unpackbits(bits.view(np.uint8), axis=2, bitorder="little", count=samples.shape[1])


def assert_uncorrelated(a: np.ndarray, b: np.ndarray) -> None:
    """Two equally sized sets of draws: correlation within 5 standard errors of zero."""
    a, b = a - a.mean(), b - b.mean()
    assert abs((a * b).mean()) < 5 * a.std() * b.std() / np.sqrt(a.size)


# ---- what the draws depend on ---------------------------------------------------------------------------------------


@reproducible
@given(names, seeds, st.permutations(range(9)), st.integers(1, 9), st.integers(0, 5))
def test_spikes_do_not_depend_on_the_batch(name, seed, order, batch, epoch):
    samples, index = images(9, 20), np.arange(9) * 1000 + 7
    encoder = build(name, seed)
    whole = encoder.encode(samples, index, epoch)
    for start in range(0, 9, batch):
        rows = order[start : start + batch]
        assert np.array_equal(encoder.encode(samples[rows], index[rows], epoch), whole[rows])


@pytest.mark.parametrize("name", OPTIONS)
def test_spikes_do_not_depend_on_the_thread(name):
    samples, index = images(40, 70), np.arange(40)
    encoder = build(name, steps=70)
    whole = encoder.encode(samples, index, 3)
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda i: encoder.encode(samples[i : i + 1], index[i : i + 1], 3), range(40))
        assert np.array_equal(np.concatenate(list(parts)), whole)
    for number in (2, 3, 4):
        parallel.set_threads(number)
        for count in (1, 2, 7, 40):
            assert np.array_equal(encoder.encode(samples[:count], index[:count], 3), whole[:count])


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


@pytest.mark.parametrize("name", OPTIONS)
def test_seed_epoch_and_index_change_the_draw(name):
    """Each has a place of its own: the same three numbers in another order, or with the same sum, are another draw."""
    samples = np.full((1, 60), 128, np.uint8)
    keys = [*product(range(4), repeat=3), (2**40, 1, 2), (1, 2**20, 2), (1, 2, 2**40)]
    drawn = {build(name, seed).encode(samples, np.array([index]), epoch).tobytes() for seed, epoch, index in keys}
    assert len(drawn) == len(keys)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("steps", "fewer"), [(25, 10), (65, 64), (66, 65), (130, 129), (200, 2)])
def test_fewer_steps_give_the_beginning_of_the_same_train(name, steps, fewer):
    long, short = (build(name, steps=count).encode(images(2, 70), np.arange(2), 1) for count in (steps, fewer))
    assert np.array_equal(long[:, :fewer], short)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_train_does_not_depend_on_the_other_pixels(name):
    samples = images(1, 130)
    alone = np.where(np.arange(130) % 3 == 0, samples, 0).astype(np.uint8)
    whole, some = spikes_of(build(name), samples), spikes_of(build(name), alone)
    assert np.array_equal(some[:, :, ::3], whole[:, :, ::3])
    assert np.array_equal(spikes_of(build(name), samples[:, :40]), whole[:, :, :40])


# ---- their distribution ---------------------------------------------------------------------------------------------


@reproducible
@given(st.integers(0, 255), seeds, st.sampled_from([1.0, 2.0, 5.5]))
def test_rates_match_the_pixels(pixel, seed, attenuation):
    samples, p, trials = np.full((1, 400), pixel, np.uint8), pixel / 255 / attenuation, 400 * 100
    for name, steps in ("poisson", 101), ("bernoulli", 100):
        encoder = encoders.build(name, seed=seed, steps=steps, attenuation=attenuation)
        spikes = spikes_of(encoder, samples, [12])
        assert abs(spikes.sum(dtype=np.int64) - trials * p) <= 5 * np.sqrt(trials * p * (1 - p)) + 1e-6


def test_each_pixel_has_its_own_rate():
    pixels = np.random.default_rng(0).permutation(256).astype(np.uint8)
    for encoder, p in (
        (encoders.build("poisson", seed=3, steps=4001), pixels / 255 / 5.5),
        (encoders.build("bernoulli", seed=3, steps=4000), pixels / 255),
    ):
        counts = spikes_of(encoder, pixels[None], epoch=0).sum(axis=1, dtype=np.int64)[0]
        assert (np.abs(counts - 4000 * p) <= 5 * np.sqrt(4000 * p * (1 - p)) + 1e-6).all()


@pytest.mark.parametrize("pixel", [8, 127, 230])
def test_counts_have_the_variance_of_independent_draws(pixel):
    """The variance of 4,000 binomial counts is known to 2 %; 5 standard errors are 11 %."""
    counts = spikes_of(encoders.build("bernoulli", seed=0, steps=400), np.full((10, 400), pixel, np.uint8)).sum(axis=1)
    p = pixel / 255
    assert counts.var() == pytest.approx(400 * p * (1 - p), rel=0.11)
    assert counts.mean() == pytest.approx(400 * p, abs=5 * np.sqrt(400 * p * (1 - p) / 4000))


@pytest.mark.parametrize("pixel", [25, 127, 240])
def test_draws_are_independent(pixel):
    """Of other steps, neurons, samples, epochs and seeds; 64 is where a word ends in either direction."""
    samples = np.full((2, 400), pixel, np.uint8)
    first, second = spikes_of(encoders.build("bernoulli", seed=0, steps=400), samples).astype(float)
    for lag in (1, 2, 3, 24, 63, 64, 65, 128):
        assert_uncorrelated(first[:-lag], first[lag:])
        assert_uncorrelated(first[:, :-lag], first[:, lag:])
        assert_uncorrelated(first[:-lag, :-lag], first[lag:, lag:])
    assert_uncorrelated(first, second)
    for seed, epoch in (0, 2), (1, 1):
        other = spikes_of(encoders.build("bernoulli", seed=seed, steps=400), samples, epoch=epoch)
        assert_uncorrelated(first, other[0])
    pairs = np.corrcoef(first[:, :128].T)[np.triu_indices(128, 1)]
    assert np.abs(pairs).max() < 5.5 / np.sqrt(400)
    assert pairs.std() == pytest.approx(1 / np.sqrt(400), rel=0.05)


def test_pixels_of_different_rates_are_independent():
    """Each neuron draws from a stream of its own."""
    samples = np.tile(np.array([40, 127, 128, 220], np.uint8), (1, 100))
    spikes = spikes_of(encoders.build("bernoulli", seed=0, steps=400), samples)[0].astype(float)
    for lag in (1, 2, 3):
        left, right = spikes[:, :-lag], spikes[:, lag:]
        assert_uncorrelated(left - left.mean(0), right - right.mean(0))


# ---- its ends -------------------------------------------------------------------------------------------------------


@reproducible
@given(seeds, st.integers(0, 2**31), st.integers(0, 50))
def test_poisson_is_silent_at_step_0(seed, index, epoch):
    samples = np.full((1, 70), 255, np.uint8)
    spikes = spikes_of(encoders.build("poisson", seed=seed, steps=140, attenuation=1), samples, [index], epoch)
    assert not spikes[:, 0].any()
    assert spikes[:, 1:].all()  # p = 1 always fires


@reproducible
@given(seeds, st.integers(0, 2**31), st.integers(0, 50))
def test_black_never_fires_and_white_always(seed, index, epoch):
    samples = np.tile(np.array([0, 255], np.uint8), (1, 35))
    spikes = spikes_of(encoders.build("bernoulli", seed=seed, steps=140), samples, [index], epoch)
    assert not spikes[:, :, 0::2].any()
    assert spikes[:, :, 1::2].all()
    spikes = spikes_of(encoders.build("poisson", seed=seed, steps=40), samples, [index], epoch)
    assert not spikes[:, :, 0::2].any()


def turned_by_hand(block: np.ndarray, start: int) -> None:
    """Bit i of word k becomes bit k of word i."""
    words = block[start : start + 64].tolist()
    block[start : start + 64] = [sum((word >> i & 1) << k for k, word in enumerate(words)) for i in range(64)]


@pytest.mark.parametrize(("word", "fires"), [(0, [0, 0, 1]), (2**64 - 1, [0, 1, 1])])
def test_extreme_words(monkeypatch, word, fires):
    """Words of zeros let only p = 1 fire, words of ones whatever can fire: the chain of digits is not one off."""
    monkeypatch.setattr(draws, "mix", lambda _: np.uint64(word))
    monkeypatch.setattr(draws, "stream_of", draws.stream_of.py_func)
    monkeypatch.setattr(draws, "draw", draws.draw.py_func)
    monkeypatch.setattr(draws, "transpose_bits", turned_by_hand)
    encoder = encoders.build("bernoulli", seed=0, steps=5)
    with np.errstate(over="ignore"):
        spikes = spikes_of(encoder, np.array([[0, 1, 255]], np.uint8))
    assert spikes[0].tolist() == [fires] * 5


def test_faint_pixels_never_fire():
    """p = 0.98e-5 is below the limit of 1e-5, p = 1.18e-5 is not: 4e5 draws, 4 spikes expected at either."""
    for attenuation, fires in (400.0, False), (330.0, True):
        encoder = encoders.build("poisson", seed=0, steps=401, attenuation=attenuation)
        assert spikes_of(encoder, np.full((100, 10), 1, np.uint8)).any() == fires


# ---- the generator --------------------------------------------------------------------------------------------------


def mixed(x: int) -> int:
    """SplitMix64's output function in whole numbers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def test_splitmix64_gives_the_published_numbers():
    """The first outputs for the seed 1234567, from the C code that its authors published."""
    step = 0x9E3779B97F4A7C15
    numbers = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [mixed((1234567 + k * step) % 2**64) for k in range(1, 6)] == numbers
    assert [int(splitmix.mix(np.uint64((1234567 + k * step) % 2**64))) for k in range(1, 6)] == numbers


@pytest.mark.parametrize(("name", "first_step"), [("poisson", 1), ("bernoulli", 0)])
def test_draws_are_the_chain_of_random_words(name, first_step):
    """Whole numbers alone, so every machine must give these spikes."""
    step, steps = 0x9E3779B97F4A7C15, 140
    samples = images(2, 70)
    encoder = encoders.build(name, seed=5, steps=steps)
    expected = np.zeros((2, steps, 70), np.uint8)
    for b, index in enumerate((3, 2**33)):
        key = 0
        for part in (5, 1, index):
            key = mixed((key + step + part) % 2**64)
        for n, pixel in enumerate(samples[b]):
            level = int(np.rint(encoder.probabilities()[pixel] * 2**24))
            lane = mixed((key + (n + 1) * step) % 2**64)
            for span in range(3):
                bits = 0
                for digit in range(24):
                    word = mixed((lane + (span * 24 + digit + 1) * step) % 2**64)
                    bits = bits | word if level >> digit & 1 else bits & word
                for k in range(min(64, steps - first_step - 64 * span)):
                    expected[b, first_step + 64 * span + k, n] = level == 2**24 or bits >> k & 1
    assert np.array_equal(spikes_of(encoder, samples, [3, 2**33]), expected)


# ---- options and arrays ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("pixels", [7, 63, 64, 65, 130])
def test_shape_and_type(name, pixels):
    encoder, steps, words = build(name), OPTIONS[name]["steps"], -(-pixels // 64)
    bits = encoder.encode(np.full((3, pixels), 255, np.uint8), np.arange(3), 1)
    assert bits.shape == (3, steps, words)
    assert bits.dtype == np.int64
    every = np.unpackbits(bits.view(np.uint8), axis=2, bitorder="little")
    assert every[:, :, :pixels].any()
    assert not every[:, :, pixels:].any(), "no bit beyond the last neuron is set"
    assert encoder.steps == steps
    assert encoder.kinds == ("image", "vector", "series")
    assert not encoder.encode(np.zeros((2, pixels), np.uint8), np.arange(2), 1).any()
    assert encoder.encode(np.zeros((0, pixels), np.uint8), np.arange(0), 1).shape == (0, steps, words)


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
        ("poisson", {"steps": 1}, ["encoder.steps: 1", "at least 2"]),
        ("bernoulli", {"steps": 0}, ["encoder.steps: 0", "at least 1"]),
        ("bernoulli", {"steps": -4}, ["encoder.steps: -4"]),
        ("poisson", {"attenuation": 0.5}, ["encoder.attenuation: 0.5"]),
        ("poisson", {"attenuation": float("nan")}, ["encoder.attenuation: nan"]),
        ("poisson", {"attenuation": float("inf")}, ["encoder.attenuation: inf"]),
        ("poisson", {"seed": -1}, ["seed: -1"]),
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
    with pytest.raises(ValueError, match="want samples"):
        build("poisson").encode(samples, index, epoch)


def test_an_encoder_that_inherits_and_encodes_in_its_own_way_is_asked_for_that():
    class Own(encoders.Poisson):
        def begin(self, samples, index, epoch):
            begun.append(index)
            return super().begin(samples, index, epoch)

    class Other(Own):
        def probabilities(self):
            return np.ones(256) / 2

    class Silent(Own):
        def encode(self, samples, index, epoch):
            return np.zeros((len(samples), self.steps, 1), np.int64)

    def encoded(encoder):
        return encoders.encode_ahead(encoder, np.full((2, 3), 255, np.uint8), np.arange(2), 1)()

    begun = []
    assert (encoded(Own(seed=0)) == encoded(encoders.Poisson(seed=0))).all()
    assert (encoded(Other(seed=0)) != encoded(Own(seed=0))).any()
    assert len(begun) == 3
    assert not encoded(Silent(seed=0)).any()
    assert len(begun) == 3


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ahead", [True, False])
def test_batches_are_what_the_encoder_gives_whether_begun_ahead_or_not(threads, ahead):
    parallel.set_threads(threads)
    split = data.load("digits", seed=0).train
    encoder, order = encoders.build("poisson", seed=0, steps=40), np.arange(50)[::-1].copy()
    found = list(batches(split, order, encoder, 3, 16, torch.device("cpu"), ahead=ahead))
    assert [len(labels) for _, _, labels in found] == [16, 16, 16, 2]
    for positions, spikes, labels in found:
        assert (spikes.numpy() == encoder.encode(split.samples[positions], split.index[positions], 3)).all()
        assert (labels.numpy() == split.labels[positions]).all()
    assert (np.concatenate([positions for positions, _, _ in found]) == order).all()
    assert list(batches(split, order[:0], encoder, 3, 16, torch.device("cpu"), ahead=ahead)) == []


def test_batches_that_nobody_asks_for_any_more_are_in_nobodys_way():
    parallel.set_threads(2)
    split = data.load("digits", seed=0).train
    encoder = encoders.build("poisson", seed=0, steps=40)
    for _ in range(20):
        next(batches(split, np.arange(64), encoder, 1, 16, torch.device("cpu")))
    [(_, spikes, _)] = batches(split, np.arange(64), encoder, 1, 64, torch.device("cpu"))
    assert (spikes.numpy() == encoder.encode(split.samples[:64], split.index[:64], 1)).all()
