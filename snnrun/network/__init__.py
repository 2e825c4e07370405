"""Layers: a network is a learning rule applied to a stack of weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snnrun.errors import UsageError
from snnrun.kernels import ops, pack, reference, words
from snnrun.network.model import Model
from snnrun.network.topology import Planned, check_connections, check_thresholds, frozen_layers, plan
from snnrun.rules import Currents, LayerKind, LayerWeights, Rule, SpikeTrain
from snnrun.rules.base import synapse_index
from snnrun.rules.constants import TENSORS, Constant, TrainedConstants
from snnrun.rules.delays import Delaying
from snnrun.rules.dropping import drop
from snnrun.rules.joining import joined


class Activity(NamedTuple):
    """What a forward pass returns: the output and the spike train of every layer, output included."""

    output: SpikeTrain
    layers: list[SpikeTrain]

    @property
    def scores(self) -> Tensor:
        """Spikes of the output neurons, (B, C)."""
        return self.output.counts

    @property
    def counts(self) -> list[Tensor]:
        """Spikes of each layer's neurons, (B, N)."""
        return [train.counts for train in self.layers]

    @property
    def spikes(self) -> list[Tensor]:
        """Bits of each layer's trains, (B, T, W)."""
        return [train.spikes for train in self.layers]

    @property
    def passes(self) -> None:
        """None: a presentation is one pass."""
        return


class Layer(nn.Module):
    """The weights of one layer as parameters, under the names that checkpoints and exports use.

    The weights of a spiking pool are all 1. They are no parameters and are in no checkpoint. Those of a `frozen` layer
    have no gradient and stay as they are. So do the names in `fixed`, which are kept as buffers.
    """

    weight: Tensor
    recurrent_weight: nn.Parameter | None
    bias: nn.Parameter | None
    delay: Tensor | None
    threshold: nn.Parameter | None
    tau_m: nn.Parameter | None
    tau_s: nn.Parameter | None
    tau_adaptation: nn.Parameter | None
    recurrent_mask: Tensor | None
    recurrent_pre: Tensor | None
    recurrent_post: Tensor | None

    def __init__(
        self, kind: LayerKind, weights: LayerWeights, frozen: bool = False, fixed: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.kind, self.frozen = kind, frozen
        # Stored input by input, or tap by tap, because on a CPU an input spike adds rows of weights to its neurons.
        if kind.pool:
            self.register_buffer("weight", weights.weight, persistent=False)
        elif kind.window is not None:
            self.weight = nn.Parameter(reference.tap_by_tap(weights.weight))
        else:
            self.weight = nn.Parameter(weights.weight.T.contiguous().T)
        for name in ("recurrent_weight", "bias", "delay", *TENSORS.values()):
            value = getattr(weights, name)
            if name in fixed:
                self.register_buffer(name, value)
            else:
                self.register_parameter(name, None if value is None else nn.Parameter(value))
        self.requires_grad_(not frozen)
        self.register_buffer("recurrent_mask", weights.recurrent_mask)
        for name, value in zip(("recurrent_pre", "recurrent_post"), _listed(weights), strict=True):
            self.register_buffer(name, value, persistent=False)
        self.register_load_state_dict_post_hook(_list_again)  # type: ignore[no-untyped-call]

    def weights(self) -> LayerWeights:
        """The tensors in the form that the rule takes."""
        tensors = {**self._buffers, **self._parameters}  # PyTorch is slow to find them as attributes, ten at each step
        pre, post, weight = tensors.pop("recurrent_pre"), tensors.pop("recurrent_post"), tensors.pop("weight")
        assert weight is not None
        return LayerWeights(weight, recurrent_index=None if pre is None or post is None else (pre, post), **tensors)


def _listed(weights: LayerWeights) -> tuple[Tensor | None, Tensor | None]:
    """Pre- and post-neurons of the recurrent synapses; None where there are none."""
    if weights.recurrent_mask is not None:
        return synapse_index(weights.recurrent_mask)
    return weights.recurrent_index or (None, None)


def _list_again(layer: nn.Module, _: object) -> None:
    """List the synapses anew, since loaded weights come with a mask of their own."""
    assert isinstance(layer, Layer)
    if layer.recurrent_mask is not None:
        layer.recurrent_pre, layer.recurrent_post = synapse_index(layer.recurrent_mask)


class Network(Model):
    """A spiking network of convolutions and pools, dense and recurrent layers with one learning rule.

    Args:
        rule: learning rule with its neuron constants.
        inputs: number of input channels.
        topology: hidden layers, see `topology.parse_topology`.
        outputs: number of classes; the output layer is added behind the hidden ones.
        seed: of the initial weights.
        image: (channels, rows, columns) of the inputs, which convolutions and pools need; None if they are no image.

    Attributes:
        layers: the layers that have neurons; an average pool belongs to the layer after it.
        layer_names: `conv1`, `pool2`, `hidden3`, ..., `output`, numbered from the input on.
        sizes: their numbers of neurons.

    Raises:
        UsageError: the topology cannot be read or does not fit the input, the number of thresholds is wrong, or there
            is no layer of a name in `rule.frozen`.
    """

    def __init__(
        self,
        rule: Rule,
        *,
        inputs: int,
        topology: str,
        outputs: int,
        seed: int = 0,
        image: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.rule, self.inputs, self.topology, self.image = rule, inputs, topology, image
        check_thresholds(rule.v_th, topology, rule.average_pools)
        check_connections(topology, rule.recurrent_layers, rule.skip_connections)
        planned = plan(topology, inputs=inputs, outputs=outputs, image=image, average_pools=rule.average_pools)
        if rule.drop_inputs and planned[0].kind.pool:
            raise UsageError(
                f"model.drop_inputs: the first layer of {topology} is a pool, whose weights are fixed. Set "
                "model.drop_inputs=0, or begin with another layer."
            )
        generator = torch.Generator().manual_seed(seed)
        frozen = frozen_layers(rule.frozen, topology, rule.average_pools)
        self.sizes = [layer.neurons for layer in planned]
        self.layer_names = [layer.name for layer in planned]
        weights = [_initial(rule, layer, generator) for layer in planned]
        for layer, own in zip(planned, weights, strict=True):
            axons = sum(self.sources(layer.kind).values())
            drawn = rule.initial_delay(layer.kind, axons, generator)
            own.delay = own.delay if drawn is None else drawn
        self.layers = nn.ModuleList(
            Layer(layer.kind, own, layer.name in frozen, rule.fixed_tensors())
            for layer, own in zip(planned, weights, strict=True)
        )

    @property
    def chain(self) -> str:
        """Inputs, topology and outputs, such as `784-400-R400-10`."""
        return "-".join(filter(None, [str(self.inputs), self.topology, str(self.sizes[-1])]))

    @property
    def spiking(self) -> dict[str, int]:
        """All layers."""
        return dict(zip(self.layer_names, self.sizes, strict=True))

    def forward(self, inputs: Tensor | Currents, labels: Tensor | None = None, keys: Tensor | None = None) -> Activity:
        """Run spikes or currents.

        Args:
            inputs: spikes (B, T, inputs) of 0 and 1 of any type, or their bits (B, T, W) int64 (see `kernels.pack`);
                or `rules.Currents`.
            labels: (B,), which the rule uses in the output layer; training needs them.
            keys: (B,) int64, a number for each sample, on which the spikes depend that `Rule.drop_inputs` and
                `drop_hidden` take away; None in evaluation, where all stay.

        Raises:
            ValueError: the inputs have another shape, or other values than 0 and 1.
            UsageError: the rule takes no currents.
        """
        given = self._currents(inputs) if isinstance(inputs, Currents) else self._spikes(inputs)
        trains: list[SpikeTrain] = []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            before, weights = self._arriving(number, layer, given, trains, keys)
            trains.append(self.rule.layer(layer.kind, weights, before, labels))
        return Activity(trains[-1], trains)

    def _arriving(
        self, number: int, layer: Layer, given: SpikeTrain | Currents, trains: Sequence[SpikeTrain], keys: Tensor | None
    ) -> tuple[SpikeTrain | Currents, LayerWeights]:
        """What a layer gets, joined with what comes over its skips and less what gets lost, and its weights for it."""
        sources, weights = [given if source < 0 else trains[source] for source in layer.kind.sources], layer.weights()
        spikes = [train for train in sources if isinstance(train, SpikeTrain)]
        dropped = [self.rule.drop_inputs if source < 0 else self.rule.drop_hidden for source in layer.kind.sources]
        losing = keys is not None and not layer.kind.pool and any(dropped)
        if len(spikes) < len(sources):
            if len(sources) > 1:
                raise UsageError(
                    "model.network: a skip connection brings the input's spikes, and this input has currents. Choose "
                    "an encoder that makes spikes, such as encoder=regular, or leave the + out."
                )
            if layer.delay is not None:
                raise UsageError("model.delays: currents have no spikes to delay. Set model.delays=none.")
            if losing:
                raise UsageError("model.drop_inputs: currents have no spikes to drop. Set model.drop_inputs=0.")
            return sources[0], weights
        if losing:
            assert keys is not None
            spikes, weights = drop(spikes, dropped, weights, keys, number, self.rule.errors_by_step)
        return spikes[0] if len(spikes) == 1 else joined(spikes), weights

    def _spikes(self, spikes: Tensor) -> SpikeTrain:
        packed = spikes.dtype == torch.int64
        if (
            spikes.is_floating_point()
            and not torch.compiler.is_compiling()
            and not ((spikes == 0) | (spikes == 1)).all()
        ):
            raise ValueError("spikes are 0 or 1. Give other values as rules.Currents(values, steps).")
        bits = spikes if packed else pack(spikes)
        if words(self.inputs) != bits.shape[2] or not (packed or self.inputs == spikes.shape[2]):
            raise ValueError(f"spikes of shape {tuple(spikes.shape)} do not fit a network of {self.inputs} inputs")
        return SpikeTrain(bits, ops.count_spikes(bits, self.inputs, next(self.parameters()).dtype))

    def _currents(self, given: Currents) -> Currents:
        refused, shape = self.rule.refuses_currents(), tuple(given.values.shape)
        if refused:
            raise UsageError(refused)
        if len(shape) != 3 or not 0 < shape[1] <= given.steps or shape[2] != self.inputs:
            raise ValueError(f"currents {shape} for {given.steps} steps do not fit a network of {self.inputs} inputs")
        return given._replace(values=given.values.to(next(self.parameters()).dtype))

    def sample_loss(self, outcome: Activity, labels: Tensor) -> Tensor:
        """The rule's loss of each sample, (B,)."""
        return self.rule.sample_loss(outcome.output, labels)

    @torch.no_grad()
    def add_weight_penalty(self) -> None:
        """Add the rule's regulariser to the gradients of a backward pass."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            if layer.frozen:
                continue
            factor = self.rule.weight_penalty(layer.kind, layer.weights())
            if factor is None:
                continue
            for parameter in (layer.weight, layer.recurrent_weight):
                if parameter is not None and parameter.grad is not None:
                    parameter.grad.addcmul_(parameter, factor.reshape(-1, *[1] * (parameter.dim() - 1)))

    @torch.no_grad()
    def constrain(self) -> None:
        """Keep the parameters to the rule's bounds; call it after each update."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            if not (layer.kind.pool or layer.frozen):
                self.rule.constrain(layer.kind, layer.weights())

    def trained(self) -> Iterator[tuple[nn.Parameter, Tensor | None]]:
        """The parameters that are trained, each with the mask of the entries that exist, or None where all do."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            for name, parameter in () if layer.frozen else layer.named_parameters():
                yield parameter, layer.recurrent_mask if name == "recurrent_weight" else None

    def apart(self) -> dict[nn.Parameter, float]:
        """Trained delays, thresholds and other constants of neurons, with the factor of their learning rate."""
        layers = [layer for layer in self.layers if isinstance(layer, Layer) and not layer.frozen]
        found = {layer.threshold: 1.0 for layer in layers if isinstance(layer.threshold, nn.Parameter)}
        if isinstance(self.rule, Delaying):
            delays = (layer.delay for layer in layers)
            found |= {delay: self.rule.delays_lr for delay in delays if isinstance(delay, nn.Parameter)}
        if isinstance(self.rule, TrainedConstants):
            ratios = (constant.ratio for _, constant in self._constants())
            found |= {ratio: self.rule.constants_lr for ratio in ratios if isinstance(ratio, nn.Parameter)}
        return found

    def figures(self) -> dict[str, float]:
        """The mean of each trained constant of each layer, such as `tau_m/hidden1`, in its unit."""
        return {f"{constant.name}/{name}": constant.values.mean().item() for name, constant in self._constants()}

    def at_bounds(self) -> dict[str, str]:
        """The trained constants that are at the end of their range."""
        found = {}
        for name, constant in self._constants():
            number, total = constant.at_bound(), constant.ratio.numel()
            if number:
                low, high = constant.initial * constant.low, constant.initial * constant.high
                whose = f"{number} of {total} are" if total > 1 else "it is"
                found[f"{constant.name}/{name}"] = (
                    f"Layer {name}, trained {constant.name}: {whose} at the end of the range from {low:.3g} to "
                    f"{high:.3g}{constant.unit and f' {constant.unit}'}, and goes no further. Raise "
                    "model.constants_range, lower model.constants_lr, or begin elsewhere."
                )
        return found

    def _constants(self) -> Iterator[tuple[str, Constant]]:
        for name, layer in zip(self.layer_names, self.layers, strict=True):
            assert isinstance(layer, Layer)
            if not layer.frozen:
                for constant in self.rule.constants(layer.kind, layer.weights()):
                    yield name, constant

    def layout(self) -> dict[str, dict[str, Any]]:
        """By layer: `inputs`, `neurons`, and whether it is `recurrent`. With skip connections all its `sources`."""
        found = {}
        for name, size, layer in zip(self.layer_names, self.sizes, self.layers, strict=True):
            assert isinstance(layer, Layer)
            sources = self.sources(layer.kind)
            found[name] = {
                "inputs": sum(sources.values()),
                "neurons": size,
                "recurrent": "recurrent_weight" in dict(layer.named_parameters()),
                **({"sources": [*sources]} if layer.kind.skips else {}),
            }
        return found

    def sources(self, kind: LayerKind) -> dict[str, int]:
        """What a layer gets spikes of: the names of layers, or `input`, with their numbers of neurons."""
        names, sizes = ["input", *self.layer_names], [self.inputs, *self.sizes]
        return {names[number + 1]: sizes[number + 1] for number in kind.sources}

    def called(self, key: str) -> str:
        """The layer's name and the kind of the parameter, such as `hidden1 recurrent weight`."""
        _, number, kind = key.split(".", 2)
        return f"{self.layer_names[int(number)]} {kind.replace('_', ' ')}"

    def synapses(self) -> int:
        """Number of trained weights, biases, delays and constants. One that a kernel's neurons share counts once."""
        total = 0
        for layer in self.layers:
            assert isinstance(layer, Layer)
            if layer.frozen:
                continue
            total += 0 if layer.kind.pool else layer.weight.numel()
            for single in (layer.bias, layer.delay, *(getattr(layer, name) for name in TENSORS.values())):
                total += single.numel() if isinstance(single, nn.Parameter) else 0
            total += 0 if layer.recurrent_mask is None else int(layer.recurrent_mask.sum())
        return total


def _initial(rule: Rule, layer: Planned, generator: torch.Generator) -> LayerWeights:
    """The initial weights of a layer, in the shape of its kind."""
    window = layer.kind.window
    if window is None:
        return rule.initialise(layer.kind, layer.columns, layer.rows, generator)
    if layer.kind.pool:
        return LayerWeights(reference.pool_weight(window, torch.ones(())))
    weights = rule.initialise(layer.kind, layer.columns, layer.rows, generator)
    weights.weight = weights.weight.reshape(window.kernels, window.channels, window.height, window.width)
    return weights
