"""Small corpora of every form that the loaders read."""

from __future__ import annotations

import gzip
import io
import itertools
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import soundfile
from PIL import Image

from snnrun.data import cifar, speech

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


def commands_tree(
    home: Path, words: Iterable[str] = ("yes", "no", "bed", "cat", "visual"), each: int = 10, noise_s: float = 12.0
) -> Path:
    """Speech Commands as it unpacks: of each word two recordings to validate and two to test on; noise in two files."""
    value, lists = itertools.count(1), dict[str, list[str]](validation=[], testing=[])
    for word in words:
        for k in range(each):
            record(home / word / f"{k:08x}_nohash_0.wav", next(value) / 1000, 16_000, "WAV")
            if k < 4:
                lists["validation" if k < 2 else "testing"].append(f"{word}/{k:08x}_nohash_0.wav")
    for name, names in lists.items():
        (home / f"{name}_list.txt").write_text("".join(f"{name}\n" for name in names))
    rng = np.random.default_rng(0)
    (home / "_background_noise_").mkdir()
    for name in ("pink_noise", "running_tap"):
        soundfile.write(home / f"_background_noise_/{name}.wav", rng.normal(0, 0.1, int(noise_s * 16_000)), 16_000)
    return home


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


# ---- N-MNIST --------------------------------------------------------------------------------------------------------

Event = tuple[int, int, int, int]  # column, row, polarity, time in us


def event_bytes(events: Iterable[Event]) -> bytes:
    """A file of N-MNIST."""
    return b"".join(bytes([x, y]) + (polarity << 23 | time).to_bytes(3, "big") for x, y, polarity, time in events)


def moving_digit(digit: int, number: int) -> bytes:
    """Events around a place of its own for each digit."""
    rng = np.random.default_rng((digit, number))
    x, y = rng.normal(8 + 2 * digit, 2, 120).clip(0, 33), rng.normal(26 - 2 * digit, 2, 120).clip(0, 33)
    time, polarity = np.sort(rng.integers(650, 311_000, 120)), rng.integers(0, 2, 120)
    return event_bytes(zip(*(values.astype(int).tolist() for values in (x, y, polarity, time)), strict=True))


def nmnist_tree(root: Path, train: int = 2, test: int = 1, packed: bool = False) -> Path:
    """So many recordings of each digit, as files or in the two archives; returns the folder of both."""
    home = root / "nmnist"
    home.mkdir(parents=True)
    numbers = itertools.count(1)
    for part, count in ("Train", train), ("Test", test):
        files = {
            f"{digit}/{next(numbers):05d}.bin": moving_digit(digit, n) for digit in range(10) for n in range(count)
        }
        if packed:
            with zipfile.ZipFile(home / f"{part}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in files.items():
                    archive.writestr(f"{part}/{name}", content)
            continue
        for name, content in files.items():
            (home / part / name).parent.mkdir(parents=True, exist_ok=True)
            (home / part / name).write_bytes(content)
    return home


# ---- the Heidelberg data sets ---------------------------------------------------------------------------------------

KEYS = ("zero", "one", "fünf")


def spoken(label: int, number: int, events: int = 60) -> Events:
    """Units around a place of the class, for some tenths of a second; some events share a step and a channel."""
    rng = np.random.default_rng((label, number))
    units = (120 + 230 * label + rng.normal(0, 25, events)).clip(0, 699).astype(int)
    return units.tolist(), np.sort(rng.uniform(0, 0.7, events)).tolist()


def heidelberg_file(path: Path, recordings: Iterable[tuple[int, int, Events]], packed: str = "") -> Path:
    """A file in the form of the published ones: label, speaker, and units and times of each recording.

    `packed`: ".gz" or ".zip" leaves the file only so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    labels, speakers, events = zip(*recordings, strict=True)
    with h5py.File(path, "w") as file:
        for name, kind, own in ("units", np.uint16, 0), ("times", np.float16, 1):
            ragged = file.create_dataset(f"spikes/{name}", (len(events),), h5py.vlen_dtype(kind))
            for row, entry in enumerate(events):
                ragged[row] = np.array(entry[own], kind)
        file["labels"] = np.array(labels, np.uint16)
        file["extra/speaker"] = np.array(speakers, np.uint16)
        file["extra/keys"] = np.array([key.encode() for key in KEYS])
    archive = path.with_name(path.name + packed)
    if packed == ".gz":
        archive.write_bytes(gzip.compress(path.read_bytes()))
    elif packed == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.write(path, path.name)
    if packed:
        path.unlink()
    return archive


def heidelberg_tree(root: Path, name: str = "shd", packed: str = "", train: int = 9, events: int = 60) -> Path:
    """The files of SHD or SSC; speakers 0 to 3 train, and 4 and 5 are in the test part alone; returns their folder."""
    sizes = {"train": train, "valid": 3, "test": 6} if name == "ssc" else {"train": train, "test": 6}
    for part, size in sizes.items():
        speakers = range(6) if part == "test" else range(4)
        start = {"train": 0, "valid": 1000, "test": 2000}[part]
        heidelberg_file(
            root / name / f"{name}_{part}.h5",
            [(k % 3, speakers[k % len(speakers)], spoken(k % 3, start + k, events)) for k in range(size)],
            packed,
        )
    return root / name


# ---- CIFAR-10 and pictures ------------------------------------------------------------------------------------------


def cifar_files(records: int) -> dict[str, bytes]:
    """The six files with so many pictures each; a class is a colour and a place."""
    rng, files = np.random.default_rng(0), {}
    for name in cifar.FILES:
        content = b""
        for n in range(records):
            label = n % 10
            picture = rng.integers(0, 40, (3, 32, 32), dtype=np.uint8)
            picture[label % 3, 3 * label : 3 * label + 5] = 250
            content += bytes([label]) + picture.tobytes()
        files[name] = content
    return files


def cifar_archive(files: Mapping[str, bytes]) -> bytes:
    """The archive as it is downloaded."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {**files, "batches.meta.txt": b"airplane\n"}.items():
            member = tarfile.TarInfo(f"{cifar.FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def picture_tree(root: Path, classes: Iterable[str] = ("cat", "dog"), count: int = 5, suffix: str = ".png") -> Path:
    """Pictures of 12 x 10 pixels in a folder for each class."""
    rng = np.random.default_rng(0)
    for place, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 60, (12, 10, 3), dtype=np.uint8)
            pixels[:, 5 * place : 5 * place + 5] += 150
            Image.fromarray(pixels).save(root / name / f"{number}{suffix}")
    return root
