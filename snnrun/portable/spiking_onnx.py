"""A spiking network as an ONNX graph: the neurons of each layer are one `Scan` over the steps."""

from __future__ import annotations

from torch import Tensor

from snnrun.kernels import Lif, Srm, Stbp, Window, Wta
from snnrun.kernels.reference import pool_weight
from snnrun.portable.onnx_graph import Graph, Operand, Value
from snnrun.portable.parts import AdaptiveStbp, Part


def spiking(graph: Graph, parts: list[Part], given: Value, held_for: int | None) -> Value:
    """Counts (B, C) of the output of a network.

    Args:
        parts: Its layers.
        given: Spikes (B, T, N), or currents (B, K, N).
        held_for: The steps that currents are held for; None for spikes.
    """
    trains = {"input": given}
    for part in parts:
        drive = _synapses(graph, part, [trains[source] for source in part.sources])
        if held_for is not None and part.sources[0] == "input":
            drive = _held(graph, drive, held_for)
        trains[part.name] = _neurons(graph, part, drive)
    return trains[parts[-1].name].summed(1)


def linear(graph: Graph, values: Value, weight: Tensor, bias: Tensor | None) -> Value:
    """W x + b over the last dimension."""
    driven = values @ graph.weight(weight).turned(1, 0)
    return driven if bias is None else driven + bias


def convolution(graph: Graph, images: Value, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Value:
    """A convolution of images (X, C, rows, columns)."""
    return graph.node("Conv", images, graph.weight(weight), bias, strides=[stride] * 2, pads=[padding] * 4)


def _synapses(graph: Graph, part: Part, trains: list[Value]) -> Value:
    seen = trains[0] if len(trains) == 1 else graph.node("Concat", *trains, axis=2)
    if part.delay is not None:
        seen = _delayed(graph, seen, part.delay)
    window, average = part.window, part.average
    if window is None:
        assert part.weight is not None
        if average is not None:
            images = seen.reshaped(-1, average.channels, average.rows, average.columns)
            seen = _steps(graph, _averages(graph, images, average.height), seen)
        return linear(graph, seen, part.weight, part.bias)
    images = seen.reshaped(-1, window.channels, window.rows, window.columns)
    if window.pool > 1:
        images = _averages(graph, images, window.pool)
    if part.weight is None:
        return _steps(graph, _sums(graph, images, window, part.gain), seen)
    return _steps(graph, convolution(graph, images, part.weight, part.bias, window.stride, window.padding), seen)


def _averages(graph: Graph, images: Value, side: int) -> Value:
    return graph.node("AveragePool", images, kernel_shape=[side] * 2, strides=[side] * 2)


def _sums(graph: Graph, images: Value, window: Window, gain: float) -> Value:
    """A pool that sums, which ONNX does not have: a convolution of each channel."""
    ones = gain * pool_weight(window, Tensor())
    return graph.node("Conv", images, ones, strides=[window.stride] * 2, group=window.channels)


def _steps(graph: Graph, images: Value, like: Value) -> Value:
    """Images (B T, C, rows, columns) as values (B, T, N), with B and T of `like`."""
    shape = graph.node("Concat", graph.node("Shape", like, end=2), [-1], axis=0)
    return graph.node("Reshape", images, shape)


def _time(graph: Graph, values: Value) -> Value:
    """T of values (B, T, N), an integer."""
    return graph.node("Squeeze", graph.node("Shape", values, start=1, end=2))


def _delayed(graph: Graph, spikes: Value, steps: Tensor) -> Value:
    end = _time(graph, spikes)
    time = graph.node("Range", 0, end, 1).reshaped(-1, 1) - steps
    at = graph.node("Expand", time.at_least(0), graph.node("Shape", spikes))
    return graph.node("GatherElements", spikes, at, axis=1) * (time >= 0).float()


def _held(graph: Graph, drive: Value, steps: int) -> Value:
    at = graph.node("Range", 0, steps, 1) * _time(graph, drive) / steps
    return graph.node("Gather", drive, at, axis=1)


def _neurons(graph: Graph, part: Part, drive: Value) -> Value:
    rest = graph.node("Gather", drive, 0, axis=1) * 0.0  # (B, N)
    loop = None if part.loop is None else graph.weight(part.loop).turned(1, 0)
    match part.neuron:
        case Stbp():
            return _stbp(graph, part.neuron, drive, rest, loop)
        case AdaptiveStbp():
            assert isinstance(part.threshold, float)
            return _alif(graph, part.neuron, part.threshold, drive, rest, loop)
        case Lif():
            assert isinstance(part.threshold, float)
            return _lif(graph, part.neuron, part.threshold, drive, rest, loop)
        case Srm():
            return _srm(graph, part.neuron, drive, rest, loop)
        case Wta():
            return _wta(graph, part.neuron, part.threshold, drive, rest)


def _stbp(graph: Graph, neuron: Stbp, drive: Value, rest: Value, loop: Value | None) -> Value:
    def step(now: Value, u: Value, fired: Value) -> tuple[list[Value], Value]:
        u = u * (fired * (neuron.decay_after_spike - neuron.decay) + neuron.decay) + now
        if loop is not None:
            u = u + fired @ loop
        fired = (u > neuron.v_th if neuron.strict else u >= neuron.v_th).float()
        return [u, fired], fired

    return graph.scan(step, [rest] * 2, [drive])


def _alif(graph: Graph, neuron: AdaptiveStbp, v_th: float, drive: Value, rest: Value, loop: Value | None) -> Value:
    kept, after, remains = (graph.value(each) for each in neuron[:3])

    def step(now: Value, u: Value, a: Value, fired: Value) -> tuple[list[Value], Value]:
        u = u * (fired > 0.0).where(after, kept) + now
        if loop is not None:
            u = u + fired @ loop
        a = a * remains + fired * graph.value(1.0 - neuron.adaptation_decay)
        x = u - a * neuron.rise
        fired = (x > v_th if neuron.strict else x >= v_th).float()
        return [u, a, fired], fired

    return graph.scan(step, [rest] * 3, [drive])


def _lif(graph: Graph, lif: Lif, v_th: float, drive: Value, rest: Value, loop: Value | None) -> Value:
    def step(now: Value, waiting: Value, a: Value, u: Value, fired: Value, since: Value) -> tuple[list[Value], Value]:
        a = a * lif.decay_s + waiting
        if loop is not None:
            a = a + fired @ loop
        u = (since <= float(lif.t_ref)).where(0.0, u * lif.decay_m + a * (1.0 / lif.tau_s))
        fires = u > v_th
        fired, since = fires.float(), fires.where(1.0, since + 1.0)
        return [now, a, fires.where(0.0, u), fired, since], fired

    return graph.scan(step, [*[rest] * 4, rest + (lif.t_ref + 1.0)], [drive])


def _srm(graph: Graph, neuron: Srm, drive: Value, rest: Value, loop: Value | None) -> Value:
    def step(
        now: Value, p: Value, q: Value, refractory: Value, later: Value, fired: Value
    ) -> tuple[list[Value], Value]:
        if loop is not None:
            p = p + (fired @ loop) * neuron.rise
        q = (q + p) * neuron.decay_s
        p = p * neuron.decay_s + now * neuron.rise
        refractory = refractory + fired * neuron.refractoriness
        later = (later + refractory) * neuron.decay_r
        refractory = refractory * neuron.decay_r
        fired = (q + (later if neuron.alpha else refractory) >= neuron.v_th).float()
        return [p, q, refractory, later, fired], fired

    return graph.scan(step, [rest] * 5, [drive])


def _wta(graph: Graph, neuron: Wta, threshold: Operand, drive: Value, rest: Value) -> Value:
    v_th = graph.value(threshold)
    lowest = v_th * -1.0

    def step(now: Value, v: Value, since: Value) -> tuple[list[Value], Value]:
        if neuron.t_ref:
            share = since / neuron.t_ref
            now = now * now.graph.node("Min", share * share, 1.0)
        v = (v * neuron.decay + now).at_least(lowest)
        fires = v >= v_th
        fired = fires.float()
        v = v - fired * v_th
        if neuron.inhibition:
            others = fired.summed(1, keep=True) - fired
            v = (v - others * v_th * neuron.inhibition).at_least(lowest)
        return [v, fires.where(1.0, since + 1.0)], fired

    return graph.scan(step, [rest, rest + (neuron.t_ref + 1.0)], [drive])
