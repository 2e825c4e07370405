"""Ben's Spiker Algorithm: a spike wherever subtracting a fixed kernel makes the signal enough smaller.

The spikes stand for the signal that is their convolution with the kernel.

Source: B. Schrauwen and J. Van Campenhout (2003), "BSA, a fast and accurate spike train encoding scheme". Kernel,
threshold and the holding of frames are those of the ST-RSBP simulator.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.jit import jit

Floats = NDArray[np.float64]


def kernel(taps: int = 24, center: float = 12.0, width: float = 25.0) -> Floats:
    """h_i ~ exp(-(i - center)^2 / width) for i = 0 ... taps - 1, with the sum 1; shape (taps,)."""
    h = np.exp(-((np.arange(taps) - center) ** 2) / width)
    normalised: Floats = h / h.sum()
    return normalised


def bsa_encode(
    signal: Floats,
    steps: int,
    *,
    gain: float = 2000.0,
    hold: int = 10,
    threshold: float = 0.6,
    taps: int = 24,
    center: float = 12.0,
    width: float = 25.0,
) -> NDArray[np.uint8]:
    """Encode a signal, each channel by itself.

    x is the signal times `gain`, with each frame repeated `hold` times and zeros after the last. There is a spike at
    step t + 1 if sum_i |x(t + i) - h_i| < sum_i |x(t + i)| - threshold. Then h is subtracted from x, from x(t) on.

    Args:
        signal: Shape (channels, frames).
        steps: T; later spikes are left out, so fewer steps give the beginning of the same train.
        gain: Factor of the signal. A spike in every step stands for 1.
        hold: Steps of a frame.
        threshold: Least gain of a spike; no spike gains more than 1.
        taps, center, width: See `kernel`.

    Returns:
        Spikes of 0 and 1, shape (T, channels); step 0 never carries one.

    Raises:
        ValueError: If the signal does not have two dimensions, or if `steps` or `hold` is not positive.
    """
    if signal.ndim != 2 or steps < 1 or hold < 1:
        raise ValueError(f"want a signal (channels, frames), steps and hold >= 1; got {signal.shape}, {steps}, {hold}")
    spikes = np.zeros((steps, len(signal)), np.uint8)
    _encode(np.ascontiguousarray(signal.T * gain), hold, kernel(taps, center, width), threshold, spikes)
    return spikes


@partial(jit, memory=True, exact=True)  # exact, because spikes depend on comparisons of sums
def _encode(signal: Floats, hold: int, h: Floats, threshold: float, spikes: NDArray[np.uint8]) -> None:
    """Encode a signal (frames, channels) into `spikes` (T, channels), which must be 0."""
    frames, channels = signal.shape
    steps, taps = min(frames * hold, len(spikes) - 1), len(h)
    x = np.zeros((steps + taps, channels))  # the part of the signal that the spikes do not stand for yet
    for t in range(min(frames * hold, len(x))):
        x[t] = signal[t // hold]
    with_spike, without = np.empty(channels), np.empty(channels)
    for t in range(steps):
        with_spike[:], without[:] = 0.0, 0.0
        for i in range(taps):
            row, tap = x[t + i], h[i]
            for c in range(channels):
                value = row[c]  # read only once, so that no write can come between
                with_spike[c] += abs(value - tap)
                without[c] += abs(value)
        for c in range(channels):
            if with_spike[c] < without[c] - threshold:
                spikes[t + 1, c] = 1
                for i in range(taps):
                    x[t + i, c] -= h[i]
