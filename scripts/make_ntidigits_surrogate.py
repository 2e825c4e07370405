#!/usr/bin/env python3
"""Makes a stand-in for N-TIDIGITS18: a file n-tidigits.hdf5 of the same structure with made-up events.

    .venv/bin/python scripts/make_ntidigits_surrogate.py data/ntidigits                          # 4,950 single digits
    .venv/bin/python scripts/make_ntidigits_surrogate.py small --speakers 3 2 --strings 1        # a few

A digit is a few ridges that move over the 64 channels like formants; a speaker shifts and stretches them, a take has a
pace and loudness of its own. Each channel fires as a Poisson process with a dead time at the rate that the ridges give
it. A string of digits is one after the other. A recording depends on the seed and its name alone. The folder gets a
file SURROGATE, and the file an attribute, by which snnrun knows what it is.

Accuracies on it say nothing of N-TIDIGITS18.
"""

from __future__ import annotations

import argparse
import hashlib
import string
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from snnrun.data import events
from snnrun.data.folders import MARKER

Array = NDArray[np.float64]

DIGITS = events.CLASSES["zero_first"]
RIDGES, KNOTS = 4, 6  # of a digit; of the curve that a ridge follows
SECONDS = 0.6  # of a digit, on average
PEAK = 160.0  # spikes a second of a channel on a ridge
REST = 0.5  # and of one without input
DEAD = 1.5e-3  # after a spike of a channel, in seconds
FRAME = 5e-3  # in seconds: how often rates change


class Digit(NamedTuple):
    """Centre (channel), width (channels) and height of each ridge at the knots, (RIDGES, KNOTS)."""

    centre: Array
    width: Array
    height: Array


def generator(*key: object) -> np.random.Generator:
    words = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(words[:16], "little")))


def digit(name: str, seed: int) -> Digit:
    rng = generator(seed, "digit", name)
    start = (np.arange(RIDGES) + rng.uniform(0.1, 0.9, RIDGES)) * events.CHANNELS / RIDGES
    centre = start[:, None] + np.cumsum(rng.normal(0, 2.2, (RIDGES, KNOTS)), axis=1)
    height = np.minimum(rng.gamma(1.5, 0.5, (RIDGES, KNOTS)), 2.5)
    return Digit(centre.clip(1, events.CHANNELS - 2), rng.uniform(1.2, 3.2, (RIDGES, KNOTS)), height)


def rates(shape: Digit, shift: Array, rng: np.random.Generator) -> Array:
    """Spikes a second of every channel, (frames, channels), of one digit said once; `shift` is the speaker's."""
    frames = max(4, round(SECONDS * np.exp(rng.normal(0, 0.2)) / FRAME))
    pace = np.cumsum(np.exp(along(rng.normal(0, 0.3, (1, KNOTS)), np.linspace(0, 1, frames))[0]))
    at = (pace - pace[0]) / (pace[-1] - pace[0])
    centre, width, height = (along(values, at) for values in shape)
    centre = centre + shift[:, None] + rng.normal(0, 0.6, (RIDGES, 1))
    height = height * np.exp(rng.normal(0, 0.3, (RIDGES, 1)))
    distance = (np.arange(events.CHANNELS) - centre[:, :, None]) / width[:, :, None]
    return REST + PEAK * (height[:, :, None] * np.exp(-0.5 * distance**2)).sum(axis=0)


def along(values: Array, at: Array) -> Array:
    """Rows of knots (R, KNOTS), spread evenly over [0, 1], interpolated at times (F,): (R, F)."""
    knots = np.linspace(0, 1, values.shape[1])
    return np.stack([np.interp(at, knots, row) for row in values])


def spikes(rate: Array, rng: np.random.Generator) -> tuple[NDArray[np.int64], Array]:
    """Channels and times of the events, in the order of time."""
    number = rng.poisson(rate * FRAME)
    frame, channel = (np.repeat(place, number.ravel()) for place in map(np.ravel, np.indices(rate.shape)))
    time = (frame + rng.random(len(frame))) * FRAME
    order = np.lexsort((time, channel))
    channel, time = channel[order], time[order]
    fresh = np.concatenate([[True], (np.diff(time) > DEAD) | (np.diff(channel) != 0)])[: len(time)]
    channel, time = channel[fresh], time[fresh]
    order = np.argsort(time, kind="stable")
    return channel[order], time[order]


def recording(label: str, seed: int) -> tuple[NDArray[np.int64], Array]:
    name, rng = events.parse(label), generator(seed, "recording", label)
    shift = generator(seed, "speaker", name.speaker).normal(0, 1.2, RIDGES) + (2.0 if name.gender == "woman" else -2.0)
    silence = np.full((round(rng.uniform(0.03, 0.1) / FRAME), events.CHANNELS), REST)
    spoken = [rates(digit(each, seed), shift, rng) for each in name.digits]
    return spikes(np.concatenate([silence, *spoken, silence]), rng)


def names(speakers: tuple[int, int], strings: int, seed: int) -> dict[str, list[str]]:
    """The recordings of each part: every speaker says each digit twice, and so many strings of two to seven digits."""
    letters = [a + b for a in string.ascii_lowercase for b in string.ascii_lowercase]
    found: dict[str, list[str]] = {}
    start = 0
    for part, number in zip(events.PARTS, speakers, strict=True):
        found[part] = []
        for speaker in letters[start : start + number]:
            rng = generator(seed, "strings", speaker)
            gender = "man" if rng.random() < 0.5 else "woman"
            found[part] += [f"{gender}-{speaker}-{take}-{each}" for each in DIGITS for take in "ab"]
            said = {"".join(rng.choice(DIGITS, rng.integers(2, 8))) for _ in range(strings)}
            found[part] += [f"{gender}-{speaker}-a-{digits}" for digits in sorted(said)]
        start += number
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make; ntidigits in the data root is where snnrun looks")
    parser.add_argument("--speakers", type=int, nargs=2, default=(112, 113), metavar=("TRAIN", "TEST"))
    parser.add_argument("--strings", type=int, default=0, metavar="N", help="of several digits, of each speaker")
    parser.add_argument("--seed", type=int, default=18)
    options = parser.parse_args(arguments)
    if min(options.speakers) < 1 or sum(options.speakers) > 26**2 or options.strings < 0:
        parser.error("--speakers needs two numbers from 1 up, 676 in all, and --strings a number from 0 up")
    target: Path = options.out / "n-tidigits.hdf5"
    if target.exists() and not (options.out / MARKER).is_file():
        parser.error(f"{target} is there and is no surrogate (there is no file {MARKER}). Choose another folder.")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / MARKER).write_text(
        "Made-up events in the form of N-TIDIGITS18, made by scripts/make_ntidigits_surrogate.py\n"
        f"with --seed {options.seed}. Accuracies on it say nothing of N-TIDIGITS18.\n",
        encoding="utf-8",
    )
    every = names(tuple(options.speakers), options.strings, options.seed)
    with h5py.File(target, "w") as file:
        file.attrs["origin"] = "surrogate"
        for part, labels in every.items():
            file[f"{part}_labels"] = np.array(labels, "S")
            addresses, timestamps = (file.create_group(f"{part}_{what}") for what in ("addresses", "timestamps"))
            for label in track(labels, description=part):
                addresses[label], timestamps[label] = recording(label, options.seed)
    print(f"{sum(map(len, every.values())):,} recordings in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
