"""Spikes and values as text that fits a window: dots of braille, or ASCII where the output is not UTF-8.

A character of braille has 2 x 4 dots. Where at most half of the dots have a spike, each dot with a spike is set, so
that none goes unseen. Elsewhere the dots are set as densely as the spikes are (ordered dithering).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The bit of each dot of a character, by its row and column.
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_BRAILLE, _BARS, _ASCII = 0x2800, " ▁▂▃▄▅▆▇█", " .:-=+*#%@"
# Thresholds of an ordered dither (Bayer 1973), in the order in which the dots of a square of 4 x 4 are set.
_BAYER = (np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) + 0.5) / 16
_SPREAD = 4  # dots between neighbours, at most, where there is more room than samples need
_MOST = 0.98  # this quantile of the densities that are not 0 sets all dots


def picture(values: NDArray[Any], columns: int, rows: int, unicode: bool = True) -> list[str]:
    """Lines of at most so many characters for values (X, Y), X to the right and Y down: spikes (T, N), or 0 to 1.

    Args:
        values: Not negative; NaN is empty.
        columns, rows: The most characters, at least 1.
        unicode: Whether braille can be shown.
    """
    across, down = (2, 4) if unicode else (1, 1)
    filled = np.nan_to_num(values.astype(np.float64))
    fill = "apart" if values.dtype == np.bool_ else "wide"
    means = _binned(_binned(filled, columns * across, 0, fill), rows * down, 1, fill)
    found = means > 0
    fits = means.shape == values.shape
    exact = values.dtype == np.bool_ and (fits or found.mean() <= 0.5)
    peak = float(np.quantile(means[found], _MOST)) if found.any() else 1.0
    if not unicode:
        level = np.ceil(np.clip(means / max(peak, 1e-12), 0, 1) * (len(_ASCII) - 1)).astype(int)
        return ["".join(_ASCII[k] for k in line).rstrip() for line in level.T.tolist()]
    wide, high = (-(-size // part) for size, part in zip(means.shape, (2, 4), strict=True))
    thresholds = np.tile(_BAYER, (wide, high))[: means.shape[0], : means.shape[1]]
    dots = np.zeros((2 * wide, 4 * high), bool)
    dots[: means.shape[0], : means.shape[1]] = found if exact else means / max(peak, 1e-12) > thresholds
    codes = np.einsum("xiyj,ji->yx", dots.reshape(wide, 2, high, 4), _DOTS) + _BRAILLE
    return ["".join(map(chr, line)) for line in codes.tolist()]


def curves(values: NDArray[Any], columns: int, rows: int, unicode: bool = True) -> list[str]:
    """Lines of at most so many characters for the curves of values (T, F), the largest of them at the top."""
    width, height = (2 * columns, 4 * rows) if unicode else (columns, rows)
    known = values[~np.isnan(values).any(axis=1)].astype(np.float64)
    drawn = np.zeros((width, height), bool)
    if len(known):
        ends = round(width * len(known) / len(values)) or 1
        low, high = float(known.min()), float(known.max())
        places = np.linspace(0, len(known) - 1, ends)
        for curve in known.T:
            at = np.interp(places, np.arange(len(known)), curve)
            level = np.rint((high - at) / max(high - low, 1e-12) * (height - 1)).astype(int)
            for x, y in enumerate(level.tolist()):
                before = y if x == 0 else int(level[x - 1])
                drawn[x, min(y, before + 1) : max(y + 1, before)] = True
    return picture(drawn, columns, rows, unicode)


def bars(values: NDArray[Any], columns: int, unicode: bool = True) -> str:
    """One line of bars for values (S,) that are not negative, by their means over equal parts."""
    means = _binned(values.astype(np.float64)[:, None], columns, 0, "one")[:, 0]
    signs = _BARS if unicode else _ASCII
    peak = max(float(means.max(initial=0.0)), 1e-12)
    return "".join(signs[k] for k in np.ceil(means / peak * (len(signs) - 1)).astype(int).tolist())


def framed(lines: list[str], above: str, below: str, left: str, right: str, width: int) -> list[str]:
    """A picture with what its first and last line are called at its left, and what its sides are called below it."""
    margin = max(len(above), len(below))
    names = [above, *[""] * (len(lines) - 2), below] if len(lines) > 1 else [above]
    found = [f"{name:>{margin}} {line}" for name, line in zip(names, lines, strict=True)]
    gap = max(1, width - len(left) - len(right))
    return [*found, f"{'':>{margin}} {left}{'':{gap}}{right}"]


def _binned(values: NDArray[np.float64], most: int, axis: int, fill: str = "apart") -> NDArray[np.float64]:
    """Means over at most so many equal parts along an axis.

    Where there is room for more, entries stand "apart", or each is "wide", or (of "one") the axis stays as it is.
    """
    size = values.shape[axis]
    if size > most:
        edges = np.arange(most) * size // most
        widths = np.diff(edges, append=size)
        shape = (-1, 1) if axis == 0 else (1, -1)
        means: NDArray[np.float64] = np.add.reduceat(values, edges, axis=axis) / widths.reshape(shape)
        return means
    room = most // max(size, 1)
    if fill == "wide":
        return np.repeat(values, room, axis=axis)
    apart = min(room, _SPREAD) if fill == "apart" else 1
    if apart < 2:
        return values
    shape_of = [*values.shape]
    shape_of[axis] = (size - 1) * apart + 1
    spread = np.zeros(shape_of)
    spread[(slice(None, None, apart), slice(None)) if axis == 0 else (slice(None), slice(None, None, apart))] = values
    return spread
