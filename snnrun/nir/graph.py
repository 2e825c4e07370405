"""A network as an NIR graph (Neuromorphic Intermediate Representation, Pedersen et al. 2024), and what that cannot say.

NIR's neurons are differential equations, and a reader picks the step. The readers use forward Euler. At the step `dt`
that the graph was written for, this gives our recursions:

    STBP             v <- (1 - dt/tau) v + I                   LIF: tau = dt / (1 - decay), r = tau / dt
    ST-RSBP, HM2-BP  a <- (1 - dt/tau_syn) a + s               CubaLIF: w_in = tau_syn / dt, r = tau_mem / dt,
                     v <- (1 - dt/tau_mem) v + a               weights divided by tau_s, so that v stays in mV

A loop of edges passes spikes on at the next step, as our recurrent synapses do; the inhibition among the outputs of the
spike-train rules is such a loop. Their feed-forward synapses wait one step too, and NIR's edges do not. So layer k of
the graph fires k steps earlier than ours and the same otherwise, and a reader that runs T - L steps (L layers) gives
every output spike of our T steps. NIR fires above the threshold, STBP also at it: STBP's threshold in the graph is the
next smaller float32.

A skip connection is a second edge to the neurons. In the graphs of the spike-train rules a layer fires one step earlier
than the last of its sources, and `Delay` nodes make the spikes of the others wait.

Delays of a layer's inputs are such nodes, too. Trained thresholds are exported as they are computed: the weights over
them, at the initial threshold. Convolutions are `Conv2d`, spiking pools `SumPool2d` with neurons behind it, STBP's
averages `AvgPool2d`.

A key that NIR cannot express is refused by name, unless the caller allows it to be left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.errors import SnnrunError, UsageError
from snnrun.kernels import Lif, Stbp, Window
from snnrun.kernels.neuron import slack_threshold
from snnrun.network import Layer, Network
from snnrun.record.description import Description
from snnrun.rules import LayerKind, LayerWeights, StbpRule
from snnrun.rules.delays import whole
from snnrun.rules.spike_train import SpikeTrainRule

# What may be left out, by its key below `model`, and what that changes.
LOSSES = {
    "t_ref": "NIR's neurons have no refractory period; without it they fire again at once, so more often",
    "reset": "NIR's neurons are reset to a constant; the share of the membrane that survives a spike is lost",
}


def graph_of(
    network: Network, description: Description, *, dt: float, allow: Collection[str] = ()
) -> tuple[Any, list[str]]:
    """The graph, and a warning for each thing that was left out.

    Args:
        dt: Seconds of a step, which NIR's time constants are in.
        allow: Keys of `LOSSES` that may be lost.

    Raises:
        UsageError: something cannot be said in NIR and is not allowed to be lost, or a layer is not mapped.
        SnnrunError: the package `nir` is not installed.
    """
    try:
        import nir
    except ImportError:
        raise SnnrunError("NIR graphs are written by the package nir: pip install 'snnrun[export]'") from None
    warnings = _losses(network, allow)
    shape = input_shape(network)
    nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": np.array(shape)})}
    edges, heads, shapes = [], {"input": "input"}, {"input": shape}
    for name, layer in zip(network.layer_names, network.layers, strict=True):
        chains, neurons, recurrent, shapes[name] = _layer(nir, name, layer, network, dt, shapes)
        heads[name] = f"{name}.lif"
        for source, chain in chains.items():
            before = heads[source]
            for part, node in chain.items():
                nodes[f"{name}.{part}"] = node
                edges.append((before, f"{name}.{part}"))
                before = f"{name}.{part}"
            edges.append((before, f"{name}.lif"))
        nodes[f"{name}.lif"] = neurons
        if recurrent is not None:
            nodes[f"{name}.rec"] = recurrent
            edges += [(f"{name}.lif", f"{name}.rec"), (f"{name}.rec", f"{name}.lif")]
    nodes["output"] = nir.Output(output_type={"output": np.array([network.sizes[-1]])})
    edges.append((heads[name], "output"))
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=_metadata(network, description, dt, warnings)), warnings


def delay(network: Network) -> int:
    """By how many steps our output spikes come later than the graph's."""
    return _leads(network)["output"]


def _leads(network: Network) -> dict[str, int]:
    """By how many steps each layer's spikes come later than those of the graph; the input's first."""
    leads, waits = {"input": 0}, isinstance(network.rule, SpikeTrainRule)
    for name, layer in zip(network.layer_names, network.layers, strict=True):
        sources = network.sources(layer.kind) if isinstance(layer, Layer) else ()
        leads[name] = min((leads[source] for source in sources), default=0) + waits
    return leads


def _losses(network: Network, allow: Collection[str]) -> list[str]:
    unknown = sorted(set(allow) - set(LOSSES))
    if unknown:
        raise UsageError(f"--allow {unknown[0]}: nothing of this name can be left out. Allowed: {', '.join(LOSSES)}.")
    rule = network.rule
    found = {}
    if isinstance(rule, SpikeTrainRule) and rule.t_ref:
        found["t_ref"] = f"model.t_ref={rule.t_ref}"
    if isinstance(rule, StbpRule) and rule.adaptation != "none":
        raise UsageError(
            f"model.adaptation={rule.adaptation}: NIR has no neuron whose threshold adapts, and without that the "
            "network is another. Use --format safetensors."
        )
    if isinstance(rule, StbpRule) and rule.reset != "hard":
        found["reset"] = f"model.reset={rule.reset}"
    for key, setting in found.items():
        if key not in allow:
            raise UsageError(f"{setting}: {LOSSES[key]}. --allow {key} exports the network without it.")
    return [f"{setting} is left out: {LOSSES[key]}" for key, setting in found.items()]


def _metadata(network: Network, description: Description, dt: float, warnings: list[str]) -> dict[str, Any]:
    return {
        "producer": "snnrun",
        "dt": dt,
        "steps": description.steps,
        "output_delay": delay(network),
        "classes": json.dumps(description.classes),
        "left_out": "; ".join(warnings),
    }


def input_shape(network: Network) -> tuple[int, ...]:
    """Of the graph's input: (channels, rows, columns) if the first layer looks at an image, else (inputs,)."""
    first = network.layers[0]
    looks = isinstance(first, Layer) and (first.kind.window or first.kind.average)
    return network.image if looks and network.image is not None else (network.inputs,)


def _layer(
    nir: Any, name: str, layer: object, network: Network, dt: float, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, dict[str, Any]], Any, Any, tuple[int, ...]]:
    """A layer in nodes: a chain from each of its sources to the neurons; these; recurrent synapses or None; its shape.

    `shapes` are those of the layers before it. Convolutions and spiking pools keep images; dense layers flatten them.
    """
    rule = network.rule
    if not isinstance(layer, Layer):
        raise UsageError(f"layer {name}: it is not mapped to NIR. Use --format safetensors.")
    if not isinstance(rule, SpikeTrainRule | StbpRule):
        raise UsageError(f"The neurons of {type(rule).__name__} are not mapped to NIR. Use --format safetensors.")
    # A pool's sum is no product with weights, so its threshold is scaled in their place.
    scale, weights = 1.0, rule.at_thresholds(layer.weights())
    if isinstance(rule, SpikeTrainRule) and not layer.kind.pool:
        scale = 1.0 / rule.lif(layer.kind, weights).tau_s
    window, (first, *skipped) = layer.kind.window, network.sources(layer.kind)
    waits = _waits(network, name, layer)
    chain = _delay(nir, waits[first], shapes[first], dt)
    if window is not None:
        chain |= _windowed(nir, layer.kind, weights, window, scale)
        shape: tuple[int, ...] = (window.kernels, window.out_rows, window.out_columns)
    else:
        average, before = layer.kind.average, shapes[first]
        if average is not None:
            chain["average"] = _pool(nir.AvgPool2d, average)
            before = average.channels, average.out_rows, average.out_columns
        chain |= _flatten(nir, before)
        chain["w"] = _dense(nir, weights, weights.weight[:, : math.prod(before)], scale)
        shape = (len(layer.weight),)
    chains, at = {first: chain}, math.prod(shapes[first])
    for source in skipped:
        stop = at + math.prod(shapes[source])
        synapses = nir.Linear(weight=_array(weights.weight[:, at:stop], scale))
        chain = _delay(nir, waits[source], shapes[source], dt) | _flatten(nir, shapes[source]) | {"w": synapses}
        chains[source] = {f"{part}_{source}": node for part, node in chain.items()}
        at = stop
    recurrent = weights.recurrent_weight
    if isinstance(rule, SpikeTrainRule) and rule.inhibits(layer.kind):
        recurrent = rule.inhibition(weights).dense(len(layer.weight))
    loop = None if recurrent is None else nir.Linear(weight=_array(recurrent, scale))
    return chains, _neurons(nir, rule, layer, shape, dt), loop, shape


def _waits(network: Network, name: str, layer: Layer) -> dict[str, Tensor]:
    """By how many steps the spikes of each source of a layer come later than the graph's edges bring them, (I,)."""
    leads, waits, sources = _leads(network), isinstance(network.rule, SpikeTrainRule), network.sources(layer.kind)
    sizes = [*sources.values()]
    own = torch.zeros(sum(sizes), dtype=torch.int64) if layer.delay is None else whole(layer.delay).cpu()
    return {
        source: steps + (leads[source] + waits - leads[name])
        for source, steps in zip(sources, torch.split(own, sizes), strict=True)
    }


def _delay(nir: Any, steps: Tensor, shape: tuple[int, ...], dt: float) -> dict[str, Any]:
    if not steps.any():
        return {}
    return {"delay": nir.Delay(delay=dt * steps.reshape(shape).double().numpy())}


def _flatten(nir: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    if len(shape) < 3:
        return {}
    return {"flatten": nir.Flatten(input_type={"input": np.array(shape)}, start_dim=0, end_dim=2)}


def _dense(nir: Any, weights: LayerWeights, weight: Tensor, scale: float) -> Any:
    if weights.bias is None:
        return nir.Linear(weight=_array(weight, scale))
    return nir.Affine(weight=_array(weight, scale), bias=_array(weights.bias))


def _windowed(nir: Any, kind: LayerKind, weights: LayerWeights, window: Window, scale: float) -> dict[str, Any]:
    """Synapses of a convolution, after the average that STBP takes first, or of a spiking pool, all 1."""
    if kind.pool:
        return {"w": _pool(nir.SumPool2d, window)}
    side = window.pool
    squares = Window(window.channels, window.rows, window.columns, window.channels, side, side, stride=side)
    average = {"average": _pool(nir.AvgPool2d, squares)} if side > 1 else {}
    convolution = nir.Conv2d(
        input_shape=(window.rows // side, window.columns // side),
        weight=_array(weights.weight, scale),
        stride=(window.stride, window.stride),
        padding=(window.padding, window.padding),
        dilation=(1, 1),
        groups=1,
        bias=np.zeros(window.kernels, np.float32) if weights.bias is None else _array(weights.bias),
    )
    return average | {"w": convolution}


def _pool(node: Any, window: Window) -> Any:
    return node(
        kernel_size=np.array([window.height, window.width]),
        stride=np.array([window.stride, window.stride]),
        padding=np.array([window.padding, window.padding]),
    )


def _neurons(nir: Any, rule: SpikeTrainRule | StbpRule, layer: Layer, shape: tuple[int, ...], dt: float) -> Any:
    if isinstance(rule, StbpRule):
        weights = layer.weights()
        kept = rule.decays(weights).detach().cpu().reshape(-1, *[1] * (len(shape) - 1)).expand(shape).numpy()
        return _lif(nir, rule.neuron(layer.kind), kept, dt)
    lif = rule.lif(layer.kind, layer.weights())
    v_th = lif.v_th
    if layer.kind.window is None or layer.kind.pool:
        v_th = slack_threshold(v_th)
    return _cuba_lif(nir, lif, v_th * (lif.tau_s if layer.kind.pool else 1.0), shape, dt)


def _cuba_lif(nir: Any, lif: Lif, v_th: float, size: tuple[int, ...], dt: float) -> Any:
    return nir.CubaLIF(
        tau_syn=np.full(size, dt * lif.tau_s),
        tau_mem=np.full(size, dt * lif.tau_m),
        r=np.full(size, lif.tau_m),
        w_in=np.full(size, lif.tau_s),
        v_leak=np.zeros(size),
        v_threshold=np.full(size, v_th, np.float32),
        v_reset=np.zeros(size, np.float32),
    )


def _lif(nir: Any, neuron: Stbp, kept: NDArray[np.float64], dt: float) -> Any:
    """Neurons of the shape of `kept`, what a step leaves of each one's membrane."""
    size, steps = kept.shape, 1.0 / (1.0 - kept)
    threshold = np.float32(neuron.v_th)
    if not neuron.strict:
        threshold = np.nextafter(threshold, np.float32(-np.inf))
    return nir.LIF(
        tau=dt * steps,
        r=steps,
        v_leak=np.zeros(size),
        v_threshold=np.full(size, threshold, np.float32),
        v_reset=np.zeros(size, np.float32),
    )


def _array(tensor: Tensor, scale: float = 1.0) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.ascontiguousarray((tensor.detach() * scale).cpu().numpy(), np.float32)
    return array
