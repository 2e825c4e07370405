"""The memory of this process and its peak, as the system says."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch


def memory(key: str) -> int | None:
    """Resident memory of this process in bytes: `VmRSS` now, `VmHWM` its peak. None where the system does not say."""
    with contextlib.suppress(OSError), Path("/proc/self/status").open(encoding="ascii") as file:
        for line in file:
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def reset(device: torch.device) -> bool:
    """Let the peaks begin anew; returns whether the system does that for the resident memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
