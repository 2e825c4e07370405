"""NIR's equations for any graph of dense nodes, at steps of dt in float64, from its documentation alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def run_graph(graph: Any, spikes: NDArray[np.bool_], dt: float) -> NDArray[np.bool_]:
    """Output spikes (B, T, N) of input spikes (B, T, I).

    A node gets the sum of what its edges bring. An edge into neurons, from a node that these neurons reach themselves,
    brings what left it one step before.
    """
    import nir

    into: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        into[target].append(source)
    batch, steps, _ = spikes.shape
    order = _order(into)
    state: dict[str, Any] = {name: {} for name in graph.nodes}
    past: dict[str, list[Values]] = {name: [] for name in graph.nodes}
    for t in range(steps):
        for name in order:
            node = graph.nodes[name]
            if isinstance(node, nir.Input):
                past[name].append(spikes[:, t].astype(np.float64))
                continue
            came = []
            for source in into[name]:
                now = len(past[source]) > t
                came.append(past[source][-1] if now else past[source][-1] if t else np.zeros((batch, 1)))
            past[name].append(_out(nir, node, sum(came), state[name], t, dt))
    return np.stack(past["output"], axis=1).astype(bool)


def _order(into: dict[str, list[str]]) -> list[str]:
    """Every node after those before it, loops apart."""
    found: list[str] = []
    while len(found) < len(into):
        ready = [
            name for name in into if name not in found and all(s in found or s.endswith(".rec") for s in into[name])
        ]
        found += ready[:1]
    return found


def _out(nir: Any, node: Any, x: Values, state: dict[str, Any], t: int, dt: float) -> Values:
    match node:
        case nir.Linear():
            return x @ node.weight.T.astype(np.float64)
        case nir.Affine():
            return x @ node.weight.T.astype(np.float64) + node.bias
        case nir.Flatten():
            return x.reshape(len(x), -1)
        case nir.Delay():
            line = state.setdefault("line", [])
            line.append(x)
            steps = np.rint(node.delay / dt).astype(int)
            out = np.zeros_like(x)
            for place in np.ndindex(steps.shape):
                if t >= steps[place]:
                    out[:, *place] = line[t - steps[place]][:, *place]
            return out
        case nir.CubaLIF():
            current, v = state.get("current", np.zeros_like(x)), state.get("v", np.zeros_like(x))
            current = current + dt / node.tau_syn * (node.w_in * x - current)
            v = v + dt / node.tau_mem * (node.v_leak - v + node.r * current)
            state["current"] = current
            return _fired(node, v, state)
        case nir.LIF():
            v = state.get("v", np.zeros_like(x))
            return _fired(node, v + dt / node.tau * (node.v_leak - v + node.r * x), state)
        case _:
            return x


def _fired(node: Any, v: Values, state: dict[str, Any]) -> Values:
    fired = v > node.v_threshold
    state["v"] = np.where(fired, node.v_reset, v)
    return fired.astype(np.float64)
