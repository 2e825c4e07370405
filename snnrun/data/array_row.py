"""One row of a file of arrays as the sample that the corpus would have made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.data import array_files, array_labels, array_samples, arrays, folders
from snnrun.data.array_samples import Form
from snnrun.errors import SnnrunError, UsageError

_NUMBERED = re.compile(r"(.+?):(?:([xX]\w*):)?(\d+)")


class Row(NamedTuple):
    """A sample (1, ...), see `Corpus`, its class if the file tells it, and what the user should know."""

    sample: NDArray[Any]
    label: int | None
    notes: tuple[str, ...]


def read(path: Path, name: str, number: int, about: Mapping[str, Any]) -> Row:
    """A row of an array in a file.

    Args:
        path: The file, or a folder of .npy files.
        name: The array, such as "x" or "x_test".
        number: The row, from 0.
        about: What the corpus that the network was trained on said, `Corpus.form`.

    Raises:
        UsageError: If there is no such array or row, or it is not like those of the corpus.
        SnnrunError: If the file is damaged, or the row has a value that is no number.
    """
    found, _ = arrays.open_arrays(path, labelled=False)
    name = arrays.called(name)
    if name not in found or not name.startswith("x"):
        there = folders.some(sorted(key for key in found if key.startswith("x")))
        raise UsageError(f"{path}: it has no samples called {name}. There are {there}")
    rows = found[name]
    if not rows.shape or number >= rows.shape[0]:
        size = rows.shape[0] if rows.shape else 0
        raise UsageError(f"{path}: {name} has no sample {number}; it has {size:,}, numbered from 0")
    sample, notes = single(f"{path}: {name}[{number}]", np.asarray(rows[number : number + 1])[0], about)
    y = name.replace("x", "y", 1)
    label = None
    if y in found:
        try:
            label = array_labels.number(about["labels"], np.asarray(found[y][number : number + 1]).ravel()[0])
        except UsageError as error:
            notes = [*notes, str(error)]
    return Row(sample, label, tuple(notes))


def file(path: Path, about: Mapping[str, Any]) -> Row:
    """A sample alone in a .npy file. Raises as `read` does."""
    array = array_files.npy(path)
    sample, notes = single(str(path), array, about)
    return Row(sample, None, tuple(notes))


def single(what: str, row: NDArray[Any], about: Mapping[str, Any]) -> tuple[NDArray[Any], list[str]]:
    """A row as a sample (1, ...), and notes.

    Raises:
        UsageError: If it is not like those of the corpus.
        SnnrunError: If it has a value that is no number.
    """
    form = array_samples.from_dict(about)
    row = np.asarray(row)
    if row.dtype.kind not in "biuf":
        raise UsageError(f"{what}: it is {row.dtype} {row.shape}; wanted are numbers {_wanted(form)}")
    notes: list[str] = []
    if form.kind in ("series", "spikes"):
        row, notes = _timed(row, form)
    if row.shape != form.raw:
        raise UsageError(f"{what}: it is {row.dtype} {row.shape}; wanted are numbers {_wanted(form)}")
    values = row[np.isfinite(row)] if row.dtype.kind == "f" else row
    facts = array_samples.look(row[None], np.ones(1, bool), form.time)
    array_samples.check_values(facts, form.kind, lambda _: what)
    if form.low is None and form.kind == "image":
        if not (np.isin(values, np.arange(256))).all():
            raise UsageError(f"{what}: its pixels are not whole numbers from 0 to 255, as those of the corpus are")
        row = row.astype(np.uint8)
    sample = form(row[None])
    if form.low is not None and form.high is not None:
        ordered = form.ordered(row[None])
        beyond = int(((ordered < form.low) | (ordered > form.high)).sum())
        if beyond:
            notes.append(f"{beyond:,} of its values lie beyond those that the network was trained on and are clipped")
    return sample, notes


def _timed(row: NDArray[Any], form: Form) -> tuple[NDArray[Any], list[str]]:
    """A row with as many steps as those of the corpus, and the note on it."""
    if row.ndim == 1 and len(form.raw) == 2:
        row = row[:, None] if form.time == "first" else row[None, :]
    if row.ndim != len(form.raw):
        return row, []
    axis = -1 if form.time == "last" else 0
    there = row.shape[axis]
    if there == form.steps:
        return row, []
    if there > form.steps:
        return np.take(row, np.arange(form.steps), axis), [
            f"its {there:,} steps are cut to the {form.steps:,} of the run"
        ]
    fill = np.nan if form.kind == "series" else 0
    sides = [(0, 0)] * row.ndim
    sides[axis % row.ndim] = 0, form.steps - there
    return np.pad(row.astype(np.float64) if form.kind == "series" else row, sides, constant_values=fill), []


def _wanted(form: Form) -> str:
    if form.kind not in ("series", "spikes"):
        return str(form.raw)
    channels = "" if len(form.raw) == 1 else f", {form.shape[0]}" if form.time == "first" else ""
    return (
        f"({'channels, ' if form.time == 'last' and len(form.raw) == 2 else ''}steps{channels}), {form.steps:,} at most"
    )


def parse(source: str) -> tuple[Path, str, int] | None:
    """File, array and row of a text such as my.npz:3 or my.npz:x_test:3; None if it is none."""
    match = _NUMBERED.fullmatch(source)
    return None if match is None else (Path(match[1]), match[2] or "x", int(match[3]))


def which(path: Path) -> SnnrunError:
    """The error of a file without the number of a row."""
    return UsageError(f"{path}: which sample of it? Give its number from 0 on, as {path}:3, or {path}:x_test:3")
