"""Work on compiled loops that is done before the first batch needs them.

In every run, Numba gets ready on a thread while the store of the record is opened.

In the first run on a machine, its kernels are compiled by two processes at once. A process compiles one loop after
another: those of the forward pass while the first batch goes forwards, then those of the backward pass. The process
beside this one compiles the latter meanwhile, on a batch of noise, and leaves them on disk. Numba's own threads would
wait for one another.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from snnrun import beside, kernels
from snnrun.compiled import jit
from snnrun.network import Network
from snnrun.run.build import Parts
from snnrun.train import hardware

STEPS, SAMPLES, RATE = 20, 2, 0.1


def begin(backend: str) -> None:
    """Have Numba get ready on a thread, if the kernels are its loops."""
    if backend == "cpu":
        threading.Thread(target=jit.get_ready, daemon=True).start()


def compile_beside(parts: Parts) -> None:
    """Have the loops of the backward pass compiled in the process beside this one, if that saves time."""
    network = parts.network
    if kernels.ready() or parts.backend != "cpu" or not beside.runs() or hardware.cores() < 2:
        return
    if isinstance(network, Network):
        noise = torch.rand(SAMPLES, STEPS, network.inputs) < RATE
        beside.post(_backward, network, kernels.pack(noise.to(torch.uint8)))


def _backward(network: Network, inputs: Tensor) -> None:
    """Go forwards by the reference, which compiles nothing, and backwards by the cpu kernels."""
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    kernels.use("reference", "cpu")
    loss = network.sample_loss(network(inputs, labels), labels).sum()
    kernels.use("cpu", "cpu")
    loss.backward()  # type: ignore[no-untyped-call]
