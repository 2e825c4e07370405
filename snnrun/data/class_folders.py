"""Corpora of one's own: a folder for each class, at will within `train` and `test`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.data import folders
from snnrun.data.corpus import MissingError, stratified
from snnrun.errors import SnnrunError, UsageError


class Found(NamedTuple):
    """The files of both parts, class by class, with their labels (S,) int64; see `Corpus` for the rest."""

    classes: tuple[str, ...]
    train: list[Path]
    train_labels: NDArray[np.int64]
    test: list[Path]
    test_labels: NDArray[np.int64]
    origin: str
    notes: tuple[str, ...]


def find(
    root: Path,
    *,
    corpus: str,
    what: str,
    suffixes: Collection[str],
    example: str,
    test_fraction: float,
    split_seed: int,
) -> Found:
    """The files of `root/<class>/`, or of `root/train/<class>/` and `root/test/<class>/`.

    Classes are the names of the folders, sorted; a class has all files below its folder that have a wanted extension.

    Args:
        root: The folder itself.
        corpus: Name of the corpus, for messages.
        what: What the files are, such as "recordings".
        suffixes: Extensions of theirs, in lower case.
        example: A name as it could be, such as "<name>.wav".
        test_fraction: Share of the files to test on where no `train` and `test` tell, the same in every class.
        split_seed: Seeds their choice.

    Raises:
        MissingError: If there are no two classes with files.
        SnnrunError: If the test folder has a class of its own.
        UsageError: If a number is out of range.
    """
    if not 0 < test_fraction < 1:
        raise UsageError(f"data.test_fraction={test_fraction}: a fraction between 0 and 1 is needed")
    if split_seed < 0:
        raise UsageError(f"data.split_seed={split_seed}: a whole number from 0 up is needed")
    places = [place for name in ("train", "test") for place in folders.folders_named(root, name)]
    parts = [_classes(place, suffixes) for place in (places if len(places) == 2 else [root])]
    classes = tuple(sorted(parts[0][0]))
    if len(classes) < 2:
        raise MissingError(_too_few(root, classes, corpus, what, suffixes, example))
    if len(parts) == 2:
        alone = sorted(set(parts[1][0]) - set(classes))
        if alone:
            raise SnnrunError(f"data={corpus}: {places[1]} has classes that {places[0]} lacks: {folders.some(alone)}")
        (train, train_labels), (test, test_labels) = (_flat(part, classes) for part, _ in parts)
    else:
        files, labels = _flat(parts[0][0], classes)
        size = round(test_fraction * len(files))
        if not 0 < size < len(files):
            raise UsageError(f"data.test_fraction={test_fraction}: leaves {size} of {len(files)} {what} to test on")
        chosen = stratified(labels, size, np.random.Generator(np.random.PCG64(split_seed)))
        rest = np.setdiff1d(np.arange(len(files)), chosen)
        (train, train_labels), (test, test_labels) = (
            ([files[i] for i in part], labels[part]) for part in (rest, chosen)
        )
    notes = folders.ignored([path for _, others in parts for path in others], what)
    for name, there in ("train", train_labels), ("test", test_labels):
        notes += folders.lacking(name, "classes", classes, (classes[label] for label in there))
    return Found(classes, train, train_labels, test, test_labels, folders.origin(root, *places), tuple(notes))


def _classes(place: Path, suffixes: Collection[str]) -> tuple[dict[str, list[Path]], list[Path]]:
    """The files of each class that has any, and the others."""
    found, others = {}, []
    for path in folders.entries(place):
        if path.is_dir():
            files, strays = folders.recordings_below(path, suffixes)
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


def _too_few(
    root: Path, classes: Sequence[str], corpus: str, what: str, suffixes: Collection[str], example: str
) -> str:
    there = f"only one class has {what}, {classes[0]}" if classes else f"no class has {what}"
    *most, last = sorted(suffixes)
    return "\n".join(
        [
            f"data={corpus}: {there}, in {root.absolute()}; two or more are wanted.",
            f"Expected, as {', '.join(most)} or {last}:",
            f"  <class>/{example}, or train/<class>/{example} and test/<class>/{example}",
            "Give the folder itself by data.root=FOLDER.",
        ]
    )
