"""The kernels of delayed spike trains as operators. They work as those of `ops`."""

from __future__ import annotations

from torch import Tensor

from snnrun.kernels import ops
from snnrun.kernels.ops import fake, operator


@operator
def _delayed(spikes: Tensor, steps: Tensor) -> Tensor:
    result: Tensor = ops.backend.delayed(spikes, steps)
    return result


@fake("delayed")
def _(spikes: Tensor, _steps: Tensor) -> Tensor:
    return spikes.new_empty(spikes.shape)


def delayed(spikes: Tensor, steps: Tensor) -> Tensor:
    """See `reference.delayed`."""
    result: Tensor = _delayed(spikes, steps)
    return result


@operator
def _advanced(errors: Tensor, steps: Tensor) -> Tensor:
    result: Tensor = ops.backend.advanced(errors, steps)
    return result


@fake("advanced")
def _(errors: Tensor, _steps: Tensor) -> Tensor:
    return errors.new_empty(errors.shape)


def advanced(errors: Tensor, steps: Tensor) -> Tensor:
    """See `reference.advanced`."""
    result: Tensor = _advanced(errors, steps)
    return result


@operator
def _delay_errors(spikes: Tensor, steps: Tensor, errors: Tensor) -> Tensor:
    result: Tensor = ops.backend.delay_errors(spikes, steps, errors)
    return result


@fake("delay_errors")
def _(_spikes: Tensor, _steps: Tensor, errors: Tensor) -> Tensor:
    return errors.new_empty(errors.shape[0], errors.shape[2])


def delay_errors(spikes: Tensor, steps: Tensor, errors: Tensor) -> Tensor:
    """See `reference.delay_errors`."""
    result: Tensor = _delay_errors(spikes, steps, errors)
    return result
