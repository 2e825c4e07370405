"""The encoders that draw nothing but a phase: evenly spaced spikes, latency, changes, currents, and mel frames."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from snnrun import encoders
from snnrun.compiled import parallel
from snnrun.encoders.mel import Mel
from snnrun.errors import UsageError

quick = settings(max_examples=40)
seeds = st.integers(0, 2**40)
values = st.floats(0, 1, width=32)
vectors = npst.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 70)), elements=values)
NAN = np.float32("nan")


@st.composite
def series(draw: st.DrawFn) -> np.ndarray:
    """Series (B, P, N), some of which end before the others."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 40)))
    made = draw(npst.arrays(np.float32, shape, elements=values))
    for sample, length in zip(made, draw(st.lists(st.integers(1, shape[1]), min_size=3, max_size=3)), strict=False):
        sample[length:] = NAN
    return made


def spikes_of(encoder, samples: np.ndarray, index=None, epoch: int = 1) -> np.ndarray:
    """Spikes (B, T, N) of 0 and 1."""
    bits = encoder.encode(samples, np.arange(len(samples)) if index is None else np.asarray(index), epoch)
    count = encoders.inputs(encoder, samples.shape[-1])
    every = np.unpackbits(bits.view(np.uint8), axis=2, bitorder="little")
    assert not every[:, :, count:].any(), "no bit beyond the last neuron is set"
    return every[:, :, :count]


def point_of(steps: int, points: int) -> list[int]:
    """The point of each step."""
    return [t * points // steps for t in range(steps)]


# ---- regular --------------------------------------------------------------------------------------------------------


@quick
@given(seeds, vectors, st.integers(1, 150), st.sampled_from([1.0, 2.0, 5.5]))
def test_regular_counts_are_the_rate_to_within_one_and_gaps_differ_by_at_most_one(seed, samples, steps, attenuation):
    encoder = encoders.build("regular", seed=seed, steps=steps, attenuation=attenuation)
    spikes = spikes_of(encoder, samples)
    counts = spikes.sum(axis=1, dtype=np.int64)
    assert (np.abs(counts - steps * samples / attenuation) < 1 + 1e-4).all()
    for b, n in itertools.product(range(len(samples)), range(samples.shape[1])):
        gaps = np.diff(np.flatnonzero(spikes[b, :, n]))
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_regular_phases_are_even():
    """Of 4,000 neurons that fire once in ten steps, a tenth fire in each: 400, standard deviation 19."""
    encoder = encoders.build("regular", seed=0, steps=10, attenuation=1)
    by_step = spikes_of(encoder, np.full((1, 4000), 0.1, np.float32))[0].sum(axis=1, dtype=np.int64)
    assert by_step.sum() == pytest.approx(4000, abs=2)
    assert np.abs(by_step - 400).max() < 5 * 19


@quick
@given(seeds, series(), st.integers(1, 5))
def test_regular_adds_up_the_rates_of_a_series(seed, samples, share):
    steps = samples.shape[1] * share
    encoder = encoders.build("regular", seed=seed, steps=steps, attenuation=1)
    spikes = spikes_of(encoder, samples).astype(np.int64).cumsum(axis=1)
    rates = np.nan_to_num(samples)[:, point_of(steps, samples.shape[1])].cumsum(axis=1, dtype=np.float64)
    assert (np.abs(spikes - rates) < 1 + 1e-4).all()


@quick
@given(seeds, st.integers(1, 1000))
def test_regular_phases_are_the_samples_own(seed, epoch):
    samples, index = np.full((3, 40), 0.3, np.float32), np.array([0, 5, 70_001])
    fresh, frozen = (encoders.build("regular", seed=seed, steps=20, frozen=frozen) for frozen in (False, True))
    whole = fresh.encode(samples, index, epoch)
    for rows in ([2], [1, 0], [2, 1, 0]):
        assert np.array_equal(fresh.encode(samples[rows], index[rows], epoch), whole[rows])
    assert len({sample.tobytes() for sample in whole}) == 3
    assert not np.array_equal(fresh.encode(samples, index, epoch + 1), whole)
    assert not np.array_equal(encoders.build("regular", seed=seed + 1, steps=20).encode(samples, index, epoch), whole)
    assert np.array_equal(frozen.encode(samples, index, epoch), fresh.encode(samples, index, 0))


# ---- latency --------------------------------------------------------------------------------------------------------


@quick
@given(vectors, st.integers(2, 130), st.sampled_from(["linear", "logarithmic"]))
def test_latency_fires_once_and_keeps_the_order_of_the_values(samples, steps, curve):
    encoder = encoders.build("latency", seed=0, steps=steps, curve=curve)
    spikes = spikes_of(encoder, samples)
    assert np.array_equal(spikes.sum(axis=1), samples >= encoder.least)
    times = np.where(spikes.any(axis=1), spikes.argmax(axis=1), steps)
    for row, value in zip(times, samples, strict=True):
        assert (np.diff(row[np.argsort(-value, kind="stable")]) >= 0).all()
    assert (times[samples == 1] == 0).all()


@pytest.mark.parametrize(
    ("curve", "times"), [("linear", [0, 25, 50, 80, 100, -1, -1]), ("logarithmic", [0, 18, 43, 100])]
)
def test_latency_times(curve, times):
    if curve == "linear":
        encoder = encoders.build("latency", seed=0, steps=101, least=2**-20)
        samples = np.array([[1, 0.75, 0.5, 0.2, 2**-20, 9e-7, 0]], np.float32)
    else:
        encoder = encoders.build("latency", seed=0, steps=101, curve=curve, least=0.2)
        samples = np.array([[1, 0.75, 0.5, 0.2]], np.float32)
        samples[0, 3] = np.nextafter(np.float32(0.2), np.float32(1))
    assert encoder.times(samples.astype(np.float64)).tolist() == [times]


def test_latency_takes_pixels_and_leaves_nan_silent():
    encoder = encoders.build("latency", seed=0, steps=256, least=1e-9)
    pixels = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(spikes_of(encoder, pixels)[0].argmax(axis=0)[1:], np.arange(254, -1, -1))
    assert not spikes_of(encoder, pixels)[0, :, 0].any()
    assert not spikes_of(encoder, np.full((1, 3), NAN)).any()


# ---- delta ----------------------------------------------------------------------------------------------------------


@quick
@given(series(), st.sampled_from([0.05, 0.1, 0.3, 1.0]), st.integers(1, 4))
def test_delta_rebuilds_the_series_to_within_the_threshold(samples, threshold, share):
    """At the last step of each point, with so many steps that every change can be sent."""
    points, channels = samples.shape[1:]
    enough = (int(1 / threshold) + 1) * share
    encoder = encoders.build("delta", seed=0, steps=points * enough, threshold=threshold)
    spikes = spikes_of(encoder, samples).astype(np.int64)
    up, down = spikes[:, :, :channels], spikes[:, :, channels:]
    assert not (up & down).any(), "at most one of the two fires"
    level = samples[:, :1].astype(np.float64) + threshold * (up - down).cumsum(axis=1)
    off = level[:, enough - 1 :: enough] - samples
    assert (np.abs(np.nan_to_num(off)) < threshold + 1e-9).all()
    ended = np.isnan(samples)[:, point_of(points * enough, points)]
    assert not up[ended].any()
    assert not down[ended].any()


def test_delta_by_hand():
    """Up to one spike a step: a change of 0.3 takes three."""
    samples = np.array([[[0.5], [0.75], [0.5], [NAN]]], np.float32)
    encoder = encoders.build("delta", seed=0, steps=16, threshold=0.125)
    assert encoder.inputs(1) == 2
    spikes = spikes_of(encoder, samples)[0]
    assert np.flatnonzero(spikes[:, 0]).tolist() == [4, 5]
    assert np.flatnonzero(spikes[:, 1]).tolist() == [8, 9]


# ---- direct ---------------------------------------------------------------------------------------------------------


@quick
@given(vectors, st.sampled_from([0.5, 1.0, 5.5]))
def test_direct_hands_values_on(samples, attenuation):
    encoder = encoders.build("direct", seed=0, attenuation=attenuation)
    assert encoders.makes_currents(encoder)
    currents = encoder.encode(samples, np.arange(len(samples)), 1)
    assert currents.dtype == np.float32
    assert np.array_equal(currents[:, 0], (samples.astype(np.float64) / attenuation).astype(np.float32))


def test_direct_takes_pixels_and_series():
    encoder = encoders.build("direct", seed=0, steps=9, attenuation=2.0)
    assert encoder.encode(np.array([[0, 51, 255]], np.uint8), np.zeros(1), 0).tolist() == [[[0, np.float32(0.1), 0.5]]]
    series = np.array([[[0.5], [NAN], [NAN]]], np.float32)
    assert encoder.encode(series, np.zeros(1), 0).tolist() == [[[0.25], [0], [0]]]


# ---- mel ------------------------------------------------------------------------------------------------------------


def tone(hertz: float, seconds: float = 0.5, rate: int = 8000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def mel_spikes(encoder: Mel, wave: np.ndarray, rate: int = 8000) -> np.ndarray:
    bits = encoder.encode_recording(wave, rate)
    assert bits.shape == (encoder.steps, -(-encoder.channels // 64))
    return np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little", count=encoder.channels)


@pytest.mark.slow  # imports it
def test_mel_frames_are_librosas():
    import librosa

    encoder, wave = Mel(sample_rate=8000), np.random.default_rng(0).normal(size=4001)
    power = librosa.feature.melspectrogram(y=wave, sr=8000, n_fft=256, hop_length=128, n_mels=40)
    decibels = librosa.power_to_db(power, ref=np.max, top_db=None)
    assert np.allclose(encoder.frames(wave), np.clip(1 + decibels.T / 60, 0, 1), atol=1e-5)


@pytest.mark.parametrize("coding", ["rate", "delta"])
def test_mel_hears_where_a_tone_lies_and_not_how_loud_it_is(coding):
    encoder = Mel(coding=coding, steps=320)
    low, high = (mel_spikes(encoder, tone(hertz)).sum(axis=0)[:40] for hertz in (300, 3000))
    assert low.argmax() < high.argmax()
    wave = tone(1000)
    assert np.array_equal(mel_spikes(encoder, wave), mel_spikes(encoder, wave / 64))
    assert not mel_spikes(encoder, np.zeros(4000)).any()
    assert not mel_spikes(encoder, np.zeros(0)).any()


def test_mel_rates_follow_the_frames_and_changes_rebuild_them():
    wave = np.concatenate([tone(500), tone(2500)])
    rate = Mel(attenuation=2.0)
    frames = rate.frames(encoders.mel.resampled(wave, 8000, rate.sample_rate))[:70]
    counts = mel_spikes(rate, wave).sum(axis=0, dtype=np.int64)
    assert (np.abs(counts - 10 * frames.sum(axis=0) / 2) < 1 + 1e-3).all()
    change = Mel(coding="delta", threshold=0.125)
    spikes = mel_spikes(change, wave).astype(np.int64)
    level = 0.125 * (spikes[:, :40] - spikes[:, 40:]).cumsum(axis=0)
    assert (np.abs(level[9::10][: len(frames)] - frames) < 0.125).all()


def test_mel_says_what_it_leaves_out_and_all_that_its_spikes_depend_on():
    encoder = Mel()
    assert isinstance(encoder, encoders.CuttingEncoder)
    assert encoder.step_s == pytest.approx(0.0016)
    assert encoder.left_out(8000, 8000) == 0
    assert encoder.left_out(16000, 8000) == (1 + 25000 // 200) * 10 - 700
    keys = [Mel(**{name: value}).key() for name, value in (("mels", 20), ("coding", "delta"), ("range_db", 50.0))]
    assert len({str(key) for key in [*keys, encoder.key()]}) == 4


# ---- all of them ----------------------------------------------------------------------------------------------------

FLAT, LONG = (40, 70), (40, 7, 70)
ALL = {"regular": (FLAT, LONG), "latency": (FLAT,), "delta": (LONG,), "direct": (FLAT, LONG)}


@pytest.mark.parametrize("name", ALL)
def test_threads_and_the_batch_change_nothing(name):
    rng, encoder = np.random.default_rng(0), encoders.build(name, seed=3, steps=70)
    for shape in ALL[name]:
        samples, index = rng.random(shape, np.float32), np.arange(40)
        whole = encoder.encode(samples, index, 3)
        for number in (2, 3):
            parallel.set_threads(number)
            for count in (1, 7, 40):
                assert np.array_equal(encoder.encode(samples[:count], index[:count], 3), whole[:count])
        parallel.set_threads(1)
        with ThreadPoolExecutor(3) as pool:
            parts = pool.map(lambda i, s=samples: encoder.encode(s[i : i + 1], np.array([i]), 3), range(40))
            assert np.array_equal(np.concatenate(list(parts)), whole)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("regular", {"steps": 0}, ["encoder.steps: 0", "at least 1"]),
        ("regular", {"attenuation": 0.5}, ["encoder.attenuation: 0.5", "at least 1"]),
        ("regular", {"seed": -1}, ["seed: -1"]),
        ("latency", {"steps": 1}, ["encoder.steps: 1", "at least 2"]),
        ("latency", {"curve": "linar"}, ["encoder.curve", "linear", "logarithmic"]),
        ("latency", {"least": 0}, ["encoder.least: 0", "greater than 0"]),
        ("latency", {"least": 1}, ["encoder.least: 1", "less than 1"]),
        ("delta", {"threshold": 0}, ["encoder.threshold: 0", "greater than 0"]),
        ("delta", {"threshold": 1.5}, ["encoder.threshold: 1.5"]),
        ("direct", {"attenuation": 0}, ["encoder.attenuation: 0", "greater than 0"]),
        ("direct", {"gain": 2}, ["encoder.gain:", "steps, attenuation"]),
        ("mel", {"mels": 300}, ["encoder.mels=300", "200 frequencies"]),
        ("mel", {"hop_ms": 0.01}, ["encoder.hop_ms=0.01", "less than a sample"]),
        ("mel", {"coding": "poisson"}, ["encoder.coding", "rate", "delta"]),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(UsageError) as error:
        encoders.build(name, **{"seed": 0, **options})
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["regular", "delta", "direct", "poisson", "bernoulli"])
def test_more_points_than_steps_are_refused(name):
    with pytest.raises(UsageError, match=r"encoder.steps=5: the series have 6 points.*encoder.steps=6"):
        encoders.build(name, seed=0, steps=5).encode(np.zeros((1, 6, 2), np.float32), np.zeros(1, np.int64), 1)


@pytest.mark.parametrize("name", ["latency", "delta", "direct"])
@pytest.mark.parametrize(
    "samples", [np.zeros((2, 3)), np.zeros(3, np.float32), np.full((1, 2, 2), 1.5, np.float32), np.zeros((1, 2, 2, 2))]
)
def test_arrays_that_do_not_fit(name, samples):
    with pytest.raises(ValueError, match="want"):
        encoders.build(name, seed=0).encode(samples, np.zeros(len(samples), np.int64), 1)


@pytest.mark.parametrize("wave", [np.zeros((2, 2)), np.array([0.0, np.nan])])
def test_sound_that_is_none_is_refused(wave):
    with pytest.raises(ValueError, match="want finite samples"):
        Mel().encode_recording(wave, 8000)
