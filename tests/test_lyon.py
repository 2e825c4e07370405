"""Lyon's passive ear against the AuditoryToolbox's numbers and against the definition, sample by sample."""

from __future__ import annotations

import cmath
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrun.encoders.lyon import design, passive_ear

RATE = 12500
OPTIONS = [
    {},
    {"decimation": 37},
    {"decimation": 1},
    {"agc": False},
    {"difference": False},
    {"agc": False, "difference": False, "decimation": 51},
    {"tau_factor": 1.5},
    {"ear_q": 4.0, "step_factor": 0.125},
    {"ear_q": 10.0, "step_factor": 0.4, "decimation": 64},
    {"agc_taus": (0.1, 0.02), "agc_targets": (0.003, 0.001)},
    {"break_frequency": 800.0, "zero_offset": 1.2, "sharpness": 4.0, "preemphasis": 200.0},
]
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=20)


def noise(samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal(samples)


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden" / "lyon_0_jackson_0.npz") as archive:
        return dict(archive)


# ---- the definition, by hand ----------------------------------------------------------------------------------------


def polynomial(frequency: float, q: float, rate: float) -> list[float]:
    rho = math.exp(-math.pi * frequency / rate / q)
    phi = 2 * math.pi * frequency / rate * math.sqrt(max(0.0, 1 - 1 / (4 * q * q)))
    return [1.0, -2 * rho * math.cos(phi), rho * rho]


def scaled(b: list[float], a: list[float], gain: float, z: complex) -> list[float]:
    """The section b / a with its gain at z set."""
    now = abs(sum(c * z**-k for k, c in enumerate(b)) / sum(c * z**-k for k, c in enumerate(a)))
    return [c * gain / now for c in b] + a[1:]


def sections_by_hand(
    rate, ear_q=8.0, step_factor=0.25, break_frequency=1000.0, zero_offset=1.5, sharpness=5.0, preemphasis=300.0
):
    def width(f):
        return math.sqrt(f * f + break_frequency**2) / ear_q

    def place(f):
        return math.log(f + math.sqrt(f * f + break_frequency**2)) * ear_q / step_factor

    half = rate / 2
    top = half - zero_offset * step_factor * width(half) + step_factor * width(half)
    count = math.floor(place(top) - place(break_frequency / math.sqrt(4 * ear_q**2 - 1)))
    reach = top + math.sqrt(top * top + break_frequency**2)
    shrink = [math.exp(-c * step_factor / ear_q) for c in range(1, count + 1)]
    centers = [0.5 * (reach * s - break_frequency**2 / s / reach) for s in shrink]
    quarter = cmath.exp(0.5j * math.pi)
    poles = polynomial(top, centers[0] / width(centers[0]), rate)
    sections = [
        scaled([0.0, 1.0, -math.exp(-2 * math.pi * preemphasis / rate)], [1.0, 0.0, 0.0], 1.0, quarter),
        scaled([1.0, 0.0, -1.0], poles, 1.0, quarter),
    ]
    for c, center in enumerate(centers):
        zero = center + zero_offset * step_factor * width(center)
        b = polynomial(zero, sharpness * zero / width(center), rate)
        a = polynomial(center, center / width(center), rate)
        sections.append(scaled(b, a, centers[max(c, 1) - 1] / centers[max(c, 1)], 1.0))
    return sections


def ear_by_hand(
    wave,
    rate,
    *,
    decimation=200,
    agc=True,
    difference=True,
    tau_factor=3.0,
    agc_taus=(0.64, 0.16, 0.04, 0.01),
    agc_targets=(0.0032, 0.0016, 0.0008, 0.0004),
    **constants,
):
    sections = sections_by_hand(rate, **constants)
    count = len(sections)
    s1, s2 = [0.0] * count, [0.0] * count
    gains = [[0.0] * count for _ in agc_taus]
    # Of the low-pass: its last two outputs and its last two inputs.
    out1, out2, in1, in2 = ([0.0] * count for _ in range(4))
    eps = 1 - math.exp(-1 / (tau_factor * decimation))
    frames = []
    for n in range(len(wave) // decimation * decimation):
        x = wave[n]
        y = []
        for c, (b0, b1, b2, a1, a2) in enumerate(sections):
            out = b0 * x + s1[c]
            s1[c] = b1 * x - a1 * out + s2[c]
            s2[c] = b2 * x - a2 * out
            x = out
            y.append(max(0.0, out))
        if n % decimation == 0:
            y[0] = y[1] = 0.0
        for stage, (tau, target) in enumerate(zip(agc_taus, agc_targets, strict=True)):
            if not agc:
                break
            e = 1 - math.exp(-1 / (tau * rate))
            old = gains[stage]
            y = [abs(v * (1 - g)) for v, g in zip(y, old, strict=True)]
            around = [old[0], *old, old[-1]]
            gains[stage] = [min(0.9, y[c] * e / target + (1 - e) / 3 * sum(around[c : c + 3])) for c in range(count)]
        if difference:
            y = [y[0]] + [max(0.0, y[c - 1] - y[c]) for c in range(1, count)]
        if decimation > 1:
            for c in range(count):
                low = 2 * (1 - eps) * out1[c] - (1 - eps) ** 2 * out2[c] + eps * eps * in2[c]
                out1[c], out2[c], in1[c], in2[c] = low, out1[c], y[c], in1[c]
                y[c] = low
        if n % decimation == decimation - 1:
            frames.append(y[2:])
    return np.array(frames).reshape(-1, count - 2).T


# ---- equal to them --------------------------------------------------------------------------------------------------


def test_the_toolbox_filters(golden):
    filters = design(int(golden["sample_rate"]))
    np.testing.assert_allclose(filters.sections, golden["filters"], rtol=1e-9, atol=0)
    np.testing.assert_allclose(filters.center_freqs, golden["center_freqs"], rtol=1e-9, atol=0)


@pytest.mark.parametrize(("agc", "name"), [(True, "lyon"), (False, "lyon_noagc")])
def test_the_toolbox_output(golden, agc, name):
    heard = passive_ear(golden["wave"], RATE, agc=agc)
    np.testing.assert_allclose(heard, golden[name], rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("rate", "options"),
    [(RATE, options) for options in OPTIONS] + [(rate, {}) for rate in (4000, 8000.0, 16000, 44100)],
)
def test_the_definition(rate, options):
    wave = noise(450)
    expected = ear_by_hand(wave.tolist(), rate, **options)
    heard = passive_ear(wave, rate, **options)
    assert heard.shape == expected.shape
    assert heard.any()
    np.testing.assert_allclose(heard, expected, rtol=1e-9, atol=1e-18)


# ---- properties -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 1500), st.integers(1, 400))
@few
def test_a_frame_for_each_whole_block(samples, decimation):
    heard = passive_ear(noise(samples), RATE, decimation=decimation)
    assert heard.shape == (78, samples // decimation)
    assert (heard >= 0).all()


@given(seeds, st.integers(0, 5), st.integers(0, 199))
@few
def test_what_comes_later_changes_nothing(seed, frames, rest):
    """Silence, the file again, or part of a frame: frames hear the past alone."""
    wave = noise(1000 + 200 * frames, seed)
    heard = passive_ear(wave, RATE)
    for more in np.zeros(1000), wave, noise(rest, seed + 1):
        longer = passive_ear(np.concatenate([wave, more]), RATE)
        assert longer.shape[1] == (len(wave) + len(more)) // 200
        assert np.array_equal(longer[:, : heard.shape[1]], heard)


def test_silence_is_heard_as_silence():
    assert not passive_ear(np.zeros(2000), RATE).any()


def test_sound_dies_away_wholly():
    """No state is left at a denormal number, where the processor is slow and decay ends short of 0."""
    heard = passive_ear(np.concatenate([noise(400), np.zeros(40 * RATE)]), RATE, decimation=100)
    assert heard[:, 10].all()
    assert not heard[:, -1].any()


@given(seeds, st.integers(-6, 6))
@few
def test_without_gain_control_rates_grow_with_the_sound(seed, power):
    wave = noise(800, seed)
    heard = passive_ear(wave, RATE, agc=False)
    assert np.array_equal(passive_ear(wave * 2.0**power, RATE, agc=False), heard * 2.0**power)


def test_gain_control_weakens_differences_of_level():
    quiet, loud = (passive_ear(noise(RATE, level=level), RATE).mean() for level in (0.01, 0.1))
    assert quiet < loud < 5 * quiet


@pytest.mark.parametrize("frequency", [150, 440, 1000, 2500, 5000])
def test_a_tone_is_heard_at_its_frequency(frequency):
    tone = 0.1 * np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE)
    loudest = design(RATE).center_freqs[passive_ear(tone, RATE, agc=False)[:, -1].argmax()]
    assert loudest == pytest.approx(frequency, rel=0.25)


def test_the_same_in_every_thread():
    waves = [noise(900 + 50 * i, i) for i in range(20)]
    alone = [passive_ear(wave, RATE) for wave in waves]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda wave: passive_ear(wave, RATE), waves))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


# ---- its ends -------------------------------------------------------------------------------------------------------


def test_filters_are_made_once_and_cannot_be_changed():
    filters = design(RATE)
    assert design(RATE) is filters
    for array in filters.sections, filters.center_freqs:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wave": np.zeros((2, 900))}, "want a wave"),
        ({"decimation": 0}, "decimation >= 1"),
        ({"agc_taus": (0.1,)}, "1 taus and 4 targets"),
        ({"sample_rate": 100}, "no channels at a sample rate of 100 Hz"),
        ({"step_factor": 20.0}, "step_factor 20"),
    ],
)
def test_what_cannot_be_heard(options, message):
    with pytest.raises(ValueError, match=message):
        passive_ear(**{"wave": noise(900), "sample_rate": RATE, **options})
