"""Recordings that anybody may have: the Free Spoken Digit Dataset, and folders of one's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.data import folders
from snnrun.data.corpus import Corpus, MissingError, stratified
from snnrun.errors import SnnrunError, UsageError

FSDD_RATE = 8_000  # Hz
FSDD_SOURCE = "https://github.com/Jakobovski/free-spoken-digit-dataset"
FSDD_SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
FSDD_INDICES = 50  # recordings of a digit by a speaker
FSDD_TEST_INDICES = 5  # of which the first so many are the official test set
_FSDD_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)", re.IGNORECASE)
_DIGITS = tuple("0123456789")


class _Take(NamedTuple):
    """A recording of a digit."""

    digit: int
    speaker: str
    number: int
    path: Path


# ---- FSDD -----------------------------------------------------------------------------------------------------------


def fsdd(
    root: Path, _download: bool, *, split: str = "official", held_out: Sequence[str] = ("george", "jackson")
) -> Corpus:
    """The Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0): 3,000 recordings of ten digits by six speakers.

    The files <digit>_<speaker>_<index>.wav are looked for in `root/fsdd/recordings` and in a clone of the repository,
    `root/free-spoken-digit-dataset/recordings`. Order: digit, speaker, index.

    Args:
        split: "official" tests on the indices 0 to 4 of every digit and speaker; "speaker" tests on all recordings of
            the speakers `held_out` and trains on the others.
        held_out: Names of speakers.

    Raises:
        MissingError: If there is no recording.
        UsageError: If the split is unknown, or a speaker is; if nobody or everybody is held out.
    """
    if split not in ("official", "speaker"):
        raise UsageError(f"data.split={split}: official or speaker")
    places = [
        place
        for home in folders.folders_named(root, "fsdd", "free-spoken-digit-dataset")
        for place in folders.folders_named(home, "recordings")
    ]
    files, others = folders.recordings_below(places[0]) if places else ([], [])
    if not files:
        raise MissingError(_missing_fsdd(root))
    takes, faults = _takes(files)
    speakers = sorted({take.speaker for take in takes})
    if split == "speaker":
        outside = _held_out(held_out, speakers)
        tested = [take.speaker in outside for take in takes]
    else:
        tested = [take.number < FSDD_TEST_INDICES for take in takes]
    train = [take for take, test in zip(takes, tested, strict=True) if not test]
    test = [take for take, test in zip(takes, tested, strict=True) if test]
    every = len(_DIGITS) * len(FSDD_SPEAKERS) * FSDD_INDICES
    notes = [f"{len(takes):,} of {every:,} recordings are there"] if len(takes) != every else []
    for name, part in ("train", train), ("test", test):
        notes += folders.lacking(name, "digits", _DIGITS, (str(take.digit) for take in part))
    notes += folders.lacking("all", "speakers", FSDD_SPEAKERS, speakers)
    return Corpus(
        kind="audio",
        shape=(),
        classes=_DIGITS,
        train_samples=folders.objects([take.path for take in train]),
        train_labels=np.array([take.digit for take in train], np.int64),
        test_samples=folders.objects([take.path for take in test]),
        test_labels=np.array([take.digit for take in test], np.int64),
        origin=folders.origin(places[0], places[0].parent),
        sample_rate=FSDD_RATE,
        notes=(*notes, *folders.ignored(others)),
        faults=tuple(faults),
    )


def parse_fsdd(stem: str) -> tuple[int, str, int]:
    """Digit, speaker and index of a file's name.

    Raises:
        ValueError: If it is no such name.
    """
    match = _FSDD_NAME.fullmatch(stem)
    if match is None:
        raise ValueError("a name such as 7_jackson_32.wav is wanted")
    return int(match[1]), match[2].lower(), int(match[3])


def _takes(files: Sequence[Path]) -> tuple[list[_Take], list[str]]:
    takes: dict[tuple[int, str, int], Path] = {}
    faults = []
    for path in files:
        try:
            key = parse_fsdd(path.stem)
            if key in takes:
                raise ValueError(f"{takes[key].name} is the same recording")
            takes[key] = path
        except ValueError as error:
            faults.append(f"{path}: {error}; rename or remove it")
    return [_Take(*key, takes[key]) for key in sorted(takes)], faults


def _held_out(names: Sequence[str], speakers: Sequence[str]) -> set[str]:
    outside = {name.lower() for name in names}
    unknown = sorted(outside - set(speakers))
    if unknown:
        raise UsageError(f"data.held_out: there is no speaker {unknown[0]}; there are {', '.join(speakers)}")
    if not outside or len(outside) == len(speakers):
        raise UsageError(f"data.held_out: some of {', '.join(speakers)} are wanted, and not all of them")
    return outside


def _missing_fsdd(root: Path) -> str:
    return "\n".join(
        [
            f"data=fsdd: there are no recordings in {(root / 'fsdd' / 'recordings').absolute()}. What to do, one of:",
            f"  git clone {FSDD_SOURCE} {root / 'fsdd'}",
            "  give the folder that holds fsdd/ by data.root=FOLDER or the environment variable SNNRUN_DATA",
            "It is licensed CC BY-SA 4.0: name its authors, and share what you make of it alike.",
        ]
    )


# ---- folders of one's own -------------------------------------------------------------------------------------------


def audio_folder(root: Path, _download: bool, *, test_fraction: float = 0.2, split_seed: int = 0) -> Corpus:
    """Recordings in a folder for each class: `root/<class>/`, or `root/train/<class>/` and `root/test/<class>/`.

    Classes are the names of the folders, sorted; a class has all the .wav, .flac, .ogg and .sph files below its folder.

    Args:
        root: The folder itself.
        test_fraction: Share of the recordings to test on where no `train` and `test` tell, the same in every class.
        split_seed: Seeds their choice; the run's seed does not move it.

    Raises:
        MissingError: If there are no two classes with recordings.
        SnnrunError: If the test folder has a class of its own.
        UsageError: If a number is out of range.
    """
    if not 0 < test_fraction < 1:
        raise UsageError(f"data.test_fraction={test_fraction}: a fraction between 0 and 1 is needed")
    if split_seed < 0:
        raise UsageError(f"data.split_seed={split_seed}: a whole number from 0 up is needed")
    places = [place for name in ("train", "test") for place in folders.folders_named(root, name)]
    parts = [_classes(place) for place in places] if len(places) == 2 else [_classes(root)]
    classes = tuple(sorted(parts[0][0]))
    if len(classes) < 2:
        raise MissingError(_too_few(root, classes))
    others = [path for _, files in parts for path in files]
    if len(parts) == 2:
        alone = sorted(set(parts[1][0]) - set(classes))
        if alone:
            raise SnnrunError(
                f"data=audio_folder: {places[1]} has classes that {places[0]} lacks: {folders.some(alone)}"
            )
        (train, train_labels), (test, test_labels) = (_flat(part, classes) for part, _ in parts)
    else:
        files, labels = _flat(parts[0][0], classes)
        size = round(test_fraction * len(files))
        if not 0 < size < len(files):
            raise UsageError(f"data.test_fraction={test_fraction}: leaves {size} of {len(files)} recordings to test on")
        chosen = stratified(labels, size, np.random.Generator(np.random.PCG64(split_seed)))
        rest = np.setdiff1d(np.arange(len(files)), chosen)
        (train, train_labels), (test, test_labels) = (
            ([files[i] for i in part], labels[part]) for part in (rest, chosen)
        )
    notes = folders.ignored(others)
    for name, there in ("train", train_labels), ("test", test_labels):
        notes += folders.lacking(name, "classes", classes, (classes[label] for label in there))
    return Corpus(
        kind="audio",
        shape=(),
        classes=classes,
        train_samples=folders.objects(train),
        train_labels=train_labels,
        test_samples=folders.objects(test),
        test_labels=test_labels,
        origin=folders.origin(root, *places),
        notes=tuple(notes),
    )


def _classes(place: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """The recordings of each class that has any, and the other files."""
    found, others = {}, []
    for path in folders.entries(place):
        if path.is_dir():
            files, strays = folders.recordings_below(path)
            others += strays
            if files:
                found[path.name] = files
        elif path.name != folders.MARKER:
            others.append(path)
    return found, others


def _flat(part: dict[str, list[Path]], classes: Sequence[str]) -> tuple[list[Path], NDArray[np.int64]]:
    files = [path for name in classes for path in part.get(name, [])]
    labels = [label for label, name in enumerate(classes) for _ in part.get(name, [])]
    return files, np.array(labels, np.int64)


def _too_few(root: Path, classes: Sequence[str]) -> str:
    there = f"only one class has recordings, {classes[0]}" if classes else "no class has recordings"
    return "\n".join(
        [
            f"data=audio_folder: {there}, in {root.absolute()}; two or more are wanted.",
            "Expected, as .wav, .flac, .ogg or .sph:",
            "  <class>/<name>.wav, or train/<class>/<name>.wav and test/<class>/<name>.wav",
            "Give the folder itself by data.root=FOLDER.",
        ]
    )
