"""Object arrays of NumPy's files: read without running what a pickle says.

NumPy keeps an array of objects, such as series of different lengths, as a pickle, and a pickle may name any function to
call. Here only the five names are known by which NumPy writes arrays and numbers, and each of them is a class or a
function of this file, which builds numeric arrays and nothing else.
"""

from __future__ import annotations

import math
import pickle
import re
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_NUMERIC = re.compile(r"[biufSU]\d+")  # dtypes without objects, fields or dates
# What Python raises over a damaged pickle.
_DAMAGED = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError),
    RecursionError,
)


class ForeignError(ValueError):
    """A pickle has something else than numbers, texts and arrays of them; the text says what."""


def load(file: BinaryIO) -> Any:
    """What a pickle holds: lists, numbers and texts as they are, and arrays, of objects too.

    Raises:
        ForeignError: If it names anything else.
        ValueError: If it is damaged.
    """
    try:
        return _finished(_Unpickler(file, encoding="latin1").load())
    except ForeignError:
        raise
    except _DAMAGED as error:
        raise ValueError(f"its objects cannot be read: {error}") from None


class _Dtype:
    """Stands for `numpy.dtype`, as a pickle makes and fills it."""

    def __init__(self, name: str, *_flags: Any) -> None:
        if name != "O8" and not (isinstance(name, str) and _NUMERIC.fullmatch(name)):
            raise ForeignError(f"an array of the type {name!r}")
        self.name, self.order = name, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]
        if self.name[0] in "SU":  # the size is in the state, as it is in the name
            self.name = f"{self.name[0]}{int(state[5]) // (4 if self.name[0] == 'U' else 1)}"

    def plain(self) -> np.dtype[Any]:
        """The dtype; of objects, that of object arrays."""
        order = self.order if self.order in ("<", ">") else "|"
        return np.dtype(object) if self.name == "O8" else np.dtype(order + self.name)


class _Array:
    """Stands for `numpy.ndarray`, as a pickle makes and fills it."""

    def __init__(self) -> None:
        self.array: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_columns, content = state
        shape = tuple(int(size) for size in shape)
        if any(size < 0 for size in shape):
            raise ValueError(f"an array of the shape {shape}")
        self.array = _filled(shape, dtype, "F" if by_columns else "C", content)


def _filled(shape: tuple[int, ...], dtype: Any, order: Any, content: Any) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype):
        raise ValueError("an array without a type")
    plain = dtype.plain()
    if plain.kind != "O":
        if len(content) != math.prod(shape) * plain.itemsize:
            raise ValueError(f"an array of the shape {shape} with {len(content):,} bytes")
        if not plain.itemsize:  # empty texts
            return np.zeros(shape, plain)
        return np.frombuffer(bytes(content), plain).reshape(shape, order="F" if order == "F" else "C")
    if not isinstance(content, list) or len(content) != math.prod(shape):
        raise ValueError(f"an array of the shape {shape} that has not so many objects")
    array = np.empty(len(content), object)
    for k, item in enumerate(content):
        array[k] = _finished(item)
    return array.reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(*_arguments: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any, *_more: Any) -> _Array:
    array = _Array()
    array.array = _filled(tuple(int(size) for size in shape), dtype, order, content)
    return array


def _scalar(dtype: Any, content: Any = b"") -> Any:
    return _filled((1,), dtype, "C", content)[0]


def _finished(item: Any) -> Any:
    return item.array if isinstance(item, _Array) else item


_KNOWN = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): lambda text, _coding: text.encode("latin1"),  # how old protocols write bytes
    ("__builtin__", "bytes"): lambda: b"",  # and none of them
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name of NumPy's.

        Raises:
            ForeignError: For any other name.
        """
        if (module, name) not in _KNOWN:
            raise ForeignError(f"{module}.{name}")
        return _KNOWN[module, name]
