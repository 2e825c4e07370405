"""From the rows of an array to samples: what they are, and how each becomes what an encoder takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.packed_arrays import pack
from snnrun.data.array_files import Rows
from snnrun.errors import SnnrunError, UsageError

NameOf = Callable[[int], str]

AT_ONCE = 1 << 24  # bytes of a piece that is looked at
_COLOURS = (1, 2, 3, 4)  # the length of an axis of channels
_DIM = 64  # 8-bit images that stay below have another range than 0 to 255


@dataclass(frozen=True)
class Form:
    """How the rows of an array become samples.

    Attributes:
        kind: "image", "vector", "series" or "spikes".
        raw: Shape of a row; of series and spike trains the longest.
        time: "first" or "last": which axis of a row of series or spikes is time.
        low, high: The values that become 0 and 1, one for all or for each of the N channels; None: 8-bit pixels as
            they are.
    """

    kind: str
    raw: tuple[int, ...]
    time: str = "first"
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Channels, rows and columns of an image; None of other kinds."""
        if self.kind != "image":
            return None
        if len(self.raw) == 2:
            return 1, self.raw[0], self.raw[1]
        rows, columns, channels = self.raw
        return (rows, columns, channels) if self._channels_first else (channels, rows, columns)

    @property
    def steps(self) -> int:
        """P of series, T of spike trains; 0 of others."""
        if self.kind not in ("series", "spikes"):
            return 0
        return self.raw[-1 if self.time == "last" and len(self.raw) == 2 else 0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample, without its time, see `Corpus`."""
        if self.image is not None:
            return self.image[1:] if self.image[0] == 1 else self.image
        if self.kind == "vector":
            return self.raw
        return (1,) if len(self.raw) == 1 else (self.raw[0 if self.time == "last" else 1],)

    @property
    def _channels_first(self) -> bool:
        return self.raw[0] in _COLOURS and self.raw[-1] not in _COLOURS

    def __call__(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Samples of rows (B, ...): images (B, N), vectors (B, N), series (B, P, N) or bits of spikes (B, T, W)."""
        rows = self.ordered(rows)
        if self.kind == "spikes":
            return pack(np.nan_to_num(rows) != 0)
        if self.low is None or self.high is None:
            return np.ascontiguousarray(rows)
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        scaled = (rows.astype(np.float64) - self.low) / span
        return np.clip(scaled, 0.0, 1.0).astype(np.float32)

    def ordered(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Rows (B, ...) with their values in the order of samples: (B, N), or (B, P, N) with time."""
        if self.kind == "vector":
            return rows
        if self.kind == "image":
            if rows.ndim == 4 and not self._channels_first:
                rows = rows.transpose(0, 3, 1, 2)
            return rows.reshape(len(rows), -1)
        if rows.ndim == 2:
            return rows[:, :, None]
        return rows.transpose(0, 2, 1) if self.time == "last" else rows

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        ends = {} if self.low is None or self.high is None else {"low": self.low.tolist(), "high": self.high.tolist()}
        return {"kind": self.kind, "raw": list(self.raw), "time": self.time, **ends}


def from_dict(values: Mapping[str, Any]) -> Form:
    """The form that `as_dict` gave."""
    ends = {key: np.asarray(values[key], np.float64) for key in ("low", "high") if key in values}
    return Form(str(values["kind"]), tuple(int(size) for size in values["raw"]), str(values["time"]), **ends)


# ---- what the rows hold ---------------------------------------------------------------------------------------------


@dataclass
class Facts:
    """What all rows (S, ...) of some arrays hold.

    Attributes:
        low, high: The smallest and the largest value of each row, (S,); NaN where all are NaN.
        least, most: Of each place of the rows that are measured, flat, or of each channel of series.
        whole: Whether all values are whole numbers.
        nan, infinite: Which rows have such values, (S,).
        ends: Whether every NaN lies after the end of its series, where all channels are NaN.
        lengths: Of each series up to there, (S,).
        contents: SHA-256 of all rows.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    whole: bool
    nan: NDArray[np.bool_]
    infinite: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    contents: str

    @property
    def binary(self) -> bool:
        """Whether all values are 0 or 1, with a 1 among them."""
        return self.whole and bool(np.fmin.reduce(self.low) >= 0 and np.fmax.reduce(self.high) == 1)


def look(rows: Rows, measured: NDArray[np.bool_], time: str) -> Facts:
    """Read all rows once; `measured` (S,) says whose range counts."""
    size, inner = rows.shape[0], rows.shape[1:]
    sha, whole = hashlib.sha256(), True
    floats = rows.dtype.kind == "f"
    low, high = np.empty(size), np.empty(size)
    nan, infinite, ends = np.zeros(size, bool), np.zeros(size, bool), np.ones(size, bool)
    lengths = np.full(size, inner[-1 if time == "last" and len(inner) == 2 else 0], np.int64)
    least = most = np.empty(0)
    piece = max(1, AT_ONCE // max(1, int(np.prod(inner)) * 8))
    for start in range(0, size, piece):
        at = slice(start, min(start + piece, size))
        some = np.ascontiguousarray(rows[at])
        sha.update(some.data)
        flat = some.reshape(len(some), -1)
        if floats:
            nan[at], infinite[at] = np.isnan(flat).any(axis=1), np.isinf(flat).any(axis=1)
            whole = whole and bool(((flat == np.floor(flat)) | np.isnan(flat)).all())
            if nan[at].any():
                ends[at], lengths[at] = _ends(some, time)
        low[at] = np.fmin.reduce(flat, axis=1)
        high[at] = np.fmax.reduce(flat, axis=1)
        if measured[at].any():
            own = _by_channel(some[measured[at]], time)
            least = np.fmin.reduce([*([least] if least.size else []), np.fmin.reduce(own, axis=0)])
            most = np.fmax.reduce([*([most] if most.size else []), np.fmax.reduce(own, axis=0)])
    sha.update(repr((rows.shape, str(rows.dtype))).encode())
    return Facts(
        low, high, least.astype(np.float64), most.astype(np.float64), whole, nan, infinite, ends, lengths,
        sha.hexdigest(),
    )  # fmt: skip


def _ends(rows: NDArray[Any], time: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether the NaN of each row (B, ...) follow its last value, and how long it is up to there."""
    series = rows[:, :, None] if rows.ndim == 2 else rows.transpose(0, 2, 1) if time == "last" else rows
    series = series.reshape(*series.shape[:2], -1)
    gone = np.isnan(series)
    lengths = series.shape[1] - np.argmin(gone.all(axis=2)[:, ::-1], axis=1)
    lengths[gone.all(axis=(1, 2))] = 0
    inside = np.arange(series.shape[1])[None, :, None] < lengths[:, None, None]
    return ~(gone & inside).any(axis=(1, 2)), lengths


def _by_channel(rows: NDArray[Any], time: str) -> NDArray[Any]:
    """Values (any, N) of rows (B, ...): by place, or by channel where the rows have two axes."""
    if rows.ndim == 3:
        rows = rows.transpose(0, 2, 1) if time == "last" else rows
        return rows.reshape(-1, rows.shape[2])
    return rows.reshape(len(rows), -1)


# ---- what they are --------------------------------------------------------------------------------------------------


def kind_of(rows: Rows, facts: Facts, ragged: bool) -> tuple[str, str]:
    """What the rows are by shape and type, and why."""
    inner, type_ = rows.shape[1:], rows.dtype
    if len(inner) == 1 and not ragged:
        return "vector", f"rows of {inner[0]:,} numbers"
    if len(inner) == 3:
        return "image", f"rows of {_times(inner)}"
    if facts.binary or type_.kind == "b":
        return "spikes", f"rows of {_times(inner)} that are 0 and 1 alone"
    if ragged or facts.nan.any():
        return "series", "rows of different lengths"
    if type_.kind in "iu":
        return "image", f"rows of {_times(inner)} whole numbers"
    if inner[0] == inner[1]:
        return "image", f"square rows of {_times(inner)}"
    return "series", f"rows of {_times(inner)} numbers"


def check_kind(kind: str, inner: Sequence[int]) -> None:
    """Refuse a kind that rows of this shape cannot be.

    Raises:
        UsageError: If they cannot.
    """
    axes = {"image": (2, 3), "vector": (1,), "series": (1, 2), "spikes": (2,)}[kind]
    if len(inner) not in axes:
        wanted = {
            "image": "(samples, rows, columns) or with channels behind",
            "vector": "(samples, features)",
            "series": "(samples, steps) or (samples, steps, channels)",
            "spikes": "(samples, steps, channels)",
        }[kind]
        raise UsageError(f"data.kind={kind}: x has samples of {_times(inner)}; wanted is {wanted}")


def check_values(facts: Facts, kind: str, name_of: NameOf) -> None:
    """Refuse NaN inside samples, and infinite values; `name_of(k)` is what row k is called.

    Raises:
        SnnrunError: If there are such; the first sample is named.
    """
    bad = facts.infinite
    if bad.any():
        k = int(bad.argmax())
        raise SnnrunError(
            f"{name_of(k)} has an infinite value{_others(bad)}. Clip such values, or leave the samples out"
        )
    series = kind in ("series", "spikes")
    bad = facts.nan & ~facts.ends if series else facts.nan
    if bad.any():
        k = int(bad.argmax())
        inside = " before its end" if series else ""
        raise SnnrunError(f"{name_of(k)} has NaN{inside}{_others(bad)}. Fill the gaps in, or leave the samples out")
    empty = facts.lengths == 0
    if series and empty.any():
        k = int(empty.argmax())
        raise SnnrunError(f"{name_of(k)} has no value at all{_others(empty)}. Leave such samples out")
    if kind == "spikes" and not (facts.whole and np.fmin.reduce(facts.low) >= 0 and np.fmax.reduce(facts.high) <= 1):
        bad = (facts.low < 0) | (facts.high > 1)
        k = int(bad.argmax()) if bad.any() else 0
        value = facts.high[k] if facts.high[k] > 1 else facts.low[k]
        what = f"has the value {value:g}" if bad.any() else "or another has a value between 0 and 1"
        raise SnnrunError(
            f"{name_of(k)} {what}; spike trains are 0 and 1. Save x > 0, or say what they are by data.kind=series"
        )


def range_of(
    kind: str, axes: int, facts: Facts, declared: Sequence[float] | None, eight_bits: bool, name_of: NameOf
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, list[str]]:
    """The values that become 0 and 1, None for those of 8-bit pixels, and notes; `axes`: how many a row has.

    Raises:
        UsageError: If a declared range is none.
        SnnrunError: If a value lies beyond a declared range; the sample is named.
    """
    if kind == "spikes":
        return None, None, []
    if declared is not None:
        if len(declared) != 2 or not (np.isfinite(declared).all() and declared[0] < declared[1]):
            raise UsageError(f"data.range={list(declared)}: two numbers are needed, the smaller one first")
        beyond = (facts.low < declared[0]) | (facts.high > declared[1])
        if beyond.any():
            k = int(beyond.argmax())
            value = facts.low[k] if facts.low[k] < declared[0] else facts.high[k]
            raise SnnrunError(
                f"{name_of(k)} has the value {value:g}, beyond data.range={list(declared)}{_others(beyond)}. Widen the "
                "range, or leave it out and it is measured"
            )
        if kind == "image" and eight_bits and tuple(declared) == (0, 255):
            return None, None, []
        return np.array([declared[0]], np.float64), np.array([declared[1]], np.float64), []
    if kind == "image":
        least, most = facts.least.min(), facts.most.max()
        if eight_bits and most >= _DIM:
            return None, None, []
        low, high = np.array([min(least, 0.0) if eight_bits else least]), np.array([most])
    elif axes == 1 and kind == "series":
        low, high = np.array([facts.least.min()]), np.array([facts.most.max()])
    else:
        low, high = facts.least, facts.most
    each = {"vector": "each feature by itself: ", "series": "each channel by itself: "}.get(kind, "")
    said = f"{each if low.size > 1 else ''}{_spread(low, high)}, as measured on the samples to train on"
    outside = int(((facts.low < low.min()) | (facts.high > high.max())).sum())
    clipped = f"; {outside:,} of all go beyond that and are clipped there (data.range=[LOW,HIGH])" if outside else ""
    return low, high, [f"values become 0 to 1 from {said}{clipped}"]


def _spread(low: NDArray[np.float64], high: NDArray[np.float64]) -> str:
    if low.size == 1:
        return f"{low[0]:.6g} to {high[0]:.6g}"
    return f"{low.min():.6g} at the least, to {high.max():.6g} at the most"


def _others(bad: NDArray[np.bool_]) -> str:
    more = int(bad.sum()) - 1
    return f", and so have {more:,} more" if more else ""


def _times(inner: Sequence[int]) -> str:
    return " x ".join(f"{size:,}" for size in inner)
