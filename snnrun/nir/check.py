"""An exported graph in a reader that is not ours: its spikes beside those of the network it came from.

The reader is SpikingJelly (2.0), an optional package. Among those that load NIR it takes loops of edges, a hard reset
and any step, and it refuses what it would simulate in another way.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnrun import kernels
from snnrun.errors import SnnrunError
from snnrun.network import Network
from snnrun.nir.graph import input_shape


@dataclass(frozen=True)
class Agreement:
    """Over the output neurons of some samples.

    Attributes:
        samples: Number of samples.
        spikes: Of our network.
        same_spikes: Spikes that both fire, as a share of those that either fires; 1 if neither fires.
        same_trains, same_counts: Share of (sample, neuron) with the same spike times, and with the same number.
        same_class: Share of the samples that are taken for the same class.
        accuracies: Share of right classes, of our network and of the graph.
    """

    samples: int
    spikes: int
    same_spikes: float
    same_trains: float
    same_counts: float
    same_class: float
    accuracies: tuple[float, float]

    def __str__(self) -> str:
        if not self.spikes and self.same_spikes == 1.0:
            return f"{self.samples:,} samples: no output neuron fired in either, so nothing was compared"
        return (
            f"{self.samples:,} samples, {self.spikes:,} output spikes: {100 * self.same_spikes:.3f} % of the spikes, "
            f"{100 * self.same_trains:.3f} % of the trains, {100 * self.same_counts:.3f} % of the counts and "
            f"{100 * self.same_class:.2f} % of the classes are the same; "
            f"{100 * self.accuracies[1]:.2f} % right, here {100 * self.accuracies[0]:.2f} %"
        )


@torch.no_grad()
def agreement(network: Network, path: Path, bits: Tensor, labels: Tensor, *, dt: float, delay: int) -> Agreement:
    """Run the graph of a file in SpikingJelly and compare.

    Args:
        network: What was exported, on the CPU.
        bits: Input spikes (B, T, W).
        labels: Classes (B,).
        dt, delay: As the graph was written, see `nir.graph`.

    Raises:
        SnnrunError: SpikingJelly is not installed, or does not take the graph, as one with `Delay` nodes.
    """
    ours = kernels.unpack(network(bits).output.spikes, network.sizes[-1])
    theirs = torch.zeros_like(ours)
    seen = ours.shape[1] - delay
    if seen > 0:
        inputs = kernels.unpack(bits, network.inputs, torch.float32)
        inputs = inputs.reshape(*inputs.shape[:2], *input_shape(network))
        theirs[:, delay:] = _run(_load(path, dt), inputs[:, :seen]).to(ours.dtype)
    return compare(ours, theirs, labels)


def compare(ours: Tensor, theirs: Tensor, labels: Tensor) -> Agreement:
    """Agreement of output spikes (B, T, N) of 0 and 1, and with the labels (B,)."""
    both, either = int((ours & theirs).sum()), int((ours | theirs).sum())
    own, other = ours.sum(dim=1), theirs.sum(dim=1)
    classes = own.argmax(dim=1), other.argmax(dim=1)
    right = [(taken == labels).double().mean().item() for taken in classes]
    return Agreement(
        samples=len(ours),
        spikes=int(ours.sum()),
        same_spikes=both / either if either else 1.0,
        same_trains=(ours == theirs).all(dim=1).double().mean().item(),
        same_counts=(own == other).double().mean().item(),
        same_class=(classes[0] == classes[1]).double().mean().item(),
        accuracies=(right[0], right[1]),
    )


def _load(path: Path, dt: float) -> Any:
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            from spikingjelly.activation_based.nir_exchange import import_from_nir
    except ImportError as error:
        raise SnnrunError(
            f"--check runs the graph in SpikingJelly, which is not installed ({error}): pip install 'snnrun[peers]'"
        ) from None
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its log
            return import_from_nir(path, dt=dt)
    except (ValueError, NotImplementedError) as error:
        raise SnnrunError(f"{path}: SpikingJelly does not take this graph ({error}).") from None


def _run(model: Any, inputs: Tensor) -> Tensor:
    state, spikes = None, []
    for now in inputs.unbind(dim=1):
        out, state = model(now, state)
        spikes.append(out)
    return torch.stack(spikes, dim=1)
