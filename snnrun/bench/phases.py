"""Where the time of a training step goes: the functions of the kernels timed one by one, without changing them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from snnrun import kernels
from snnrun.train.batches import Batch, batches
from snnrun.train.training import Training


def phases(training: Training, epoch: int, repeats: int) -> dict[str, float]:
    """Seconds that each phase takes of a pass over the training split, mean of the repeats; the weights stay.

    On a GPU each phase waits for its end, and the encoder for the phases that it runs beside of: there their sum is
    more than what a pass takes.
    """
    timed = _TimedBackend(kernels.ops.backend, list(training.network.spiking), training.device)
    seconds = {"encode": 0.0, "gradients": 0.0, "optimiser": 0.0}

    def book(phase: str, task: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = task()
        wait(training.device)
        seconds[phase] += time.perf_counter() - started
        return result

    kernels.ops.backend = timed
    try:
        for _ in range(repeats):
            source = in_turn(training, epoch)
            while batch := book("encode", partial(next, source, None)):
                positions, inputs, labels = batch
                book("gradients", partial(training.gradients, positions, inputs, labels, epoch))
                book("optimiser", partial(training.update, 0.0))
    finally:
        kernels.ops.backend = timed.backend
    rest = seconds["gradients"] - sum(timed.seconds.values())
    ordered = {"encode": seconds["encode"], **timed.seconds, "rest": rest, "optimiser": seconds["optimiser"]}
    return {phase: total / repeats for phase, total in ordered.items()}


def in_turn(training: Training, epoch: int) -> Iterator[Batch]:
    """The batches of the training split in the order of the split, each encoded when it is asked for."""
    split, size = training.dataset.train, training.options.batch_size
    order, here = np.arange(len(split)), torch.device("cpu")  # for a GPU they would be encoded ahead
    return batches(split, order, training.encoder, epoch, size, here, training.dataset.augment, ahead=False)


def wait(device: torch.device) -> None:
    """Wait until the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# The kernels' functions by the pass of a layer that calls them; what another does is left to the rest.
FORWARD = (
    *("lif_forward", "conv_forward", "pool_forward", "stbp_forward", "stbp_conv_forward"),
    *("srm_forward", "srm_conv_forward", "srm_pool_forward", "wta_forward", "wta_conv_forward"),
)
BACKWARD = (
    *("spsp_activation", "recurrent_spsp", "recurrent_gradient", "spsp_backward", "stbp_backward"),
    *("conv_activation", "conv_backward", "pool_backward", "stbp_conv_backward"),
    *("srm_backward", "srm_conv_backward", "srm_pool_backward"),
)
# Of a first layer that gets currents. Nothing is counted before it.
DRIVEN = ("current_drive", "lif_driven", "stbp_driven")
DRIVEN_BACKWARD = ("readout_sums", "stbp_driven_backward")
AFTER = ("stbp_near", "alif_scan")  # after the forward pass of the layer, or its drive
# Before the products of an adaptive layer, which may be two. The layers below are adaptive, too.
ADAPTIVE_BACKWARD = "alif_scan_backward"
SOLVE = ("coupling", "coupling_solve")
COUNT = "count_spikes"  # of the input
TIMED = {COUNT, *AFTER, ADAPTIVE_BACKWARD, *FORWARD, *BACKWARD, *DRIVEN, *DRIVEN_BACKWARD, *SOLVE}


class _TimedBackend:
    """Stands in for the backend of `kernels.ops`: its functions, each timed and booked on a phase of a training step.

    A step goes through the layers forwards and then backwards, which tells the layer that a call belongs to.
    """

    def __init__(self, backend: Any, layers: Sequence[str], device: torch.device) -> None:
        self.backend, self._layers, self._device = backend, layers, device
        self._layer = -1  # the last that has gone forward and not yet backward
        self._adaptive = False  # whether an adaptive layer has gone backward in this step
        self.seconds: dict[str, float] = {
            "count": 0.0,
            **{f"forward {layer}": 0.0 for layer in layers},
            **{f"backward {layer}": 0.0 for layer in reversed(layers)},
            "solve": 0.0,
        }

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.backend, name)
        return partial(self._call, name, function) if name in TIMED else function

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        wait(self._device)
        started = time.perf_counter()
        result = function(*arguments)
        wait(self._device)
        self.seconds[self._phase(name)] += time.perf_counter() - started
        return result

    def _phase(self, name: str) -> str:
        if name in (*DRIVEN, *DRIVEN_BACKWARD):
            self._layer, self._adaptive = 0 if name in DRIVEN else -1, False
            return f"{'forward' if name in DRIVEN else 'backward'} {self._layers[0]}"
        if name in SOLVE:
            return "solve"
        if name == COUNT:  # the first of a step; a pool on the input has no backward pass
            self._layer, self._adaptive = -1, False
            return "count"
        if name in AFTER:
            return f"forward {self._layers[max(0, self._layer)]}"
        if name in FORWARD:
            self._layer += 1
            return f"forward {self._layers[self._layer]}"
        if name == ADAPTIVE_BACKWARD:
            self._layer, self._adaptive = self._layer - 1, True
            return f"backward {self._layers[self._layer + 1]}"
        if name == "recurrent_gradient" or self._adaptive:  # comes after the layer's `spsp_backward`, or that above
            return f"backward {self._layers[self._layer + 1]}"
        layer = self._layers[self._layer]
        self._layer -= name.endswith("_backward")
        return f"backward {layer}"
