"""Recordings as spikes: Lyon's passive ear, then Ben's Spiker Algorithm."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from snnrun import declared
from snnrun.compiled.packed_arrays import pack
from snnrun.declared import Range
from snnrun.encoders.bsa import bsa_encode
from snnrun.encoders.lyon import design, passive_ear
from snnrun.errors import UsageError

# Raise it with every change that changes spikes. Stored spikes are then made anew.
_VERSION = 1


@dataclass(frozen=True)
class LyonBsa:
    """Sound to spikes; the defaults are those of the ST-RSBP paper's encoder for TI46.

    Recordings of another rate are resampled by `librosa.resample(res_type="polyphase")`, which is SciPy's
    `resample_poly` with the reduced ratio (8 kHz to 12.5 kHz: 25 / 16).

    Attributes:
        steps: T; longer recordings are cut, see `left_out`; shorter ones end in silence.
        sample_rate: Hz, of the sound that the ear hears.
        loudness: "rms" scales each recording to the same root mean square before the ear, because the ear's gain
            control reduces differences of level but does not remove them; "none" leaves it as it is.
        loudness_rms: This root mean square. Silence stays silent.
        decimation, ear_q, step_factor, agc, difference, tau_factor: See `passive_ear`.
        gain, hold, threshold: See `bsa_encode`.

    Raises:
        UsageError: If an option is out of its range or leaves the ear without channels.
    """

    kinds: ClassVar[tuple[str, ...]] = ("audio",)

    steps: Annotated[int, Range(at_least=2)] = 700
    sample_rate: Annotated[int, Range(at_least=1)] = 12500
    loudness: Literal["none", "rms"] = "none"
    loudness_rms: Annotated[float, Range(above=0)] = 0.05
    decimation: Annotated[int, Range(at_least=1)] = 200
    ear_q: Annotated[float, Range(above=0.5)] = 8.0
    step_factor: Annotated[float, Range(above=0)] = 0.25
    agc: bool = True
    difference: bool = True
    tau_factor: Annotated[float, Range(above=0)] = 3.0
    gain: Annotated[float, Range(above=0)] = 2000.0
    hold: Annotated[int, Range(at_least=1)] = 10
    threshold: Annotated[float, Range(at_least=0, below=1)] = 0.6

    def __post_init__(self) -> None:
        declared.check("encoder", LyonBsa, vars(self))
        try:
            design(self.sample_rate, self.ear_q, self.step_factor)
        except ValueError as error:
            raise UsageError(f"encoder.sample_rate={self.sample_rate}: {error}") from error

    @property
    def channels(self) -> int:
        """N, the ear's channels, the highest frequency first."""
        return len(design(self.sample_rate, self.ear_q, self.step_factor).center_freqs)

    @property
    def step_s(self) -> float:
        """Length of a step, in s."""
        return self.decimation / self.sample_rate / self.hold

    def left_out(self, samples: int, sample_rate: int) -> int:
        """How many steps of a recording of so many samples, at so many Hz, come after the last encoded step."""
        frames = -(-samples * self.sample_rate // sample_rate) // self.decimation
        return max(0, frames * self.hold - self.steps)

    def key(self) -> dict[str, Any]:
        """All that the spikes of a recording depend on besides the recording, in values that JSON can hold."""
        return {"encoder": "lyon_bsa", "version": _VERSION, **asdict(self)}

    def encode_recording(self, wave: NDArray[np.float64], sample_rate: int) -> NDArray[np.int64]:
        """Encode one recording; the result is the same in every thread.

        Args:
            wave: Samples in [-1, 1], shape (S,).
            sample_rate: Hz, of the wave.

        Returns:
            Spikes as bits, shape (T, W) int64: channel n of a step is bit n % 64 of word n // 64. A recording shorter
            than one frame has no spikes.

        Raises:
            ValueError: If the wave has a sample that is not finite or more than one dimension.
        """
        if wave.ndim != 1 or not np.isfinite(wave).all():
            raise ValueError(f"want finite samples (S,); got {wave.shape} with {np.sum(~np.isfinite(wave))} not finite")
        rates = passive_ear(
            self._levelled(self.resampled(wave, sample_rate)),
            self.sample_rate,
            decimation=self.decimation,
            ear_q=self.ear_q,
            step_factor=self.step_factor,
            agc=self.agc,
            difference=self.difference,
            tau_factor=self.tau_factor,
        )
        return pack(bsa_encode(rates, self.steps, gain=self.gain, hold=self.hold, threshold=self.threshold))

    def resampled(self, wave: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
        """The wave (S,) at the rate that the ear hears, shape (ceil(S * self.sample_rate / sample_rate),)."""
        return resampled(wave, sample_rate, self.sample_rate)

    def _levelled(self, wave: NDArray[np.float64]) -> NDArray[np.float64]:
        rms = math.sqrt(np.mean(wave**2)) if self.loudness == "rms" and len(wave) else 0.0
        return wave / rms * self.loudness_rms if rms > 0 else wave


def resampled(wave: NDArray[np.float64], sample_rate: int, wanted: int) -> NDArray[np.float64]:
    """A wave (S,) of one rate in Hz at another, shape (ceil(S * wanted / sample_rate),)."""
    if sample_rate == wanted or not len(wave):
        return wave
    import librosa

    resampled: NDArray[np.float64] = librosa.resample(wave, orig_sr=sample_rate, target_sr=wanted, res_type="polyphase")
    return resampled
