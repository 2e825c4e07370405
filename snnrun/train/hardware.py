"""The device that a run computes on, and the settings that make its numbers reproducible there."""

from __future__ import annotations

import os

import torch

from snnrun import kernels
from snnrun.compiled import parallel
from snnrun.errors import UsageError
from snnrun.network.model import Model


def choose(device: str) -> str:
    """The type of a device, `cpu` or `cuda`. `auto` means `cuda` where there is a GPU. This changes nothing.

    Raises:
        UsageError: `device` is `cuda`, and PyTorch sees no GPU.
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


def set_up(
    device: str = "auto", threads: int | None = None, backend: str = "auto", place: int = 0, here: int = 1
) -> tuple[torch.device, str]:
    """Choose the device and the kernels' backend, by its name, and make PyTorch deterministic on that device.

    Args:
        device: `cpu`, `cuda`, or `auto` for the GPU where there is one.
        threads: CPU threads of this process; None for its `share` of the cores among the `here` processes.
        backend: that of the kernels; see `kernels.use`.
        place: number of this process among those of the run on this machine, from 0. Each has its own GPU.
        here: number of these processes.

    Raises:
        UsageError: a GPU is required, and PyTorch sees none, or fewer GPUs than processes; or the backend cannot run on
            the device.
    """
    chosen = torch.device(choose(device))
    if chosen.type == "cuda" and here > 1:
        check_gpus(here)
        chosen = torch.device("cuda", place)
        torch.cuda.set_device(chosen)
    threads = threads or share(here)
    torch.set_num_threads(threads)
    parallel.set_threads(threads)
    # Membranes that decay without input become denormal numbers. With these a CPU is tens of times slower.
    torch.set_flush_denormal(True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    # As use_deterministic_algorithms(True), which also imports PyTorch's compiler: more than a second for nothing here.
    torch.set_deterministic_debug_mode("error")
    # The line above also fills new memory with NaN, which costs time. It only helps to find reads of unwritten memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return chosen, kernels.use(backend, chosen.type)


def share_threads(model: Model) -> None:
    """Give PyTorch the threads of this process if the model computes in PyTorch alone.

    Beside the compiled loops PyTorch has one, since its own threads go on waiting on the cores that the loops need.
    """
    if not model.spiking:
        torch.set_num_threads(parallel.threads())


def check_gpus(processes: int) -> None:
    """Raise UsageError unless each of so many processes has a GPU of its own."""
    if processes > torch.cuda.device_count():
        raise UsageError(
            f"hardware.processes: {processes} processes need a GPU each, and PyTorch sees {torch.cuda.device_count()}. "
            "Set fewer, or hardware=cpu."
        )


def cores() -> int:
    """Number of cores that this process may use. A scheduler can allow fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def share(processes: int) -> int:
    """Threads of each of so many processes on this machine: they share its cores. At most OMP_NUM_THREADS."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    most = int(wanted) if wanted.isdecimal() and int(wanted) else cores()
    if most == 1 and "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun sets it to 1 if the user has not set it
        most = cores()
    return max(1, min(most, cores() // processes))


def describe(device: torch.device) -> str:
    """One line about the device, for the console and the run's record."""
    if device.type == "cuda":
        return f"GPU ({torch.cuda.get_device_name(device)})"
    return f"CPU, {parallel.threads()} threads"
