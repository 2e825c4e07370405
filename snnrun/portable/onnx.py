"""A trained model as an ONNX file, which the runtimes of many languages and devices run.

The operations are those of ONNX itself. B, the number of samples, is free. So is T of a spiking network, whose loop
over time is a `Scan`. Whatever runs the file adds up in its own order, so a membrane within rounding of its threshold
may fire in one and not in the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.ann.module import AnnModel
from snnrun.errors import UsageError
from snnrun.portable.ann_onnx import without_spikes
from snnrun.portable.check import Compute
from snnrun.portable.onnx_graph import Graph, Value
from snnrun.portable.parts import parts
from snnrun.portable.spiking_onnx import spiking
from snnrun.portable.task import Task

INPUT = "inputs"


def graph(task: Task, *, quantised: bool = False) -> Any:
    """The model of `onnx`, checked.

    Raises:
        UsageError: the package `onnx` is missing, or the model is of a kind that cannot be written, or too large.
    """
    network, signal, made = task.spiking(), task.signal, Graph(quantised=quantised)
    given, outputs = Value(made, INPUT), task.model.sizes[-1]
    if network is not None:
        held_for = signal.steps if task.currents else None
        scores = spiking(made, parts(network), given, held_for)
        name, steps = "counts", "K" if task.currents else "T"
        shape: tuple[str | int, ...] = ("B", steps, signal.channels)
    else:
        assert isinstance(task.model, AnnModel)
        assert task.options is not None
        scores = without_spikes(made, task.model, task.options, signal, given)
        name, shape = "logits", ("B", max(signal.steps, 1), signal.channels)
    facts = {
        "title": task.title,
        "chain": task.model.chain,
        "classes": json.dumps(task.classes, ensure_ascii=False),
        "input": "currents" if task.currents else "spikes, 0.0 or 1.0" if signal.spikes else "values",
        "steps": str(signal.steps),
    }
    return made.model((INPUT, shape), (name, scores, ("B", outputs)), facts)


def compute(path: Path) -> Compute:
    """What onnxruntime makes of arrays by a file. Raises UsageError if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise UsageError("--check: ONNX files run in onnxruntime: pip install 'snnrun[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def scores(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(None, {INPUT: inputs})[0]
        return found

    return scores
