"""The device a run computes on, and what makes the same run give the same numbers there."""

from __future__ import annotations

import os

import torch

from snnrun import parallel
from snnrun.errors import UsageError


def choose(device: str) -> str:
    """The type of a device, `cpu` or `cuda`, which `auto` is where there is a GPU; changes nothing.

    Raises:
        UsageError: a GPU is asked for and PyTorch sees none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "hardware.device: no GPU that PyTorch can use "
            f"(PyTorch {torch.__version__}, built for {'CUDA' if torch.version.cuda else 'the CPU alone'}). "
            "Use hardware=cpu or hardware=auto, or install a CUDA build of PyTorch and a driver for it."
        )
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def set_up(device: str = "auto", threads: int | None = None) -> torch.device:
    """Choose the device and make PyTorch deterministic on it.

    Args:
        device: `cpu`, `cuda`, or `auto` for the GPU where there is one.
        threads: CPU threads of PyTorch; None for one per core that this process may use.

    Raises:
        UsageError: a GPU is asked for and PyTorch sees none.
    """
    chosen = torch.device(choose(device))
    torch.set_num_threads(threads or cores())
    parallel.set_threads(threads or cores())
    # Membranes that decay without input end in denormal numbers, on which a CPU is tens of times slower.
    torch.set_flush_denormal(True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True)
    # That also fills all new memory with NaN, to show what reads it unwritten; tests do without paying for it in runs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return chosen


def cores() -> int:
    """Cores that this process may use, which a scheduler can make fewer than there are."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def describe(device: torch.device) -> str:
    """One line on the device, for the console and the run's record."""
    if device.type == "cuda":
        return f"GPU ({torch.cuda.get_device_name(device)})"
    return f"CPU, {parallel.threads()} threads"
