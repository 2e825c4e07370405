"""Labels from an array of whole numbers or texts: which classes there are, and which class each sample has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.data import folders
from snnrun.errors import SnnrunError, UsageError, printable

Label = int | str


class Labelled(NamedTuple):
    """Names of the classes, the label of each as it is in the file, and the labels (S,) int64 of each array."""

    classes: tuple[str, ...]
    values: tuple[Label, ...]
    labels: dict[str, NDArray[np.int64]]


def read(place: str, arrays: Mapping[str, NDArray[Any]], names: NDArray[Any] | None) -> Labelled:
    """The classes of some arrays of labels.

    Args:
        place: The file, for messages.
        arrays: Of labels, by name; those of y are trained on.
        names: Of the classes; None: the labels name themselves, in their order.

    Raises:
        SnnrunError: If a label cannot be used or is not trained on, or there is one class alone.
    """
    found = {name: plain(f"{place}: {name}", array) for name, array in arrays.items()}
    types = {type(label) for labels in found.values() for label in labels}
    if len(types) > 1:
        raise SnnrunError(f"{place}: some labels are texts and others numbers. Write all of them in one way")
    used = set(found["y"])
    if names is None:
        values: list[Label] = sorted(used)  # of one type
        classes = tuple(printable(str(value)) for value in values)
    else:
        classes = _named(place, names)
        values = list(classes) if types == {str} else list(range(len(classes)))
    number = {value: k for k, value in enumerate(values)}
    for name, labels in found.items():
        wrong = next((k for k, label in enumerate(labels) if label not in number), None)
        if wrong is not None:
            raise SnnrunError(
                f"{place}: {name}: sample {wrong} has the label {labels[wrong]!r}, {_unknown(names, values)}"
            )
    if len(used) < 2:
        there = "".join(f"every sample to train on has the label {label!r}" for label in used) or "there is no label"
        raise SnnrunError(f"{place}: {there}; samples of two classes or more are needed")
    numbers = {name: np.array([number[label] for label in own], np.int64) for name, own in found.items()}
    return Labelled(classes, tuple(values), numbers)


def plain(what: str, array: NDArray[Any]) -> list[Label]:
    """Labels as Python's numbers or texts.

    Args:
        what: The array, for messages.
        array: (S,), or with a second axis of length 1; whole numbers of any type, texts or bytes.

    Raises:
        SnnrunError: If they are something else; the sample is named.
    """
    if array.ndim == 2 and 1 in array.shape:
        array = array.ravel()
    if array.ndim != 1:
        hot = ". If it is one-hot, save y.argmax(axis=1)" if array.ndim == 2 else ""
        raise SnnrunError(f"{what} has the shape {array.shape}; a label for each sample is needed, (samples,){hot}")
    if array.dtype.kind in "biu":
        return [int(label) for label in array.tolist()]
    if array.dtype.kind not in "fSUO":
        raise SnnrunError(f"{what} has the type {array.dtype}; labels are whole numbers or texts")
    return [_plain(what, k, label) for k, label in enumerate(array.tolist())]


def _plain(what: str, k: int, label: Any) -> Label:
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    if isinstance(label, str):
        return label
    if isinstance(label, int | float) and float(label).is_integer():
        return int(label)
    raise SnnrunError(f"{what}: sample {k} has the label {label!r}; labels are whole numbers or texts")


def _named(place: str, names: NDArray[Any]) -> tuple[str, ...]:
    classes = tuple(printable(str(name)) for name in plain(f"{place}: classes", np.asarray(names)))
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise SnnrunError(f"{place}: classes has {twice[0]!r} more than once. Give each class a name of its own")
    return classes


def _unknown(names: NDArray[Any] | None, values: Sequence[Label]) -> str:
    if names is None:
        return f"which no sample to train on has ({folders.some(map(str, values))})"
    if values and isinstance(values[0], int):
        return f"and classes has {len(values)} names: labels go from 0 to {len(values) - 1} then"
    return f"which classes does not have ({folders.some(map(str, values))})"


def number(labelled: Sequence[Label], label: Any) -> int | None:
    """The class of a label as it is in a file; None if it has none.

    Raises:
        UsageError: If it is no label of these.
    """
    found = plain("y", np.asarray([label]))[0]
    if found not in labelled:
        raise UsageError(f"its label is {found!r}, and the classes of the run are {folders.some(map(str, labelled))}")
    return labelled.index(found)
