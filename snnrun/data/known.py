"""What is known of a corpus before one looks at its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from snnrun.data.corpus import Corpus

Loader = TypeVar("Loader", bound=Callable[..., Corpus])

ANY = "."  # the place of a corpus that any folder may be


@dataclass(frozen=True)
class Entry:
    """What is known of a corpus before one looks.

    Attributes:
        about: One line.
        licence: And where it is from.
        place: Where it is looked for below the data root; empty if it needs no files.
        papers: Number of training and test samples in published experiments.
    """

    about: str
    licence: str
    place: str = ""
    papers: tuple[int, int] | None = None


ENTRIES: dict[Callable[..., Corpus], Entry] = {}  # by the function that gives the corpus


def known(
    about: str, licence: str, place: str = "", papers: tuple[int, int] | None = None
) -> Callable[[Loader], Loader]:
    """Enter a function that gives a corpus into `ENTRIES`; see `Entry` for the rest."""

    def enter(function: Loader) -> Loader:
        ENTRIES[function] = Entry(about, licence, place, papers)
        return function

    return enter
