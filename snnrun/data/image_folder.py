"""Pictures of one's own: a folder for each class, in any format that Pillow reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from snnrun.data import class_folders, pictures, repeats
from snnrun.data.corpus import Corpus
from snnrun.data.known import ANY, known
from snnrun.declared import Range
from snnrun.errors import UsageError


@known("pictures of your own, a folder for each class", "yours", ANY)
def image_folder(
    root: Path,
    _download: bool,
    *,
    rows: Annotated[int, Range(at_least=1, at_most=4096)] = 32,
    columns: Annotated[int, Range(at_least=1, at_most=4096)] = 32,  # more is a slip
    colour: bool = False,
    fit: Literal["stretch", "pad", "crop"] = "stretch",
    background: Annotated[int, Range(at_least=0, below=256)] = 0,
    levels: Sequence[float] | None = None,
    test_fraction: Annotated[float, Range(above=0, below=1)] = 0.2,
    split_seed: Annotated[int, Range(at_least=0)] = 0,
) -> Corpus:
    """Pictures in a folder for each class, all brought to one size; see `class_folders.find` and `pictures.read`.

    Args:
        root: The folder itself.
        rows, columns: Of the images.
        colour: Red, green and blue, one after the other; else grey.
        fit, background, levels: See `pictures.Form`.
        test_fraction: Share of the pictures to test on where nothing decides, the same in every class.
        split_seed: Seeds the draw; the run's seed does not move it.

    Raises:
        MissingError: If there are no two classes with pictures.
        SnnrunError: If the folders contradict themselves, or a part has a class that is not trained on.
        UsageError: If a number is out of range.
    """
    wanted = form(rows=rows, columns=columns, colour=colour, fit=fit, background=background, levels=levels)
    found = class_folders.find(
        root,
        corpus="image_folder",
        what="images",
        suffixes=pictures.suffixes(),
        example="<name>.png",
        forms="png, jpg, tif, webp or what else Pillow reads",
        test_fraction=test_fraction,
        split_seed=split_seed,
    )
    paths = [*found.train, *found.test]
    samples, faults, notes = pictures.read_all(paths, wanted)
    size = len(found.train)
    corpus = Corpus(
        kind="image",
        shape=wanted.image if colour else wanted.image[1:],
        classes=found.classes,
        train_samples=samples[:size],
        train_labels=found.train_labels,
        test_samples=samples[size:],
        test_labels=found.test_labels,
        origin=found.origin,
        notes=(*found.notes, *notes),
        faults=tuple(faults),
        image=wanted.image,
        names=tuple(str(path.relative_to(root)) for path in paths),
        validation=found.validation,
    )
    return corpus if faults else replace(corpus, notes=(*corpus.notes, *repeats.notes(corpus, paths)))


def form(
    *,
    rows: int = 32,
    columns: int = 32,
    colour: bool = False,
    fit: str = "stretch",
    background: int = 0,
    levels: Sequence[float] | None = None,
    **_others: Any,
) -> pictures.Form:
    """What every picture is brought to, from the options of `image_folder`, whose defaults are those of older runs.

    Raises:
        UsageError: If an option is out of range.
    """
    if levels is not None and len(levels) != 2:
        raise UsageError(f"data.levels={list(levels)}: two values are needed, that of black and that of white")
    ends = None if levels is None else (float(levels[0]), float(levels[1]))
    return pictures.Form((3 if colour else 1, rows, columns), fit, background, ends)
