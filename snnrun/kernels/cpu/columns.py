"""The columns of an image's spikes: position by position the trains of all channels, 16 channels a number.

Between layers spikes travel as bits step by step and channel by channel. A convolution and a pool compute the channels
of a position side by side, step after step. They would spend half of their time on finding their spikes and putting
them in place. So a layer that writes spikes keeps the columns beside the tensor, for as long as it lives: the
next layer and both backward passes read them. Of other tensors they are made when they are asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from snnrun.compiled import threads
from snnrun.compiled.jit import Times
from snnrun.compiled.turns import Turn
from snnrun.compiled.vector import GROUP
from snnrun.kernels.cpu import column_loops
from snnrun.kernels.cpu.arrays import MOST_OF_IMAGES, as_words
from snnrun.kernels.cpu.spike_loops import room_to_list


class Image(NamedTuple):
    """`channels` of `plane` positions each."""

    channels: int
    plane: int

    @property
    def groups(self) -> int:
        """Groups of 16 channels."""
        return -(-self.channels // GROUP)


# The columns by the tensor of bits, with its version then: who changes a tensor in place gets new ones.
_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()


def room_for_columns(batch: int, steps: int, image: Image) -> Times:
    """Room for columns, (B, R, S) uint16: bit i of [b, p * groups + g, t] is channel 16 g + i at position p.

    After these rows comes one of silence. S is the number of steps rounded up to 64.
    """
    return np.empty((batch, image.plane * image.groups + 1, -(-steps // 64) * 64), np.uint16)


def keep_columns(spikes: Tensor, columns: Times) -> None:
    """Keep the columns of the bits `spikes` (B, T, W) that are complete now."""
    _kept[spikes] = _version(spikes), columns


def columns_of(spikes: Tensor, image: Image) -> Times:
    """The columns of an image's bits (B, T, W)."""
    batch, steps, _ = spikes.shape
    room = room_for_columns(0, steps, image)
    version, columns = _kept.get(spikes, (-1, room))  # type: ignore[no-untyped-call]
    if version == _version(spikes) and columns.shape[1:] == room.shape[1:]:
        kept: Times = columns
        return kept
    bits, made = as_words(spikes, MOST_OF_IMAGES), room_for_columns(batch, steps, image)

    def some(turn: Turn) -> None:
        column_loops.make_columns(bits, *image, made, room_to_list(bits.shape[2]), turn)

    threads.share(batch, some)
    keep_columns(spikes, made)
    return made


def _version(spikes: Tensor) -> int:
    return 0 if spikes.is_inference() else spikes._version
