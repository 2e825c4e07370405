"""Ben's Spiker Algorithm against the ST-RSBP simulator's spikes and against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from snnrun.encoders.bsa import bsa_encode, kernel

signals = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6), elements=st.floats(-0.5, 1.5)
)
options = st.fixed_dictionaries(
    {
        "gain": st.sampled_from([1.0, 0.5, 2.0]),
        "hold": st.integers(1, 12),
        "threshold": st.sampled_from([0.0, 0.3, 0.6, 0.9]),
    }
)
few = settings(max_examples=50)


def decoded(spikes, *, gain=2000.0, taps=24, center=12.0, width=25.0):
    """The signal that spikes (T, channels) stand for: a spike at step t + 1 adds h / gain from step t on."""
    signal = np.zeros((len(spikes) + taps - 2, spikes.shape[1]))
    for i, h in enumerate(kernel(taps, center, width)):
        signal[i : i + len(spikes) - 1] += h / gain * spikes[1:]
    return signal


def by_hand(signal, steps, *, gain=2000.0, hold=10, threshold=0.6, taps=24, center=12.0, width=25.0):
    h = [math.exp(-((i - center) ** 2) / width) for i in range(taps)]
    h = [value / sum(h) for value in h]
    spikes = np.zeros((steps, len(signal)), np.uint8)
    for channel, row in enumerate(signal.tolist()):
        x = [value * gain for value in row for _ in range(hold)] + [0.0] * taps
        for t in range(len(x) - taps):
            if sum(abs(x[t + i] - h[i]) for i in range(taps)) < sum(abs(x[t + i]) for i in range(taps)) - threshold:
                if t + 1 < steps:
                    spikes[t + 1, channel] = 1
                for i in range(taps):
                    x[t + i] -= h[i]
    return spikes


# ---- equal to them --------------------------------------------------------------------------------------------------


def test_the_simulators_spikes(shared):
    with np.load(shared / "golden" / "bsa_f1_u10_c0.npz") as archive:
        lyon, expected = archive["lyon"].astype(np.float64), archive["spikes"]
    spikes = bsa_encode(lyon, 658)
    assert np.array_equal(spikes, expected)
    assert spikes.sum(dtype=np.int64) == 5064


def test_the_spikes_of_a_recording(shared):
    with np.load(shared / "golden" / "lyon_0_jackson_0.npz") as archive:
        assert np.array_equal(bsa_encode(archive["lyon"], 700), archive["bsa_spikes"].T)


@given(signals, st.integers(1, 90), options)
@few
def test_the_definition(signal, steps, given_options):
    assert np.array_equal(bsa_encode(signal, steps, **given_options), by_hand(signal, steps, **given_options))


@pytest.mark.parametrize("shape", [{"taps": 7}, {"center": 8.0}, {"width": 4.0}, {"taps": 1, "center": 0.0}])
def test_other_kernels(shape):
    signal = np.random.default_rng(0).random((5, 9))
    spikes = bsa_encode(signal, 95, gain=1.0, **shape)
    assert spikes.any()
    assert np.array_equal(spikes, by_hand(signal, 95, gain=1.0, **shape))


# ---- properties -----------------------------------------------------------------------------------------------------


@given(signals, st.integers(1, 80), st.integers(0, 40), options)
@few
def test_fewer_steps_give_the_beginning_of_the_same_train(signal, steps, more, given_options):
    longer = bsa_encode(signal, steps + more, **given_options)
    assert np.array_equal(longer[:steps], bsa_encode(signal, steps, **given_options))


@given(signals, options)
@few
def test_each_spike_takes_more_than_the_threshold_from_what_is_left(signal, given_options):
    """Sum of absolute values, per channel: of the signal, and of what its spikes do not stand for."""
    gain, hold, threshold = given_options["gain"], given_options["hold"], given_options["threshold"]
    steps = signal.shape[1] * hold + 1
    spikes = bsa_encode(signal, steps, **given_options)
    x = np.zeros((steps + 22, len(signal)))
    x[: steps - 1] = np.repeat(signal.T * gain, hold, axis=0)
    left = x - decoded(spikes, gain=1.0)
    assert (np.abs(left).sum(axis=0) <= np.abs(x).sum(axis=0) - threshold * spikes.sum(axis=0) + 1e-9).all()


@pytest.mark.parametrize("level", [0.2, 0.5, 0.8])
def test_a_slow_signal_comes_back(level):
    frames = np.arange(60)
    signal = level + 0.15 * np.sin(2 * np.pi * frames / 30)[None]
    back = decoded(bsa_encode(signal / 2000.0, 601)) * 2000.0
    assert np.abs(back[30:570, 0] - np.repeat(signal[0], 10)[30:570]).mean() < 0.15


@given(signals, st.permutations(range(6)))
@few
def test_channels_are_independent(signal, order):
    order = [channel for channel in order if channel < len(signal)]
    whole = bsa_encode(signal, 50, gain=1.0)
    assert np.array_equal(bsa_encode(signal[order], 50, gain=1.0), whole[:, order])


def test_the_kernel_sums_to_one():
    h = kernel()
    assert h.shape == (24,)
    assert h.sum() == pytest.approx(1, abs=1e-15)
    assert h.argmax() == 12


# ---- its ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 0), (0, 4), (0, 0)])
def test_nothing_gives_no_spike(shape):
    spikes = bsa_encode(np.ones(shape), 30)
    assert spikes.shape == (30, shape[0])
    assert not spikes.any()


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_silence_and_what_is_negative_never_fire(value):
    assert not bsa_encode(np.full((2, 8), value), 100).any()


def test_a_signal_of_one_fires_in_every_step():
    """Except where it ends, for the kernel reaches over it."""
    spikes = bsa_encode(np.full((1, 20), 1 / 2000), 250)[:, 0]
    assert spikes[0] == 0
    assert spikes[1:180].all()
    assert not spikes[201:].any()


def test_one_step_carries_nothing():
    assert bsa_encode(np.ones((2, 3)), 1).tolist() == [[0, 0]]


@pytest.mark.parametrize("wrong", [{"signal": np.zeros(3)}, {"steps": 0}, {"hold": 0}])
def test_what_cannot_be_encoded(wrong):
    with pytest.raises(ValueError, match="want a signal"):
        bsa_encode(**{"signal": np.zeros((2, 3)), "steps": 9, **wrong})
