"""The multilayer perceptron: dense layers, trained by backpropagation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from snnrun import declared
from snnrun.ann.components import Components, Scale, check_components, inputs_of
from snnrun.ann.inputs import Bins
from snnrun.ann.module import AnnModel, Dropout, seeded
from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.network.model import Connection, Design, Scores, Signal
from snnrun.network.topology import LayerSpec, parse_topology

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


@dataclass(frozen=True, kw_only=True)
class Mlp(Design):
    """A multilayer perceptron.

    Attributes:
        network: Widths of the hidden layers, such as `512-512`.
        activation: Of the hidden layers.
        dropout: Share of the units of each hidden layer that is dropped in training.
        bias: Whether neurons have biases.
        init: "torch" draws weights and biases as PyTorch does, uniform within 1 / sqrt(inputs); "glorot" draws weights
            uniform within sqrt(6 / (inputs + outputs)) and begins with biases of 0, as Keras does.
        bin: Steps of a bin in which spikes are counted; None for all. The bins of a sample stand side by side.
        standardise: Whether each channel is brought to mean 0 and variance 1 over the training samples.
        components: The network sees so many principal components of its inputs (see `components.Components`); None for
            the inputs themselves.
    """

    network: str = "512-512"
    activation: Literal["relu", "tanh"] = "relu"
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    bias: bool = True
    init: Literal["torch", "glorot"] = "torch"
    bin: Annotated[int | None, Range(at_least=1)] = None
    standardise: bool = False
    components: Annotated[int | None, Range(at_least=1)] = None

    def __post_init__(self) -> None:
        declared.check("model", Mlp, vars(self))
        widths(self.network, "mlp")

    def build(self, signal: Signal, outputs: int, seed: int) -> MlpModel:
        """Make the model. Raises UsageError where `check_components` does."""
        if self.components is not None:
            check_components(self.components, Bins(signal, self.bin).number * signal.channels)
        with seeded(seed):
            return MlpModel(self, signal, outputs)


def widths(network: str, model: str) -> list[int]:
    """Widths of dense hidden layers. Raises UsageError if there is another layer among them."""
    layers = []
    for part, spec in zip(network.split("-"), parse_topology(network), strict=False):
        if not isinstance(spec, LayerSpec) or spec.recurrent or spec.skips:
            raise UsageError(f"model.network: {part!r} is no layer of model={model}, which are dense, such as 512-512.")
        layers.append(spec.size)
    return layers


class MlpModel(AnnModel):
    """See `Mlp`."""

    def __init__(self, options: Mlp, signal: Signal, outputs: int) -> None:
        super().__init__()
        self.inputs, self._activation = signal.channels, ACTIVATIONS[options.activation]
        self.bins = Bins(signal, options.bin)
        self.sizes = [*widths(options.network, "mlp"), outputs]
        self.layer_names = [*(f"hidden{number}" for number in range(1, len(self.sizes))), "output"]
        features = self.bins.number * signal.channels
        self.scale = Scale(signal.channels) if options.standardise else None
        self._components = None if options.components is None else Components(features, options.components)
        features = options.components or features
        self.layers = nn.ModuleDict(linear_layers(self.layer_names, features, self.sizes, options.bias))
        if options.init == "glorot":
            glorot(self.layers)
        self._dropouts = nn.ModuleList(Dropout(options.dropout, number) for number in range(len(self.sizes) - 1))
        self.features = features

    @property
    def chain(self) -> str:
        """Inputs, widths and outputs, such as `784-512-512-10`."""
        return "-".join(map(str, (self.features, *self.sizes)))

    def forward(self, inputs: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Scores:
        """Logits of a batch, see `Model.forward`."""
        del labels
        values = self._seen(inputs)
        for layer, dropout in zip(list(self.layers.values())[:-1], self._dropouts, strict=True):
            values = dropout(self._activation(layer(values)), keys)
        return Scores(self.layers["output"](values))

    def _seen(self, inputs: Tensor) -> Tensor:
        """What the first layer sees, (B, F)."""
        values = self.scaled(self.values(inputs)).flatten(1)
        return values if self._components is None else self._components(values)

    def study(self, dataset: Any, encoder: Any, device: torch.device) -> tuple[Any, Any]:
        """Find the scale and the components of the training samples, if the model has them."""
        dataset, encoder = super().study(dataset, encoder, device)
        if self._components is not None:
            found, self._components = self._components, None
            self.to(device)
            found.fit(self._seen(inputs) for inputs in inputs_of(dataset.train, encoder, device))
            self._components = found
        return dataset, encoder

    def macs(self, passes: float) -> dict[str, float]:
        """Multiply-accumulates of each layer: a weight is used once. Those that find components come before."""
        del passes
        first = {} if self._components is None else {"components": self._components.axes.numel()}
        return first | dense_macs(self.layers)

    def connections(self) -> dict[str, Connection]:
        """The dense layers, and before them the components, whose axes are weights."""
        found = dense_connections(self.layers, self._activation)
        if self._components is None:
            return found
        return {"components": Connection(self._components, self._components.axes), **found}


def linear_layers(names: Sequence[str], inputs: int, sizes: Sequence[int], bias: bool) -> dict[str, nn.Module]:
    """Dense layers by name, one behind the other."""
    before = [inputs, *sizes[:-1]]
    return {name: nn.Linear(fan_in, size, bias) for name, fan_in, size in zip(names, before, sizes, strict=True)}


def dense_macs(layers: nn.ModuleDict) -> dict[str, float]:
    """Multiply-accumulates of dense layers."""
    return {name: layer.weight.numel() for name, layer in layers.items() if isinstance(layer, nn.Linear)}


def dense_connections(layers: nn.ModuleDict, activity: Callable[[Tensor], Tensor]) -> dict[str, Connection]:
    """Dense layers and convolutions with the weights that they multiply. The output has no activities, but logits."""
    return {
        name: Connection(layer, layer.weight, None if name == "output" else activity)
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


def glorot(layers: nn.ModuleDict) -> None:
    """Draw the weights of dense and convolutional layers as Glorot and Bengio (2010); set the biases to 0."""
    for layer in layers.values():
        if not isinstance(layer, nn.Linear | nn.Conv2d):  # a pool
            continue
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
