"""Synthetic spike trains with the density of encoded speech: made here, since no corpus of speech may be shipped.

Nothing in them is speech. A class is a contour of firing rates over channels and time: a few ridges that move like
formants, with an onset and an end each. A sample is the contour at its own pace, shifted and scaled, and drawn as
Poisson spikes. A sample of 700 steps has about 4,000 spikes on 60 of its 78 channels, as the letters of TI46-Alpha
have behind the Lyon ear and BSA.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.packed_arrays import pack
from snnrun.data.corpus import Corpus
from snnrun.data.known import known
from snnrun.declared import Range

CHANNELS = 78
FRAME = 10  # steps for which the ear holds one value
SPIKES_PER_STEP = 5.8  # of a sample of gain 1, over all channels
LARGEST_RATE = 0.6  # spikes per channel and step
RIDGES = 4
WORDS = 2  # of 64 channels
KNOTS = 6  # of the curves that a ridge or a pace follows

# First key of each random stream; the variant, the class and the number of the sample follow.
_CONTOUR, _TRAIN, _TEST = range(3)


class _Contour(NamedTuple):
    """A class: centre (channel), width (channels) and height of each ridge, (RIDGES, KNOTS) over the relative time."""

    centre: NDArray[np.float64]
    width: NDArray[np.float64]
    height: NDArray[np.float64]


@known("synthetic spike trains as dense as encoded speech", "made when it is used")
def utterances(
    _root: Path,
    _download: bool,
    *,
    classes: Annotated[int, Range(at_least=2)] = 26,
    samples: Annotated[int, Range(at_least=1)] = 64,
    steps: Annotated[int, Range(at_least=2)] = 700,
    variant: Annotated[int, Range(at_least=0)] = 0,
) -> Corpus:
    """The synthetic corpus; needs neither folder nor download, and is the same whatever the run's seed.

    Args:
        classes: Number of classes.
        samples: Training samples of each class; the test set has a quarter as many, rounded up.
        steps: T.
        variant: Another number gives another corpus.

    Returns:
        Packed spikes, int64 (S, T, W): bit n % 64 of word n // 64 is channel n. The classes take turns.
    """
    contours = [_contour(_generator(_CONTOUR, variant, label)) for label in range(classes)]

    def draw(stream: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        labels = np.tile(np.arange(classes), count)
        spikes = np.empty((len(labels), steps, WORDS), np.int64)
        for position, label in enumerate(labels.tolist()):
            rng = _generator(stream, variant, label, position // classes)
            spikes[position] = pack(_sample(contours[label], steps, rng))
        return spikes, labels

    train, test = draw(_TRAIN, samples), draw(_TEST, -(-samples // 4))
    names = tuple(f"synthetic {label + 1}" for label in range(classes))
    return Corpus("spikes", (CHANNELS,), names, *train, *test, origin="synthetic")


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))


def _contour(rng: np.random.Generator) -> _Contour:
    start = (np.arange(RIDGES) + rng.uniform(0.1, 0.9, RIDGES)) * CHANNELS / RIDGES
    centre = start[:, None] + np.cumsum(rng.normal(0, 2.5, (RIDGES, KNOTS)), axis=1)
    height = rng.gamma(1.2, 1.0, (RIDGES, KNOTS))
    height[:, 0] *= rng.random(RIDGES) < 0.5  # a ridge may set in late
    height[:, -1] *= rng.random(RIDGES) < 0.5
    return _Contour(centre.clip(2, CHANNELS - 3), rng.uniform(1.5, 4.0, (RIDGES, KNOTS)), height)


def _sample(contour: _Contour, steps: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Spikes (T, CHANNELS) of one sample."""
    frames = -(-steps // FRAME)
    time = np.arange(frames) / frames
    begin, length = rng.uniform(0, 0.08), rng.uniform(0.75, 0.92)
    pace = np.cumsum(np.exp(_curve(rng.normal(0, 0.25, (1, KNOTS)), time)[0]))
    along = np.interp(time, begin + length * pace / pace[-1], pace / pace[-1], left=-1, right=2)
    spoken = (along >= 0) & (along <= 1)
    centre, width, height = (_curve(values, along) for values in contour)
    centre = centre + rng.normal(0, 1.5) + rng.normal(0, 1.0, (RIDGES, 1))
    height = height * np.exp(rng.normal(0, 0.4, (RIDGES, 1)))
    distance = (np.arange(CHANNELS) - centre[:, :, None]) / width[:, :, None]
    rates = (height[:, :, None] * np.exp(-0.5 * distance**2)).sum(axis=0) * spoken[:, None]
    wanted = SPIKES_PER_STEP * frames * np.exp(rng.normal(0, 0.25))
    rates = (rates * (wanted / max(rates.sum(), 1e-9))).clip(max=LARGEST_RATE)
    return rng.random((steps, CHANNELS), dtype=np.float32) < np.repeat(rates, FRAME, axis=0)[:steps]


def _curve(values: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row of knots (R, KNOTS), spread evenly over [0, 1], interpolated at times (F,): (R, F)."""
    place = at.clip(0, 1) * (values.shape[1] - 1)
    left = np.minimum(place.astype(np.intp), values.shape[1] - 2)
    curve: NDArray[np.float64] = values[:, left] + (values[:, left + 1] - values[:, left]) * (place - left)
    return curve
