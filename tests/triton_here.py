"""The gpu backend for tests: on a GPU where there is one, else in Triton's interpreter.

A test module takes `DEVICE`, `MARKS`, `gpu` and `interpreter`; the fixture then serves each of its tests. With
`guarded`, too, the interpreter sees to it that a kernel touches nothing but what it was given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MARKS = [pytest.mark.gpu] if DEVICE == "cuda" else [pytest.mark.slow]

# Triton chooses between compiler and interpreter when it is imported and when a kernel is defined. Nothing imports it
# before the tests run, and outside of the tests of the modules that import this the variable is as it was.
with pytest.MonkeyPatch.context() as patch:
    if DEVICE == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'snnrun[gpu]'")
    from triton.runtime import interpreter as triton_interpreter

    from snnrun.kernels import gpu
    from snnrun.kernels.gpu import alif, images, time

__all__ = ["DEVICE", "MARKS", "gpu", "guarded", "interpreter"]


@pytest.fixture(autouse=True, scope="module")
def interpreter():
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        yield


class Memory:
    """The interpreter's memory, in which a launch may touch its arguments, and a program what no other one wrote."""

    def __init__(self) -> None:
        self._real = triton_interpreter._interpreter
        self._writers: list[tuple[int, int, np.ndarray]] = []  # of each argument: address, bytes of an entry, programs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def give(self, arguments: tuple[Any, ...]) -> None:
        """These, and no others."""
        tensors = [x for x in arguments if isinstance(x, torch.Tensor) and x.numel()]
        self._writers = []
        for x in tensors:
            entries = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
            self._writers.append((x.data_ptr(), x.element_size(), np.full(entries, -1)))

    def load(self, pointers, mask, *rest):
        self._touch(pointers, mask, writes=False)
        return self._real.load(pointers, mask, *rest)

    def store(self, pointers, values, mask):
        self._touch(pointers, mask, writes=True)
        return self._real.store(pointers, values, mask)

    def _touch(self, pointers: np.ndarray, mask: np.ndarray, writes: bool) -> None:
        builder = triton_interpreter.interpreter_builder
        program = np.ravel_multi_index(builder.grid_idx, builder.grid_dim)
        addresses = pointers[mask.astype(bool)].astype(np.int64)
        found = 0
        for begin, size, writers in self._writers:
            place = (addresses - begin) // size
            place = place[(place >= 0) & (place < len(writers))]
            found += len(place)
            assert np.isin(writers[place], (-1, program)).all(), "another program wrote there"
            if writes:
                writers[place] = program
        assert found == len(addresses), "outside of the arguments"


@pytest.fixture
def guarded(monkeypatch):
    if DEVICE == "cpu":
        memory, launch = Memory(), time.launch

        def launch_guarded(kernel, grid, *arguments, **constants):
            memory.give(arguments)
            launch(kernel, grid, *arguments, **constants)

        monkeypatch.setattr(triton_interpreter, "_interpreter", memory)
        for module in (gpu, time, alif, images):
            monkeypatch.setattr(module, "launch", launch_guarded)
