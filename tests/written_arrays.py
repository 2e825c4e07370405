"""Arrays written to files of every form, for the tests of `data=arrays`."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import scipy.io
from hypothesis import HealthCheck, settings

from snnrun import data

written = settings(
    deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(folder: Path, form: str, **own: np.ndarray) -> Path:
    """Write arrays as one of the forms that are read; returns what data.root is."""
    if form == "npy":
        folder = folder / "arrays"
        folder.mkdir(exist_ok=True)
        for name, array in own.items():
            np.save(folder / f"{name}.npy", array)
        return folder
    path = folder / f"own.{'npz' if form == 'compressed' else form}"
    if form == "h5":
        with h5py.File(path, "w") as file:
            for name, array in own.items():
                file[name] = array.astype(object) if array.dtype.kind == "U" else array
    elif form == "mat":
        scipy.io.savemat(path, own)
    else:
        (np.savez if form == "npz" else np.savez_compressed)(path, **own)
    return path


def ragged(*rows: np.ndarray) -> np.ndarray:
    """Rows of different lengths as one array of objects."""
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def labels(count: int, classes: int = 2) -> np.ndarray:
    """One label a sample, each class as often as any other."""
    return np.arange(count) % classes


def load(root: Path, **options) -> data.Corpus:
    """The arrays at `root`, before samples are chosen for validation."""
    return data.found("arrays", root, False, options)


X, Y = np.random.default_rng(0).random((6, 3)), labels(6)
SERIES = np.random.default_rng(0).random((6, 4, 2))
