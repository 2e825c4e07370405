"""The inner loops. Every backend is one file with the same functions; this is the one place that chooses between them.

Shapes, used throughout: `B` samples, `T` steps of 1 ms, `N` neurons of the layer, `I` inputs. Spikes are `(B, T, N)`.

`active()` is the backend in use; `use(name, device)` chooses it for the process. `reference` is plain PyTorch, on any
device, in float32 or float64: the truth, and what stands until something else is chosen. `cpu` is compiled, in float32.
`auto` is the fastest one there is for the device.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from snnrun.errors import UsageError
from snnrun.kernels import reference
from snnrun.kernels.neuron import Lif, Stbp
from snnrun.kernels.reference import count_spikes

__all__ = ["NAMES", "Backend", "Lif", "Stbp", "active", "count_spikes", "ready", "use"]

NAMES = ("reference", "cpu")


class Backend(Protocol):
    """The functions of a backend, described in `reference`."""

    def lif_forward(
        self, spikes_in: Tensor, weight: Tensor, recurrent_weight: Tensor | None, lif: Lif, /
    ) -> Tensor: ...

    def strsbp_readout(self, spikes: Tensor, lif: Lif, dtype: torch.dtype = ..., /) -> Tensor: ...

    def hm2bp_readout(self, spikes: Tensor, lif: Lif, dtype: torch.dtype = ..., /) -> Tensor: ...

    def spsp(self, readout: Tensor, spikes_in: Tensor, /) -> Tensor: ...

    def spsp_activation(self, readout: Tensor, spikes_in: Tensor, weight: Tensor, /) -> Tensor: ...

    def spsp_backward(
        self, readout: Tensor, spikes_in: Tensor, gain: Tensor, credit: Tensor | None, weight: Tensor, /
    ) -> tuple[Tensor, Tensor | None]: ...

    def coupling(
        self,
        readout: Tensor,
        spikes: Tensor,
        counts: Tensor,
        weight: Tensor,
        mask: Tensor,
        v_th: float,
        silent: float,
        /,
    ) -> Any: ...

    def coupling_solve(self, theta: Any, diagonal: Tensor, right: Tensor, self_coupling: bool = ..., /) -> Tensor: ...

    def coupling_product(self, theta: Any, x: Tensor, /) -> Tensor: ...

    def stbp_forward(
        self, drive: Tensor, recurrent_weight: Tensor | None, neuron: Stbp, /
    ) -> tuple[Tensor, Tensor]: ...

    def stbp_backward(
        self, grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp, /
    ) -> Tensor: ...


_active: Backend = reference


def active() -> Backend:
    """The backend in use."""
    return _active


def ready() -> bool:
    """Whether the backend in use starts at once; if not, its first calls compile it."""
    compiled_before = getattr(_active, "compiled_before", None)
    return compiled_before is None or bool(compiled_before())


def use(name: str = "auto", device: str = "cpu") -> str:
    """Choose the backend for this process; returns its name. `auto`: `cpu` on a CPU, `reference` elsewhere.

    `device` is its type, `cpu` or `cuda`.

    Raises:
        UsageError: there is no such backend, or it does not work on the device.
    """
    global _active
    if name == "auto":
        name = "cpu" if device == "cpu" else "reference"
    if name == "cpu":
        if device != "cpu":
            raise UsageError(
                "hardware.kernels: the cpu kernels need hardware.device=cpu. Use hardware.kernels=auto or reference."
            )
        from snnrun.kernels import cpu

        _active = cpu
    elif name == "reference":
        _active = reference
    else:
        raise UsageError(f"hardware.kernels: there is no {name!r}. Allowed: auto, {', '.join(NAMES)}.")
    return name
