"""Corpora of one's own: a folder for each class, which may lie in folders for train, validation and test."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.data import folders, parts
from snnrun.data.corpus import MissingError, stratified
from snnrun.errors import SnnrunError, UsageError, printable

NO_CLASS = "_background_noise_"  # of Speech Commands: minutes of noise to mix in, no word


class Found(NamedTuple):
    """The files to train and to test on, class by class, with their labels (S,) int64. The rest: see `Corpus`."""

    classes: tuple[str, ...]
    train: list[Path]
    train_labels: NDArray[np.int64]
    test: list[Path]
    test_labels: NDArray[np.int64]
    validation: NDArray[np.int64] | None
    origin: str
    notes: tuple[str, ...]


@dataclass
class _Place:
    """A folder that holds the folders of classes.

    Attributes:
        path: The folder.
        classes: The files of each class that has any.
        empty: Names of the folders that have none.
        direct: What else lies directly in it: its `files` belong to no class.
        deeper: What the folders hold beside the files of classes.
        notes: On names.
    """

    path: Path
    direct: folders.Below
    classes: dict[str, list[Path]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    deeper: folders.Below = field(default_factory=folders.Below)
    notes: list[str] = field(default_factory=list)


def find(
    root: Path,
    *,
    corpus: str,
    what: str,
    suffixes: Collection[str],
    example: str,
    forms: str,
    test_fraction: float,
    split_seed: int,
) -> Found:
    """The files of `root/<class>/`, or of `root/train/<class>/` and the same in `test` and `validation`.

    Classes are the names of the folders, in Unicode's composed form (NFC), sorted; a class has all files below its
    folder that have a wanted extension. `parts.role` says what parts may be called. Without such folders the lists of
    Speech Commands decide. What neither decides is drawn.

    Args:
        root: The folder itself.
        corpus: Name of the corpus, for messages.
        what: What the files are, such as "recordings".
        suffixes: Extensions of theirs, in lower case.
        example: A name as it could be, such as "<name>.wav".
        forms: What the extensions are, for messages.
        test_fraction: Share of the files to test on where nothing decides, the same in every class.
        split_seed: Seeds the draw.

    Raises:
        MissingError: If there are no two classes with files.
        SnnrunError: If the folders or the lists contradict themselves, or a part has a class that is not trained on.
        UsageError: If the fraction leaves too few or too many to test on.
    """
    whole = _read(root, what, suffixes)
    places, notes = _places(whole, what, suffixes)
    classes = _classes(places, corpus, what, example, forms)
    of, files, labels = _listing(places, classes)
    divided = places[parts.TRAIN] is not whole
    by_lists = None if divided else parts.by_lists(root, files)
    if by_lists is not None:
        of, lists, said = by_lists
        whole.direct.others[:] = [path for path in whole.direct.others if path not in lists]
        notes += said
    if parts.TEST not in of:
        _choose_test(of, labels, test_fraction, np.random.Generator(np.random.PCG64(split_seed)), what)
        if divided or by_lists is not None:
            notes.append(f"test: no part of its own, so {test_fraction:g} of the others (data.test_fraction)")
    if parts.VALIDATION in of:
        size = np.count_nonzero(of == parts.VALIDATION)
        notes.append(folders.validates(int(size), what))
    whole.direct.add(whole.deeper)
    notes += folders.ignored(whole.direct, what)
    for part in (parts.TRAIN, parts.VALIDATION, parts.TEST):
        if part in of:
            notes += folders.lacking(part, "classes", classes, (classes[label] for label in labels[of == part]))
    tested = of == parts.TEST
    return Found(
        classes,
        [files[k] for k in np.flatnonzero(~tested)],
        labels[~tested],
        [files[k] for k in np.flatnonzero(tested)],
        labels[tested],
        np.flatnonzero(of[~tested] == parts.VALIDATION) if parts.VALIDATION in of else None,
        folders.origin(root, *(place.path for place in places.values())),
        tuple(notes),
    )


def _places(whole: _Place, what: str, suffixes: Collection[str]) -> tuple[dict[str, _Place], list[str]]:
    """The folder of each part, or the whole as the one to train on if no folder is a part; and notes."""
    named = [name for name in whole.classes if parts.role(name)]
    parts.refuse_mixture(whole.path, named, [name for name in whole.classes if name not in named])
    places, notes = {parts.TRAIN: whole}, []
    if named:
        places = {part: _read(whole.path / name, what, suffixes) for part, name in parts.assign(whole.path, named)}
    for part, place in list(places.items()):
        if part != parts.TRAIN and not place.classes:
            number = len(place.direct.files)
            notes.append(f"{place.path.name} is not used as the {part} part: its {number:,} {what} lie in no class")
            del places[part]
    notes += _notes(whole, what)
    notes += [note for place in places.values() if place is not whole for note in _notes(place, what)]
    return places, notes


def _notes(place: _Place, what: str) -> list[str]:
    notes = list(place.notes)
    if place.empty:
        notes.append(f"{len(place.empty):,} folders have no {what} and are no classes ({folders.some(place.empty)})")
    if place.classes and place.direct.files:
        loose = folders.some(path.name for path in place.direct.files)
        notes.append(f"{len(place.direct.files):,} {what} lie in no folder of a class and are not used ({loose})")
    return notes


def _read(path: Path, what: str, suffixes: Collection[str]) -> _Place:
    """What lies in a folder, each folder in it taken for a class."""
    inside, direct = folders.inside(path, suffixes)
    place = _Place(path, direct)
    for folder in inside:
        found = folders.below(folder, suffixes)
        name = printable(unicodedata.normalize("NFC", folder.name))
        if name == NO_CLASS:
            place.notes.append(f"{name} is no class: its {len(found.files):,} {what} are not used")
            continue
        if not found.files:
            place.empty.append(name)
        elif name in place.classes:
            place.notes.append(f"the name of {name} is there in two Unicode forms, which are one class")
        if found.files:
            place.classes.setdefault(name, []).extend(found.files)
        found.files.clear()
        place.deeper.add(found)
    return place


def _classes(places: Mapping[str, _Place], corpus: str, what: str, example: str, forms: str) -> tuple[str, ...]:
    """The classes, once all parts are known to fit them."""
    train = places[parts.TRAIN]
    if len(train.classes) < 2:
        raise MissingError(_too_few(train, corpus, what, example, forms))
    for place in places.values():
        alone = sorted(set(place.classes) - set(train.classes))
        if alone:
            raise SnnrunError(f"data={corpus}: {place.path} has classes that {train.path} lacks: {folders.some(alone)}")
        parts.refuse_parts_within(place.path, place.classes)
    return tuple(sorted(train.classes))


def _listing(
    places: Mapping[str, _Place], classes: Sequence[str]
) -> tuple[NDArray[np.object_], list[Path], NDArray[np.int64]]:
    """Part, path and label of every file, part by part and class by class."""
    listing = [
        (part, path, label)
        for part in (parts.TRAIN, parts.VALIDATION, parts.TEST)
        for label, name in enumerate(classes)
        for path in (places[part].classes.get(name, []) if part in places else [])
    ]
    of = np.array([part for part, _, _ in listing], object)
    return of, [path for _, path, _ in listing], np.array([label for _, _, label in listing], np.int64)


def _choose_test(
    of: NDArray[np.object_], labels: NDArray[np.int64], fraction: float, rng: np.random.Generator, what: str
) -> None:
    """Move a share of the training files to the test part."""
    train = np.flatnonzero(of == parts.TRAIN)
    size = round(fraction * len(train))
    if not 0 < size < len(train):
        raise UsageError(f"data.test_fraction={fraction}: leaves {size} of {len(train)} {what} to test on")
    of[train[stratified(labels[train], size, rng)]] = parts.TEST


def _too_few(place: _Place, corpus: str, what: str, example: str, forms: str) -> str:
    [name] = place.classes or [""]
    there = f"only one class has {what}, {name}" if name else f"no class has {what}"
    deeper = {path.relative_to(place.path).parts[1] for path in place.classes.get(name, []) if path.parent.name != name}
    loose = len(place.direct.files)
    return "\n".join(
        [
            f"data={corpus}: {there}, in {place.path.absolute()}; two or more are wanted.",
            *([f"{loose:,} {what} lie directly in it, where no folder tells their class."] if loose else []),
            f"Expected, as {forms}:",
            f"  <class>/{example}, or train/<class>/{example} and test/<class>/{example}",
            "Give the folder itself by data.root=FOLDER.",
            *([f"Is it data.root={place.path / name}? There are {folders.some(sorted(deeper))}."] if deeper else []),
        ]
    )
