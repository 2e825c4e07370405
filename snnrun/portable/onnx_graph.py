"""An ONNX graph that is being written, as values that one computes with.

Only the package `onnx` is needed. A loop over time is one `Scan` node, so a file is as long for 1000 steps as for 10.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snnrun.errors import UsageError
from snnrun.portable.quantise import stored

OPSET = 18
IR_VERSION = 8  # that came with it
MOST_BYTES = 2**31 - 2**20  # of a file, which is one message of Protocol Buffers


def package() -> Any:
    """The package `onnx`. Raises UsageError if it is not installed."""
    try:
        import onnx
    except ImportError:
        raise UsageError(
            "--format onnx: the files are written by the package onnx: pip install 'snnrun[onnx]'"
        ) from None
    return onnx


class Graph:
    """Nodes and constants. A graph in a loop sees the values of the graph around it.

    Args:
        around: The graph that the loop is in; None for that of the model.
        quantised: Whether weights that are int8 times a scale are stored so.
    """

    def __init__(self, around: Graph | None = None, *, quantised: bool = False) -> None:
        self._onnx = package()
        self._around, self._quantised = around, quantised
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._numbers: Any = itertools.count(1) if around is None else around._numbers
        self.depth: int = 0 if around is None else around.depth + 1

    def node(self, kind: str, *inputs: Operand | None, **attributes: Any) -> Value:
        """Add an operation with one output. An input may be missing, None."""
        return self.nodes(kind, 1, *inputs, **attributes)[0]

    def nodes(self, kind: str, outputs: int, *inputs: Operand | None, **attributes: Any) -> list[Value]:
        """Add an operation."""
        names = ["" if each is None else self.value(each).name for each in inputs]
        made = [self._name(kind.lower()) for _ in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(kind, names, made, **attributes))
        return [Value(self, name) for name in made]

    def value(self, operand: Operand) -> Value:
        """A value, or a constant: numbers and tensors are float32, or int64 if they are integers."""
        if isinstance(operand, Value):
            return operand
        array = np.asarray(operand.detach().cpu().numpy() if isinstance(operand, Tensor) else operand)
        return self._constant(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))

    def weight(self, weight: Tensor) -> Value:
        """Weights (N, ...), as int8 times a scale if they are that and are to be stored so."""
        int8 = stored(weight) if self._quantised else None
        if int8 is None:
            return self.value(weight)
        q, scale = int8
        return self.node("DequantizeLinear", self._constant(q.numpy()), scale.flatten(), axis=0)

    def _constant(self, array: NDArray[Any]) -> Value:
        if self._around is not None:
            return self._around._constant(array)
        name = self._name("constant")
        self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
        return Value(self, name)

    def _name(self, kind: str) -> str:
        return f"{kind}_{next(self._numbers)}"

    def scan(
        self,
        step: Callable[..., tuple[list[Value], Value]],
        states: Sequence[Value],
        sequences: Sequence[Value],
        axes: Sequence[int] = (1,),
    ) -> Value:
        """Run a step over time.

        Args:
            step: Gets what each sequence has at this time, then the states, in its own graph. Returns the states after
                it, and its output (B, N).
            states: At first.
            sequences: Over time.
            axes: Which of the dimensions of each sequence is time.

        Returns:
            The outputs (B, T, N).
        """
        inner = Graph(self)
        before = [Value(inner, self._name("state")) for _ in states]
        now = [Value(inner, self._name("now")) for _ in sequences]
        after, output = step(*now, *before)
        results = [inner.node("Identity", each) for each in (*after, output)]  # each by a name of its own
        body = inner._made("step", [_unknown(each) for each in (*before, *now)], [_unknown(each) for each in results])
        *_, found = self.nodes(
            "Scan", len(results), *states, *sequences,
            body=body, num_scan_inputs=len(sequences), scan_input_axes=list(axes), scan_output_axes=[1],
        )  # fmt: skip
        return found

    def _made(self, name: str, inputs: list[Any], outputs: list[Any]) -> Any:
        return self._onnx.helper.make_graph(self._nodes, name, inputs, outputs, [*self._constants.values()])

    def model(
        self, given: tuple[str, Sequence[int | str]], made: tuple[str, Value, Sequence[int | str]],
        facts: Mapping[str, str],
    ) -> Any:  # fmt: skip
        """The file, checked.

        Args:
            given: Name and shape of the input, which `input` has made.
            made: Name, value and shape of the output.
            facts: What it says of itself.

        Raises:
            UsageError: it would be larger than ONNX files can be.
        """
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        name, result, shape = made
        self._nodes.append(helper.make_node("Identity", [result.name], [name]))
        graph = self._made(
            "network",
            [helper.make_tensor_value_info(given[0], float32, list(given[1]))],
            [helper.make_tensor_value_info(name, float32, list(shape))],
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="snnrun")
        helper.set_model_props(model, dict(facts))
        if model.ByteSize() > MOST_BYTES:
            raise UsageError("--format onnx: a file has 2 GiB at most, and this model has more. Use --format pytorch.")
        self._onnx.checker.check_model(model, full_check=True)
        return model


class Value:
    """A value of a graph. Operations join the innermost graph of those that their inputs are in."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def _with(self, kind: str, other: Operand) -> Value:
        graph = self.graph
        if isinstance(other, Value) and other.graph.depth > graph.depth:
            graph = other.graph
        return graph.node(kind, self, other)

    def __add__(self, other: Operand) -> Value:
        return self._with("Add", other)

    def __sub__(self, other: Operand) -> Value:
        return self._with("Sub", other)

    def __mul__(self, other: Operand) -> Value:
        return self._with("Mul", other)

    def __truediv__(self, other: Operand) -> Value:
        return self._with("Div", other)

    def __matmul__(self, other: Value) -> Value:
        return self._with("MatMul", other)

    def __gt__(self, other: Operand) -> Value:
        return self._with("Greater", other)

    def __ge__(self, other: Operand) -> Value:
        return self._with("GreaterOrEqual", other)

    def __le__(self, other: Operand) -> Value:
        return self._with("LessOrEqual", other)

    def at_least(self, other: Operand) -> Value:
        """The larger of two."""
        return self._with("Max", other)

    def float(self) -> Value:
        """True as 1.0, or an integer as float32."""
        return self.graph.node("Cast", self, to=1)

    def where(self, yes: Operand, no: Operand) -> Value:
        """Of a condition: `yes` where it holds, else `no`."""
        graph = max((each.graph for each in (self, yes, no) if isinstance(each, Value)), key=lambda each: each.depth)
        return graph.node("Where", self, yes, no)

    def turned(self, *order: int) -> Value:
        """With its dimensions in another order."""
        return self.graph.node("Transpose", self, perm=list(order))

    def reshaped(self, *shape: int) -> Value:
        """In another shape; 0 keeps a dimension."""
        return self.graph.node("Reshape", self, list(shape))

    def summed(self, axis: int, *, keep: bool = False) -> Value:
        """Summed over a dimension."""
        return self.graph.node("ReduceSum", self, [axis], keepdims=int(keep))


Operand = Value | Tensor | float | int | list[int]


def _unknown(value: Value) -> Any:
    """Float32 of a shape that the runtime finds."""
    onnx = package()
    return onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, None)
