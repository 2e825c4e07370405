"""The synapses of a network one by one, for tests that walk over them in plain loops."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from snnrun.network import Layer, Network


class Synapse(NamedTuple):
    """From input `pre` to neuron `post`, with `share` of the weight at `place` in its tensor."""

    post: int
    pre: int
    place: tuple[int, ...]
    share: float = 1.0


def synapses(net: Network) -> list[list[Synapse]]:
    """Those of each layer, without recurrent ones. An average gives each input of a square its share."""
    return [_of(layer, net.inputs if not number else net.sizes[number - 1]) for number, layer in enumerate(net.layers)]


@torch.no_grad()
def make_it_fire(net: Network, spikes: Tensor, least: float = 0.1) -> None:
    """Raise the weights, layer by layer, until each fires in at least this share of all steps."""
    for number, layer in enumerate(net.layers):
        while net(spikes).layers[number].counts.mean() < least * spikes.shape[1]:
            assert not layer.kind.pool
            layer.weight.add_(0.1 * layer.weight.abs().mean())


def _of(layer: Layer, inputs: int) -> list[Synapse]:
    kind = layer.kind
    if kind.window is None and kind.average is None:
        return [Synapse(i, j, (i, j)) for i in range(len(layer.weight)) for j in range(inputs)]
    if kind.average is not None:
        a, found = kind.average, []
        for i in range(len(layer.weight)):
            for square in range(a.neurons):
                channel, rest = divmod(square, a.out_rows * a.out_columns)
                row, column = divmod(rest, a.out_columns)
                found += [Synapse(i, pixel, (i, square), 1 / a.height**2) for pixel in _square(a, channel, row, column)]
        return found
    w, found = kind.window, []
    for k in range(w.kernels):
        for row in range(w.out_rows):
            for column in range(w.out_columns):
                post = (k * w.out_rows + row) * w.out_columns + column
                for c in [k] if kind.pool else range(w.channels):
                    for y in range(w.height):
                        for x in range(w.width):
                            place = (k, 0 if kind.pool else c, y, x)
                            found += [
                                Synapse(post, pre, place, 1 / w.pool**2) for pre in _seen(w, c, row, column, y, x)
                            ]
    return found


def _seen(w, channel: int, row: int, column: int, y: int, x: int) -> list[int]:
    """The inputs of one tap: one, or a square's; none in the padding."""
    r, c = row * w.stride + y - w.padding, column * w.stride + x - w.padding
    if not (0 <= r < w.rows // w.pool and 0 <= c < w.columns // w.pool):
        return []
    return [
        (channel * w.rows + r * w.pool + dy) * w.columns + c * w.pool + dx
        for dy in range(w.pool)
        for dx in range(w.pool)
    ]


def _square(a, channel: int, row: int, column: int) -> list[int]:
    return [
        (channel * a.rows + row * a.height + y) * a.columns + column * a.width + x
        for y in range(a.height)
        for x in range(a.width)
    ]
