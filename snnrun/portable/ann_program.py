"""A model without spikes as a PyTorch module."""

from __future__ import annotations

from torch import Tensor, nn

from snnrun.ann import Cnn, Gru, Lra, Lstm, Mlp, PhasedLstm
from snnrun.ann.module import AnnModel
from snnrun.ann.phased_lstm import PhasedLayer
from snnrun.network.model import Design, Signal
from snnrun.portable import functions
from snnrun.portable.program import Program

ACTIVATIONS = {"relu": "torch.relu", "tanh": "torch.tanh"}


def without_spikes(model: AnnModel, options: Design, signal: Signal) -> Program:
    """The program of a model, with the options that it was made from and its inputs."""
    steps = max(signal.steps, 1)
    kind = "spikes, 0.0 or 1.0," if signal.spikes else "values, NaN after the end of a sample,"
    program = Program(f"{kind} (B, {steps}, {signal.channels}) float32.", f"logits (B, {model.sizes[-1]}).")
    values = "inputs"
    if signal.spikes:
        program.say(f"values = {program.call(functions.binned, values, str(model.bins.size))}")
        values = "values"
    match options:
        case Mlp():
            _dense(program, model, f"{_scaled(program, model, values)}.flatten(1)", options.activation)
        case Lra():
            _dense(program, model, f"{values}.nan_to_num().flatten(1)", "tanh")
        case Cnn():
            _images(program, model, f"{values}.reshape(-1, {', '.join(map(str, signal.image or ()))})", options)
        case Lstm() | Gru() | PhasedLstm():
            _recurrent(program, model, values, options, signal)
    return program


def opening(model: AnnModel, layer: PhasedLayer, steps: int) -> Tensor:
    """How far the gates in time of a layer of Phased LSTM are open at each of its inputs, (T, H)."""
    interval = float(model.bins.size) if model.bins.spikes else 1.0
    time = interval * layer.open.new_tensor(range(steps))
    return layer.time_gate(time, training=False).detach()


def _scaled(program: Program, model: AnnModel, values: str) -> str:
    if model.scale is not None:
        mean, factor = program.tensor("mean", model.scale.mean), program.tensor("factor", model.scale.factor)
        values = f"(({values} - {mean}) * {factor})"
    return f"{values}.nan_to_num()"


def _dense(program: Program, model: AnnModel, values: str, activation: str) -> None:
    program.say(f"values = {values}")
    components = {key: model.state_dict().get(f"_components.{key}") for key in ("mean", "scale", "axes")}
    if components["axes"] is not None:
        mean, scale, axes = (
            program.tensor(f"components_{key}", value) for key, value in components.items() if value is not None
        )
        program.say(f"values = (values - {mean}) * {scale} @ {axes}.T")
    _layers(program, model, model.layer_names, ACTIVATIONS[activation])


def _layers(program: Program, model: AnnModel, names: list[str], activation: str) -> None:
    """Dense layers over `values`, the output last."""
    for name in names:
        layer = model.layers[name]
        assert isinstance(layer, nn.Linear)
        drive = f"{program.linear(name, layer.weight, layer.bias)}(values)"
        program.say(f"return {drive}" if name == "output" else f"values = {activation}({drive})")


def _images(program: Program, model: AnnModel, values: str, options: Cnn) -> None:
    program.say(f"values = {values}")
    activation, dense = ACTIVATIONS[options.activation], []
    for name, layer in model.layers.items():
        if isinstance(layer, nn.Conv2d):
            made = program.convolution(name, layer.weight, layer.bias, layer.stride[0], int(layer.padding[0]))
            program.say(f"values = {activation}({made}(values))")
        elif isinstance(layer, nn.Linear):
            dense.append(name)
        else:
            assert isinstance(layer, nn.AvgPool2d | nn.MaxPool2d)
            pool = program.module(name, f"nn.{type(layer).__name__}({layer.kernel_size}, {layer.stride})")
            program.say(f"values = {pool}(values)")
    program.say("values = values.flatten(1)")
    _layers(program, model, dense, activation)


def _recurrent(
    program: Program, model: AnnModel, values: str, options: Lstm | Gru | PhasedLstm, signal: Signal
) -> None:
    steps = model.bins.number
    if signal.image is not None and signal.steps < 2:  # row by row
        steps = signal.image[1]
        program.say(f"values = {values}.reshape(-1, {', '.join(map(str, signal.image))}).transpose(1, 2).flatten(2)")
        values = "values"
    program.say(f"end = {program.call(functions.ends, values, str(signal.spikes))}")
    program.say(f"values = {_scaled(program, model, values)}")
    names = model.layer_names[: len(options.layers)]
    for name in names:
        layer = model.layers[name]
        if isinstance(layer, PhasedLayer):
            program.say(f"values = {_phased(program, model, name, layer, steps)}")
            continue
        assert isinstance(layer, nn.LSTM | nn.GRU)
        bare = "" if layer.bias else ", bias=False"
        made = f"nn.{type(layer).__name__}({layer.input_size}, {layer.hidden_size}{bare}, batch_first=True)"
        program.say(f"values = {program.module(name, made, **layer.state_dict())}(values)[0]")
    read = functions.last_state if options.readout == "last" else functions.mean_state
    program.say(f"values = {program.call(read, 'values', 'end')}")
    _layers(program, model, model.layer_names[len(names) :], "torch.relu")


def _phased(program: Program, model: AnnModel, name: str, layer: PhasedLayer, steps: int) -> str:
    tensors = {
        "weight_ih": layer.weight_ih,
        "weight_hh": layer.weight_hh,
        "bias": layer.bias,
        "peephole": layer.peephole,
        "opening": opening(model, layer, steps),
    }
    kept = ("None" if each is None else program.tensor(f"{name}_{key}", each) for key, each in tensors.items())
    return program.call(functions.phased_lstm, "values", *kept)
