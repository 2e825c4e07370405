"""Reads topology strings such as `15C5-P2-40C5-P2-R300` and plans the layers of a network over its input.

The parts, joined by `-`, are the hidden layers from the input on:

    part  = dense | conv | pool
    dense = ["R"] size {"+" skipped}      neurons, with recurrent synapses after an R
    conv  = size "C" size ["x" size] ["s" size] ["p" size]
    pool  = "P" size ["s" size]

A dense layer gets the spikes of its predecessor. After `+k` it also gets those of the layer k places before that, as
one input of all their neurons side by side: in 400-R400+1 the second layer gets the first one's spikes and the input's
(ScSr-SNN, Zhang & Li 2020, has such skip connections). Places are counted in layers that have neurons, and the input
is the place before the first of them. Average pools have none, and no skip connection leads into or over one that is
its layer's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from snnrun.errors import UsageError, did_you_mean
from snnrun.kernels import Window
from snnrun.rules import LayerKind


@dataclass(frozen=True)
class LayerSpec:
    """A dense hidden layer: `400`, or `R400` if recurrent; `400+1` has a skip connection, 400+1+2 has two."""

    size: int
    recurrent: bool = False
    skips: tuple[int, ...] = ()


@dataclass(frozen=True)
class ConvSpec:
    """A convolution: `15C5` is 15 kernels of 5 x 5, `8C3x5` 8 of 3 rows and 5 columns; `s2` and `p1` may follow."""

    kernels: int
    height: int
    width: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class PoolSpec:
    """A pool: `P2` over 2 x 2. Its stride is its size, or another one as in `P3s2`."""

    size: int
    stride: int


Spec = LayerSpec | ConvSpec | PoolSpec

_SIZE = "([1-9][0-9]{0,5})"
_DENSE = re.compile(rf"(R?){_SIZE}((?:\+{_SIZE})*)")
_CONV = re.compile(f"{_SIZE}C{_SIZE}(?:x{_SIZE})?(?:s{_SIZE})?(?:p{_SIZE})?")
_POOL = re.compile(f"P{_SIZE}(?:s{_SIZE})?")


def parse_topology(topology: str) -> list[Spec]:
    """Hidden layers of a topology string, from the input on; empty for none.

    Raises:
        UsageError: a part is none of the forms above.
    """
    return [_parse(part, topology) for part in topology.split("-")] if topology else []


def _parse(part: str, topology: str) -> Spec:
    if match := _DENSE.fullmatch(part):
        return LayerSpec(int(match[2]), bool(match[1]), tuple(int(k) for k in match[3].split("+")[1:]))
    if match := _CONV.fullmatch(part):
        height = int(match[2])
        return ConvSpec(int(match[1]), height, int(match[3] or height), int(match[4] or 1), int(match[5] or 0))
    if match := _POOL.fullmatch(part):
        return PoolSpec(int(match[1]), int(match[2] or match[1]))
    layer, plus, _ = part.partition("+")
    if plus and (_CONV.fullmatch(layer) or _POOL.fullmatch(layer)):
        raise UsageError(
            f"model.network: {part!r} has a skip connection, which leads into dense layers alone. Write {layer}."
        )
    raise UsageError(
        f"model.network: cannot read {part!r} in {topology!r}. Allowed: hidden layer sizes joined by '-', each with an "
        "R in front if the layer is recurrent, such as 800, 400-R400 or R100-100, and with +1 behind if it also gets "
        "the spikes of the layer one before its predecessor, such as 400-R400+1; over images before them convolutions "
        "such as 15C5 (15 kernels of 5 x 5; stride and padding as in 32C3s2p1) and pools such as P2 (2 x 2) or P3s2."
    )


def _name(spec: Spec, number: int) -> str:
    """The name of a hidden layer, of which there are `number` up to it."""
    match spec:
        case ConvSpec():
            return f"conv{number}"
        case PoolSpec():
            return f"pool{number}"
    return f"hidden{number}"


class Planned(NamedTuple):
    """A layer that has neurons: its kind, its name, its number of neurons, and the rows and columns of its weights.

    The weights of a convolution have a row for each kernel and a column for each input of its receptive field. The
    weights of a spiking pool are all 1, and its `rows` is 0.
    """

    kind: LayerKind
    name: str
    neurons: int
    rows: int
    columns: int


def plan(
    topology: str, *, inputs: int, outputs: int, image: tuple[int, int, int] | None, average_pools: bool
) -> list[Planned]:
    """The layers of a network, output included.

    Args:
        topology: hidden layers.
        inputs: number of input channels.
        outputs: number of classes.
        image: (channels, rows, columns) of the input, whose product is `inputs`; None if it is no image.
        average_pools: whether pools average the spikes for the layer after them, instead of being layers of neurons.

    Raises:
        UsageError: the topology cannot be read, or does not fit the input.
    """
    layout = _Layout(inputs, image, average_pools)
    for part, spec in zip(topology.split("-"), parse_topology(topology), strict=False):
        match spec:
            case LayerSpec():
                layout.dense(spec.size, recurrent=spec.recurrent, skips=spec.skips, part=part)
            case ConvSpec():
                layout.convolution(spec, part)
            case PoolSpec():
                layout.pool(spec, part)
    layout.dense(outputs, output=True)
    return layout.layers


class _Layout:
    """Plans one layer after another, and knows what the next one looks at."""

    def __init__(self, inputs: int, image: tuple[int, int, int] | None, average_pools: bool) -> None:
        self.layers: list[Planned] = []
        self._sizes = [inputs]  # of the input, then of the layers
        self._image, self._average_pools = image, average_pools
        self._average = 1  # side of the squares that the next layer averages over

    def dense(
        self, size: int, *, recurrent: bool = False, output: bool = False, skips: tuple[int, ...] = (), part: str = ""
    ) -> None:
        average, fan_in = None, self._sizes[-1]
        if self._average > 1 and self._image is not None:
            channels, *_ = self._image
            average = Window(*self._image, channels, self._average, self._average, self._average)
            fan_in = average.neurons
        skipped = self._skipped(skips, part)
        fan_in += sum(self._sizes[number + 1] for number in skipped)
        kind = LayerKind(len(self.layers), output=output, recurrent=recurrent, average=average, skips=skipped)
        name = "output" if output else _name(LayerSpec(size), len(self.layers) + 1)
        self._add(Planned(kind, name, size, size, fan_in), None)

    def _skipped(self, skips: tuple[int, ...], part: str) -> tuple[int, ...]:
        """The numbers of the layers that come in besides the predecessor; -1 is the input."""
        number = len(self.layers)
        plain, *_ = part.partition("+")
        if skips and self._average > 1:
            raise UsageError(
                f"model.network: {part!r} follows an average pool, whose means it gets, and skip connections bring "
                f"spikes. Write {plain}, or put a dense layer between."
            )
        if skips and not number:
            raise UsageError(
                f"model.network: {part!r} is the first layer, and nothing comes before the input, its predecessor. "
                f"Write {plain}."
            )
        for place in skips:
            if place > number:
                raise UsageError(
                    f"model.network: +{place} of {part!r} leads back beyond the input, which is {number} "
                    f"place{'s' * (number > 1)} before the predecessor of this layer. Write {plain}+{number}."
                )
        if len({*skips}) < len(skips):
            raise UsageError(f"model.network: {part!r} names the same layer twice. Write each place once.")
        return tuple(number - 1 - place for place in skips)

    def convolution(self, spec: ConvSpec, part: str) -> None:
        window = self._window(part, spec.kernels, spec.height, spec.width, spec.stride, spec.padding)
        kind = LayerKind(len(self.layers), output=False, recurrent=False, window=window)
        fan_in = window.channels * window.height * window.width
        planned = Planned(kind, _name(spec, len(self.layers) + 1), window.neurons, window.kernels, fan_in)
        self._add(planned, (window.kernels, window.out_rows, window.out_columns))

    def pool(self, spec: PoolSpec, part: str) -> None:
        if self._average_pools:
            if spec.stride != spec.size:
                raise UsageError(
                    f"model.network: {part!r} has a stride of its own, but the pools of this model average over "
                    f"squares side by side. Write P{spec.size} or P{spec.stride}."
                )
            self._window(part, 1, spec.size, spec.size, spec.size, 0)
            self._average *= spec.size
            return
        window = self._window(part, 0, spec.size, spec.size, spec.stride, 0)
        window = window._replace(kernels=window.channels)
        kind = LayerKind(len(self.layers), output=False, recurrent=False, window=window, pool=True)
        planned = Planned(kind, _name(spec, len(self.layers) + 1), window.neurons, 0, window.height * window.width)
        self._add(planned, (window.channels, window.out_rows, window.out_columns))

    def _window(self, part: str, kernels: int, height: int, width: int, stride: int, padding: int) -> Window:
        """The window over what the layer looks at. Raises UsageError if there is no image or it is too small."""
        if self._image is None and self.layers:
            raise UsageError(
                f"model.network: {part!r} cannot follow a dense layer, whose neurons have no rows and columns. "
                "Put convolutions and pools before the dense layers."
            )
        if self._image is None:
            raise UsageError(
                f"model.network: {part!r} looks at images, and the samples of this corpus have no rows and columns. "
                "Use dense layers such as 400-R400, or a corpus of images such as data=mnist."
            )
        window = Window(*self._image, kernels, height, width, stride, padding, self._average)
        if min(window.out_rows, window.out_columns) < 1:
            rows, columns = window.rows // window.pool + 2 * padding, window.columns // window.pool + 2 * padding
            padded = " with its padding" if padding else ""
            raise UsageError(
                f"model.network: the window of {part!r}, {height} x {width}, is larger than what it looks at, "
                f"{rows} x {columns}{padded}. Use a smaller one, or fewer pools and strides before it."
            )
        return window

    def _add(self, planned: Planned, image: tuple[int, int, int] | None) -> None:
        self.layers.append(planned)
        self._sizes.append(planned.neurons)
        self._image, self._average = image, 1


def check_thresholds(v_th: object, topology: str, average_pools: bool) -> None:
    """Raise UsageError unless there is one threshold, or one for each hidden layer with neurons and the output.

    `average_pools`: see `plan`.
    """
    layers = len(_specs(topology, average_pools)) + 1
    values = list(v_th) if isinstance(v_th, (list, tuple)) else [v_th]
    if len(values) not in (1, layers):
        pools = any(isinstance(spec, PoolSpec) for spec in parse_topology(topology))
        note = (" (average pools have none)" if average_pools else " (pools are layers too)") if pools else ""
        raise UsageError(
            f"model.v_th: {len(values)} thresholds for the {layers} layers of model.network={topology} and the "
            f"output{note}. Allowed: one number for all layers, or {layers} as [a,b,...]."
        )


def frozen_layers(frozen: Sequence[str], topology: str, average_pools: bool) -> set[str]:
    """The names of the layers that are not trained, of the list `model.frozen`: their own, or `hidden` for all but one.

    `average_pools`: see `plan`.

    Raises:
        UsageError: there is no such layer, or no layer would be trained.
    """
    specs = list(enumerate(_specs(topology, average_pools), 1))
    hidden = [_name(spec, number) for number, spec in specs if not isinstance(spec, PoolSpec)]
    for name in frozen:
        if name not in (*hidden, "output", "hidden"):
            allowed = ", ".join([*hidden, "output"])
            raise UsageError(
                f"model.frozen: {name!r} is no layer with weights of model.network={topology}. Allowed: {allowed}, and "
                f"hidden for all but the output.{did_you_mean(name, [*hidden, 'output'])}"
            )
    found = {*frozen, *(hidden if "hidden" in frozen else ())} - {"hidden"}
    if found == {*hidden, "output"}:
        raise UsageError(f"model.frozen: it has every layer, so nothing would be trained: {', '.join(frozen)}.")
    return found


def _specs(topology: str, average_pools: bool) -> list[Spec]:
    """The hidden layers that have neurons."""
    return [spec for spec in parse_topology(topology) if not (average_pools and isinstance(spec, PoolSpec))]


def check_connections(topology: str, recurrent: bool, skips: bool) -> None:
    """Raise UsageError if a layer is recurrent, or has skip connections, and the rule cannot train one that is."""
    for part, spec in zip(topology.split("-"), parse_topology(topology), strict=False):
        if isinstance(spec, LayerSpec) and spec.recurrent and not recurrent:
            raise UsageError(
                f"model.network: R{spec.size} is recurrent, and this model has no rule for recurrent layers. "
                f"Write {spec.size}, or choose another model, such as model=strsbp."
            )
        if isinstance(spec, LayerSpec) and spec.skips and not skips:
            raise UsageError(
                f"model.network: {part!r} has a skip connection, and this model has none. Write "
                f"{part.partition('+')[0]}, or choose another model, such as model=strsbp."
            )
