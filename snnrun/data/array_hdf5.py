"""Arrays of HDF5 files, read row by row, and of MATLAB's .mat files of either format, read whole."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.data.array_files import Opener, Rows, check_memory
from snnrun.errors import SnnrunError, first_line


class H5Rows:
    """A dataset of an HDF5 file, whose rows are read when they are asked for, in any order."""

    def __init__(self, path: Path, name: str, dataset: Any) -> None:
        self._path, self._name, self._dataset = path, name, dataset
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype

    def __getitem__(self, positions: Any) -> NDArray[Any]:
        """The rows at these positions; the library takes them ascending and once each.

        Raises:
            SnnrunError: If they cannot be read.
        """
        try:
            return self._read(positions)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise _damaged(self._path, self._name, error) from None

    def _read(self, positions: Any) -> NDArray[Any]:
        if isinstance(positions, slice):
            rows: NDArray[Any] = self._dataset[positions]
            return rows
        ordered, back = np.unique(np.asarray(positions), return_inverse=True)
        if len(ordered) and ordered[-1] - ordered[0] + 1 == len(ordered):  # a range is read at once
            found: NDArray[Any] = self._dataset[int(ordered[0]) : int(ordered[-1]) + 1]
        else:
            found = self._dataset[ordered]
        return found[back.reshape(np.shape(positions))]


def members(path: Path, begin: bytes) -> dict[str, Opener]:
    """The arrays of a file, by name; `begin`: its first bytes.

    Raises:
        SnnrunError: If it is damaged, or no such file, or h5py is not installed.
    """
    if begin.startswith(b"\x89HDF\r\n\x1a\n"):
        return _hdf5(path, matlab=False)
    if b"MATLAB 7.3" in begin:
        return _hdf5(path, matlab=True)
    return _mat(path)


def _hdf5(path: Path, matlab: bool) -> dict[str, Opener]:
    try:
        import h5py
    except ImportError:
        raise SnnrunError(f"{path}: it is read by h5py. Install it: pip install 'snnrun[events]'") from None
    try:
        file = h5py.File(path, "r")
        found = {name: entry for name, entry in file.items() if isinstance(entry, h5py.Dataset)}
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise SnnrunError(f"{path}: it is damaged or cut short ({first_line(error)}); write it anew") from None
    read = _matlab_array if matlab else _dataset
    return {name: partial(_checked, path, name, read, entry) for name, entry in found.items()}


def _checked(path: Path, name: str, read: Any, entry: Any) -> Rows:
    try:
        rows: Rows = read(path, name, entry)
    except (OSError, RuntimeError, TypeError, KeyError, ValueError) as error:
        raise _damaged(path, name, error) from None
    return rows


def _damaged(path: Path, name: str, error: Exception) -> SnnrunError:
    return SnnrunError(f"{path}: {name} cannot be read ({first_line(error)}); write it anew")


def _dataset(path: Path, name: str, entry: Any) -> Rows:
    import h5py

    if h5py.check_string_dtype(entry.dtype) is not None:
        return np.asarray(entry.asstr()[()])
    if h5py.check_vlen_dtype(entry.dtype) is not None:
        check_memory(path, name, entry.id.get_storage_size(), "it is ragged")
        return np.asarray(entry[()])
    return entry[()] if entry.ndim == 0 else H5Rows(path, name, entry)


def _matlab_array(path: Path, name: str, entry: Any) -> NDArray[Any]:
    """An array that MATLAB 7.3 wrote: its axes are in reverse, its cells are references."""
    import h5py

    check_memory(path, name, math.prod(entry.shape) * entry.dtype.itemsize, "a .mat file is read whole")
    kind = entry.attrs.get("MATLAB_class", b"").decode()
    array = np.asarray(entry[()]).T
    if kind == "char":
        return np.array(["".join(map(chr, row)).rstrip() for row in np.atleast_2d(array)])
    if kind == "logical":
        return array.astype(bool)
    if h5py.check_ref_dtype(entry.dtype) is None:
        return array
    cells = np.empty(array.size, object)
    for k, reference in enumerate(array.ravel(order="F")):
        inner = _matlab_array(path, name, entry.file[reference])
        cells[k] = str(inner[0]) if inner.dtype.kind == "U" else inner
    return cells


def _mat(path: Path) -> dict[str, Opener]:
    import scipy.io

    try:
        check_memory(path, "the file", path.stat().st_size, "a .mat file is read whole")
        found = scipy.io.loadmat(path)
    except SnnrunError:
        raise
    except Exception as error:  # of torn files the reader raises whatever it meets
        raise SnnrunError(
            f"{path}: it is no .mat or .h5 file that can be read ({first_line(error)}); write it anew"
        ) from None
    return {name: partial(_cells, value) for name, value in found.items() if isinstance(value, np.ndarray)}


def _cells(array: NDArray[Any]) -> NDArray[Any]:
    """A cell array in one dimension, with texts as such; any other array as it is."""
    if array.dtype != object:
        return array
    cells = np.empty(array.size, object)
    for k, inner in enumerate(array.ravel(order="F")):
        text = isinstance(inner, np.ndarray) and inner.dtype.kind == "U" and inner.size == 1
        cells[k] = str(inner.item()) if text else inner
    return cells
