"""TI46-Word (LDC93S9): isolated letters and digits of 16 speakers, in the folders and under the names of the LDC.

A file is <set>/<part>/<speaker>/<name>, and the eight characters of its name are word, speaker, session and token, two
each: ti_alpha/train/f1/0af1set0.wav is the first training token of the letter A by f1, ti20/test/m8/09m8s8t1.wav the
second token of "nine" in the last test session of m8. The same speakers are in both parts. Copies differ in upper and
lower case, in the extension (.wav or .sph, NIST SPHERE either way) and in the folders above.

Source: Doddington and Schalk, IEEE Spectrum 18(9), 1981; Liberman et al., TI 46-Word LDC93S9, 1993.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.data import audio, folders
from snnrun.data.corpus import Corpus, MissingError
from snnrun.data.known import known
from snnrun.declared import Range
from snnrun.errors import UsageError

RATE = 12_500  # Hz
SPEAKERS = tuple(f"{sex}{number}" for sex in "fm" for number in range(1, 9))
COMMANDS = ("en", "er", "go", "hp", "no", "rb", "rp", "sp", "st", "ys")  # enter erase go help no rubout repeat ...
SOURCE = "https://catalog.ldc.upenn.edu/LDC93S9"
_LICENCE = f"licensed by the Linguistic Data Consortium, {SOURCE}"
# Two characters of a name each: (session, token).
TOKENS = {
    "train": frozenset(("se", f"t{token}") for token in range(10)),
    "test": frozenset((f"s{session}", f"t{token}") for session in range(1, 9) for token in range(2)),
}


@dataclass(frozen=True)
class Task:
    """Some words of one of the two sets.

    Attributes:
        folder: Of the set, in lower case.
        words: Code of each class, in the order of the labels.
        others: Codes of the words of the set that belong to no class.
        papers: Number of training and test files in the published experiments, some tokens having never existed.
    """

    folder: str
    words: tuple[str, ...]
    classes: tuple[str, ...]
    others: tuple[str, ...]
    papers: dict[str, int]


ALPHA = Task(
    folder="ti_alpha",
    words=tuple(f"0{letter}" for letter in string.ascii_lowercase),
    classes=tuple(string.ascii_uppercase),
    others=(),
    papers={"train": 4142, "test": 6628},
)
DIGITS = Task(
    folder="ti20",
    words=tuple(f"0{digit}" for digit in range(10)),
    classes=tuple(string.digits),
    others=COMMANDS,
    papers={"train": 1594, "test": 2542},
)


class Token(NamedTuple):
    """What a file's name says; two characters each, in lower case."""

    word: str
    speaker: str
    session: str
    token: str


@known("26 spoken letters, 16 speakers", _LICENCE, "ti46/ti_alpha", (4142, 6628))
def ti46_alpha(root: Path, _download: bool) -> Corpus:
    """TI46-Alpha: the 26 letters, as recordings; see `load`."""
    return load("ti46_alpha", ALPHA, root)


@known("ten spoken digits, 16 speakers", _LICENCE, "ti46/ti20", (1594, 2542))
def ti46_digits(root: Path, _download: bool, *, test_limit: Annotated[int | None, Range(at_least=1)] = None) -> Corpus:
    """TI46-Digits: the ten digits, as recordings; see `load`.

    Args:
        test_limit: Test on the first so many files in the order of speakers and names; None: on all. The published
            ST-RSBP runs stop at 2,474 of 2,542.

    Raises:
        UsageError: If so many files are not there.
    """
    return load("ti46_digits", DIGITS, root, test_limit)


def load(name: str, task: Task, root: Path, test_limit: int | None = None) -> Corpus:
    """List the recordings of a task, ordered by speaker and name.

    The set's folder is looked for in `root/ti46`, `root/LDC93S9` and `root`, and there in a folder `ti46`, whatever the
    case of the names. Not all tokens need be there: notes tell how many are.

    Raises:
        MissingError: If there is no training token.
        UsageError: If `test_limit` exceeds what is there.
    """
    places = _find(root, task)
    parts = {part: _Part.read(places[0], part, task) for part in TOKENS} if places else {}
    if not parts or not (parts["train"].tokens or parts["train"].faults):
        raise MissingError(_missing(name, task, root, places))
    train, test = parts["train"], parts["test"]
    notes = [*_counts(task, parts), *train.lacks(task), *test.lacks(task)]
    train.rest.add(test.rest)
    notes += folders.ignored(train.rest)
    notes += [f"{place} is a second copy and is not used; {places[0]} is" for place in places[1:]]
    files, labels = test.files(task)
    if test_limit is not None:
        if not 1 <= test_limit <= len(files):
            raise UsageError(f"data.test_limit={test_limit}: from 1 to {len(files):,}, the test files that are there")
        files, labels = files[:test_limit], labels[:test_limit]
        notes.append(f"test: only the first {test_limit:,} files are used (data.test_limit)")
    train_files, train_labels = train.files(task)
    return Corpus(
        kind="audio",
        shape=(),
        classes=task.classes,
        train_samples=folders.objects(train_files),
        train_labels=train_labels,
        test_samples=folders.objects(files),
        test_labels=labels,
        origin=_origin(places[0], [*train_files[:1], *files[:1]]),
        sample_rate=RATE,
        notes=tuple(notes),
        faults=(*train.faults, *test.faults),
    )


def parse(stem: str) -> Token:
    """What the name of a file says, by position.

    Raises:
        ValueError: If it says nothing of the kind; its text is the reason.
    """
    stem = stem.lower()
    if len(stem) != 8 or not stem.isascii():
        raise ValueError("a name of eight characters is wanted, such as 0af1set0")
    token = Token(stem[:2], stem[2:4], stem[4:6], stem[6:])
    if token.speaker not in SPEAKERS:
        raise ValueError(f"there is no speaker {token.speaker!r}: they are f1 to f8 and m1 to m8")
    if not any(token[2:] in tokens for tokens in TOKENS.values()):
        raise ValueError(f"there is no token {stem[4:]!r}: they are set0 to set9 and s1t0 to s8t1")
    return token


# ---- folders --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """The training or the test tokens: those of the task by speaker and name, what is wrong, and what else is there."""

    name: str
    tokens: dict[Token, Path]
    faults: list[str]
    rest: folders.Below

    @classmethod
    def read(cls, place: Path, name: str, task: Task) -> _Part:
        part = cls(name, {}, [], folders.Below())
        for folder in folders.folders_named(place, name):
            found = folders.below(folder, audio.suffixes())
            part.rest.add(found)
            for path in found.files:
                try:
                    part.add(path, task)
                except ValueError as error:
                    part.faults.append(f"{path}: {error}; rename, move or remove it")
        return part

    def add(self, path: Path, task: Task) -> None:
        token = parse(path.stem)
        folder = path.parent.name.lower()
        if token.word not in (*task.words, *task.others):
            known = f"{task.words[0]} to {task.words[-1]}"
            more = f" and {' '.join(task.others)}" if task.others else ""
            raise ValueError(f"{task.folder} has no word {token.word!r}: its words are {known}{more}")
        if token[2:] not in TOKENS[self.name]:
            raise ValueError(f"the token {''.join(token[2:])!r} does not belong in the {self.name} folder")
        if folder in SPEAKERS and folder != token.speaker:
            raise ValueError(f"it lies in the folder of {folder} and its name says {token.speaker}")
        if token.word in task.words:
            if token in self.tokens:
                raise ValueError(f"{self.tokens[token]} is the same token")
            self.tokens[token] = path

    def files(self, task: Task) -> tuple[list[Path], NDArray[np.int64]]:
        order = sorted(self.tokens, key=lambda token: (token.speaker, token))
        labels = [task.words.index(token.word) for token in order]
        return [self.tokens[token] for token in order], np.array(labels, np.int64)

    def lacks(self, task: Task) -> list[str]:
        """Notes on speakers and words of which nothing is there."""
        if not self.tokens:
            return [f"{self.name}: there are no tokens"]
        there = [task.classes[task.words.index(token.word)] for token in self.tokens]
        return [
            *folders.lacking(self.name, "speakers", SPEAKERS, (token.speaker for token in self.tokens)),
            *folders.lacking(self.name, "classes", task.classes, there),
        ]


def _find(root: Path, task: Task) -> list[Path]:
    """The folders of the set, the one to use first."""
    places = [*folders.folders_named(root, "ti46"), *folders.folders_named(root, "ldc93s9"), root]
    places = [deeper for place in places for deeper in (place, *folders.folders_named(place, "ti46"))]
    return list(dict.fromkeys(found for place in places for found in folders.folders_named(place, task.folder)))


def _counts(task: Task, parts: dict[str, _Part]) -> list[str]:
    notes = []
    for name, part in parts.items():
        slots, there, papers = len(task.words) * len(SPEAKERS) * len(TOKENS[name]), len(part.tokens), task.papers[name]
        if there < slots:
            beside = "as in the papers" if there == papers else f"and the papers had {papers:,}"
            notes.append(f"{name}: {there:,} of {slots:,} tokens are there, {beside}")
    return notes


def _origin(place: Path, files: list[Path]) -> str:
    """A surrogate is known by its marker and, should that have been left behind, by the headers of its files."""
    made = any(folders.MARKER in audio.sphere_header(path).get("database_id", "") for path in files)
    return "surrogate" if made else folders.origin(place, place.parent)


def _missing(name: str, task: Task, root: Path, places: list[Path]) -> str:
    where = (
        f"{places[0] / 'train'}, which is empty or absent" if places else f"{root.absolute()}, its ti46/ and LDC93S9/"
    )
    return "\n".join(
        [
            f"data={name}: there are no training recordings in {where}. Expected, in upper or lower case:",
            f"  ti46/{task.folder}/train/f1/{task.words[0]}f1set0.wav",
            f"  ti46/{task.folder}/test/m8/{task.words[-1]}m8s8t1.wav",
            "What to do, one of:",
            f"  put your copy there; the Linguistic Data Consortium licenses TI46-Word as LDC93S9, {SOURCE}",
            "  give the folder that holds ti46/ by data.root=FOLDER or the environment variable SNNRUN_DATA",
            "  to try things out, make a stand-in of synthetic speech: scripts/make_ti46_surrogate.py data/ti46",
        ]
    )
