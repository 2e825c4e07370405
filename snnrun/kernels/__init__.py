"""The inner loops. Every backend is a package with the same functions; only this module chooses between them.

Shapes, used throughout: `B` samples, `T` steps of 1 ms, `N` neurons of the layer, `I` inputs, `S` recurrent synapses.
Spikes are bits, `(B, T, W)` int64 with 64 neurons to a word, see `packed`.

The functions of `ops` run those of the backend in use; `ops.images` has those of layers over images, `ops.currents`
those of a first layer that gets currents, `ops.stbp`, `ops.alif`, `ops.srm` and `ops.wta` those of STBP, of its
adaptive neurons, of SLAYER's neurons and of Lee's. `use(name, device)` chooses the backend for the process. `reference`
is plain PyTorch, on any device, in float32 or float64. It is the truth and the backend in use until another is chosen.
Numba compiles `cpu` and Triton compiles `gpu`, both in float32. `auto` is the fastest backend for the device.
"""

from __future__ import annotations

import contextlib
import ctypes
from importlib.util import find_spec
from types import ModuleType

import torch

from snnrun.errors import UsageError
from snnrun.kernels import ops, reference
from snnrun.kernels.neuron import Alif, Lif, Srm, Stbp, Synapses, Window, Wta
from snnrun.kernels.ops import alif as alif_ops
from snnrun.kernels.ops import currents as current_ops
from snnrun.kernels.ops import delays as delay_ops
from snnrun.kernels.ops import images as image_ops
from snnrun.kernels.ops import srm as srm_ops
from snnrun.kernels.ops import stbp as stbp_ops
from snnrun.kernels.ops import wta as wta_ops
from snnrun.kernels.packed import BITS, count_spikes, join, pack, unpack, words

__all__ = [
    "BITS",
    "NAMES",
    "Alif",
    "Lif",
    "Srm",
    "Stbp",
    "Synapses",
    "Window",
    "Wta",
    "active",
    "alif_ops",
    "choose",
    "count_spikes",
    "current_ops",
    "delay_ops",
    "image_ops",
    "join",
    "ops",
    "pack",
    "ready",
    "reference",
    "srm_ops",
    "stbp_ops",
    "unpack",
    "use",
    "words",
    "wta_ops",
]

NAMES = ("reference", "cpu", "gpu")


def active() -> ModuleType:
    """The backend in use."""
    backend: ModuleType = ops.backend
    return backend


def ready() -> bool:
    """Whether the backend in use starts at once; if not, its first calls compile it."""
    compiled_before = getattr(active(), "compiled_before", None)
    return compiled_before is None or bool(compiled_before())


def choose(name: str, device: str) -> str:
    """The backend that a name, `auto` included, stands for on a device; changes nothing.

    `device` is its type, `cpu` or `cuda`. `auto` is `cpu` on a CPU. On a GPU it is `gpu`, or `reference` if Triton is
    missing.

    Raises:
        UsageError: there is no such backend, it does not work on the device, or Triton is not installed for it.
    """
    if name == "auto":
        on_gpu = "gpu" if find_spec("triton") else "reference"
        return "cpu" if device == "cpu" else on_gpu
    if name not in NAMES:
        raise UsageError(f"hardware.kernels: there is no {name!r}. Allowed: auto, {', '.join(NAMES)}.")
    if name == "cpu" and device != "cpu":
        raise UsageError(
            "hardware.kernels: the cpu kernels need hardware.device=cpu. Use hardware.kernels=auto, gpu or reference."
        )
    if name == "gpu" and not find_spec("triton"):
        raise UsageError(
            "hardware.kernels: the gpu kernels need Triton, which is not installed. "
            "Install it (pip install 'snnrun[gpu]'), or use hardware.kernels=auto or reference."
        )
    if name == "gpu" and device != "cuda":
        raise UsageError(
            "hardware.kernels: the gpu kernels need hardware.device=cuda. Use hardware.kernels=auto, cpu or reference."
        )
    return name


# Settings of glibc's mallopt (malloc.h) with their values, bytes: when memory goes back to the system, and from which
# size on a block is not of the memory that is kept.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 2**29), (-3, 2**25)


def _keep_memory() -> None:
    """Let the C library keep the memory of a batch for the next. Does nothing where that is not glibc.

    By default it gives large blocks back to the system and gets them again, page by page, in every training step.
    """
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        for setting in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            allocator.mallopt(*setting)


def use(name: str = "auto", device: str = "cpu") -> str:
    """Let the operators run a backend in this process; returns its name. Arguments and errors are those of `choose`."""
    name = choose(name, device)
    if name == "cpu":
        from snnrun.kernels import cpu

        ops.backend = cpu
        # PyTorch's threads go on waiting at full speed after each operation, on the cores that the kernels need.
        torch.set_num_threads(1)
        _keep_memory()
    elif name == "gpu":
        from snnrun.kernels import gpu

        ops.backend = gpu
    else:
        ops.backend = reference
    return name
