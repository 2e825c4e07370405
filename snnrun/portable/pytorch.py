"""A trained model as a PyTorch module in one Python file, beside its weights.

The file has the functions that the model needs (`functions`), the class `Network` with a line for each operation, and
`load`, which reads the weights. It imports PyTorch alone. A file of `torch.export` would hold the steps of the loop one
by one, for one number of them, and PyTorch has given up TorchScript; neither can be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from snnrun.ann.module import AnnModel
from snnrun.portable.ann_program import without_spikes
from snnrun.portable.check import Compute
from snnrun.portable.parts import parts
from snnrun.portable.program import Program
from snnrun.portable.spiking_program import spiking
from snnrun.portable.task import Task


def program(task: Task) -> Program:
    """The program of a model. Raises UsageError if it is of a kind that cannot be written."""
    network = task.spiking()
    if network is not None:
        return spiking(parts(network), inputs=task.signal.channels, steps=task.signal.steps, currents=task.currents)
    assert isinstance(task.model, AnnModel)
    assert task.options is not None
    return without_spikes(task.model, task.options, task.signal)


def text(task: Task, program: Program, *, quantised: bool = False) -> str:
    """The file of a program."""
    return program.text(task.title, task.classes, task.model.chain, quantised=quantised)


def load(path: Path) -> nn.Module:
    """The network of a file, with the weights beside it."""
    names: dict[str, Any] = {"__file__": str(path), "__name__": "network"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    network: nn.Module = names["load"]()
    return network


def compute(path: Path) -> Compute:
    """What the network of a file makes of arrays."""
    network = load(path)

    def scores(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = network(torch.from_numpy(inputs)).numpy()
        return found

    return scores
