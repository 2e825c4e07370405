"""Samples with nothing in them: values that are all equal, spike trains without a spike. No run learns from these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.data import folders
from snnrun.data.corpus import Converted, Corpus, Mapped, Unread

_DARK = 0.25  # of the range: the brightest value is below only where files were taken for darker than they are
_AT_ONCE = 4096  # pictures compared at a time


def notes(corpus: Corpus) -> list[str]:
    """What a user should know of samples that are at hand before a run; nothing of files not read yet."""
    parts = [part for part in (corpus.train_samples, corpus.test_samples) if not isinstance(part, Unread | Converted)]
    if corpus.kind == "audio" or len(parts) < 2:
        return []
    if corpus.kind == "spikes":
        return silent(np.concatenate([_silent(part) for part in parts]), corpus.names)
    even = np.concatenate([_even(part) for part in parts])
    what = "are of one colour" if corpus.kind == "image" else "have one value alone"
    found = [] if not even.any() else [_note(even, what, corpus.names)]
    brightest = max((_largest(part) for part in parts if len(part)), default=0.0)
    top = 255 if corpus.train_samples[:1].dtype == np.uint8 else 1
    if 0 < brightest < _DARK * top:
        none = "no pixel of any sample is brighter" if corpus.kind == "image" else "no value of any sample is larger"
        found.append(
            f"{none} than {brightest:.3g} of {top}, so that few or no spikes come of it; `snnrun data stats` counts "
            "them"
        )
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
    return f"{which.sum():,} of {len(which):,} samples {what}{named}; `snnrun data show` draws them"


def _even(samples: NDArray[Any] | Mapped) -> NDArray[np.bool_]:
    """Which samples (S, ...) have one value alone, NaN aside."""
    even = np.zeros(len(samples), np.bool_)
    for start in range(0, len(samples), _AT_ONCE):
        some = samples[start : start + _AT_ONCE].reshape(-1, math.prod(samples.shape[1:]))
        even[start : start + _AT_ONCE] = ((some == some[:, :1]) | (some != some)).all(axis=1)
    return even


def _largest(samples: NDArray[Any] | Mapped) -> float:
    return max(float(np.nanmax(samples[start : start + _AT_ONCE])) for start in range(0, len(samples), _AT_ONCE))


def _silent(samples: NDArray[Any] | Mapped) -> NDArray[np.bool_]:
    """Which spike trains (S, T, W) have no bit; of a file, each is read to its first spike alone."""
    array, rows = (samples.array, samples.rows) if isinstance(samples, Mapped) else (samples, np.arange(len(samples)))
    return np.array([not array[row].ravel().any() for row in rows.tolist()], np.bool_)
