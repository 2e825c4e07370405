"""A model without spikes as an ONNX graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snnrun.ann import Cnn, Gru, Lra, Lstm, Mlp, PhasedLstm
from snnrun.ann.module import AnnModel
from snnrun.ann.phased_lstm import PhasedLayer
from snnrun.network.model import Design, Signal
from snnrun.portable.ann_program import opening
from snnrun.portable.onnx_graph import Graph, Value
from snnrun.portable.spiking_onnx import convolution, linear

ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh"}
# The order of gates in ONNX, by their numbers in PyTorch: of LSTM (i, f, g, o) i, o, f, g, of GRU (r, z, n) z, r, n.
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


def without_spikes(graph: Graph, model: AnnModel, options: Design, signal: Signal, given: Value) -> Value:
    """Logits (B, C) of inputs (B, T, N), with the options that the model was made from."""
    values = _binned(graph, model, signal, given) if signal.spikes else given
    match options:
        case Mlp():
            values = _components(graph, model, _flat(graph, _scaled(graph, model, values)))
            return _layers(graph, model, model.layer_names, values, options.activation)
        case Lra():
            return _layers(graph, model, model.layer_names, _flat(graph, _known(graph, values)), "tanh")
        case Cnn():
            return _images(graph, model, values.reshaped(-1, *(signal.image or ())), options)
        case Lstm() | Gru() | PhasedLstm():
            return _recurrent(graph, model, values, options, signal)
    raise AssertionError(f"{type(options).__name__} has no graph")


def _binned(graph: Graph, model: AnnModel, signal: Signal, spikes: Value) -> Value:
    size, number = model.bins.size, model.bins.number
    whole = graph.node("Pad", spikes, [0, 0, 0, 0, size * number - signal.steps, 0])
    return whole.reshaped(-1, number, size, signal.channels).summed(2) / float(size)


def _known(graph: Graph, values: Value) -> Value:
    return graph.node("IsNaN", values).where(0.0, values)


def _scaled(graph: Graph, model: AnnModel, values: Value) -> Value:
    if model.scale is not None:
        values = (values - model.scale.mean) * model.scale.factor
    return _known(graph, values)


def _flat(graph: Graph, values: Value) -> Value:
    return graph.node("Flatten", values)


def _components(graph: Graph, model: AnnModel, values: Value) -> Value:
    state = model.state_dict()
    if "_components.axes" not in state:
        return values
    values = (values - state["_components.mean"]) * state["_components.scale"]
    return values @ graph.value(state["_components.axes"].T)


def _layers(graph: Graph, model: AnnModel, names: list[str], values: Value, activation: str) -> Value:
    """Dense layers, the output last."""
    for name in names:
        layer = model.layers[name]
        assert isinstance(layer, nn.Linear)
        values = linear(graph, values, layer.weight, layer.bias)
        values = values if name == "output" else graph.node(ACTIVATIONS[activation], values)
    return values


def _images(graph: Graph, model: AnnModel, values: Value, options: Cnn) -> Value:
    dense = []
    for name, layer in model.layers.items():
        if isinstance(layer, nn.Conv2d):
            values = convolution(graph, values, layer.weight, layer.bias, layer.stride[0], int(layer.padding[0]))
            values = graph.node(ACTIVATIONS[options.activation], values)
        elif isinstance(layer, nn.Linear):
            dense.append(name)
        else:
            assert isinstance(layer, nn.AvgPool2d | nn.MaxPool2d)
            kind = "AveragePool" if isinstance(layer, nn.AvgPool2d) else "MaxPool"
            stride = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
            size = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * 2
            values = graph.node(kind, values, kernel_shape=list(size), strides=[stride] * 2)
    return _layers(graph, model, dense, _flat(graph, values), options.activation)


def _recurrent(graph: Graph, model: AnnModel, values: Value, options: Lstm | Gru | PhasedLstm, signal: Signal) -> Value:
    given, values, steps = values, _scaled(graph, model, values), model.bins.number
    if signal.image is not None and signal.steps < 2:  # row by row
        channels, steps, columns = signal.image
        given, values = (
            each.reshaped(-1, *signal.image).turned(0, 2, 1, 3).reshaped(-1, steps, channels * columns)
            for each in (given, values)
        )
    weight = _read(graph, given, steps, options.readout, spikes=signal.spikes)
    names = model.layer_names[: len(options.layers)]
    for name in names:
        layer = model.layers[name]
        if isinstance(layer, PhasedLayer):
            values = _phased(graph, layer, values, opening(model, layer, steps))
        else:
            assert isinstance(layer, nn.LSTM | nn.GRU)
            values = _gated(graph, layer, values)
    return _layers(graph, model, model.layer_names[len(names) :], (values * weight).summed(1), "relu")


def _read(graph: Graph, given: Value, steps: int, readout: str, *, spikes: bool) -> Value:
    """By what each step counts in the readout, (B, T, 1)."""
    absent = graph.node("IsNaN", given).float().summed(2, keep=True)
    there = graph.node("Abs", given).summed(2, keep=True) > 0.0 if spikes else absent <= 0.0
    place = torch.arange(1.0, steps + 1).reshape(-1, 1)
    end = graph.node("ReduceMax", there.float() * place, [1]).at_least(1.0)  # (B, 1, 1)
    if readout == "last":
        return graph.node("Equal", end, place).float()
    return (end >= place).float() / end


def _gated(graph: Graph, layer: nn.LSTM | nn.GRU, values: Value) -> Value:
    """PyTorch's LSTM or GRU as ONNX's, whose gates are in another order."""
    kind, state = type(layer).__name__, layer.state_dict()

    def ordered(key: str) -> Tensor:
        gates = state[f"{key}_l0"].chunk(len(GATES[kind]))
        return torch.cat([gates[number] for number in GATES[kind]])

    weights = (graph.node("Unsqueeze", graph.weight(ordered(key)), [0]) for key in ("weight_ih", "weight_hh"))
    bias = torch.cat([ordered("bias_ih"), ordered("bias_hh")])[None] if layer.bias else None
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    states = graph.node(kind, values.turned(1, 0, 2), *weights, bias, hidden_size=layer.hidden_size, **more)
    return graph.node("Squeeze", states, [1]).turned(1, 0, 2)  # from (T, 1, B, H)


def _phased(graph: Graph, layer: PhasedLayer, values: Value, opened: Tensor) -> Value:
    """A layer of Phased LSTM, see `ann.phased_lstm`."""
    drive = linear(graph, values, layer.weight_ih, layer.bias)
    loop = graph.weight(layer.weight_hh).turned(1, 0)
    seen = torch.zeros(3, layer.hidden_size) if layer.peephole is None else layer.peephole
    see_in, see_forget, see_out = map(graph.value, seen)
    rest = graph.node("Gather", drive, list(range(layer.hidden_size)), axis=2)
    rest = graph.node("Gather", rest, 0, axis=1) * 0.0  # (B, H)

    def step(now: Value, k: Value, cell: Value, output: Value) -> tuple[list[Value], Value]:
        inner = now.graph
        split = inner.nodes("Split", 4, now + output @ loop, axis=1, num_outputs=4)
        gate_in, gate_forget, new, gate_out = split
        kept = inner.node("Sigmoid", gate_forget + see_forget * cell) * cell
        wanted = kept + inner.node("Sigmoid", gate_in + see_in * cell) * inner.node("Tanh", new)
        shown = inner.node("Sigmoid", gate_out + see_out * wanted) * inner.node("Tanh", wanted)
        cell, output = cell + k * (wanted - cell), output + k * (shown - output)
        return [cell, output], output

    return graph.scan(step, [rest] * 2, [drive, graph.value(opened)], axes=(1, 0))
