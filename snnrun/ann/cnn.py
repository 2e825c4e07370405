"""The convolutional network without spikes that has the layers of a spiking one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from snnrun import declared
from snnrun.ann.inputs import Bins
from snnrun.ann.mlp import ACTIVATIONS, dense_connections, glorot
from snnrun.ann.module import AnnModel, Dropout, seeded
from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.network.model import Connection, Design, Scores, Signal
from snnrun.network.topology import ConvSpec, LayerSpec, Planned, check_connections, parse_topology, plan


@dataclass(frozen=True, kw_only=True)
class Cnn(Design):
    """The twin of a spiking network: layers of the same sizes, and as many weights, with a bias for each kernel.

    Spikes are counted over the whole presentation.

    Attributes:
        network: Convolutions, pools and dense layers, such as `15C5-P2-40C5-P2-300`.
        pool: What a pool takes of its window.
        activation: Of convolutions and dense hidden layers.
        dropout: Share of the units of each dense hidden layer that is dropped in training.
        bias: Whether kernels and neurons have biases.
        init: As in `Mlp`.
    """

    network: str = "15C5-P2-40C5-P2-300"
    pool: Literal["average", "max"] = "average"
    activation: Literal["relu", "tanh"] = "relu"
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    bias: bool = True
    init: Literal["torch", "glorot"] = "torch"

    def __post_init__(self) -> None:
        declared.check("model", Cnn, vars(self))
        for part, spec in zip(self.network.split("-"), parse_topology(self.network), strict=False):
            if isinstance(spec, LayerSpec) and spec.recurrent:
                raise UsageError(f"model.network: {part!r} is recurrent, and model=cnn is not. Write {spec.size}.")
        check_connections(self.network, recurrent=False, skips=False)

    def build(self, signal: Signal, outputs: int, seed: int) -> CnnModel:
        """Make the model. Raises UsageError if samples are no images, or too small for the layers."""
        if not any(isinstance(spec, ConvSpec) for spec in parse_topology(self.network)):
            raise UsageError(f"model.network: {self.network!r} has no convolution. model=mlp has dense layers alone.")
        layers = plan(self.network, inputs=signal.channels, outputs=outputs, image=signal.image, average_pools=False)
        with seeded(seed):
            return CnnModel(self, signal, layers)


class CnnModel(AnnModel):
    """See `Cnn`."""

    def __init__(self, options: Cnn, signal: Signal, planned: list[Planned]) -> None:
        super().__init__()
        assert signal.image is not None
        self.inputs = self.features = signal.channels
        self._network, self._image = options.network, signal.image
        self.bins, self.scale, self._activation = Bins(signal, None), None, ACTIVATIONS[options.activation]
        self.sizes, self.layer_names = [layer.neurons for layer in planned], [layer.name for layer in planned]
        self.layers = nn.ModuleDict({layer.name: _layer(layer, options) for layer in planned})
        if options.init == "glorot":
            glorot(self.layers)
        self._dropout = nn.ModuleDict(
            {layer.name: Dropout(options.dropout, number) for number, layer in enumerate(planned)}
        )
        self._positions = [_positions(layer) for layer in planned]

    @property
    def chain(self) -> str:
        """Inputs, topology and outputs, such as `784-15C5-P2-40C5-P2-300-10`."""
        return f"{self.inputs}-{self._network}-{self.sizes[-1]}"

    def forward(self, inputs: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Scores:
        """Logits of a batch, see `Model.forward`."""
        del labels
        values = self.values(inputs).reshape(-1, *self._image)
        for name, layer in self.layers.items():
            if isinstance(layer, nn.Linear):
                values = layer(values.flatten(1))
                if name != "output":
                    values = self._dropout[name](self._activation(values), keys)
            else:
                values = layer(values)
                values = self._activation(values) if isinstance(layer, nn.Conv2d) else values
        return Scores(values)

    def macs(self, passes: float) -> dict[str, float]:
        """Multiply-accumulates of each layer: those of a kernel at each of its positions. A pool has none."""
        del passes
        return {
            name: layer.weight.numel() * positions if isinstance(layer, nn.Linear | nn.Conv2d) else 0
            for (name, layer), positions in zip(self.layers.items(), self._positions, strict=True)
        }

    def connections(self) -> dict[str, Connection]:
        """The convolutions and the dense layers."""
        return dense_connections(self.layers, self._activation)


def _layer(planned: Planned, options: Cnn) -> nn.Module:
    window = planned.kind.window
    if window is None:
        return nn.Linear(planned.columns, planned.rows, options.bias)
    size, stride = (window.height, window.width), window.stride
    if planned.kind.pool:
        return nn.AvgPool2d(size, stride) if options.pool == "average" else nn.MaxPool2d(size, stride)
    return nn.Conv2d(window.channels, window.kernels, size, stride, window.padding, bias=options.bias)


def _positions(planned: Planned) -> int:
    window = planned.kind.window
    return 1 if window is None or planned.kind.pool else window.out_rows * window.out_columns
