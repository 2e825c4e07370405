"""What the corpora of many files share: finding folders and files, and telling what is missing or was made up."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.data import audio
from snnrun.errors import SnnrunError

MARKER = "SURROGATE"  # a file in the root folder of a corpus that stands in for a recorded one; the scripts write it


def folders_named(place: Path, *names: str) -> list[Path]:
    """The folders directly in a place that have one of these names in upper or lower case; sorted.

    Raises:
        SnnrunError: If one may not look into the place.
    """
    wanted = {name.lower() for name in names}
    try:
        return [path for path in entries(place) if path.name.lower() in wanted and path.is_dir()]
    except OSError as error:
        raise _closed(place, error) from None


def entries(place: Path) -> list[Path]:
    """What lies directly in a folder, sorted by name; nothing if it does not exist.

    Raises:
        SnnrunError: If one may not look into it.
    """
    try:
        return sorted(place.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _closed(place, error) from None


def recordings_below(folder: Path, suffixes: Collection[str] = audio.SUFFIXES) -> tuple[list[Path], list[Path]]:
    """All files below a folder that have one of these extensions, and all others; sorted without regard to case.

    Raises:
        SnnrunError: If one may not look into one of the folders.
    """

    def refuse(error: OSError) -> None:
        raise _closed(Path(error.filename), error)

    files = [Path(place) / name for place, _, names in os.walk(folder, onerror=refuse) for name in names]
    files.sort(key=lambda path: (str(path.relative_to(folder)).lower(), path))
    # Names that begin with a dot are what systems leave beside files: macOS copies have a ._x.wav for each x.wav.
    fits = [path.suffix.lower() in suffixes and not path.name.startswith(".") for path in files]
    return [p for p, fit in zip(files, fits, strict=True) if fit], [
        p for p, f in zip(files, fits, strict=True) if not f
    ]


def _closed(place: Path, error: OSError) -> SnnrunError:
    return SnnrunError(f"cannot look into {place}: {error.strerror or error}; check its permissions")


def origin(*places: Path) -> str:
    """The origin of a corpus, see `Corpus`: whether one of its folders has the marker of a surrogate."""
    return "surrogate" if any((place / MARKER).is_file() for place in places) else "recorded"


def objects(paths: Sequence[Path]) -> NDArray[Any]:
    """An array of these paths, shape (S,)."""
    array = np.empty(len(paths), object)
    array[:] = paths
    return array


def ignored(files: Sequence[Path], what: str = "recordings") -> list[str]:
    """The note on files that are no recordings, or no images."""
    if not files:
        return []
    return [f"{len(files):,} files that are no {what} are ignored ({some(path.name for path in files)})"]


def lacking(part: str, what: str, wanted: Iterable[str], there: Iterable[str]) -> list[str]:
    """The note on speakers, words or classes of which a part has nothing."""
    have = set(there)
    missing = [entry for entry in wanted if entry not in have]
    return [f"{part}: there is nothing of {what} {some(missing, 10)}"] if missing else []


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names and the number of the others."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most:,} more" if len(every) > most else "")
