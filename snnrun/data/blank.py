"""Samples with nothing in them: pictures of one colour, and spike trains without a spike. No run learns from these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.data import folders
from snnrun.data.corpus import Corpus, Mapped, Unread

_DARK = 64  # the brightest pixel of a corpus is below this only where its files were taken for darker than they are
_AT_ONCE = 4096  # pictures compared at a time


def notes(corpus: Corpus) -> list[str]:
    """What a user should know of a corpus of pictures or spikes before a run; nothing of files not read yet."""
    parts = [part for part in (corpus.train_samples, corpus.test_samples) if not isinstance(part, Unread)]
    if corpus.kind not in ("image", "spikes") or len(parts) < 2:
        return []
    if corpus.kind == "spikes":
        return silent(np.concatenate([_silent(part) for part in parts]), corpus.names)
    even = np.concatenate([_even(part) for part in parts])
    found = [] if not even.any() else [_note(even, "are of one colour", corpus.names)]
    brightest = max((int(part[:].max()) for part in parts if len(part)), default=0)
    if 0 < brightest < _DARK:
        found.append(f"no pixel of any sample is brighter than {brightest} of 255, so that few or no spikes come of it")
    return found


def silent(which: NDArray[np.bool_], names: Sequence[str] = ()) -> list[str]:
    """The note on samples without an input spike.

    Args:
        which: Those that have none, shape (S,).
        names: Of all samples; empty where they have none.
    """
    return [_note(which, "have no input spike", names)] if which.any() else []


def _note(which: NDArray[np.bool_], what: str, names: Sequence[str]) -> str:
    named = f" ({folders.some(names[k] for k in np.flatnonzero(which).tolist())})" if names else ""
    return f"{which.sum():,} of {len(which):,} samples {what}{named}"


def _even(samples: NDArray[Any] | Mapped) -> NDArray[np.bool_]:
    """Which pictures (S, N) have one value alone."""
    even = np.zeros(len(samples), np.bool_)
    for start in range(0, len(samples), _AT_ONCE):
        some = samples[start : start + _AT_ONCE].reshape(-1, math.prod(samples.shape[1:]))
        even[start : start + _AT_ONCE] = (some == some[:, :1]).all(axis=1)
    return even


def _silent(samples: NDArray[Any] | Mapped) -> NDArray[np.bool_]:
    """Which spike trains (S, T, W) have no bit; of a file, each is read to its first spike alone."""
    array, rows = (samples.array, samples.rows) if isinstance(samples, Mapped) else (samples, np.arange(len(samples)))
    return np.array([not array[row].ravel().any() for row in rows.tolist()], np.bool_)
