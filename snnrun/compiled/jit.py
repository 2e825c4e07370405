"""How Numba compiles the loops of encoders, distortion and cpu kernels, and the types of their arrays.

A loop writes into the arrays that it gets and holds no interpreter lock. Numba's cache checks only the file of the loop
itself: after a change to a part that the loop calls, remove the folder `__pycache__` beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numba.core import event
from numba.core.compiler_lock import global_compiler_lock
from numpy.typing import NDArray

from snnrun import locks
from snnrun.compiled.vector import FAST, zeros16, zeros32, zeros64

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]
Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Times = NDArray[np.uint16]
Indices = NDArray[np.int32]
Places = NDArray[np.uint32]
Words = NDArray[np.uint64]

# No loop is called from C, no part from Python: what would lead there took a third of the time of compilation.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": set(FAST), "error_model": "numpy", "no_cfunc_wrapper": True}


def jit(function: Callable[..., Any], *, memory: bool = False, exact: bool = False) -> Any:
    """Compile at the first call; keep the result on disk if there is a folder that can be written.

    `memory` lets the loop use Numba's memory manager. Without it the loop can allocate nothing and counts no
    references. `exact` rounds after each operation and sums in the written order, as Python does, so every machine gets
    the same bits.
    """
    options = _OPTIONS | {"_nrt": memory} | ({"fastmath": False} if exact else {})
    try:
        compiled = njit(cache=True, **options)(function)
    except RuntimeError:  # can write neither beside the function's file nor in the user's cache folder
        return njit(**options)(function)
    file = compiled._cache._cache_file
    file._load_data = _forgiving(file._load_data)
    file._load_index = _or_empty(file._load_index)
    file.load = _alone(file.load, Path(file._cache_path), shared=True)
    file.save = _alone(file.save, Path(file._cache_path), shared=False)
    _compile_once(compiled, Path(file._index_path).with_suffix(".lock"))
    return compiled


def get_ready() -> None:
    """Have Numba learn what it knows of NumPy, which it would at the first call of a loop.

    Numba looks for a BLAS then, by importing SciPy's linear algebra. The loops use none; one that does is still checked
    when it is compiled.
    """
    from numba.core.registry import cpu_target
    from numba.np import linalg

    with global_compiler_lock:  # as at a first call
        check, linalg.ensure_blas = linalg.ensure_blas, lambda: None
        try:
            from numba.np import arraymath  # noqa: F401
        finally:
            linalg.ensure_blas = check
        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()


@contextmanager
def compiling(tell: Callable[[str], None]) -> Iterator[None]:
    """Within this, `tell` hears the name of each loop before it is compiled, which takes seconds, in any thread."""
    listener = _Loops(tell)
    with event.install_listener("numba:compile", listener):
        yield


class _Loops(event.Listener):  # type: ignore[misc] # Numba has no types
    """Hears of Numba's compilations. Those of a loop's parts happen inside that of the loop."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._depth = tell, 0

    def on_start(self, event: Any) -> None:
        if not self._depth:
            self._tell(event.data["dispatcher"].py_func.__name__)
        self._depth += 1

    def on_end(self, event: Any) -> None:  # noqa: ARG002 - Numba's interface
        self._depth -= 1


def part(function: Callable[..., Any]) -> Any:
    """Compile as a part of the loops that call it. What calls it from Python, such as a test, has it compiled anew."""
    compiled = njit(forceinline=True, _nrt=False, no_cpython_wrapper=True, **_OPTIONS)(function)

    @cache
    def whole() -> Any:
        return njit(_nrt=False, **_OPTIONS)(function)

    # Numba keeps apart what loops and what Python may call; a part has nothing that Python may.
    compiled.add_overload = lambda result: compiled.overloads.update({tuple(result.signature.args): result})
    compiled._compile_for_args = lambda *_, **__: whole()
    return compiled


def in_64_or_32(block: Any) -> Any:
    """From a part that takes a vector of zeros first, make one that takes a number of lanes instead: 64, or else 32."""

    @part
    def at_width(width: int, *arguments: Any) -> Any:
        if width == 64:
            return block(zeros64(), *arguments)
        return block(zeros32(), *arguments)

    return at_width


def in_64_32_or_16(block: Any) -> Any:
    """As `in_64_or_32`, but also for 16 lanes."""
    wide = in_64_or_32(block)

    @part
    def at_width(width: int, *arguments: Any) -> Any:
        if width == 16:
            return block(zeros16(), *arguments)
        return wide(width, *arguments)

    return at_width


def _compile_once(compiled: Any, place: Path) -> None:
    """Let one process at a time compile the loop. Others wait for it, and then find the result in the cache."""
    compile_, load = compiled.compile, compiled._cache.load_overload
    held = ExitStack()

    def load_or_hold(*arguments: Any) -> Any:
        found = load(*arguments)
        if found is None:
            held.enter_context(locks.of_file(place))
            found = load(*arguments)
        return found

    def attempt(signature: Any) -> Any:
        with global_compiler_lock, held:
            return compile_(signature)

    compiled._cache.load_overload, compiled.compile = load_or_hold, attempt


def _alone(action: Callable[..., Any], folder: Path, *, shared: bool) -> Callable[..., Any]:
    """Let no other process write to the cache during the action.

    Numba reads its index, adds the next free number and writes the index. If two processes compile a loop for different
    types at once, both could take the same number, and each could then run the other's machine code.
    """

    def attempt(*arguments: Any) -> Any:
        with locks.of_folder(folder, shared=shared):
            return action(*arguments)

    return attempt


def _or_empty(load: Callable[[], dict[Any, str]]) -> Callable[[], dict[Any, str]]:
    """Treat an index that cannot be read as an empty one.

    It may be damaged. Or an earlier version wrote it, with types from modules that no longer exist: Numba reads the
    whole index before it sees that it is out of date.
    """

    def attempt() -> dict[Any, str]:
        try:
            return load()
        except Exception:
            return {}

    return attempt


def _forgiving(load: Callable[[str], Any]) -> Callable[[str], Any]:
    """Treat a damaged file of the cache as a missing one. A full disk or a killed process can damage it."""

    def attempt(name: str) -> Any:
        try:
            return load(name)
        except Exception as error:
            raise FileNotFoundError(name) from error

    return attempt
