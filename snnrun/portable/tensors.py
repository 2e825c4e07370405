"""A network's weights as safetensors that say what they are."""

from __future__ import annotations

import importlib.metadata
import json

from torch import Tensor

from snnrun.network import Layer, Network
from snnrun.portable import quantise
from snnrun.run.trained import Trained

SCHEMA = "snnrun.network/1"
TENSORS = {
    "weight": "(neurons, inputs), mV: weight[i, j] to neuron i from input neuron j",
    "recurrent_weight": "(neurons, neurons), mV: to neuron i from neuron j of the same layer, one step later",
    "recurrent_mask": "(neurons, neurons), bool: which recurrent synapses exist",
    "weight_scale": "(neurons, 1), mV: what a row of weights, in int8, is multiplied by",
    "recurrent_weight_scale": "(neurons, 1), mV: what a row of recurrent weights, in int8, is multiplied by",
    "bias": "(neurons,), mV: added to the membrane in every step",
    "delay": "(inputs,), steps, to be rounded: spikes of each input come so much later",
    "threshold": "(neurons,), or (1,) for all: the trained threshold over v_th",
    "tau_m": "(1,), or (neurons,): the trained time constant of the membrane over its initial value",
    "tau_s": "(1,): the trained time constant of the synapse over its initial value",
    "tau_adaptation": "(1,), or (neurons,): the trained time constant of the adaptation over its initial value",
}


def state(own: Trained, *, quantised: bool) -> dict[str, Tensor]:
    """The tensors of the file."""
    found = {key: value.contiguous() for key, value in own.network.state_dict().items()}
    return quantise.packed(found, quantise.weight_keys(own.network)) if quantised else found


def header(own: Trained, *, quantised: bool) -> dict[str, str]:
    """The metadata of the file. Every value except the first four is JSON."""
    network, about, meaning = own.network, own.about, {}
    assert isinstance(network, Network)
    for key in state(own, quantised=quantised):
        _, number, kind = key.split(".", 2)
        meaning[key] = f"layer {network.layer_names[int(number)]}: {TENSORS.get(kind, kind)}"
    layers = {
        name: {**entry, "v_th": network.rule.threshold(layer.kind)}
        for (name, entry), layer in zip(about.layers.items(), network.layers, strict=True)
        if isinstance(layer, Layer)
    }
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
