"""A small cache of encoded spikes, for the tests of `data.cache`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from rich.console import Console

from snnrun.data import cache, spikes_file
from snnrun.data.spikes_file import Encoded

KEY = {"corpus": "c0ffee", "encoder": {"channels": 78, "density": 0.1}}
COUNT, STEPS, WIDTH = 12, 5, 2


def sample(k: int) -> np.ndarray:
    """The spikes of sample k: words of 64 bits, negative ones among them."""
    return np.arange(STEPS * WIDTH).reshape(STEPS, WIDTH) * (-1) ** k * 0x5DEECE66D0123 + k


WHOLE = np.stack([sample(k) for k in range(COUNT)])
NUMBERS = np.outer((7, 3, 11), range(COUNT)).astype("<i8").tobytes()  # left out, merged, events


def no_sample(k: int) -> np.ndarray:
    """Takes the place of `sample` where nothing may be encoded."""
    raise AssertionError("encoded again")


def get(folder: Path, key=KEY, encode=sample, **changes) -> tuple[np.ndarray, str]:
    """The spikes, and what was said."""
    given = {"count": COUNT, "steps": STEPS, "width": WIDTH, "title": "letters", "console": Console(file=io.StringIO())}
    given |= changes
    stored = cache.stored(folder, key, encode=lambda k: Encoded(encode(k), 7 * k, 3 * k, 11 * k), **given)
    for factor, numbers in zip((7, 3, 11), stored[1:], strict=True):
        assert numbers.tolist() == [factor * k for k in range(given["count"])]
    return stored.spikes, given["console"].file.getvalue()


def key_of(path):
    """What the spikes of a file were made from. Raises UnsoundError if the file is not whole and unchanged."""
    with path.open("rb", buffering=0) as file:
        header = spikes_file.read(file)
        spikes_file.check(file, header)
    return json.loads(header.key)


def entry(folder: Path) -> Path:
    """The one file of the folder: nothing else is left there."""
    (path,) = folder.iterdir()
    assert path.suffix == ".spikes"
    return path
