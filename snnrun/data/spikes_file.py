"""The file of encoded spikes; all numbers in it are little-endian.

bytes 0-7       b"SNNSPIKE"
8-11            version of this format, uint32
12-15           L, length of the description, uint32
16-19           CRC-32 of the description, uint32
20-(20 + L)     description, JSON in UTF-8: `key`, `count`, `steps`, `width`, `sha256` of the spikes, `crc32` of what
                follows them in 8 hexadecimal digits, `made_by`
to n * 4096     zeros
from n * 4096   spikes, int64 (count, steps, width), C order: channel n of a step is bit n % 64 of word n // 64
after them      how much was left out of each sample, how many of its events were merged, and how many it has, int64
                (count,) each, see `Encoded`
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import zlib
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.data.exclusive import FULL

VERSION = 3

_MAGIC = b"SNNSPIKE"
_PREFIX = struct.Struct("<8sIII")
_PAGE = 4096
_PIECE = 1 << 18  # bytes read at a time
_NUMBERS = 3  # beside the spikes of a sample


class UnsoundError(Exception):
    """A file is damaged, or not the one that its name says."""


class Encoded(NamedTuple):
    """One sample: its spikes as bits, (T, W) int64, and what they do not show of it.

    Attributes:
        left_out: How much of it comes after the last step, in units of the corpus or the encoder: events, or steps.
        merged: How many of its events fall into a step in which their channel has one already, which a bit cannot show.
        events: How many it has in all; 0 if it is none of events.
    """

    spikes: NDArray[np.int64]
    left_out: int = 0
    merged: int = 0
    events: int = 0


class Stored(NamedTuple):
    """All samples of a file: spikes (S, T, W), not to be written to; the rest as in `Encoded`, shape (S,) each."""

    spikes: NDArray[np.int64]
    left_out: NDArray[np.int64]
    merged: NDArray[np.int64]
    events: NDArray[np.int64]


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        key: What the spikes were made from, as canonical JSON.
        shape: (count, steps, width).
        made_by: Who wrote the file.
        sha256: Of the spikes, in hexadecimal.
        crc32: Of what follows them, in 8 hexadecimal digits.
        start: Where the spikes begin, in bytes.
    """

    key: str
    shape: tuple[int, int, int]
    made_by: str = ""
    sha256: str = "0" * 64
    crc32: str = "0" * 8
    start: int = 0

    @property
    def end(self) -> int:
        """Where the spikes end, in bytes."""
        return self.start + 8 * math.prod(self.shape)

    @property
    def size(self) -> int:
        """Of the whole file, in bytes."""
        return self.end + 8 * _NUMBERS * self.shape[0]


def canonical(key: Any) -> str:
    """The same text for the same key, whatever the order of its parts; ValueError for NaN, TypeError for no JSON."""
    return json.dumps(json.loads(json.dumps(key)), sort_keys=True, separators=(",", ":"), allow_nan=False)


# ---- reading --------------------------------------------------------------------------------------------------------


def load(path: Path, wanted: Header) -> Stored:
    """Check a file to the last bit and map its spikes.

    Raises:
        UnsoundError: If it is damaged, or has another key or shape than is wanted.
        OSError: If it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        header = read(file)
        if (header.key, header.shape) != (wanted.key, wanted.shape):
            raise UnsoundError("it was made for another key")
        check(file, header)
        return _map(file, header)


def read(file: FileIO) -> Header:
    """The header of a file; UnsoundError if it has none that is whole."""
    prefix, length = file.read(_PREFIX.size), os.fstat(file.fileno()).st_size
    if len(prefix) < _PREFIX.size:
        raise UnsoundError(f"it is cut short: {length} bytes")
    magic, version, size, crc = _PREFIX.unpack(prefix)
    if (magic, version) != (_MAGIC, VERSION):
        raise UnsoundError(f"it begins with {prefix[:12]!r}")
    text = file.read(size) if size < length else b""
    if zlib.crc32(text) != crc:
        raise UnsoundError("its header has changed")
    try:
        fields = json.loads(text)
        shape = int(fields["count"]), int(fields["steps"]), int(fields["width"])
        sums = fields["sha256"], fields["crc32"]
        return Header(canonical(fields["key"]), shape, fields["made_by"], *sums, _start(text))
    except (ValueError, TypeError, KeyError):
        raise UnsoundError("its header cannot be understood") from None


def check(file: FileIO, header: Header) -> None:
    """Raise UnsoundError if the spikes are not those that the header was written for."""
    size = os.fstat(file.fileno()).st_size
    if size != header.size:
        raise UnsoundError(f"its header announces {header.size} bytes, it has {size}")
    if _sums(file, header) != (header.sha256, header.crc32):
        raise UnsoundError("its spikes have changed")


def _sums(file: FileIO, header: Header) -> tuple[str, str]:
    """SHA-256 of the spikes, and CRC-32 of what follows them."""
    sha, rest = hashlib.sha256(), header.end - header.start
    file.seek(header.start)
    while rest and (piece := file.read(min(rest, _PIECE))):
        sha.update(piece)
        rest -= len(piece)
    return sha.hexdigest(), f"{zlib.crc32(_tail(file, header)):08x}"


def _tail(file: FileIO, header: Header) -> bytes:
    file.seek(header.end)
    return file.read()


def _map(file: FileIO, header: Header) -> Stored:
    spikes = np.asarray(np.memmap(file, "<i8", "r", header.start, header.shape))
    return Stored(spikes, *np.frombuffer(_tail(file, header), "<i8").reshape(_NUMBERS, header.shape[0]))


# ---- writing --------------------------------------------------------------------------------------------------------


def reserve(file: FileIO, header: Header) -> Header:
    """Take the room for the whole file, so that a full disk is known before the work and not after it.

    Returns the header with its `start`, which the other functions need.
    """
    header = header._replace(start=_start(_describe(header)))
    try:
        os.posix_fallocate(file.fileno(), 0, header.size)
    except AttributeError:  # macOS
        pass
    except OSError as error:  # of a file system that cannot
        if error.errno in FULL:
            raise
    return header


def put(file: FileIO, header: Header, k: int, sample: Encoded) -> None:
    """Write sample k, (steps, width)."""
    _write(file, header.start + k * sample.spikes.nbytes, sample.spikes.astype("<i8").tobytes())
    for row, number in enumerate(sample[1:]):
        _write(file, header.end + 8 * (row * header.shape[0] + k), struct.pack("<q", number))


def finish(file: FileIO, header: Header) -> Stored:
    """Once every sample is there: write the header, have all of it on disk, and map the spikes as `load` does."""
    sha256, crc32 = _sums(file, header)
    text = _describe(header._replace(sha256=sha256, crc32=crc32))
    _write(file, 0, _PREFIX.pack(_MAGIC, VERSION, len(text), zlib.crc32(text)) + text)
    os.fsync(file.fileno())
    return _map(file, header)


def _describe(header: Header) -> bytes:
    count, steps, width = header.shape
    fields = {"key": json.loads(header.key), "count": count, "steps": steps, "width": width}
    sums = {"sha256": header.sha256, "crc32": header.crc32}
    return json.dumps(fields | sums | {"made_by": header.made_by}).encode()


def _start(description: bytes) -> int:
    return -(-(_PREFIX.size + len(description)) // _PAGE) * _PAGE


def _write(file: FileIO, at: int, content: bytes) -> None:
    file.seek(at)
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
