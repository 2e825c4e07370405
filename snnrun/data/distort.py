"""Elastic distortion, scale and rotation of images: the compiled loops of `augment`.

A map gives every pixel a displacement (dv, dh), and the image is read at (row - dv, column - dh). The image has R x K
pixels; y and x count from its middle at R // 2 and K // 2; n and N are noises in [-1, 1):

    elastic    dh += a * (G * N_h), dv += a * (G * N_v): two fields of noise, zero outside the image, convolved with
               G_ij = exp(-(i^2 + j^2) / (2 * 4^2)) / (2 pi * 4) for i, j from -10 to 10
    scale      dh += s n_h x, dv += s n_v y
    rotation   by w = r n: dh += x - x cos w - y sin w, dv += y - y cos w + x sin w

Source: Simard, Steinkraus, Platt 2003, with the constants of the HM2-BP and ST-RSBP simulators. `authors` gives the map
of these simulators: one field in place of two; n_h = n and n_v from the first two noises of the field; and it only
enlarges: s n becomes s max(0, n).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.jit import Floats, Words, jit, part
from snnrun.compiled.splitmix import STEP, mix
from snnrun.compiled.turns import NONE, Turn, take

SIGMA = 4.0  # of the Gaussian, in pixels
REACH = 10  # it covers so many pixels to each side


def gaussian() -> Floats:
    """g, (2 REACH + 1,), with G_ij = g_i g_j."""
    taps = np.arange(-REACH, REACH + 1)
    return (np.exp(-(taps**2) / (2 * SIGMA**2)) / math.sqrt(2 * math.pi * SIGMA)).astype(np.float32)


@part
def _noise(key: Any, number: Any) -> Any:
    """Noise `number` (0, 1, ...) of a stream: float32 in [-1, 1), with 24 bits."""
    x = mix(key + np.uint64(number + 1) * STEP)
    return np.float32(np.int64(x >> np.uint64(40))) * np.float32(2**-23) - np.float32(1)


@partial(jit, exact=True)
def _blur(field: Floats, taps: Floats, wide: Floats) -> None:
    """Convolve a field (R, K) with taps_i taps_j, zero outside; `wide` (R, K) is scratch for the first direction."""
    rows, columns = field.shape
    reach = len(taps) // 2
    for r in range(rows):
        for k in range(columns):
            wide[r, k] = np.float32(0)
        for i in range(len(taps)):
            shift, weight = i - reach, taps[i]
            for k in range(max(0, -shift), min(columns, columns - shift)):
                wide[r, k] += weight * field[r, k + shift]
    for r in range(rows):
        for k in range(columns):
            field[r, k] = np.float32(0)
        for i in range(len(taps)):
            source, weight = r + i - reach, taps[i]
            if 0 <= source < rows:
                for k in range(columns):
                    field[r, k] += weight * wide[source, k]


@partial(jit, exact=True)
def displacements(
    key: np.uint64, strength: Floats, taps: Floats, authors: bool, dv: Floats, dh: Floats, wide: Floats
) -> None:
    """Write the map of one stream to `dv` and `dh` (R, K); `strength` has a (pixels), s (no unit) and r (radians)."""
    rows, columns = dv.shape
    elastic, scale, rotation = strength[0], strength[1], strength[2]
    if elastic != 0:
        for r in range(rows):
            for k in range(columns):
                number = r * columns + k
                dh[r, k] = elastic * _noise(key, number)
                dv[r, k] = dh[r, k] if authors else elastic * _noise(key, rows * columns + number)
        _blur(dh, taps, wide)
        if authors:
            for r in range(rows):
                for k in range(columns):
                    dv[r, k] = dh[r, k]
        else:
            _blur(dv, taps, wide)
    else:
        for r in range(rows):
            for k in range(columns):
                dh[r, k] = dv[r, k] = np.float32(0)
    if authors:
        turn = _noise(key, 0)
        across, down = max(turn, np.float32(0)), max(_noise(key, 1), np.float32(0))
    else:
        after = 2 * rows * columns
        across, down, turn = _noise(key, after), _noise(key, after + 1), _noise(key, after + 2)
    angle = np.float64(rotation * turn)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    for r in range(rows):
        y = np.float32(r - rows // 2)
        for k in range(columns):
            x = np.float32(k - columns // 2)
            dh[r, k] += scale * across * x + (x - x * cos - y * sin)
            dv[r, k] += scale * down * y + (y - y * cos + x * sin)


@part
def _value(image: Any, r: Any, k: Any) -> Any:
    """A pixel; outside the image the background, 0."""
    inside = 0 <= r < image.shape[0] and 0 <= k < image.shape[1]
    return np.float32(image[r, k]) if inside else np.float32(0)


@partial(jit, exact=True)
def warp(image: NDArray[np.uint8], dv: Floats, dh: Floats, authors: bool, shown: NDArray[np.uint8]) -> None:
    """Read an image (C, R, K) at the displaced places into `shown`: bilinear, background 0 outside, rounded.

    The authors round coordinates towards zero. With theirs, a place whose four pixels are not all inside is background.
    """
    channels, rows, columns = image.shape
    for r in range(rows):
        for k in range(columns):
            y, x = np.float32(r) - dv[r, k], np.float32(k) - dh[r, k]
            top = np.int64(y) if authors else np.int64(math.floor(y))
            left = np.int64(x) if authors else np.int64(math.floor(x))
            low, right = y - np.float32(top), x - np.float32(left)
            whole = 0 <= top < rows - 1 and 0 <= left < columns - 1
            for c in range(channels):
                if authors and not whole:
                    shown[c, r, k] = 0
                    continue
                plane = image[c]
                above = (np.float32(1) - right) * _value(plane, top, left) + right * _value(plane, top, left + 1)
                below = (np.float32(1) - right) * _value(plane, top + 1, left) + right * _value(
                    plane, top + 1, left + 1
                )
                value = (np.float32(1) - low) * above + low * below
                shown[c, r, k] = np.uint8(min(max(value + np.float32(0.5), np.float32(0)), np.float32(255)))


@partial(jit, exact=True, memory=True)
def distort(
    images: NDArray[np.uint8],
    keys: Words,
    strength: Floats,
    taps: Floats,
    authors: bool,
    shown: NDArray[np.uint8],
    turn: Turn,
) -> None:
    """Distort the images of a turn, of (B, C, R, K), into `shown`, each by the map of its key in `keys` (B,)."""
    rows, columns = images.shape[2], images.shape[3]
    dv, dh = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)
    wide = np.empty((rows, columns), np.float32)
    last = NONE
    while True:
        b = take(turn)
        if b == NONE:
            return
        if last == NONE or keys[b] != keys[last]:
            displacements(keys[b], strength, taps, authors, dv, dh, wide)
        warp(images[b], dv, dh, authors, shown[b])
        last = b
