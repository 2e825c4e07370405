"""NeuroBench's metrics (Yik et al., Nature Communications 2025), as its package computes them of such a model.

The package runs a model again and looks at the inputs and outputs of its layers, step by step. Here they come from what
`firing` has counted: each pre-neuron's spikes, or values that are not 0, times its weights that are not 0.

- footprint: bytes of parameters and buffers;
- connection sparsity: share of the weights that are 0;
- activation sparsity: share of the activities that are 0, over layers, steps and samples;
- synaptic operations of a sample: a weight that is not 0 times an input that is not 0 is one effective operation, an
  accumulate (AC) of a spike and a multiply-accumulate (MAC) of a value; `dense` are those of all weights and inputs.

Differs from the package: what a layer is. Here each of these is a layer of connections: recurrent synapses, whose N x N
weights are 0 where there is no synapse; a fixed inhibition, N x N with 0 on the diagonal; a spiking pool, whose weights
are 1. The last two take no memory. An average pool is part of the weights after it, so that spikes stay spikes. The
footprint is that of what a weights file holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrun.network import Layer, Network
from snnrun.network.model import Model
from snnrun.train.firing import Firing
from snnrun.train.synapses import fan_out

MEMORY = ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"))


@dataclass(frozen=True)
class Operations:
    """Synaptic operations of a sample, as means."""

    effective_macs: float
    effective_acs: float
    dense: float


@dataclass(frozen=True)
class NeuroBench:
    """The metrics of a model.

    Attributes:
        footprint: Bytes.
        connection_sparsity: 0 to 1. None if it is not known what multiplies, see `Model.connections`.
        activation_sparsity: 0 to 1. None if there are no activities.
        operations: None as `connection_sparsity`.
    """

    footprint: int
    connection_sparsity: float | None
    activation_sparsity: float | None
    operations: Operations | None

    def metrics(self) -> dict[str, float]:
        """For the run's record, under `cost/`. What is None is not there."""
        found: dict[str, float | None] = {
            "footprint_bytes": self.footprint,
            "connection_sparsity": self.connection_sparsity,
            "activation_sparsity": self.activation_sparsity,
        }
        if self.operations is not None:
            found |= {
                "effective_macs": self.operations.effective_macs,
                "effective_acs": self.operations.effective_acs,
                "dense_operations": self.operations.dense,
            }
        return {f"cost/{name}": float(value) for name, value in found.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """For `cost.json`."""
        return {
            "footprint": self.footprint,
            "connection_sparsity": self.connection_sparsity,
            "activation_sparsity": self.activation_sparsity,
            "synaptic_operations": None if self.operations is None else vars(self.operations),
        }

    def __str__(self) -> str:
        scale, unit = next((pair for pair in MEMORY if self.footprint < 1e3 * pair[0]), MEMORY[-1])
        parts = [f"footprint {self.footprint / scale:.3g} {unit}"]
        if self.connection_sparsity is not None:
            parts.append(f"connection sparsity {self.connection_sparsity:.4f}")
        silent = "of no activities" if self.activation_sparsity is None else f"{self.activation_sparsity:.4f}"
        parts.append(f"activation sparsity {silent}")
        if self.operations is None:
            parts.append("operations unknown, since the model names no connections")
        else:
            o = self.operations
            parts.append(f"effective {o.effective_macs:,.0f} MAC and {o.effective_acs:,.0f} AC of {o.dense:,.0f} dense")
        return ", ".join(parts)


class Work(NamedTuple):
    """Totals of a layer over all samples: operations, and how many of its `weights` are 0."""

    macs: int
    acs: int
    dense: int
    zeros: int
    weights: int


def measure(model: Model, firing: Firing) -> NeuroBench:
    """The metrics of a model, from what `firing.record` gives."""
    works = _of_network(model, firing) if isinstance(model, Network) else _of_model(model, firing)
    zeros, operations = None, None
    if works is not None:
        macs, acs, dense, zero, weights = (sum(column) for column in zip(*works, strict=True))
        samples = max(firing.samples, 1)
        zeros, operations = zero / weights, Operations(macs / samples, acs / samples, dense / samples)
    footprint = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return NeuroBench(footprint, zeros, _activation_sparsity(model, firing), operations)


def _activation_sparsity(model: Model, firing: Firing) -> float | None:
    spiking = firing.samples * firing.steps * sum(model.spiking.values())
    every = spiking + sum(seen.activities for seen in firing.seen.values())
    active = sum(int(firing.spikes[name].sum()) for name in model.spiking)
    active += sum(seen.active for seen in firing.seen.values())
    return (every - active) / every if every else None


def _of_network(network: Network, firing: Firing) -> list[Work]:
    works = []
    totals = {name: torch.from_numpy(spikes) for name, spikes in firing.spikes.items()}
    for name, layer in zip(network.layer_names, network.layers, strict=True):
        assert isinstance(layer, Layer)
        working, every = (fan_out(layer, network.rule, working=working) for working in (True, False))
        before = [totals[source] for source in network.sources(layer.kind) if source in totals]
        passes = firing.samples * (firing.steps if before else firing.currents)
        arrived = torch.cat(before) if before else torch.from_numpy(firing.values)
        effective = int(arrived @ working.forward.cpu())
        works.append(
            Work(
                macs=0 if before else effective,
                acs=effective if before else 0,
                dense=passes * int(every.forward.sum()),
                zeros=int((layer.weight == 0).sum()),
                weights=layer.weight.numel(),
            )
        )
        if working.recurrent is not None:
            pairs = len(layer.weight) ** 2
            at_once = network.rule.inhibits_at_once and network.rule.inhibits(layer.kind)
            works.append(_recurrent(firing, name, working.recurrent, pairs, at_once=at_once))
    return works


def _recurrent(firing: Firing, name: str, fan: Tensor, pairs: int, *, at_once: bool = False) -> Work:
    """Of a layer that spikes, with so many weights on its own spikes.

    Spikes of the last step come to no other, unless they act `at_once`.
    """
    arrived = torch.from_numpy(firing.spikes[name] - (0 if at_once else firing.last[name]))
    steps = firing.samples * firing.steps
    return Work(0, int(arrived @ fan.cpu()), steps * pairs, pairs - int(fan.sum()), pairs)


def _of_model(model: Model, firing: Firing) -> list[Work] | None:
    """Of a model that is no network of a rule. None if layers that multiply are not among its connections."""
    connections, fans, layout = model.connections(), model.fan_out(), model.layout()
    at_work = {*model.spiking, *(name for name, macs in model.macs(1.0).items() if macs)}
    if not at_work or at_work - {*connections, *fans}:
        return None
    works = []
    for name, fan in fans.items():
        working, size, inputs = fan.working or fan, layout[name]["neurons"], layout[name]["inputs"]
        effective = int(torch.from_numpy(firing.spikes["input"]) @ working.inputs.cpu())
        zeros = inputs * size - int(working.inputs.sum())
        works.append(Work(0, effective, firing.samples * firing.steps * inputs * size, zeros, inputs * size))
        if layout[name]["recurrent"]:
            works.append(_recurrent(firing, name, working.recurrent, size**2))
    for name, connection in connections.items():
        seen = firing.seen.get(name)
        works.append(_real(connection.module, connection.weight, None if seen is None else (seen.inputs, seen.passes)))
        if connection.recurrent is not None:
            own = None if seen is None or seen.recurrent is None else (seen.recurrent, seen.passes)
            works.append(_real(connection.module, connection.recurrent, own))
    return works


def _real(module: nn.Module, weight: Tensor, arrived: tuple[Tensor, int] | None) -> Work:
    """Of weights that multiply values. `arrived`: how often each was not 0, of how many; None if no sample was seen."""
    weight, macs, dense = weight.detach().cpu(), 0, 0
    if arrived is not None:
        nonzero, passes = arrived
        macs = _products(module, nonzero, weight != 0)
        dense = passes * _products(module, torch.ones_like(nonzero), torch.ones_like(weight))
    return Work(macs, 0, dense, int((weight == 0).sum()), weight.numel())


def _products(module: nn.Module, inputs: Tensor, weight: Tensor) -> int:
    """Sum of a layer's outputs."""
    inputs, weight = inputs.double(), weight.double()
    if isinstance(module, nn.Conv2d):
        maps = functional.conv2d(inputs[None], weight, stride=module.stride, padding=module.padding)
        return int(maps.sum())
    return int(inputs @ weight.sum(dim=0))
