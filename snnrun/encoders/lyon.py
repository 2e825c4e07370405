"""Lyon's passive ear: the firing rates in the auditory nerve of a cochlea without active amplification.

A cascade of second-order filters models the basilar membrane. Each filter is a channel and feeds the next, from the
highest frequency to the lowest. Half-wave rectification models the hair cells, and four stages of gain control model
adaptation. The difference of neighbours sharpens the channels, and a low-pass reduces them to frames.

Source: R. F. Lyon (1982), "A computational model of filtering, detection, and compression in the cochlea", as M. Slaney
describes it (Apple Technical Report 13, 1988) and his AuditoryToolbox computes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.jit import jit, part

Floats = NDArray[np.float64]

# The sections before the first channel: the outer and middle ear's high-pass, and the compensation of the cascade.
FRONT = 2
# A stage of gain control takes away at most this share.
_MOST = 0.9
# Far below any sound. Between frames, smaller values are set to 0. In digital silence the filters decay to denormal
# numbers, on which the processor is slow.
_NOTHING = 1e-200


@dataclass(frozen=True)
class Filters:
    """The cascade for one sample rate. It is read-only, since it is shared.

    Attributes:
        sections: b0, b1, b2, a1, a2 of each second-order section (a0 is 1), shape (FRONT + channels, 5), in the order
            in which the sound passes them.
        center_freqs: Hz, shape (channels,), falling.
    """

    sections: NDArray[np.float64]
    center_freqs: NDArray[np.float64]


@lru_cache(maxsize=64)
def design(
    sample_rate: float,
    ear_q: float = 8.0,
    step_factor: float = 0.25,
    *,
    break_frequency: float = 1000.0,
    zero_offset: float = 1.5,
    sharpness: float = 5.0,
    preemphasis: float = 300.0,
) -> Filters:
    """Design the cascade; the defaults are the AuditoryToolbox's.

    Args:
        sample_rate: Hz.
        ear_q: Center frequency over bandwidth of a channel far above `break_frequency`; more than 0.5.
        step_factor: Distance of neighbours as a share of their bandwidth; the toolbox takes ear_q / 32.
        break_frequency: Hz; below it the bandwidth tends to a constant.
        zero_offset: Distance of a section's zero above its pole, in steps.
        sharpness: Q of the zeros over that of the poles.
        preemphasis: Corner of the high-pass, Hz.

    Raises:
        ValueError: If fewer than two channels result.
    """
    q_step = step_factor / ear_q
    step = math.hypot(sample_rate / 2, break_frequency) * q_step
    top = sample_rate / 2 - zero_offset * step + step
    low = break_frequency / math.sqrt(4 * ear_q**2 - 1)  # where the Q of the poles reaches 0.5
    reach = top + math.hypot(top, break_frequency)
    channels = math.floor((math.log(reach) - math.log(low + math.hypot(low, break_frequency))) / q_step)
    if channels < 2:
        raise ValueError(
            f"the ear has no channels at a sample rate of {sample_rate:g} Hz with ear_q {ear_q:g} and step_factor "
            f"{step_factor:g}: raise the rate or lower the step"
        )
    growth = np.exp(np.arange(1, channels + 1) * q_step)
    center = (reach / growth - break_frequency**2 * growth / reach) / 2
    bandwidth = np.hypot(center, break_frequency) / ear_q
    zero = center + bandwidth * step_factor * zero_offset
    sections = np.zeros((FRONT + channels, 5))
    b, a = sections[:, :3], sections[:, 3:]
    b[0, 1:] = 1, -math.exp(-2 * math.pi * preemphasis / sample_rate)
    b[1, 0], b[1, 2] = 1, -1
    a[1] = _resonance(np.array([top]), center[:1] / bandwidth[:1], sample_rate)
    b[FRONT:, 0] = 1
    b[FRONT:, 1:] = _resonance(zero, sharpness * zero / bandwidth, sample_rate)
    a[FRONT:] = _resonance(center, center / bandwidth, sample_rate)
    for front in sections[:FRONT]:
        front[:3] /= abs(_response(front, 1j))  # z = i: a quarter of the sample rate
    wanted = center[:-1] / center[1:]
    b[FRONT:] *= (np.append(wanted[0], wanted) * (1 + a[FRONT:].sum(axis=1)) / b[FRONT:].sum(axis=1))[:, None]
    sections.flags.writeable = center.flags.writeable = False
    return Filters(sections, center)


def _resonance(frequency: NDArray[np.float64], q: NDArray[np.float64], sample_rate: float) -> NDArray[np.float64]:
    """Coefficients of z^-1 and z^-2 of second-order polynomials with roots at a frequency and Q, shape (C, 2)."""
    radius = np.exp(-np.pi * frequency / (sample_rate * q))
    angle = 2 * np.pi * frequency / sample_rate * np.sqrt(np.maximum(0.0, 1 - 1 / (4 * q**2)))
    return np.stack([-2 * radius * np.cos(angle), radius**2], axis=1)


def _response(section: NDArray[np.float64], z: complex) -> complex:
    b0, b1, b2, a1, a2 = section.tolist()
    return complex((b0 + b1 / z + b2 / z**2) / (1 + a1 / z + a2 / z**2))


def passive_ear(
    wave: NDArray[np.float64],
    sample_rate: float,
    *,
    decimation: int = 200,
    ear_q: float = 8.0,
    step_factor: float = 0.25,
    agc: bool = True,
    difference: bool = True,
    tau_factor: float = 3.0,
    agc_taus: tuple[float, ...] = (0.64, 0.16, 0.04, 0.01),
    agc_targets: tuple[float, ...] = (0.0032, 0.0016, 0.0008, 0.0004),
    **constants: float,
) -> NDArray[np.float64]:
    """Hear a sound; the defaults are the AuditoryToolbox's.

    Loudness matters: gain control reduces differences of level but does not remove them.

    Args:
        wave: Samples in [-1, 1], shape (S,).
        sample_rate: Hz.
        decimation: Samples in a frame; 1 leaves out the low-pass too.
        ear_q, step_factor: See `design`.
        agc: Whether there is gain control.
        difference: Whether to replace a channel by how much the next higher frequency exceeds it, at least 0.
        tau_factor: Time constant of the low-pass in frames.
        agc_taus: Time constant of each stage of gain control, s.
        agc_targets: Output that each stage aims at.
        constants: The other arguments of `design`.

    Returns:
        Firing rates without a unit, not negative, shape (channels, S // decimation), the highest frequency first.
        Samples after the last whole frame are not used.

    Raises:
        ValueError: If the wave has more than one dimension, if stages lack a target, or if the ear has no channels.
    """
    if wave.ndim != 1 or decimation < 1 or len(agc_taus) != len(agc_targets):
        raise ValueError(
            f"want a wave (S,), decimation >= 1 and a target for each tau of the gain control; got {wave.shape}, "
            f"{decimation}, {len(agc_taus)} taus and {len(agc_targets)} targets"
        )
    sections = design(sample_rate, ear_q, step_factor, **constants).sections
    stages = np.zeros((len(agc_taus) if agc else 0, 2))
    for stage, tau, target in zip(stages, agc_taus, agc_targets, strict=False):
        step = _smoothing(tau * sample_rate)
        stage[:] = step / target, (1 - step) / 3
    frames = np.empty((len(sections) - FRONT, len(wave) // decimation))
    share = _smoothing(tau_factor * decimation)
    samples, coefficients = np.ascontiguousarray(wave, np.float64), np.ascontiguousarray(sections.T)
    _hear(samples, coefficients, stages, decimation, difference, share, frames)
    return frames


def _smoothing(tau: float) -> float:
    """Share of the new value in a running average with a time constant of `tau` samples."""
    return -math.expm1(-1 / tau)


@part
def _cascade(sound: float, sections: Floats, first: Floats, second: Floats, rates: Floats) -> None:
    """Pass a sample through all sections (transposed direct form II), and rectify the output of each."""
    b0, b1, b2, a1, a2 = sections
    for c in range(len(rates)):
        out = b0[c] * sound + first[c]
        first[c] = b1[c] * sound - a1[c] * out + second[c]
        second[c] = b2[c] * sound - a2[c] * out
        rates[c] = out if out > 0.0 else 0.0
        sound = out


@part
def _control(rates: Floats, gains: Floats, own: float, spread: float) -> None:
    """One stage of gain control; `gains` has one entry more than `rates`, the neighbour of the last."""
    gains[-1] = gains[-2]
    above = gains[0]
    for c in range(len(rates)):
        gain = gains[c]
        rate = rates[c] * (1.0 - gain)
        rates[c] = rate
        new = rate * own + spread * (above + gain + gains[c + 1])
        gains[c] = new if new < _MOST else _MOST
        above = gain


@part
def _sharpen(rates: Floats) -> None:
    """Replace each channel by how much the one before it exceeds it, at least 0."""
    above = rates[0]
    for c in range(1, len(rates)):
        rate = rates[c]
        excess = above - rate
        rates[c] = excess if excess > 0.0 else 0.0
        above = rate


@part
def _smooth(rates: Floats, first: Floats, second: Floats, share: float) -> None:
    """A low-pass of two equal poles, with gain 1 at 0 Hz, two samples late (transposed direct form II)."""
    pole = 1.0 - share
    for c in range(len(rates)):
        out = first[c]
        first[c] = second[c] + 2.0 * pole * out
        second[c] = share * share * rates[c] - pole * pole * out
        rates[c] = out


@part
def _settle(state: Floats) -> None:
    """Set values below `_NOTHING` to 0."""
    for i in range(len(state)):
        if abs(state[i]) < _NOTHING:
            state[i] = 0.0


@partial(jit, memory=True)  # LLVM knows that arrays made here do not overlap, so it vectorises loops over channels
def _hear(
    wave: Floats, sections: Floats, stages: Floats, decimation: int, difference: bool, share: float, frames: Floats
) -> None:
    """Fill `frames` (channels, F).

    `sections` (5, C). `stages` (stages, 2): the factors with which a rate and each neighbour's gain add to a gain.
    `share` is that of the low-pass, which `decimation` 1 leaves out.
    """
    count = sections.shape[1]
    filters = sections.copy()
    wave1, wave2, low1, low2 = np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count)
    rates, gains = np.zeros(count), np.zeros((stages.shape[0], count + 1))
    for frame in range(frames.shape[1]):
        for sample in range(frame * decimation, (frame + 1) * decimation):
            _cascade(wave[sample], filters, wave1, wave2, rates)
            if sample == frame * decimation:
                rates[:FRONT] = 0.0  # only here, as in the toolbox
            for stage in range(stages.shape[0]):
                _control(rates, gains[stage], stages[stage, 0], stages[stage, 1])
            if difference:
                _sharpen(rates)
            if decimation > 1:
                _smooth(rates, low1, low2, share)
        frames[:, frame] = rates[FRONT:]
        for state in (wave1, wave2, low1, low2, gains.ravel()):
            _settle(state)
