"""Encoders: from samples to input spikes, redrawn at every presentation unless frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from snnrun.encoders.rate import Bernoulli, Poisson
from snnrun.encoders.stored import Stored
from snnrun.errors import UsageError

__all__ = ["ENCODERS", "Encoder", "build"]


class Encoder(Protocol):
    """What the engine asks of an encoder."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of corpora it takes, such as `("image",)`."""

    @property
    def steps(self) -> int | None:
        """T, the length of the spike trains it makes; None for that of the samples."""

    def encode(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Turn samples (B, ...) into bits of spikes (B, T, W), a function of seed, epoch and each sample's index alone.

        Neuron n of a step is bit n % 64 of word n // 64, see `kernels.packed`.
        """


# A new encoder is one line here.
ENCODERS: dict[str, Callable[..., Encoder]] = {
    "poisson": Poisson,
    "bernoulli": Bernoulli,
    "stored": Stored,
}


def build(name: str, *, seed: int, **options: Any) -> Encoder:
    """Make the encoder called `name` from its options.

    Raises:
        UsageError: If there is no such encoder or option, or if a value is out of range.
    """
    if name not in ENCODERS:
        raise UsageError(f"encoder={name}: no such encoder; there are {', '.join(ENCODERS)}")
    cls: Any = ENCODERS[name]
    known = [field.name for field in fields(cls) if field.name != "seed"]
    for option in options:
        if option not in known:
            raise UsageError(f"encoder.{option}: {name} has no such option; it takes {', '.join(known)}")
    encoder: Encoder = cls(seed=seed, **options)
    return encoder
