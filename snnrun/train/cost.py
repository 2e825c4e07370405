"""What an inference costs: spikes, synaptic operations, and the energy that the literature gives for them.

A synaptic operation is one accumulate. Each spike of a neuron causes one at each of its outgoing synapses, feed-forward
and recurrent. The energies are those of 32-bit floating-point arithmetic in 45 nm (Horowitz, ISSCC 2014): 0.9 pJ for an
addition, 4.6 pJ for a multiplication and an addition. They leave out the encoding of the input, and memory, which costs
more than arithmetic on real hardware. They compare networks. They do not predict the energy of a chip.

The papers' figure counts synaptic operations alone. The updates of the neurons stand beside it, since a clocked
simulation computes them at each step, even if nothing fires. An update costs one multiply-accumulate for each state
variable of a neuron (`Rule.state_variables`), and one accumulate for a bias.

Currents of an input are no spikes: the first layer multiplies each of their values once by its weights
(`LayerCost.current_macs`), however many steps the value lasts. This counts to the energy of the synaptic operations.

A model without spikes costs multiply-accumulates (`MacCost`): a recurrent one those of all steps that a sample has.

The metrics of NeuroBench stand beside these figures, see `neurobench`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from snnrun.network import Layer, Network
from snnrun.network.model import Model
from snnrun.train.firing import Firing
from snnrun.train.neurobench import NeuroBench, measure
from snnrun.train.synapses import dense_operations, fan_out

ACCUMULATE_PJ, MULTIPLY_ACCUMULATE_PJ = 0.9, 4.6
LIQUID_VARIABLES = 2  # of a neuron of a liquid: synapse and membrane
UNITS = ((1.0, "nJ"), (1e3, "µJ"), (1e6, "mJ"))


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer in one presentation, as means over the samples.

    Attributes:
        neurons: N.
        spikes: Spikes of the layer.
        operations: Synaptic operations that arrive at the layer, its own recurrent ones included.
        updates: Multiply-accumulates of its state variables over all steps.
        bias_additions: Accumulates of its biases over all steps.
        ann_macs: Multiply-accumulates of one pass of the same layer with real-valued activities.
        current_macs: Multiply-accumulates of the currents of the input; 0 where spikes arrive.
    """

    neurons: int
    spikes: float
    operations: float
    updates: int
    bias_additions: int
    ann_macs: int
    current_macs: int = 0


@dataclass(frozen=True)
class Cost:
    """The cost of one inference, as means over `samples` presentations of `steps` steps."""

    samples: int
    steps: int
    input_spikes: float | None  # None: the input has currents
    layers: dict[str, LayerCost]
    neurobench: NeuroBench

    @property
    def spikes(self) -> float:
        """Spikes of all neurons, without the input."""
        return sum(layer.spikes for layer in self.layers.values())

    @property
    def operations(self) -> float:
        """Synaptic operations."""
        return sum(layer.operations for layer in self.layers.values())

    @property
    def energy_nj(self) -> float:
        """Energy of the synaptic operations alone, in nJ: the figure of the literature. Currents count to it."""
        return (self.operations * ACCUMULATE_PJ + self.current_macs * MULTIPLY_ACCUMULATE_PJ) / 1e3

    @property
    def current_macs(self) -> int:
        """Multiply-accumulates of the currents of the input."""
        return sum(layer.current_macs for layer in self.layers.values())

    @property
    def energy_with_updates_nj(self) -> float:
        """Energy with the neurons' updates, in nJ."""
        updates = sum(layer.updates for layer in self.layers.values())
        biases = sum(layer.bias_additions for layer in self.layers.values())
        return self.energy_nj + (updates * MULTIPLY_ACCUMULATE_PJ + biases * ACCUMULATE_PJ) / 1e3

    @property
    def ann_macs(self) -> int:
        """Multiply-accumulates of one pass of a dense network of the same shape; a recurrent one needs many passes."""
        return sum(layer.ann_macs for layer in self.layers.values())

    @property
    def ann_energy_nj(self) -> float:
        """Energy of that pass, in nJ."""
        return self.ann_macs * MULTIPLY_ACCUMULATE_PJ / 1e3

    def metrics(self) -> dict[str, float]:
        """For the run's record, under `cost/`."""
        return {
            "cost/samples": float(self.samples),
            **({"cost/current_macs": self.current_macs} if self.input_spikes is None else {}),
            **({} if self.input_spikes is None else {"cost/spikes_input": self.input_spikes}),
            **{f"cost/spikes_{name}": layer.spikes for name, layer in self.layers.items()},
            "cost/spikes": self.spikes,
            "cost/synaptic_operations": self.operations,
            "cost/energy_nj": self.energy_nj,
            "cost/energy_with_updates_nj": self.energy_with_updates_nj,
            "cost/ann_macs": float(self.ann_macs),
            "cost/ann_energy_nj": self.ann_energy_nj,
            **self.neurobench.metrics(),
        }

    def as_dict(self) -> dict[str, Any]:
        """For `cost.json`."""
        return {
            "per": "inference, mean over the samples",
            "samples": self.samples,
            "steps": self.steps,
            "input_spikes": self.input_spikes,
            "spikes": self.spikes,
            "synaptic_operations": self.operations,
            "current_macs": self.current_macs,
            "energy_nj": self.energy_nj,
            "energy_with_updates_nj": self.energy_with_updates_nj,
            "ann_macs": self.ann_macs,
            "ann_energy_nj": self.ann_energy_nj,
            "accumulate_pj": ACCUMULATE_PJ,
            "multiply_accumulate_pj": MULTIPLY_ACCUMULATE_PJ,
            "neurobench": self.neurobench.as_dict(),
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
        }

    def __str__(self) -> str:
        energy = f"{_joule(self.energy_nj)} ({_joule(self.energy_with_updates_nj)} with the neurons' updates)"
        ann = f"a dense ANN's pass {self.ann_macs:,} MAC, {_joule(self.ann_energy_nj)}"
        currents = f" and {self.current_macs:,} MAC of the input" if self.current_macs else ""
        return f"{self.spikes:,.0f} spikes, {self.operations:,.0f} synaptic operations{currents}: {energy}; {ann}"

    def by_layer(self) -> dict[str, str]:
        """A line for each layer."""
        return {
            name: f"{layer.neurons:,} neurons, {layer.spikes:,.1f} spikes, {layer.operations:,.0f} operations"
            for name, layer in self.layers.items()
        }


@dataclass(frozen=True)
class MacCost:
    """The cost of one inference of a model without spikes, as means over `samples`.

    Attributes:
        samples: Number of samples.
        passes: How often a sample passes through the layers: its steps in a recurrent model, else 1; times the number
            of its presentations.
        layers: Multiply-accumulates of each layer.
        neurobench: Of the whole model.
    """

    samples: int
    passes: float
    layers: dict[str, float]
    neurobench: NeuroBench

    @property
    def macs(self) -> float:
        """Multiply-accumulates."""
        return sum(self.layers.values())

    @property
    def energy_nj(self) -> float:
        """Their energy, in nJ."""
        return self.macs * MULTIPLY_ACCUMULATE_PJ / 1e3

    def metrics(self) -> dict[str, float]:
        """For the run's record, under `cost/`."""
        return {
            "cost/samples": float(self.samples),
            "cost/macs": self.macs,
            "cost/mac_energy_nj": self.energy_nj,
            **self.neurobench.metrics(),
        }

    def as_dict(self) -> dict[str, Any]:
        """For `cost.json`."""
        return {
            "per": "inference, mean over the samples",
            "samples": self.samples,
            "passes": self.passes,
            "macs": self.macs,
            "mac_energy_nj": self.energy_nj,
            "multiply_accumulate_pj": MULTIPLY_ACCUMULATE_PJ,
            "neurobench": self.neurobench.as_dict(),
            "layers": {name: {"macs": macs} for name, macs in self.layers.items()},
        }

    def __str__(self) -> str:
        steps = "" if self.passes == 1 else f" in {self.passes:,.1f} steps"
        return f"{self.macs:,.0f} MAC{steps}, {_joule(self.energy_nj)}"

    def by_layer(self) -> dict[str, str]:
        """A line for each layer."""
        return {name: f"{macs:,.0f} MAC" for name, macs in self.layers.items()}


class Spent(Protocol):
    """The cost of one inference of any model."""

    @property
    def neurobench(self) -> NeuroBench:
        """The metrics of NeuroBench."""

    def metrics(self) -> dict[str, float]:
        """For the run's record, under `cost/`."""

    def as_dict(self) -> dict[str, Any]:
        """For `cost.json`."""

    def by_layer(self) -> dict[str, str]:
        """A line for each layer."""


def spent(model: Model, firing: Firing) -> Spent:
    """The cost of an inference, from what `firing.record` gives: a `Cost` if layers fire, else a `MacCost`."""
    if isinstance(model, Network):
        return cost(model, firing)
    if model.spiking:
        return liquid_cost(model, firing)
    number = firing.presentations
    passes = firing.passes / max(firing.samples, 1)
    once = model.macs(passes / number)
    return MacCost(firing.samples, passes, {name: number * macs for name, macs in once.items()}, measure(model, firing))


def cost(network: Network, firing: Firing) -> Cost:
    """The cost of an inference of a spiking network, from the spike counts of all neurons."""
    totals = {name: torch.from_numpy(spikes) for name, spikes in firing.spikes.items()}
    samples, layers = max(firing.samples, 1), {}
    for name, layer in zip(network.layer_names, network.layers, strict=True):
        assert isinstance(layer, Layer)
        own, fan, macs = totals[name], fan_out(layer, network.rule), 0
        before = [totals[source] for source in network.sources(layer.kind) if source in totals]
        if before:
            operations = int(torch.cat(before) @ fan.forward.cpu())
        elif layer.kind.pool:  # its weights are 1
            operations = firing.samples * firing.currents * int(fan.forward.sum())
        else:
            operations, macs = 0, firing.currents * int(fan.forward.sum())
        operations += 0 if fan.recurrent is None else int(own @ fan.recurrent.cpu())
        layers[name] = LayerCost(
            neurons=len(own),
            spikes=int(own.sum()) / samples,
            operations=operations / samples,
            updates=network.rule.state_variables(layer.kind) * len(own) * firing.steps,
            bias_additions=0 if layer.bias is None else len(own) * firing.steps,
            ann_macs=dense_operations(layer),
            current_macs=macs,
        )
    spikes = int(totals["input"].sum()) / samples if "input" in totals else None
    return Cost(firing.samples, firing.steps, spikes, layers, measure(network, firing))


def liquid_cost(model: Model, firing: Firing) -> Cost:
    """The cost of an inference of a model whose layers that fire all get the input, see `Model.fan_out`.

    A layer that multiplies real values, such as a readout, has its multiply-accumulates as updates.
    """
    totals = {name: torch.from_numpy(spikes) for name, spikes in firing.spikes.items()}
    samples, layers = max(firing.samples, 1), {}
    for name, fan in model.fan_out().items():
        own = totals[name]
        layers[name] = LayerCost(
            neurons=len(own),
            spikes=int(own.sum()) / samples,
            operations=int(totals["input"] @ fan.inputs.cpu() + own @ fan.recurrent.cpu()) / samples,
            updates=LIQUID_VARIABLES * len(own) * firing.steps,
            bias_additions=0,
            ann_macs=len(own) * (int((fan.inputs > 0).sum()) + len(own)),
        )
    for name, macs in model.macs(1.0).items():
        size = dict(zip(model.layer_names, model.sizes, strict=True))[name]
        layers[name] = LayerCost(size, 0.0, 0.0, int(macs), 0, int(macs))
    spikes = int(totals["input"].sum()) / samples
    return Cost(firing.samples, firing.steps, spikes, layers, measure(model, firing))


def _joule(nanojoule: float) -> str:
    scale, unit = next(((scale, unit) for scale, unit in UNITS if nanojoule < 1e3 * scale), UNITS[-1])
    return f"{nanojoule / scale:.3g} {unit}"
