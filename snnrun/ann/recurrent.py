"""LSTM and GRU over values in time, from PyTorch's modules, and what every recurrent model shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from snnrun import declared
from snnrun.ann.components import Scale
from snnrun.ann.inputs import Bins, lengths
from snnrun.ann.mlp import dense_connections, dense_macs, linear_layers
from snnrun.ann.module import AnnModel, Dropout, seeded
from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.network.model import Connection, Design, Scores, Signal


@dataclass(frozen=True, kw_only=True)
class Recurrent(Design):
    """What recurrent models have in common.

    An image is seen row by row, all channels of a row at once.

    Attributes:
        layers: Units of each recurrent layer.
        dense: Units of each dense layer between the last of them and the output, with ReLU.
        bin: Steps of a bin in which spikes are counted.
        standardise: As in `Mlp`.
        readout: What the classes are read from: the state after the last step of the sample, or the mean over its
            steps.
        dropout: Share of the units of each layer that is dropped in training, the same ones at all steps of a sample
            (Gal and Ghahramani 2016).
        bias: Whether recurrent layers have biases.
    """

    layers: Annotated[Sequence[int], Range(at_least=1)] = (128,)
    dense: Annotated[Sequence[int], Range(at_least=1)] = ()
    bin: Annotated[int, Range(at_least=1)] = 10
    standardise: bool = False
    readout: Literal["last", "mean"] = "mean"
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        declared.check("model", type(self), vars(self))
        if not self.layers:
            raise UsageError("model.layers: at least one recurrent layer is needed, such as [128].")

    def build(self, signal: Signal, outputs: int, seed: int) -> RecurrentModel:
        """Make the model. Raises UsageError if samples have no time."""
        if signal.image is None and signal.steps < 2:
            raise UsageError(
                "model: a recurrent model looks at samples over time or at images row by row, and those of this corpus "
                "are neither. Use model=mlp."
            )
        with seeded(seed):
            return self.module(signal, outputs)

    @abstractmethod
    def module(self, signal: Signal, outputs: int) -> RecurrentModel:
        """The model, its weights drawn by PyTorch."""


@dataclass(frozen=True, kw_only=True)
class Lstm(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000), `nn.LSTM`.

    Attributes:
        forget_bias: Sum of the two initial biases of the forget gates (Jozefowicz, Zaremba and Sutskever 2015); None
            draws them as PyTorch does.
    """

    forget_bias: float | None = 1.0

    def module(self, signal: Signal, outputs: int) -> LstmModel:
        """The model."""
        return LstmModel(self, signal, outputs)


@dataclass(frozen=True, kw_only=True)
class Gru(Recurrent):
    """Gated recurrent units (Cho et al. 2014), `nn.GRU`."""

    def module(self, signal: Signal, outputs: int) -> GruModel:
        """The model."""
        return GruModel(self, signal, outputs)


class RecurrentModel(AnnModel):
    """Recurrent layers, a readout over time, dense layers.

    Args:
        options: Its design.
        signal: Its inputs.
        outputs: Number of classes.
    """

    letter: str  # of a layer, in `chain`
    gates: int
    suffix = "_l0"  # of the names of a recurrent layer's weights

    def __init__(self, options: Recurrent, signal: Signal, outputs: int) -> None:
        super().__init__()
        self.inputs = signal.channels
        self.bins, self.scale = Bins(signal, options.bin), Scale(signal.channels) if options.standardise else None
        self._image = signal.image if signal.steps < 2 else None
        features = signal.channels if self._image is None else self._image[0] * self._image[2]
        recurrent, dense = list(options.layers), list(options.dense)
        self.sizes = [*recurrent, *dense, outputs]
        self.layer_names = [*(f"hidden{number}" for number in range(1, len(self.sizes))), "output"]
        self._recurrent, self._dense = self.layer_names[: len(recurrent)], self.layer_names[len(recurrent) :]
        before = [features, *recurrent[:-1]]
        layers: dict[str, nn.Module] = {
            name: self.cell(options, inputs, size)
            for name, inputs, size in zip(self._recurrent, before, recurrent, strict=True)
        }
        layers |= linear_layers(self._dense, recurrent[-1], self.sizes[len(recurrent) :], True)
        self.layers = nn.ModuleDict(layers)
        self._dropout = nn.ModuleDict(
            {name: Dropout(options.dropout, number) for number, name in enumerate(self.layer_names[:-1])}
        )
        self._readout, self.features = options.readout, features

    @abstractmethod
    def cell(self, options: Any, inputs: int, size: int) -> nn.Module:
        """A recurrent layer."""

    def run(self, layer: nn.Module, values: Tensor, training: bool) -> Tensor:
        """Outputs (B, T, H) of a recurrent layer over values (B, T, N)."""
        del training
        outputs: Tensor = layer(values)[0]
        return outputs

    @property
    def chain(self) -> str:
        """Inputs of a step, layers and outputs, such as `64-G200-G200-100-11`."""
        parts = [f"{self.letter}{self.layers[name].hidden_size}" for name in self._recurrent]
        return "-".join([str(self.features), *parts, *map(str, self.sizes[len(parts) :])])

    def forward(self, inputs: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Scores:
        """Logits of a batch, see `Model.forward`. What follows the end of a sample makes no difference."""
        given = self.values(inputs)
        values = self.scaled(given)
        if self._image is not None:
            given, values = (part.reshape(-1, *self._image).transpose(1, 2).flatten(2) for part in (given, values))
        ends = lengths(given, self.bins.spikes)
        values = values[:, : int(ends.max())]
        for name in self._recurrent:
            values = self._dropout[name](self.run(self.layers[name], values, labels is not None), keys)
        values = self._read(values, ends)
        for name in self._dense[:-1]:
            values = self._dropout[name](torch.relu(self.layers[name](values)), keys)
        return Scores(self.layers["output"](values), ends)

    def _read(self, states: Tensor, ends: Tensor) -> Tensor:
        """What is read of the states (B, T, H) of samples that end after so many steps (B,): (B, H)."""
        place = torch.arange(1, states.shape[1] + 1, device=states.device)
        if self._readout == "last":
            weight = (place == ends[:, None]).to(states.dtype)
        else:
            weight = (place <= ends[:, None]).to(states.dtype) / ends[:, None]
        return torch.einsum("bth,bt->bh", states, weight)

    def layout(self) -> dict[str, dict[str, Any]]:
        """By layer: `inputs`, `neurons`, and whether it is `recurrent`."""
        return {name: {**layer, "recurrent": name in self._recurrent} for name, layer in super().layout().items()}

    def macs(self, passes: float) -> dict[str, float]:
        """Multiply-accumulates of the weights: those of recurrent layers at each step, the others once."""
        before = [self.features, *self.sizes[: len(self._recurrent) - 1]]
        steps = {
            name: passes * self.gates * size * (inputs + size)
            for name, inputs, size in zip(self._recurrent, before, self.sizes, strict=False)
        }
        return steps | dense_macs(self.layers)

    def connections(self) -> dict[str, Connection]:
        """The weights of all layers. The activities of recurrent ones are their outputs."""
        found = {}
        for name in self._recurrent:
            layer = self.layers[name]
            weights = [getattr(layer, f"weight_{kind}{self.suffix}") for kind in ("ih", "hh")]
            found[name] = Connection(layer, weights[0], lambda outputs: outputs, weights[1])
        return found | dense_connections(self.layers, torch.relu)


class LstmModel(RecurrentModel):
    """See `Lstm`."""

    letter, gates = "L", 4

    def cell(self, options: Lstm, inputs: int, size: int) -> nn.LSTM:
        """An LSTM layer."""
        layer = nn.LSTM(inputs, size, bias=options.bias, batch_first=True)
        if options.bias and options.forget_bias is not None:
            tensors = dict(layer.named_parameters())
            with torch.no_grad():  # the gates are in the order input, forget, cell, output
                tensors["bias_ih_l0"][size : 2 * size] = options.forget_bias
                tensors["bias_hh_l0"][size : 2 * size] = 0.0
        return layer


class GruModel(RecurrentModel):
    """See `Gru`."""

    letter, gates = "G", 3

    def cell(self, options: Gru, inputs: int, size: int) -> nn.GRU:
        """A GRU layer."""
        return nn.GRU(inputs, size, bias=options.bias, batch_first=True)
