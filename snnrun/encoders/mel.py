"""Recordings as spikes: log-mel frames, then rates or changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from snnrun import declared
from snnrun.declared import Range
from snnrun.encoders.delta import crossings
from snnrun.encoders.lyon_bsa import resampled
from snnrun.encoders.rate import Regular
from snnrun.errors import UsageError

# Raise it with every change that changes spikes. Stored spikes are then made anew.
_VERSION = 1


@dataclass(frozen=True)
class Mel:
    """Sound to spikes: the power in bands of the mel scale, frame by frame, in decibels below the loudest of them.

    The loudest band of a recording stands for 1 and what is `range_db` or more below it for 0, so the loudness of a
    recording makes no difference. Each frame is held for `hold` steps. Its values become evenly spaced spikes (`rate`,
    see `Regular`) or are sent where they change (`delta`, see `Delta`). Nothing is drawn. Frames are centred, and the
    sound is taken for silent beyond its ends. Bands: librosa's mel filters, each of area 1 (Slaney).

    Attributes:
        steps: T; longer recordings are cut, see `left_out`; shorter ones end in silence.
        sample_rate: Hz, to which recordings are resampled.
        mels: Number of bands, from 0 Hz to half the sample rate.
        frame_ms, hop_ms: Length of a frame, and from one to the next, in ms.
        hold: Steps of a frame.
        range_db: See above.
        coding: "rate" or "delta".
        attenuation: coding=rate: a value of 1 fires once in so many steps.
        threshold: coding=delta: the change that is sent, as a share of the range.

    Raises:
        UsageError: If an option is out of its range, or if a frame is too short for the bands.
    """

    kinds: ClassVar[tuple[str, ...]] = ("audio",)

    steps: Annotated[int, Range(at_least=2)] = 700
    sample_rate: Annotated[int, Range(at_least=1000)] = 12500
    mels: Annotated[int, Range(at_least=1)] = 40
    frame_ms: Annotated[float, Range(above=0)] = 32.0
    hop_ms: Annotated[float, Range(above=0)] = 16.0
    hold: Annotated[int, Range(at_least=1)] = 10
    range_db: Annotated[float, Range(above=0)] = 60.0
    coding: Literal["rate", "delta"] = "rate"
    attenuation: Annotated[float, Range(at_least=1)] = 5.5
    threshold: Annotated[float, Range(above=0, at_most=1)] = 0.05

    def __post_init__(self) -> None:
        declared.check("encoder", Mel, vars(self))
        if self._samples(self.hop_ms) < 1:
            raise UsageError(f"encoder.hop_ms={self.hop_ms}: less than a sample of {self.sample_rate} Hz")
        if self._samples(self.frame_ms) // 2 < self.mels:
            raise UsageError(
                f"encoder.mels={self.mels}: a frame of {self.frame_ms:g} ms tells {self._samples(self.frame_ms) // 2} "
                "frequencies apart. Set fewer bands or a longer encoder.frame_ms."
            )

    @property
    def channels(self) -> int:
        """N: the bands, the lowest first; with `delta` once for rises and again for falls."""
        return self.mels * (2 if self.coding == "delta" else 1)

    @property
    def step_s(self) -> float:
        """Length of a step, in s."""
        return self._samples(self.hop_ms) / self.sample_rate / self.hold

    def left_out(self, samples: int, sample_rate: int) -> int:
        """How many steps of a recording of so many samples, at so many Hz, come after the last encoded step."""
        frames = 1 + -(-samples * self.sample_rate // sample_rate) // self._samples(self.hop_ms)
        return max(0, frames * self.hold - self.steps)

    def key(self) -> dict[str, Any]:
        """All that the spikes of a recording depend on besides the recording, in values that JSON can hold."""
        return {"encoder": "mel", "version": _VERSION, **asdict(self)}

    def encode_recording(self, wave: NDArray[np.float64], sample_rate: int) -> NDArray[np.int64]:
        """Encode one recording, samples (S,) in [-1, 1], as bits (T, W); the result is the same in every thread.

        Raises:
            ValueError: If the wave has a sample that is not finite or more than one dimension.
        """
        if wave.ndim != 1 or not np.isfinite(wave).all():
            raise ValueError(f"want finite samples (S,); got {wave.shape} with {np.sum(~np.isfinite(wave))} not finite")
        frames = self.frames(resampled(wave, sample_rate, self.sample_rate))
        shown = -(-self.steps // self.hold)
        series = np.zeros((1, shown, self.mels), np.float32)
        series[0, : len(frames)] = frames[:shown]
        steps = shown * self.hold
        if self.coding == "delta":
            spikes = crossings(
                np.concatenate([np.zeros_like(series[:, :1]), series], 1), self.threshold, steps + self.hold
            )
            spikes = spikes[:, self.hold :]  # the first frame is a change from silence
        else:
            evenly = Regular(seed=0, steps=steps, attenuation=self.attenuation)
            spikes = evenly.encode(series, np.zeros(1, np.int64), 0)
        return np.ascontiguousarray(spikes[0, : self.steps])

    def frames(self, wave: NDArray[np.float64]) -> NDArray[np.float32]:
        """The values (F, mels) of a wave (S,) of the encoder's sample rate, from 0 to 1; F = 1 + S // hop."""
        hop, size = self._samples(self.hop_ms), self._samples(self.frame_ms)
        if not wave.any():
            return np.zeros((1 + len(wave) // hop, self.mels), np.float32)
        import librosa
        from librosa.filters import mel

        spectrum = librosa.stft(np.pad(wave, size // 2), n_fft=size, hop_length=hop, center=False)
        bands = mel(sr=self.sample_rate, n_fft=size, n_mels=self.mels)
        power = np.maximum(bands @ np.abs(spectrum) ** 2, np.finfo(np.float64).tiny)
        decibels = 10 * np.log10(power / power.max())
        values: NDArray[np.float32] = np.clip(1 + decibels.T / self.range_db, 0, 1).astype(np.float32)
        return values

    def _samples(self, milliseconds: float) -> int:
        return round(milliseconds * self.sample_rate / 1e3)
