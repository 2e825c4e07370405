"""Recordings to spikes."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrun import encoders
from snnrun.compiled import parallel
from snnrun.encoders.bsa import bsa_encode
from snnrun.encoders.lyon import passive_ear
from snnrun.encoders.lyon_bsa import LyonBsa
from snnrun.errors import UsageError

RATE = 12500
# Every option with another value than its default's.
OTHERS = {
    "steps": 60,
    "sample_rate": 16000,
    "loudness": "rms",
    "loudness_rms": 0.02,
    "decimation": 150,
    "ear_q": 6.0,
    "step_factor": 0.3,
    "agc": False,
    "difference": False,
    "tau_factor": 2.0,
    "gain": 1000.0,
    "hold": 8,
    "threshold": 0.4,
}
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=15)


def noise(samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal(samples)


def spikes_of(encoder: LyonBsa, wave: np.ndarray, rate: int = RATE) -> np.ndarray:
    bits = encoder.encode_recording(wave, rate)
    assert bits.dtype == np.int64
    assert bits.shape == (encoder.steps, -(-encoder.channels // 64))
    every = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    assert not every[:, encoder.channels :].any()
    return every[:, : encoder.channels]


# ---- the parts in order ---------------------------------------------------------------------------------------------


def test_a_file_becomes_the_known_spikes(shared):
    """8 kHz read, resampled, heard and encoded."""
    soundfile = pytest.importorskip("soundfile")
    with np.load(shared / "golden" / "lyon_0_jackson_0.npz") as archive:
        wave, expected = archive["wave"], archive["bsa_spikes"].T
    recorded, rate = soundfile.read(shared / "data" / "fsdd" / "recordings" / "0_jackson_0.wav", dtype="float64")
    encoder = LyonBsa()
    assert (rate, encoder.channels) == (8000, 78)
    assert np.array_equal(encoder.resampled(recorded, rate), wave)
    assert np.array_equal(spikes_of(encoder, recorded, rate), expected)


@pytest.mark.parametrize("options", [{}, *({key: value} for key, value in OTHERS.items())], ids=str)
def test_ear_and_spiker_get_the_options(options):
    encoder = LyonBsa(**options)
    wave = noise(9000)
    ear = {key: getattr(encoder, key) for key in ("decimation", "ear_q", "step_factor", "agc", "difference")}
    level = encoder.loudness_rms / np.sqrt(np.mean(wave**2)) if encoder.loudness == "rms" else 1.0
    rates = passive_ear(wave * level, encoder.sample_rate, tau_factor=encoder.tau_factor, **ear)
    expected = bsa_encode(rates, encoder.steps, gain=encoder.gain, hold=encoder.hold, threshold=encoder.threshold)
    assert expected.any()
    assert np.array_equal(spikes_of(encoder, wave, encoder.sample_rate), expected)


@given(seeds, st.integers(-8, 8))
@few
def test_loudness_plays_no_part_once_it_is_set(seed, power):
    wave = noise(4000, seed)
    encoder = LyonBsa(steps=200, loudness="rms")
    louder = wave * 2.0**power
    assert np.array_equal(spikes_of(encoder, louder), spikes_of(encoder, wave))
    assert power == 0 or not np.array_equal(spikes_of(LyonBsa(steps=200), louder), spikes_of(LyonBsa(steps=200), wave))


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_other_rates_sound_alike(rate):
    """A tone fires the same channels whatever rate it was recorded at."""
    tones = {r: 0.1 * np.sin(2 * np.pi * 700 * np.arange(r // 2) / r) for r in (RATE, rate)}
    counts = {r: spikes_of(LyonBsa(steps=300), tone, r).sum(axis=0, dtype=np.int64) for r, tone in tones.items()}
    assert counts[RATE].sum() > 500
    assert np.abs(counts[rate] - counts[RATE]).sum() < 0.05 * counts[RATE].sum()


# ---- properties -----------------------------------------------------------------------------------------------------


@given(seeds, st.integers(10, 25))
@few
def test_what_comes_later_changes_nothing(seed, frames):
    """The file twice has its first half's spikes, up to where the spiker's kernel reaches over its end."""
    wave = noise(200 * frames, seed)
    encoder = LyonBsa()
    once, twice = spikes_of(encoder, wave), spikes_of(encoder, np.concatenate([wave, wave]))
    certain = 10 * frames - 23
    assert once[:certain].any()
    assert np.array_equal(twice[:certain], once[:certain])
    assert not once[10 * frames + 1 :].any()


@given(seeds, st.integers(2, 300))
@few
def test_fewer_steps_give_the_beginning_of_the_same_train(seed, steps):
    wave = noise(6000, seed)
    assert np.array_equal(spikes_of(LyonBsa(steps=steps), wave), spikes_of(LyonBsa(steps=300), wave)[:steps])


def test_the_same_in_every_thread():
    waves = [noise(1500 + 300 * i, i) for i in range(12)]
    encoder = LyonBsa(steps=150)
    alone = [encoder.encode_recording(wave, 8000) for wave in waves]
    for threads in (2, 3):
        parallel.set_threads(threads)
        together = [np.empty(0)] * len(waves)

        def encode(item, together=together):
            together[item] = encoder.encode_recording(waves[item], 8000)

        parallel.each(len(waves), encode)
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("part", ["ear", "spiker"])
def test_other_threads_run_meanwhile(part):
    """The loops hold no interpreter lock: with it, this thread would wake up after they end."""
    wave, rates = noise(30 * RATE), np.full((78, 6000), 0.5 / 2000)
    task = {"ear": lambda: passive_ear(wave, RATE), "spiker": lambda: bsa_encode(rates, 60_001)}[part]
    task()  # compiles
    ran, awake = [], []

    def work():
        ran.append(time.perf_counter())
        task()
        ran.append(time.perf_counter())

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        awake.append(time.perf_counter())
    started, ended = ran
    moments = [started, *(moment for moment in awake if started < moment < ended), ended]
    assert np.diff(moments).max() < 0.8 * (ended - started)


# ---- its ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loudness", ["none", "rms"])
@pytest.mark.parametrize("rate", [RATE, 8000])
@pytest.mark.parametrize("samples", [0, 1, 100])
def test_too_short_for_a_frame_gives_no_spike(samples, rate, loudness):
    assert not spikes_of(LyonBsa(steps=40, loudness=loudness), noise(samples), rate).any()


@pytest.mark.parametrize("loudness", ["none", "rms"])
@pytest.mark.parametrize("level", [0.0, 1e-300])
def test_silence_stays_silent(level, loudness):
    assert not spikes_of(LyonBsa(steps=40, loudness=loudness), np.full(3000, level)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [RATE, 8000])
def test_samples_that_are_not_finite_are_refused(value, rate):
    wave = noise(3000)
    wave[17] = value
    with pytest.raises(ValueError, match=r"want finite samples \(S,\); got \(3000,\) with 1 not finite"):
        LyonBsa().encode_recording(wave, rate)


def test_two_tracks_are_refused():
    with pytest.raises(ValueError, match=r"got \(2, 300\)"):
        LyonBsa().encode_recording(np.zeros((2, 300)), RATE)


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("steps", 1, "at least 2"),
        ("sample_rate", 0, "at least 1"),
        ("sample_rate", 100, "raise the rate"),
        ("loudness", "loud", "none, rms"),
        ("loudness_rms", 0.0, "greater than 0"),
        ("loudness_rms", float("inf"), "greater than 0"),
        ("decimation", 0, "at least 1"),
        ("ear_q", 0.5, "greater than 0.5"),
        ("step_factor", 0.0, "greater than 0"),
        ("tau_factor", -1.0, "greater than 0"),
        ("gain", float("nan"), "greater than 0"),
        ("hold", 0, "at least 1"),
        ("threshold", 1.0, "less than 1"),
        ("threshold", -0.1, "at least 0"),
    ],
)
def test_options_out_of_range_are_named(option, value, remedy):
    with pytest.raises(UsageError, match=rf"^encoder\.{option}[:=].*{remedy}"):
        LyonBsa(**{option: value})


# ---- as an encoder --------------------------------------------------------------------------------------------------


def test_the_key_has_all_that_spikes_depend_on():
    encoder = LyonBsa()
    assert set(OTHERS) == {field.name for field in fields(encoder)}
    keys = [json.dumps(replace(encoder, **{option: value}).key()) for option, value in OTHERS.items()]
    assert len({json.dumps(encoder.key()), *keys}) == len(OTHERS) + 1
    assert json.loads(json.dumps(encoder.key())) == encoder.key()
    assert {"encoder", "version"} < set(encoder.key())


def test_it_is_built_by_its_name_and_draws_nothing():
    encoder = encoders.build("lyon_bsa", seed=3, steps=50)
    assert encoder == encoders.build("lyon_bsa", seed=4, steps=50)
    assert isinstance(encoder, encoders.RecordingEncoder)
    assert encoder.kinds == ("audio",)
    assert not isinstance(encoders.build("poisson", seed=0), encoders.RecordingEncoder)
    with pytest.raises(UsageError, match=r"encoder\.decimate: lyon_bsa has no such option"):
        encoders.build("lyon_bsa", seed=0, decimate=100)


@pytest.mark.parametrize("rate", [8000, 12_500, 16_000, 44_100])
def test_what_is_cut_is_what_more_steps_would_hear(rate: int) -> None:
    """Just at the last step nothing is left out; so many steps more give spikes to the end and leave out nothing."""
    encoder = LyonBsa(steps=40)  # four frames of 16 ms
    assert encoder.step_s == pytest.approx(0.0016)
    longest = 5 * 200 * rate // encoder.sample_rate - 4  # samples that make no fifth frame
    assert encoder.left_out(longest, rate) == 0
    assert encoder.left_out(longest + 8, rate) == 10
    wave = 0.3 * np.sin(np.arange(rate // 5))
    left_out = encoder.left_out(len(wave), rate)
    assert left_out == 12 * 10 - 40  # 0.2 s are 12 whole frames
    whole = replace(encoder, steps=40 + left_out)
    assert whole.left_out(len(wave), rate) == 0
    spikes, more = whole.encode_recording(wave, rate), replace(whole, steps=400).encode_recording(wave, rate)
    assert spikes[41:].any()
    assert not more[len(spikes) + 1 :].any()
