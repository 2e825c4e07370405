"""Encoders turn samples into input spikes or currents.

Those that draw do it anew at every presentation unless frozen, but never of recordings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from snnrun.encoders.auto import Auto, Reads
from snnrun.encoders.delta import Delta
from snnrun.encoders.direct import Direct
from snnrun.encoders.latency import Latency
from snnrun.encoders.lyon_bsa import LyonBsa
from snnrun.encoders.mel import Mel
from snnrun.encoders.none import Unencoded
from snnrun.encoders.population import Population
from snnrun.encoders.rate import Bernoulli, Poisson, Regular
from snnrun.encoders.stored import Stored
from snnrun.errors import UsageError

__all__ = [
    "AUTO",
    "ENCODERS",
    "Auto",
    "CuttingEncoder",
    "Encoder",
    "InputsEncoder",
    "Reads",
    "RecordingEncoder",
    "Stored",
    "Unencoded",
    "build",
    "chosen",
    "encode_ahead",
    "gives_spikes",
    "inputs",
    "makes_currents",
    "settings",
]


class Encoder(Protocol):
    """What training and evaluation need of an encoder."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of corpora it takes, such as `("image",)`; see `data.corpus.Corpus` for what their samples are."""

    @property
    def steps(self) -> int | None:
        """T, the length of the spike trains that it makes; None for the length of the samples."""

    def encode(self, samples: NDArray[Any], index: NDArray[np.int64], epoch: int) -> NDArray[Any]:
        """Turn samples (B, ...) into bits of spikes (B, T, W) int64, or into values (B, T, N) float32.

        The result of a sample depends only on the sample, its index, the seed and the epoch. Neuron n of a step is bit
        n % 64 of word n // 64, see `kernels.packed`. An encoder that hands on values has the class attribute `values`
        and still hands on spikes as bits. T of a sample without time is 1 then, and a shorter series ends in NaN.
        """


@runtime_checkable
class InputsEncoder(Encoder, Protocol):
    """An encoder with another number of inputs than a sample has values, such as two for each channel of a series."""

    def inputs(self, channels: int) -> int:
        """N, the number of neurons that it makes of so many channels."""


@runtime_checkable
class RecordingEncoder(Protocol):
    """An encoder of sound. It draws nothing, so a recording is encoded once and its spikes are kept."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of corpora it takes: `("audio",)`."""

    @property
    def channels(self) -> int:
        """N, the number of input channels."""

    @property
    def steps(self) -> int:
        """T, the length of the spike trains."""

    def key(self) -> dict[str, Any]:
        """All that its spikes depend on besides the recording, in values that JSON can hold."""

    def encode_recording(self, wave: NDArray[np.float64], sample_rate: int) -> NDArray[np.int64]:
        """Turn samples (S,) in [-1, 1] into bits of spikes (T, W), as in `Encoder.encode`.

        Raises:
            ValueError: If the wave has a sample that is not finite or more than one dimension.
        """


@runtime_checkable
class CuttingEncoder(RecordingEncoder, Protocol):
    """An encoder of sound that says how much of a recording it cuts off, so that users are told."""

    @property
    def step_s(self) -> float:
        """Length of a step, in s."""

    def left_out(self, samples: int, sample_rate: int) -> int:
        """How many steps of a recording of so many samples, at so many Hz, come after the last encoded step."""


AUTO = "auto"  # the name of the one that chooses another

# A new encoder is one line here.
ENCODERS: dict[str, Callable[..., Encoder | RecordingEncoder | Auto]] = {
    "poisson": Poisson,
    "bernoulli": Bernoulli,
    "population": Population,
    "regular": Regular,
    "latency": Latency,
    "delta": Delta,
    "direct": Direct,
    "stored": Stored,
    "auto": Auto,
    "lyon_bsa": LyonBsa,
    "mel": Mel,
    "none": Unencoded,
}


def gives_spikes(name: str, kind: str) -> bool:
    """Whether an encoder makes spikes of samples of this kind, and not values."""
    return kind in ("spikes", "audio") or not getattr(ENCODERS[name], "values", False)


def encode_ahead(
    encoder: Encoder, samples: NDArray[Any], index: NDArray[np.int64], epoch: int
) -> Callable[[], NDArray[Any]]:
    """Begin to encode a batch, if the encoder can. Returns a function to call once; it gives the result of `encode`.

    An encoder that can has a method `begin` with the arguments of `encode`, which returns such a function. It goes on
    with the batch while training leaves a thread idle. A class that inherits `begin` but has its own `encode` cannot.
    """
    for kind in type(encoder).__mro__:
        if "begin" in vars(kind):
            begun: Callable[[], NDArray[Any]] = encoder.begin(samples, index, epoch)  # type: ignore[attr-defined]
            return begun
        if "encode" in vars(kind):
            break
    return partial(encoder.encode, samples, index, epoch)


def makes_currents(encoder: Any) -> bool:
    """Whether an encoder, or its class, makes currents, float32 (B, K, N): K values, each for a part of the steps.

    It says so in an attribute of this name.
    """
    return bool(getattr(encoder, "makes_currents", False))


def inputs(encoder: Encoder, channels: int) -> int:
    """N, the number of input neurons that an encoder makes of samples with so many channels."""
    return encoder.inputs(channels) if isinstance(encoder, InputsEncoder) else channels


def build(name: str, *, seed: int, **options: Any) -> Encoder | RecordingEncoder | Auto:
    """Make the encoder called `name` from its options; `seed` is for those that draw.

    Raises:
        UsageError: If there is no such encoder or option, or if a value is out of range.
    """
    if name not in ENCODERS:
        raise UsageError(f"encoder={name}: no such encoder; there are {', '.join(ENCODERS)}")
    cls: Any = ENCODERS[name]
    known = [field.name for field in fields(cls)]
    draws = "seed" in known
    if draws:
        known.remove("seed")
    for option in options:
        if option not in known:
            raise UsageError(f"encoder.{option}: {name} has no such option; it takes {', '.join(known)}")
    encoder: Encoder | RecordingEncoder | Auto = cls(seed=seed, **options) if draws else cls(**options)
    return encoder


def chosen(auto: Auto, kind: str, points: int, reads: Reads, seed: int) -> Encoder:
    """The encoder that `auto` chooses, see `Auto.chosen`; `seed` is for those that draw."""
    encoder = build(seed=seed, **auto.chosen(kind, points, reads))
    assert not isinstance(encoder, RecordingEncoder | Auto)
    return encoder


def settings(encoder: Encoder) -> dict[str, Any]:
    """The section of a config of which `build` makes this encoder."""
    [name] = [name for name, cls in ENCODERS.items() if cls is type(encoder)]
    own: Any = encoder
    return {"name": name, **{field.name: getattr(own, field.name) for field in fields(own) if field.name != "seed"}}
