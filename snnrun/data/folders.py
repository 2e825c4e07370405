"""What the corpora of many files share: finding folders and files, and telling what is missing or was made up."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.errors import SnnrunError, printable

MARKER = "SURROGATE"  # a file in the root folder of a corpus that stands in for a recorded one; the scripts write it
# What systems leave among one's files, in lower case, beside all names that begin with a dot: Windows' and macOS's
# caches, thumbnails and waste of network stores, what macOS puts into archives.
_SYSTEM = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "system volume information"),
        *("__macosx", "@eadir", "#recycle", "#snapshot", "lost+found", "__pycache__"),
    }
)


@dataclass(frozen=True)
class Below:
    """What lies below a folder: the files that are wanted, all others, what systems left, and links to nowhere."""

    files: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    system: list[Path] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)

    @property
    def lists(self) -> tuple[list[Path], ...]:
        """All of them."""
        return self.files, self.others, self.system, self.broken

    def add(self, more: Below) -> None:
        """Take in what lies below another folder."""
        for paths, others in zip(self.lists, more.lists, strict=True):
            paths += others


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


def is_system(path: Path) -> bool:
    """Whether a file or a folder is hidden, or what a system left: nothing that a user put there as a sample."""
    return path.name.startswith(".") or path.name.lower() in _SYSTEM


def below(folder: Path, suffixes: Collection[str]) -> Below:
    """All files below a folder, sorted without regard to case; wanted are those that have one of these extensions.

    Links to folders are followed, and no folder is read twice, so that a link to one above it ends there. A link to
    nowhere that has a wanted extension is wanted: it is a sample that is missing.

    Raises:
        SnnrunError: If one may not look into one of the folders.
    """
    found, read, places = Below(), set[tuple[int, int]](), [folder]
    while places:
        place = places.pop()
        try:
            status = place.stat()
        except OSError as error:
            raise _closed(place, error) from None
        if (status.st_dev, status.st_ino) not in read:
            read.add((status.st_dev, status.st_ino))
            deeper, here = inside(place, suffixes)
            places += deeper
            found.add(here)
    for paths in found.lists:
        paths.sort(key=lambda path: (str(path.relative_to(folder)).lower(), path))
    return found


def inside(place: Path, suffixes: Collection[str]) -> tuple[list[Path], Below]:
    """The folders that lie directly in a folder, and what else does; sorted by name, nothing if it does not exist.

    Raises:
        SnnrunError: If one may not look into it.
    """
    deeper, found = list[Path](), Below()
    try:
        with os.scandir(place) as listing:
            for entry in sorted(listing, key=lambda entry: entry.name):
                path, link = Path(entry.path), entry.is_symlink()
                if is_system(path):
                    found.system.append(path)
                elif path.is_dir() if link else entry.is_dir():
                    deeper.append(path)
                elif path.suffix.lower() in suffixes and (link or entry.is_file()):
                    found.files.append(path)
                elif link and not path.exists():
                    found.broken.append(path)
                elif path.name != MARKER:
                    found.others.append(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _closed(place, error) from None
    return deeper, found


def _closed(place: Path, error: OSError) -> SnnrunError:
    return SnnrunError(f"cannot look into {place}: {error.strerror or error}; check its permissions")


def origin(*places: Path) -> str:
    """The origin of a corpus, see `corpus.Corpus`: whether one of its folders has the marker of a surrogate."""
    return "surrogate" if any((place / MARKER).is_file() for place in places) else "recorded"


def objects(paths: Sequence[object]) -> NDArray[Any]:
    """An array of these paths, shape (S,)."""
    array = np.empty(len(paths), object)
    array[:] = paths
    return array


def ignored(found: Below, what: str = "recordings") -> list[str]:
    """The notes on what is no sample: other files, hidden and system files and folders, links to nowhere."""
    kinds = (
        (found.others, f"files that are no {what} are ignored"),
        (found.system, "hidden or system files and folders are skipped"),
        (found.broken, "links lead nowhere and are ignored"),
    )
    return [f"{len(paths):,} {kind} ({some(path.name for path in paths)})" for paths, kind in kinds if paths]


def lacking(part: str, what: str, wanted: Iterable[str], there: Iterable[str]) -> list[str]:
    """The note on speakers, words or classes of which a part has nothing."""
    have = set(there)
    missing = [entry for entry in wanted if entry not in have]
    return [f"{part}: there is nothing of {what} {some(missing, 10)}"] if missing else []


def validates(count: int, what: str = "recordings") -> str:
    """The note on a corpus that has a part to validate on."""
    return f"validation: a part of its own, {count:,} {what}; data.validation is not used"


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names and the number of the others."""
    every = [printable(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most:,} more" if len(every) > most else "")
