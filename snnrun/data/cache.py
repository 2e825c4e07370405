"""Encoded spikes on disk: encoded once, then mapped into memory by every run that wants the same.

`spikes_file.py` says what a file holds, `exclusive.py` how only one process makes it. A file gets its name,
``NAME-HASH.spikes``, when it is whole and on disk. Every file that is opened is checked to the last bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from snnrun.compiled import parallel
from snnrun.data import exclusive, spikes_file
from snnrun.data.spikes_file import Encoded, Header, Stored, UnsoundError
from snnrun.display.verbosity import verbosity


def stored(
    folder: Path,
    key: Mapping[str, Any],
    *,
    count: int,
    steps: int,
    width: int,
    encode: Callable[[int], Encoded],
    console: Console | None = None,
    title: str = "",
) -> Stored:
    """The spikes of a corpus, from the folder if they are there and sound, else encoded and put there.

    Args:
        folder: Made if it is not there.
        key: All that the spikes depend on (the corpus, the encoder's options and code), of what JSON can say.
        count: S, how many samples there are.
        steps: T.
        width: W, words of 64 channels to a step.
        encode: Gives sample k, its spikes (T, W); several threads call it at once.
        console: Where progress is shown; the standard error stream by default.
        title: Name of what is encoded; the file's name begins with it.

    Returns:
        The spikes, mapped from the file, and how much was left out of each sample: the same whether they were encoded
        now or before.

    Raises:
        SnnrunError: If the file cannot be read or written.
        ValueError: If `encode` gives something else.
        ValueError, TypeError: If the key holds what JSON cannot say.
        Exception: What `encode` raises.
    """
    console = console or Console(stderr=True, quiet=verbosity() == "quiet")
    wanted = Header(spikes_file.canonical(dict(key)), (count, steps, width), made_by=exclusive.me())
    path = folder / _name(wanted, title)
    with contextlib.suppress(FileNotFoundError, UnsoundError):
        return _load(path, wanted)
    with exclusive.writing(path):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive.alone(path, lambda line: _say(console, line)):
        try:
            return _load(path, wanted)  # another process has made it
        except FileNotFoundError:
            pass
        except UnsoundError as reason:
            _say(console, f"{path} is damaged or foreign ({reason}): it is made anew")
        with _progress(console, title, path, count) as advance, exclusive.partial(path) as file:
            return _build(file, path, wanted, encode, advance)


def sha256(folder: Path, key: Mapping[str, Any], *, count: int, steps: int, width: int, title: str = "") -> str:
    """SHA-256, in hexadecimal, of all spikes that `stored` has given for these arguments, as their file has it.

    Raises:
        SnnrunError: If the file cannot be read any more.
    """
    wanted = Header(spikes_file.canonical(dict(key)), (count, steps, width))
    path = folder / _name(wanted, title)
    try:
        with path.open("rb", buffering=0) as file:
            return spikes_file.read(file).sha256
    except OSError as error:
        raise exclusive.fault("read", path, error) from None


def _load(path: Path, wanted: Header) -> Stored:
    try:
        return spikes_file.load(path, wanted)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise exclusive.fault("read", path, error) from None


def _name(wanted: Header, title: str) -> str:
    digest = hashlib.sha256(json.dumps([spikes_file.VERSION, wanted.key, wanted.shape]).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_]+', '_', title) or 'spikes'}-{digest[:16]}.spikes"


# ---- building -------------------------------------------------------------------------------------------------------


def _build(
    file: FileIO,
    path: Path,
    wanted: Header,
    encode: Callable[[int], Encoded],
    advance: Callable[[], None],
) -> Stored:
    with exclusive.writing(path):
        header = spikes_file.reserve(file, wanted)
    count, *shape = header.shape
    turn = threading.Lock()

    def one(k: int) -> None:
        sample = encode(k)
        if sample.spikes.dtype != np.int64 or list(sample.spikes.shape) != shape:
            given = f"{sample.spikes.dtype} {sample.spikes.shape}"
            raise ValueError(f"encode({k}) gave {given}; want int64 {tuple(shape)}")
        with turn, exclusive.writing(path):
            spikes_file.put(file, header, k, sample)
        advance()

    parallel.each(count, one)
    with exclusive.writing(path):
        return spikes_file.finish(file, header)


# ---- the console ----------------------------------------------------------------------------------------------------


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress(console: Console, title: str, path: Path, count: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, else one line."""
    what = f"encoding {title}".strip()
    if not console.is_terminal:
        _say(console, f"{what}: {count} samples into {path}")
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=count)
        yield lambda: bar.advance(task)
