"""Speech Commands (Warden 2018): one-second recordings of single words, with the published lists of its parts.

A folder for each word, `validation_list.txt` and `testing_list.txt` beside them, and `_background_noise_` with minutes
of noise. Version 1 has 30 words, version 2 has 35.

Source: Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, arXiv 1804.03209.

Differs from the paper in the task of twelve classes, whose words and shares are the paper's: no noise is mixed into
the words, and silence is a piece of noise as it was recorded, at its own loudness. Every part takes its pieces from a
stretch of the noise of its own. The other words are chosen once, the same share of each, and not anew in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.data import audio, class_folders, folders, parts
from snnrun.data.corpus import Corpus, MissingError, stratified
from snnrun.data.known import known
from snnrun.declared import Range
from snnrun.errors import SnnrunError

RATE = 16_000  # Hz
SOURCE = "http://download.tensorflow.org/data/speech_commands_v0.0{}.tar.gz"
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SILENCE, UNKNOWN = "silence", "unknown"
_FIRST = (
    *COMMANDS,
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow"),
)
WORDS = {"v1": _FIRST, "v2": (*_FIRST, "backward", "follow", "forward", "learn", "visual")}
RECORDINGS = {"v1": 64_721, "v2": 105_829}
_SHARE = 10  # of silence and of unknown words, in percent of the recordings of the ten commands of a part
# Where in the noise each part takes its silence, as fractions of its length.
_STRETCH = {parts.TRAIN: (0.0, 0.8), parts.VALIDATION: (0.8, 0.9), parts.TEST: (0.9, 1.0)}
_LEAST_S = 10  # of noise: its tenth holds a second


class _Part(NamedTuple):
    """Recordings and their labels, (S,)."""

    recordings: list[audio.Recording]
    labels: NDArray[np.int64]


@known(
    "35 spoken words of many speakers; or ten of them, silence and unknown words",
    f"by P. Warden, CC BY 4.0, {SOURCE.format(2)}",
    "speech_commands",
    (84_843, 11_005),
)
def speech_commands(
    root: Path,
    _download: bool,
    *,
    version: Literal["v1", "v2"] = "v2",
    task: Literal["words", "twelve"] = "words",
    split_seed: Annotated[int, Range(at_least=0)] = 0,
) -> Corpus:
    """Speech Commands with its published parts, its part to validate on included.

    The folders of the words are looked for in `root/speech_commands`, in `speech_commands_v0.02` in there (or v0.01) or
    in `root`, and where torchaudio unpacks them.

    Args:
        version: "v1" has 30 words, "v2" 35.
        task: "words" makes each word a class. "twelve" has the ten commands, silence and unknown words, of which every
            part has a tenth as many as of the commands.
        split_seed: Chooses the unknown words; the run's seed does not move it.

    Raises:
        MissingError: If there are no words, or no lists.
        SnnrunError: If a list contradicts the files, a folder is no word of the version, or there is no noise to cut.
    """
    home = _home(root, version)
    found = class_folders.find(
        home,
        corpus="speech_commands",
        what="recordings",
        suffixes={".wav"},
        example="<speaker>_nohash_<number>.wav",
        forms="wav",
        test_fraction=0.1,  # not used: the lists decide
        split_seed=split_seed,
    )
    every, notes = _parts(found), _notes(home, found, version, task)
    classes = found.classes
    if task == "twelve":
        classes = (*COMMANDS, SILENCE, UNKNOWN)
        noise = _noise(home)
        every = {name: _twelve(name, part, found.classes, noise, split_seed) for name, part in every.items()}
        notes.append(_said(every))
    train, validation, test = (every[name] for name in (parts.TRAIN, parts.VALIDATION, parts.TEST))
    return Corpus(
        kind="audio",
        shape=(),
        classes=classes,
        train_samples=folders.objects([*train.recordings, *validation.recordings]),
        train_labels=np.concatenate([train.labels, validation.labels]),
        test_samples=folders.objects(test.recordings),
        test_labels=test.labels,
        origin=found.origin,
        sample_rate=RATE,
        notes=tuple(notes),
        validation=np.arange(len(train.labels), len(train.labels) + len(validation.labels)),
    )


def _parts(found: class_folders.Found) -> dict[str, _Part]:
    """The parts as the lists have them."""
    held = np.zeros(0, np.int64) if found.validation is None else found.validation
    rest = np.setdiff1d(np.arange(len(found.train)), held)
    return {
        parts.TRAIN: _Part([found.train[k] for k in rest], found.train_labels[rest]),
        parts.VALIDATION: _Part([found.train[k] for k in held], found.train_labels[held]),
        parts.TEST: _Part(list(found.test), found.test_labels),
    }


def _notes(home: Path, found: class_folders.Found, version: str, task: str) -> list[str]:
    """What a user should know of this copy.

    Raises:
        SnnrunError: If a folder is no word of the version.
    """
    strange = [name for name in found.classes if name not in WORDS[version]]
    if strange:
        later = " data.version=v2 has it." if strange[0] in WORDS["v2"] else " Move it away."
        raise SnnrunError(f"{home}: {strange[0]}/ is no word of Speech Commands {version}.{later}")
    notes = [note for note in found.notes if task == "words" or not note.startswith(class_folders.NO_CLASS)]
    notes += folders.lacking("all", "words", WORDS[version], found.classes)
    total = len(found.train) + len(found.test)
    if total != RECORDINGS[version]:
        notes.append(f"{total:,} of {RECORDINGS[version]:,} recordings are there")
    return notes


def _home(root: Path, version: str) -> Path:
    """The folder that has the words and the lists."""
    archive = f"speech_commands_v0.0{version[1]}"
    below = [*folders.folders_named(root, "speech_commands", "SpeechCommands"), root]
    places = [*(place / archive for place in below), *below[:-1]]
    for place in places:
        names = {path.name.lower() for path in folders.entries(place)}
        if set(parts.LISTS) <= names:
            return place
    partly = next((place for place in places if any((place / word).is_dir() for word in COMMANDS)), None)
    address, target = SOURCE.format(version[1]), root / "speech_commands"
    raise MissingError(
        "\n".join(
            [
                f"data=speech_commands: {version} of Speech Commands is not in {target.absolute()}.",
                *([f"{partly} has words, and not both of {' and '.join(parts.LISTS)}."] if partly else []),
                "What to do, one of:",
                f"  mkdir -p {target} && curl -L {address} | tar xz -C {target}",
                "  give the folder that holds speech_commands/ by data.root=FOLDER or the environment variable "
                "SNNRUN_DATA",
                f"  {'data.version=v2' if version == 'v1' else 'data.version=v1'}, if that is what is there",
            ]
        )
    )


# ---- twelve classes -------------------------------------------------------------------------------------------------


def _twelve(name: str, part: _Part, words: Sequence[str], noise: Sequence[tuple[Path, int]], split_seed: int) -> _Part:
    """A part as one of twelve classes: the commands, then silence, then unknown words."""
    place = {word: k for k, word in enumerate(COMMANDS)}
    of = np.array([place.get(word, -1) for word in words], np.int64)[part.labels]
    wanted, others = np.flatnonzero(of >= 0), np.flatnonzero(of < 0)
    size = math.ceil(len(wanted) * _SHARE / 100)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((split_seed, list(_STRETCH).index(name)))))
    unknown = others[stratified(part.labels[others], min(size, len(others)), generator)] if len(others) else others
    silence = _silence(noise, size, *_STRETCH[name])
    recordings: list[audio.Recording] = [part.recordings[k] for k in wanted]
    recordings += [*silence, *(part.recordings[k] for k in unknown)]
    tail = np.repeat([len(COMMANDS), len(COMMANDS) + 1], [len(silence), len(unknown)])
    return _Part(recordings, np.concatenate([of[wanted], tail]))


def _noise(home: Path) -> list[tuple[Path, int]]:
    """The files of noise, and how many samples each has."""
    paths = folders.below(home / class_folders.NO_CLASS, {".wav"}).files
    facts = audio.scan(paths, RATE)
    faults = [f"{path}: {fact.fault}" for path, fact in zip(paths, facts, strict=True) if fact.fault]
    if faults:
        raise SnnrunError(faults[0])
    long = [(path, fact.samples) for path, fact in zip(paths, facts, strict=True) if fact.samples >= _LEAST_S * RATE]
    if not long:
        raise SnnrunError(
            f"{home / class_folders.NO_CLASS}: data.task=twelve cuts its silence from recordings of {_LEAST_S} s or "
            "more there, and there are none; get them anew, or take data.task=words"
        )
    return long


def _silence(noise: Sequence[tuple[Path, int]], count: int, start: float, end: float) -> list[audio.Cut]:
    """So many pieces of a second from this stretch of the noise, evenly spaced, the files in turn."""
    pieces = []
    for k in range(count):
        path, samples = noise[k % len(noise)]
        turn, turns = k // len(noise), -(-(count - k % len(noise)) // len(noise))
        first, last = round(start * samples), round(end * samples) - RATE
        pieces.append(audio.Cut(path, first + (last - first) * turn // max(turns - 1, 1), RATE))
    return pieces


def _said(every: dict[str, _Part]) -> str:
    """The note on what stands for silence and unknown words."""
    counts = [np.bincount(part.labels, minlength=len(COMMANDS) + 2)[-2:] for part in every.values()]
    silence, unknown = (", ".join(f"{own:,}" for own in column) for column in zip(*counts, strict=True))
    return (
        f"silence: {silence} pieces of {class_folders.NO_CLASS} to train, validate and test; unknown: {unknown} "
        f"recordings of other words, {_SHARE} % of those of the commands each"
    )
