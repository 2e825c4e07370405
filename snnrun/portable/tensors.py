"""A network's weights as safetensors that say what they are."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

from torch import Tensor

from snnrun.network import Layer, Network
from snnrun.portable import quantise
from snnrun.rules import LayerKind, Rule
from snnrun.rules.constants import TENSORS
from snnrun.run.trained import Trained

SCHEMA = "snnrun.network/1"
CONSTANTS = {"tau_m": "the membrane", "tau_s": "the synapse", "tau_adaptation": "the adaptation"}


def state(own: Trained, *, quantised: bool) -> dict[str, Tensor]:
    """The tensors of the file."""
    found = {key: value.contiguous() for key, value in own.network.state_dict().items()}
    return quantise.packed(found, quantise.weight_keys(own.network)) if quantised else found


def header(own: Trained, *, quantised: bool) -> dict[str, str]:
    """The metadata of the file. Every value except the first four is JSON."""
    network, about, meaning, layers = own.network, own.about, dict[str, str](), dict[str, dict[str, Any]]()
    assert isinstance(network, Network)
    tensors = state(own, quantised=quantised)
    for number, ((name, entry), layer) in enumerate(zip(about.layers.items(), network.layers, strict=True)):
        assert isinstance(layer, Layer)
        rule, kind = network.rule, layer.kind
        layers[name] = {**entry, "v_th": rule.initial_threshold(kind, layer.weight[0].numel())}
        if kind.pool:
            layers[name]["pool_weight"] = rule.pool_weight(kind)
        said = _meanings(rule, layer)
        for key, tensor in tensors.items():
            own_name = key.removeprefix(f"layers.{number}.")
            if own_name != key:
                meaning[key] = f"layer {name}: {_axes(tensor, kind, own_name)}{said[own_name]}"
    structured = {
        "classes": about.classes,
        "input": {"kind": about.kind, "shape": about.shape, "steps": about.steps, "data": about.data},
        "layers": layers,
        "tensors": meaning,
        "units": {"weight": "mV", "v_th": "mV", "tau_m": "ms", "tau_s": "ms", "t_ref": "ms", "step": "1 ms"},
        "config": {key: own.values[key] for key in ("model", "encoder", "seed")},
    }
    return {
        "schema": SCHEMA,
        "producer": f"snnrun {importlib.metadata.version('snnrun')}",
        "run": own.folder.name,
        "weights": own.weights,
        **{key: json.dumps(value, ensure_ascii=False) for key, value in structured.items()},
    }


def _axes(tensor: Tensor, kind: LayerKind, name: str) -> str:
    """What the axes of a tensor of a layer are."""
    own = "neurons" if kind.window is None else "kernels"
    if name.endswith("_scale"):
        return f"({', '.join([own, *['1'] * (tensor.dim() - 1)])})"
    if name.startswith("recurrent_"):
        return "(neurons, neurons)"
    if name == "weight":
        return "(neurons, inputs)" if kind.window is None else "(kernels, channels, height, width)"
    if name == "delay":
        return "(inputs,)"
    return "(1,)" if tensor.numel() == 1 else f"({own},)"


def _meanings(rule: Rule, layer: Layer) -> dict[str, str]:
    """What stands behind the axes: unit and meaning, by the name of a tensor of a layer."""
    kind, window = layer.kind, layer.kind.window
    if window is None:
        source = "input neuron j" if kind.average is None else "square j of the average pool before it"
        weight = f"weight[i, j] to neuron i from {source}"
    else:
        averaged = "" if window.pool == 1 else f", of averages over squares of side {window.pool}"
        weight = f"weight[k, c, y, x] of kernel k from row y and column x of its window in channel c{averaged}"
    found = {
        "weight": f", mV: {weight}",
        "recurrent_weight": ", mV: to neuron i from neuron j of the same layer, one step later",
        "recurrent_mask": ", bool: which recurrent synapses exist",
        "weight_scale": ", mV: what a row of weights, in int8, is multiplied by",
        "recurrent_weight_scale": ", mV: what a row of recurrent weights, in int8, is multiplied by",
        "bias": ", mV: added to the membrane in every step",
        "delay": f", steps: spikes of an input with delay d come {rule.whole_delay} steps later",
        "threshold": ": the trained threshold over v_th of the layer",
    }
    for constant in rule.constants(kind, layer.weights()):
        if constant.name in CONSTANTS:
            found[TENSORS[constant.name]] = (
                f": the trained time constant of {CONSTANTS[constant.name]} over its initial value, "
                f"{constant.initial} {constant.unit}"
            )
    return found
