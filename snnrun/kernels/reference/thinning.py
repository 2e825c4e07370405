"""Spike trains that lose spikes at random, each by itself.

A place of a train is lost if the lower half of its random word is less than share 2^32. The word is number t 64 W + n,
from 0, of the stream of the sample's key (see `splitmix`), for step t and neuron n. Nothing else decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snnrun.kernels import splitmix
from snnrun.kernels.packed import BITS, pack, unpack, words

LOWER = 2**32 - 1


def limit(share: float) -> int:
    """A share of the places, in units of 2^-32."""
    return round(share * 2**32)


def kept(keys: Tensor, share: float, steps: int, neurons: int) -> Tensor:
    """Which places of trains keep their spikes, bool (B, T, N)."""
    width = BITS * words(neurons)
    number = 1 + width * torch.arange(steps, device=keys.device)[:, None] + torch.arange(neurons, device=keys.device)
    drawn = splitmix.mixed(keys[:, None, None] + splitmix.STEP * number)
    return (drawn & LOWER) >= limit(share)


def thin(spikes: Tensor, keys: Tensor, share: float) -> Tensor:
    """Trains with a share of their spikes lost: bits (B, T, W) of those given, with keys (B,) int64."""
    every = BITS * spikes.shape[2]
    return pack(unpack(spikes, every).bool() & kept(keys, share, spikes.shape[1], every))


def thin_gradient(gradient: Tensor, keys: Tensor, share: float) -> Tensor:
    """The derivative of `thin`: a gradient (B, T, N) of the spikes that are left, 0 where a place is lost."""
    return gradient * kept(keys, share, *gradient.shape[1:])
