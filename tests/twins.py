"""Twins of models, made of PyTorch's layers: what NeuroBench's package looks at. Neurons fire as others have fired."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snnrun.network import Layer, Network
from snnrun.rules import LeeRule
from snnrun.rules.base import spread

BATCH = 35  # samples that run together; replayed ones follow in their order


class Replay(nn.Module):
    """Neurons that fire as others have fired, (S, T, N)."""

    def __init__(self, spikes: Tensor) -> None:
        super().__init__()
        self.spikes, self.first, self.step = spikes, 0, -1

    def forward(self, drive: Tensor) -> Tensor:
        self.step += 1
        if self.step == self.spikes.shape[1]:
            self.first, self.step = self.first + BATCH, 0
        return self.spikes[self.first : self.first + len(drive), self.step]


class Images(nn.Module):
    """A convolution of flat inputs."""

    def __init__(self, convolution: nn.Conv2d, rows: int, columns: int) -> None:
        super().__init__()
        self.convolution, self.shape = convolution, (convolution.in_channels, rows, columns)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.convolution(inputs.reshape(-1, *self.shape)).flatten(1)


def given(module: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor | None = None, fixed: bool = False) -> nn.Module:
    """The layer with these weights; those that are fixed are not stored."""
    if fixed:
        del module.weight
        module.weight = weight
    else:
        module.weight = nn.Parameter(weight)
    module.bias = None if bias is None else nn.Parameter(bias)
    return module


def linear(weight: Tensor, bias: Tensor | None = None, fixed: bool = False) -> nn.Module:
    return given(nn.Linear(*reversed(weight.shape)), weight, bias, fixed)


def forward_twin(layer: Layer, folded: bool) -> nn.Module:
    """The feed-forward connections of a layer. An average pool before them is part of the weights if `folded`."""
    weight, window, bias = layer.weight.detach(), layer.kind.window, layer.bias
    if window is None:
        average = layer.kind.average if folded else None
        return linear(weight if average is None else spread(weight, average), bias)
    side = window.pool if folded else 1
    weight = weight.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3) / side**2
    convolution = nn.Conv2d(
        window.channels, window.kernels, weight.shape[2:], window.stride * side, window.padding * side,
        groups=window.channels if layer.kind.pool else 1,
    )  # fmt: skip
    return Images(given(convolution, weight, bias, fixed=layer.kind.pool), window.rows, window.columns)


class Twin(nn.Module):
    """A network whose neurons are these modules. It runs if `folded`; else it stores what the network does."""

    def __init__(self, net: Network, neurons: list[nn.Module], folded: bool = True) -> None:
        super().__init__()
        self.forwards = nn.ModuleList(forward_twin(layer, folded) for layer in net.layers)
        self.recurrents, self.neurons = nn.ModuleDict(), nn.ModuleList(neurons)
        self.at_once = nn.ModuleDict()
        for number, layer in enumerate(net.layers):
            if layer.threshold is not None:
                self.register_parameter(f"threshold{number}", layer.threshold)
            if layer.recurrent_weight is not None:
                self.recurrents[str(number)] = linear(layer.recurrent_weight.detach())
                self.register_buffer(f"mask{number}", layer.recurrent_mask)
            elif layer.kind.output and getattr(net.rule, "lateral", 0):
                size = len(layer.weight)
                self.recurrents[str(number)] = linear(-net.rule.lateral * (1 - torch.eye(size)), fixed=True)
            elif isinstance(net.rule, LeeRule) and layer.kind.window is None:
                size = len(layer.weight)
                self.at_once[str(number)] = linear(-net.rule.inhibition * (1 - torch.eye(size)), fixed=True)
        self.sources = [layer.kind.sources for layer in net.layers]

    def reset(self) -> None:
        self.before: list[Tensor] = []
        for neurons in self.neurons:
            if hasattr(neurons, "reset_mem"):
                neurons.reset_mem()

    def forward(self, inputs: Tensor, first: Tensor | None = None) -> tuple[Tensor, None]:
        """A step. `first`: the drive of the first layer by currents."""
        inputs, trains = inputs.flatten(1), []
        for number, (forward, neurons) in enumerate(zip(self.forwards, self.neurons, strict=True)):
            if number or first is None:
                arrived = [inputs if k < 0 else trains[k] for k in self.sources[number]]
                drive = forward(torch.cat(arrived, dim=1))
            else:
                drive = first
            if str(number) in self.recurrents:
                own = self.before[number] if self.before else torch.zeros_like(drive)
                drive = drive + self.recurrents[str(number)](own)
            trains.append(neurons(drive))
            if str(number) in self.at_once:
                self.at_once[str(number)](trains[-1])
        self.before = trains
        return trains[-1], None


class LiquidTwin(nn.Module):
    """Liquids of replayed spikes with dense weights, and a readout of states (S, F)."""

    def __init__(self, wires: list[tuple[Tensor, Tensor]], trains: list[Tensor], states: Tensor, out: Tensor) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(linear(inputs) for inputs, _ in wires)
        self.around = nn.ModuleList(linear(around) for _, around in wires)
        self.neurons = nn.ModuleList(Replay(train) for train in trains)
        self.readout, self.states, self.first = linear(out) if len(out) else None, states, 0

    def forward(self, batch: Tensor) -> Tensor:
        own = [torch.zeros(len(batch), len(around.weight)) for around in self.around]
        for step in range(batch.shape[1]):
            channels = batch[:, step].split([inputs.in_features for inputs in self.inputs], dim=1)
            parts = zip(self.inputs, self.around, self.neurons, channels, own, strict=True)
            own = [neurons(inputs(seen) + around(spikes)) for inputs, around, neurons, seen, spikes in parts]
        if self.readout is not None:
            self.readout(self.states[self.first : self.first + len(batch)])
            self.first += len(batch)
        return own[0]


def dense(weight: Tensor, pre: Tensor, post: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.zeros(shape).index_put((post, pre), weight)


class LstmTwin(nn.Module):
    """PyTorch's cell in a loop; the package does not know its layer."""

    def __init__(self, layer: nn.LSTM, output: nn.Linear) -> None:
        super().__init__()
        self.cell, self.output = nn.LSTMCell(layer.input_size, layer.hidden_size), output
        for name, value in layer.named_parameters():
            setattr(self.cell, name.removesuffix("_l0"), value)

    def forward(self, values: Tensor) -> Tensor:
        state = (torch.zeros(len(values), self.cell.hidden_size),) * 2
        mean = 0.0
        for value in values.unbind(dim=1):
            state = self.cell(value, state)
            mean = mean + state[0] / values.shape[1]
        return self.output(mean)
