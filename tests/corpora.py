"""Small corpora of every form that the loaders read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import soundfile

from snnrun.data import speech

Events = tuple[list[Any], list[float]]

# Two speakers train and one tests; each says some digits twice, and one a string.
RECORDINGS: dict[str, dict[str, Events]] = {
    "train": {
        "man-ae-a-z": ([0, 63, 63], [0.0, 0.0017, 0.0018]),
        "man-ae-b-z": ([5], [0.5]),
        "woman-bc-a-o": ([1, 2], [0.001, 1.119]),
        "woman-bc-b-o": ([1, 2], [0.001, 1.2]),
        "woman-bc-a-1z": ([3], [0.1]),
    },
    "test": {"man-xy-a-9": ([7], [0.016]), "man-xy-b-9": ([], [])},
}


def record(path: Path, value: float = 0.25, rate: int = 12_500, form: str = "NIST") -> Path:
    """A recording of 20 samples, so that each value has contents of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(20, value), rate, format=form, subtype="PCM_16")
    return path


def ti46_tree(
    place: Path,
    folder: str = "ti_alpha",
    words: Iterable[str] = ("0a", "0b", "0z"),
    speakers: Iterable[str] = ("f1", "m8"),
    train: Iterable[str] = ("set0", "set9"),
    test: Iterable[str] = ("s1t0", "s8t1"),
    name: Callable[[str], str] = str,
    suffix: str = ".wav",
) -> Path:
    """A small corpus in the LDC's tree; returns the folder of the set."""
    value = itertools.count(1)
    for part, tokens in ("train", list(train)), ("test", list(test)):
        for speaker, word, token in itertools.product(list(speakers), list(words), tokens):
            stem = f"{word}{speaker}{token}{suffix}"
            record(place / name(folder) / name(part) / name(speaker) / name(stem), next(value) / 1000)
    return place / name(folder)


def fsdd_tree(root: Path, indices: Iterable[int] = (0, 4, 5, 49), home: str = "fsdd") -> Path:
    place = root / home / "recordings"
    value = itertools.count(1)
    for digit, speaker, index in itertools.product(range(10), speech.FSDD_SPEAKERS, indices):
        record(place / f"{digit}_{speaker}_{index}.wav", next(value) / 1000, 8000, "WAV")
    return place


def events_file(
    root: Path, recordings: Mapping[str, Mapping[str, Events]] = RECORDINGS, place: str = "ntidigits"
) -> Path:
    (root / place).mkdir(parents=True, exist_ok=True)
    path = root / place / "n-tidigits.hdf5"
    with h5py.File(path, "w") as file:
        for part, entries in recordings.items():
            file[f"{part}_labels"] = np.array(list(entries), "S")
            for what in ("addresses", "timestamps"):
                file.create_group(f"{part}_{what}")
            for label, (channels, times) in entries.items():
                file[f"{part}_addresses/{label}"] = np.array(channels)
                file[f"{part}_timestamps/{label}"] = np.array(times, np.float64)
    return path
