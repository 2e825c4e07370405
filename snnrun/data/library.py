"""Corpora that another library reads: which one is wanted, its parts by the arguments of its class, and its labels.

A class says by its arguments what parts it has: `train` (true or false), `split` (a name), or neither, which leaves the
part to test on to a draw.
"""

from __future__ import annotations

import contextlib
import inspect
import numbers
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.data import folders
from snnrun.data.corpus import MissingError, stratified
from snnrun.errors import SnnrunError, UsageError, did_you_mean, printable

WHOLE = "all"  # the one part of a corpus that has no others
# What a part may be called, the first that a class knows; a part to validate on only counts beside one to test on.
_SPLITS = {
    "train": ("train", "trainval", "train-standard"),
    "test": ("test", "val", "valid"),
    "validation": ("valid", "val"),
}
_OURS = ("self", "root", "save_to", "download", "transform", "target_transform", "transforms", "loader")


def choose(corpus: str, name: str | None, allowed: Sequence[str]) -> str:
    """The name of a corpus of a library, checked.

    Raises:
        UsageError: If it is none of those that are allowed; with the nearest.
    """
    there = f"Allowed: {', '.join(allowed)}."
    if name is None:
        raise UsageError(f"data.dataset: say which corpus of {corpus}, as data.dataset={allowed[0]}. {there}")
    if name not in allowed:
        hint = did_you_mean(name, allowed)
        raise UsageError(f"data.dataset: {name!r} is no corpus that is taken from {corpus}. {there}{hint}")
    return name


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class, those that it hands on to the class it derives from included."""
    found: dict[str, inspect.Parameter] = {}
    for kind in cls.__mro__:
        if "__init__" in vars(kind):
            own = inspect.signature(vars(kind)["__init__"]).parameters
            found = {**own, **found}
            if not any(entry.kind is entry.VAR_KEYWORD for entry in own.values()):
                break
    return {name: entry for name, entry in found.items() if entry.kind not in (entry.VAR_KEYWORD, entry.VAR_POSITIONAL)}


def parts(cls: type, options: Mapping[str, Any], make: Callable[..., Any]) -> dict[str, Any]:
    """The objects of a class for each of its parts: "train" and "test", perhaps "validation"; or `WHOLE` alone.

    Args:
        cls: The class.
        options: Arguments that the user gives; where these choose the part, it is the whole.
        make: `made` with its first arguments.

    Raises:
        UsageError: If an argument is unknown, or one that is needed is lacking.
    """
    known = {name: entry for name, entry in parameters(cls).items() if name not in _OURS}
    for option in options:
        if option not in known:
            allowed = f"Allowed: {', '.join(known)}." if known else "It has none."
            hint = did_you_mean(option, known)
            raise UsageError(f"data.options: {cls.__name__} has no option {option!r}. {allowed}{hint}")
    if "train" in known and "train" not in options:
        _check_needed(cls, {**options, "train": True}, known)
        return {"train": make(**options, train=True), "test": make(**options, train=False)}
    if "split" in known and "split" not in options:
        return _by_split(cls, options, known, make)
    _check_needed(cls, options, known)
    return {WHOLE: make(**options)}


def _by_split(
    cls: type, options: Mapping[str, Any], known: Mapping[str, inspect.Parameter], make: Callable[..., Any]
) -> dict[str, Any]:
    _check_needed(cls, {**options, "split": "train"}, known)
    found: dict[str, Any] = {}
    taken: dict[str, str] = {}
    for part, names in _SPLITS.items():
        if part == "validation" and taken.get("test") != "test":
            break
        for name in names:
            with contextlib.suppress(_UnknownValueError):
                found[part], taken[part] = make(**options, split=name), name
                break
    if "train" not in found:
        raise UsageError(f"data.options: {cls.__name__} needs a split, as data.options={{split: NAME}}")
    return found if "test" in found else {WHOLE: found["train"]}


def _check_needed(cls: type, given: Mapping[str, Any], known: Mapping[str, inspect.Parameter]) -> None:
    """Refuse a call that lacks an argument; a class may list what it can be, as EMNIST does its splits."""
    for name, entry in known.items():
        if entry.default is entry.empty and name not in given:
            listed = getattr(cls, f"{name}s", ())
            allowed = f" Allowed: {', '.join(map(str, listed))}." if listed else ""
            raise UsageError(f"data.options: {cls.__name__} needs {name}, as data.options={{{name}: VALUE}}.{allowed}")


class _UnknownValueError(UsageError):
    """A class does not know the value of an argument, such as the name of a split."""


def made(corpus: str, cls: type, place: str, download: bool, /, **arguments: Any) -> Any:
    """An object of a class of a library, which reads its files or downloads them.

    What it prints goes to standard error, where it disturbs no program that reads our output.

    Raises:
        MissingError: If its files are not there, damaged, or not to be had.
        UsageError: If it does not know a value.
        SnnrunError: If another package is missing.
    """
    what = f"data={corpus} data.dataset={cls.__name__}"
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls(**arguments)
    except ImportError as error:
        raise SnnrunError(f"{what}: it needs another package: {_first_line(error)}; install it") from None
    except (Exception, SystemExit) as error:  # whatever a library raises for files that are missing or damaged
        reason = _first_line(error)
        if isinstance(error, ValueError) and reason.startswith("Unknown value"):
            raise _UnknownValueError(f"data.options: {cls.__name__}: {reason}") from None
        remedy = "" if download else "; data.download=true downloads what may be had"
        raise MissingError(f"{what}: its files in {place} are missing or damaged ({reason}){remedy}") from None


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return printable(text.splitlines()[0].rstrip("."))


# ---- labels ---------------------------------------------------------------------------------------------------------


def label(target: Any) -> int | str:
    """The class of a sample as a number or a name.

    Raises:
        TypeError: If it is none, such as a picture or a box.
    """
    if isinstance(target, str):
        return target
    if isinstance(target, numbers.Integral) or (np.ndim(target) == 0 and hasattr(target, "item")):
        return int(target)
    raise TypeError(f"a target of it is a {type(target).__name__} and no class")


def numbered(
    labels: Mapping[str, Sequence[int | str]], names: Sequence[Any] | Mapping[str, int] | None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]], list[str]]:
    """Names of the classes, the labels of each part as numbers of these, (S,), and notes.

    Args:
        labels: Of each part, numbers or names.
        names: Of the classes, as the library has them, or of their numbers; None where it has none.
    """
    every = [label for part in labels.values() for label in part]
    if isinstance(names, Mapping):  # of each name, its number
        names = sorted(names, key=names.__getitem__)
    if any(isinstance(label, str) for label in every):
        known = sorted(set(map(str, every)))
        place = {name: k for k, name in enumerate(known)}
        found = {part: np.array([place[str(label)] for label in own], np.int64) for part, own in labels.items()}
        return tuple(known), found, []
    found = {part: np.array(own, np.int64) for part, own in labels.items()}
    used = np.unique(np.concatenate(list(found.values())))
    largest = int(used.max(initial=0))
    known = [] if names is None else [_name(name) for name in names]
    if len(known) <= largest:
        known = [str(k) for k in range(largest + 1)]
    unused = np.setdiff1d(np.arange(len(known)), used)
    notes = [f"classes without a sample are left out: {folders.some(known[k] for k in unused)}"] if len(unused) else []
    found = {part: np.searchsorted(used, own) for part, own in found.items()}
    return tuple(known[k] for k in used), found, notes


def _name(name: Any) -> str:
    """The name of a class; ImageNet has several for each, in a tuple."""
    first = name[0] if isinstance(name, tuple) and name else name
    return first.decode() if isinstance(first, bytes) else str(first)


def tested(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Which samples to test on where the corpus does not say, ascending; the same share of every class.

    Raises:
        UsageError: If the fraction leaves too few or too many.
    """
    size = round(fraction * len(labels))
    if not 0 < size < len(labels):
        raise UsageError(f"data.test_fraction={fraction}: leaves {size} of {len(labels)} samples to test on")
    return stratified(labels, size, np.random.Generator(np.random.PCG64(seed)))


def drawn(fraction: float) -> str:
    """The note on a part to test on that was drawn."""
    return f"test: no part of its own, so {fraction:g} of all samples (data.test_fraction)"
