"""Arrays by name from a file or a folder: .npz, .npy, HDF5 and MATLAB's. A file is taken for what its first bytes say.

Arrays are mapped where the file allows, else read row by row or whole.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from snnrun.data import plain_objects
from snnrun.data.corpus import MissingError
from snnrun.errors import SnnrunError, first_line

ENDINGS = (".npz", ".npy", ".h5", ".hdf5", ".mat")
EXAMPLE = "np.savez('my.npz', x=x, y=y)"
_SHARE = 0.5  # of the machine's memory that one array may take
_PIECE = 1 << 20


class Rows(Protocol):
    """An array, or what is read from a file like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type."""

    def __getitem__(self, positions: Any) -> NDArray[Any]:
        """The rows at these positions, an array of them or a slice."""


Opener = Callable[[], Rows]


def members(root: Path) -> dict[str, Opener]:
    """The arrays of a file, or of the .npy files of a folder, by their names; each is opened when it is asked for.

    Raises:
        MissingError: If there is no such file or folder.
        SnnrunError: If the file is damaged, or no file of arrays.
    """
    try:
        if root.is_dir():
            return _folder(root)
        with root.open("rb") as file:
            begin = file.read(128)
    except FileNotFoundError:
        raise MissingError(
            f"data=arrays: there is no {root.absolute()}. Give the file by data.root=FILE (.npz, .h5, .mat), or the "
            f"folder of x.npy and y.npy; one is made by {EXAMPLE}"
        ) from None
    except OSError as error:
        raise SnnrunError(f"{root}: it cannot be read ({error.strerror or error}); check its permissions") from None
    if not begin:
        raise SnnrunError(f"{root}: it is empty; write it anew")
    if begin.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zipped(root)
    if begin.startswith(b"\x93NUMPY"):
        return _beside(root)
    if begin.startswith((b"\x89HDF\r\n\x1a\n", b"MATLAB")) or root.suffix.lower() in (".mat", ".h5", ".hdf5"):
        from snnrun.data import array_hdf5

        return array_hdf5.members(root, begin)
    raise SnnrunError(f"{root}: it is no .npz, .npy, .h5 or .mat file by its first bytes; make one by {EXAMPLE}")


def check_memory(path: Path, name: str, size: int, why: str) -> None:
    """Refuse to read an array of so many bytes that does not fit into the memory.

    Raises:
        SnnrunError: If it does not.
    """
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > _SHARE * there:
        raise SnnrunError(
            f"{path}: {name} takes {size / 2**30:,.1f} GiB, more than half of the memory here ({there / 2**30:,.1f} "
            f"GiB), and {why}. Write it uncompressed, by np.savez or np.save, which is mapped and not read"
        )


# ---- .npy and .npz --------------------------------------------------------------------------------------------------


def _folder(root: Path) -> dict[str, Opener]:
    files = sorted(path for path in root.iterdir() if path.suffix.lower() == ".npy")
    if not files:
        raise MissingError(
            f"data=arrays: the folder {root.absolute()} has no .npy files. Give a file by data.root=FILE (.npz, .h5, "
            ".mat), or put x.npy and y.npy there"
        )
    return {path.stem: partial(npy, path) for path in files}


def _beside(path: Path) -> dict[str, Opener]:
    """The .npy files that belong to one of them: of foo_x.npy, all that begin with foo_."""
    match = re.fullmatch(r"(.*?)(x(_\w+)?|y(_\w+)?)", path.stem, re.IGNORECASE)
    if match is None:
        raise SnnrunError(
            f"{path}: it is one array, and the labels are another. Call them x.npy and y.npy, or NAME_x.npy and "
            f"NAME_y.npy, or put both into one file by {EXAMPLE}"
        )
    prefix = match[1]
    files = sorted(
        file for file in path.parent.iterdir() if file.suffix.lower() == ".npy" and file.stem.startswith(prefix)
    )
    return {file.stem.removeprefix(prefix): partial(npy, file) for file in files}


def npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file, mapped. Raises SnnrunError if it is damaged."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _mapped(path, path.name, file, size)
    except OSError as error:
        raise SnnrunError(f"{path}: it cannot be read ({error.strerror or error}); check its permissions") from None


def _zipped(path: Path) -> dict[str, Opener]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SnnrunError(f"{path}: it is damaged or cut short ({first_line(error)}); write it anew") from None
    return {entry.filename.removesuffix(".npy"): partial(_member, path, entry) for entry in entries}


def _member(path: Path, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """An array of an .npz file, whose sum is checked: mapped if it lies there uncompressed, else read."""
    name = entry.filename.removesuffix(".npy")
    try:
        if entry.compress_type != zipfile.ZIP_STORED:
            check_memory(path, name, entry.file_size, "it is compressed")
        with zipfile.ZipFile(path) as archive, archive.open(entry) as packed:
            if entry.compress_type != zipfile.ZIP_STORED:
                content = packed.read()
                return _read(path, name, io.BytesIO(content), len(content))
            while packed.read(_PIECE):  # raises where the sum is wrong
                pass
        with path.open("rb") as file:
            file.seek(entry.header_offset)
            lengths = struct.unpack("<HH", file.read(30)[26:])
            start = entry.header_offset + 30 + sum(lengths)
            file.seek(start)
            return _mapped(path, name, file, start + entry.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, struct.error) as error:
        raise SnnrunError(f"{path}: {name} is damaged ({first_line(error)}); write the file anew") from None
    except OSError as error:
        raise SnnrunError(f"{path}: it cannot be read ({error.strerror or error}); check its permissions") from None


def _mapped(path: Path, name: str, file: BinaryIO, end: int) -> NDArray[Any]:
    """The array that begins where the file stands and goes to `end` at most."""
    shape, by_columns, dtype = _header(path, name, file)
    if dtype.hasobject or not math.prod(shape):
        return _content(path, name, file, end, shape, by_columns, dtype)
    offset = file.tell()
    _check_size(path, name, end - offset, shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if by_columns else "C")


def _read(path: Path, name: str, file: BinaryIO, end: int) -> NDArray[Any]:
    return _content(path, name, file, end, *_header(path, name, file))


def _content(
    path: Path, name: str, file: BinaryIO, end: int, shape: tuple[int, ...], by_columns: bool, dtype: np.dtype[Any]
) -> NDArray[Any]:
    if dtype.hasobject:
        return _objects(path, name, file, shape)
    _check_size(path, name, end - file.tell(), shape, dtype)
    content = file.read(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


def _header(path: Path, name: str, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read: Mapping[tuple[int, int], Callable[[BinaryIO], Any]] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in read:
            raise ValueError(f"its format is {version}, that of tables with fields")
        shape, by_columns, dtype = read[version](file)
    except (ValueError, EOFError, TypeError, SyntaxError, TokenError, OverflowError) as error:
        raise SnnrunError(f"{path}: {name} is no array of NumPy's ({first_line(error)}); write it anew") from None
    return shape, by_columns, dtype


def _check_size(path: Path, name: str, there: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    wanted = math.prod(shape) * dtype.itemsize
    if there < wanted:
        raise SnnrunError(f"{path}: {name} is cut short: {there:,} of {wanted:,} bytes are there; write it anew")


def _objects(path: Path, name: str, file: BinaryIO, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        found = plain_objects.load(file)
    except plain_objects.ForeignError as error:
        raise SnnrunError(
            f"{path}: {name} holds {error}, which only code of the file could make again, and no such code is run. "
            "Save arrays of numbers"
        ) from None
    except ValueError as error:
        raise SnnrunError(f"{path}: {name} is damaged ({first_line(error)}); write it anew") from None
    if not isinstance(found, np.ndarray) or found.shape != shape:
        raise SnnrunError(f"{path}: {name} is damaged (its objects are no array {shape}); write it anew")
    return found
