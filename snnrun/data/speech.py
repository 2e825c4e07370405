"""Recordings that anybody may have: the Free Spoken Digit Dataset, and folders of one's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from snnrun.data import audio, class_folders, folders
from snnrun.data.corpus import Corpus, MissingError
from snnrun.data.known import ANY, known
from snnrun.declared import Range
from snnrun.errors import UsageError

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


@known(
    "ten spoken digits, six speakers",
    "CC BY-SA 4.0, https://github.com/Jakobovski/free-spoken-digit-dataset",
    "fsdd/recordings",
    (2700, 300),
)
def fsdd(
    root: Path,
    _download: bool,
    *,
    split: Literal["official", "speaker"] = "official",
    held_out: Sequence[str] = ("george", "jackson"),
) -> Corpus:
    """The Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0): 3,000 recordings of ten digits by six speakers.

    The files <digit>_<speaker>_<index>.wav are looked for in `root/fsdd/recordings` and, as the repository and its
    archives unpack, in `root/free-spoken-digit-dataset/recordings` or `root/free-spoken-digit-dataset-master/...`, also
    below `root/fsdd`. Order: digit, speaker, index.

    Args:
        split: "official" tests on the indices 0 to 4 of every digit and speaker; "speaker" tests on all recordings of
            the speakers `held_out` and trains on the others.
        held_out: Names of speakers.

    Raises:
        MissingError: If there is no recording.
        UsageError: If a speaker is unknown; if nobody or everybody is held out.
    """
    places = _fsdd_places(root)
    found = folders.below(places[0], audio.suffixes()) if places else folders.Below()
    if not found.files:
        raise MissingError(_missing_fsdd(root))
    takes, faults = _takes(found.files)
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
    notes += [f"{place} is a second copy and is not used; {places[0]} is" for place in places[1:]]
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
        notes=(*notes, *folders.ignored(found)),
        faults=tuple(faults),
    )


def _fsdd_places(root: Path) -> list[Path]:
    """The folders of recordings, the one to use first. The archive of a branch or a tag has its name at the end."""
    archives = [
        path
        for place in (root, *folders.folders_named(root, "fsdd"))
        for path in folders.inside(place, ())[0]
        if path.name.lower().startswith("free-spoken-digit-dataset")
    ]
    homes = [*folders.folders_named(root, "fsdd"), *archives]
    return [place for home in homes for place in folders.folders_named(home, "recordings")]


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


@known("recordings of your own, a folder for each class", "yours", ANY)
def audio_folder(
    root: Path,
    _download: bool,
    *,
    test_fraction: Annotated[float, Range(above=0, below=1)] = 0.2,
    split_seed: Annotated[int, Range(at_least=0)] = 0,
) -> Corpus:
    """Recordings in a folder for each class: `root/<class>/`, or `root/train/<class>/` and `root/test/<class>/`.

    See `class_folders.find`; a recording is what `audio.suffixes` has.

    Args:
        root: The folder itself.
        test_fraction: Share of the recordings to test on where nothing decides, the same in every class.
        split_seed: Seeds the draw; the run's seed does not move it.

    Raises:
        MissingError: If there are no two classes with recordings.
        SnnrunError: If the folders contradict themselves, or a part has a class that is not trained on.
    """
    found = class_folders.find(
        root,
        corpus="audio_folder",
        what="recordings",
        suffixes=audio.suffixes(),
        example="<name>.wav",
        forms="wav, flac, ogg, mp3, sph or what else libsndfile reads",
        test_fraction=test_fraction,
        split_seed=split_seed,
    )
    return Corpus(
        kind="audio",
        shape=(),
        classes=found.classes,
        train_samples=folders.objects(found.train),
        train_labels=found.train_labels,
        test_samples=folders.objects(found.test),
        test_labels=found.test_labels,
        origin=found.origin,
        notes=found.notes,
        validation=found.validation,
    )
