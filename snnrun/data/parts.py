"""The parts of a folder of one's own: which samples train, validate and test, by its folders and lists."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snnrun.data import folders
from snnrun.errors import SnnrunError

PARTS = TRAIN, VALIDATION, TEST = ("train", "validation", "test")
# The files of Speech Commands that name the samples of two parts, a path below the folder on each line.
LISTS = {"validation_list.txt": VALIDATION, "testing_list.txt": TEST}
_ROLES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
_AMBIGUOUS = ("eval", "evaluation")  # what speech corpora call the test part, beside dev


def role(name: str) -> str | None:
    """The part that a folder of this name is, in upper or lower case: also "test_set", "TrainData"; None for none."""
    return _ROLES.get(_stem(name))


def assign(place: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Part and name of each of these folders. "eval" is the test part if a validation part is there, and no test part.

    Args:
        place: That holds them, for messages.
        names: Of folders, each with a role.

    Raises:
        SnnrunError: If two are the same part, or none is to train on.
    """
    roles = {name: str(role(name)) for name in names}
    doubtful = [name for name in names if _stem(name) in _AMBIGUOUS]
    if TEST not in roles.values() and len(doubtful) < list(roles.values()).count(VALIDATION):
        roles |= dict.fromkeys(doubtful, TEST)
    found: dict[str, str] = {}
    for name, part in roles.items():
        if part in found:
            raise SnnrunError(
                f"{place}: {found[part]}/ and {name}/ are both the {part} part by their names. Merge them, or move "
                "one away"
            )
        found[part] = name
    if TRAIN not in found:
        raise SnnrunError(
            f"{place}: {_folders(names)}, and there is no train/ beside. Name the part to train on "
            "train; if these are classes, put them into a folder train/"
        )
    return list(found.items())


def refuse_mixture(place: Path, parts: Sequence[str], others: Sequence[str]) -> None:
    """Refuse folders that are parts by their names beside folders that are none.

    Raises:
        SnnrunError: If there are such.
    """
    if parts and others:
        raise SnnrunError(
            f"{place}: {_folders(parts)}, and these beside are no parts: {folders.some(others)}. Move away what does "
            "not belong there; if all of them are classes, put them into a folder train/"
        )


def refuse_parts_within(place: Path, files: Mapping[str, Sequence[Path]]) -> None:
    """Refuse classes that are themselves divided into parts.

    Args:
        place: That holds the folders of the classes.
        files: Of each class.

    Raises:
        SnnrunError: If a class has a folder that is a part by its name.
    """
    for path in (path for paths in files.values() for path in paths):
        name, *inner = path.relative_to(place).parts[:-1]
        if inner and role(inner[0]):
            raise SnnrunError(
                f"{place / name}: {inner[0]}/ in it is a part by its name, but would count together with the rest of "
                f"the class. Put the parts above the classes, as {inner[0]}/{name}/; if it is no part, rename it"
            )


def by_lists(root: Path, files: Sequence[Path]) -> tuple[NDArray[np.object_], list[Path], list[str]] | None:
    """The part of each file by the lists of Speech Commands, shape (S,), the lists, and notes; None if there is none.

    Raises:
        SnnrunError: If a list cannot be read or names no file that is there, or two name the same.
    """
    lists = [path for path in folders.entries(root) if path.name.lower() in LISTS and path.is_file()]
    if not lists:
        return None
    numbers = {_key(path.relative_to(root).as_posix()): k for k, path in enumerate(files)}
    parts, notes = np.full(len(files), TRAIN, object), []
    for path in lists:
        part, named = LISTS[path.name.lower()], _lines(path)
        there = [numbers[name] for name in named if name in numbers]
        if not there:
            raise SnnrunError(f"{path}: none of the {len(named):,} files that it names is there. Correct or remove it")
        twice = [k for k in there if parts[k] != TRAIN]
        if twice:
            raise SnnrunError(f"{path}: it names {files[twice[0]]}, as the other list does. Correct or remove one")
        parts[there] = part
        missing = [name for name in named if name not in numbers]
        lacks = f"; {len(missing):,} more that it names are not there ({folders.some(missing)})" if missing else ""
        notes.append(f"{part}: the {len(there):,} files that {path.name} names{lacks}")
    return parts, lists, notes


def _lines(path: Path) -> list[str]:
    """The names in a list, each once."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise SnnrunError(f"{path}: it cannot be read ({error.strerror or error}); check its permissions") from None
    return list(dict.fromkeys(_key(line.strip().removeprefix("./")) for line in text.splitlines() if line.strip()))


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _stem(name: str) -> str:
    return re.sub(r"[ _-]?(set|data|split)$", "", name.lower())


def _folders(names: Sequence[str]) -> str:
    what = " is a part by its name" if len(names) == 1 else " are parts by their names"
    return " and ".join(f"{name}/" for name in names) + what
