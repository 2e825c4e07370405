"""N-MNIST: the digits of MNIST as an event camera saw them while it moved in three saccades.

A recording is a file with 5 bytes for each event: column, row, then 24 bits, high byte first, which are the polarity
(1: brighter) and 23 bits of the time in us. An event of row 240 adds 2^13 us to all later times. The files lie in
`Train/<digit>` and `Test/<digit>`, unpacked or in the two archives as they are downloaded.

Source: Orchard, Jayawant, Cohen, Thakor, Converting Static Image Datasets to Spiking Neuromorphic Datasets Using
Saccades, Frontiers in Neuroscience 2015.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.packed_arrays import words
from snnrun.data import fetch, folders
from snnrun.data.binning import binned
from snnrun.data.corpus import Corpus, MissingError, UnfitError, Unread
from snnrun.data.known import known
from snnrun.data.spikes_file import Encoded
from snnrun.declared import Range
from snnrun.errors import SnnrunError

SIDE = 34  # rows and columns
CLASSES = tuple("0123456789")
SOURCE = "https://www.garrickorchard.com/datasets/n-mnist"
SACCADE_US = 105_000
_HOST = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files/"
_OVERFLOW_ROW, _OVERFLOW_US = 240, 1 << 13
_EVENT = 5  # bytes
_MEMBER = re.compile(r"(?:[^/]+/)*([0-9])/([^/.][^/]*\.bin)", re.IGNORECASE)
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a file in a zip archive


class Part(NamedTuple):
    """One of the two archives: its name, that of the folder in it, its MD5, its address, the recordings published."""

    archive: str
    folder: str
    md5: str
    address: str
    samples: int


PARTS = (
    Part(
        *("Train.zip", "Train", "20959b8e626244a1b502305a9e6e2031"),
        *(f"{_HOST}39c25547-014b-4137-a934-9d29fa53c7a0/file_downloaded", 60_000),
    ),
    Part(
        *("Test.zip", "Test", "69ca8762b2fe404d9b9bad1103e97832"),
        *(f"{_HOST}05a4d654-7e03-4c15-bdfa-9bb2bcbea494/file_downloaded", 10_000),
    ),
)


@dataclass(frozen=True)
class Binning:
    """How events become spikes; see `nmnist` for the attributes."""

    bin_ms: float
    steps: int
    polarity: str
    stabilise: bool

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, rows and columns."""
        return (2 if self.polarity == "kept" else 1), SIDE, SIDE

    def encoded(self, content: bytes) -> Encoded:
        """Spikes (T, W) of the content of a file, and what of its events they do not show.

        Raises:
            ValueError: If it is no recording; its text is the reason.
        """
        x, y, on, time = decode(content)
        if self.stabilise:
            right, down = motion(time)
            x, y = x - right, y - down
        step = np.floor(time / (1e3 * self.bin_ms)).astype(np.int64) + 1
        seen = (x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE)
        channel = y * SIDE + x + (on * SIDE * SIDE if self.polarity == "kept" else 0)
        return binned(step[seen], channel[seen], self.steps, math.prod(self.image))


class _Recording(NamedTuple):
    """Where a recording is: its name for messages, its digit, what tells a change of it, and how it is read."""

    name: str
    digit: int
    stamp: str
    read: Callable[[], bytes]


@known(
    "handwritten digits as an event camera saw them",
    f"by G. Orchard et al., downloaded when it is first used; terms: {SOURCE}",
    "nmnist",
    (60_000, 10_000),
)
def nmnist(
    root: Path,
    download: bool,
    *,
    bin_ms: Annotated[float, Range(at_least=0.001)] = 1.0,
    steps: Annotated[int, Range(at_least=2)] = 320,
    polarity: Literal["kept", "merged"] = "kept",
    stabilise: bool = False,
) -> Corpus:
    """N-MNIST, binned; the digits in turn, and of each the files by name.

    Each part is looked for in `root/nmnist` (or `n-mnist`): its folder, else its archive; else it is downloaded. An
    event at time t falls into step floor(t / bin) + 1, so that none is in step 0; several of a channel in one step are
    one spike; what comes after the last step is left out, and counted in a note once the files are read.

    Args:
        bin_ms: Length of a step, in ms.
        steps: T; the recordings are about 315 ms long.
        polarity: "kept" gives darker and brighter a channel each, in this order; "merged" makes them one.
        stabilise: Take the camera's motion out, see `motion`; what then lies outside the image is left out.

    Returns:
        Samples that are read when they are asked for, bits int64 (S, T, W).

    Raises:
        MissingError: If a part is missing and cannot be had.
        SnnrunError: If an archive is damaged.
    """
    binning = Binning(bin_ms, steps, polarity, stabilise)
    parts, notes = [], []
    for part, recordings, strays in _found(root, download):
        parts.append(recordings)
        name = part.folder.lower()
        if len(recordings) != part.samples:
            notes.append(f"{name}: {len(recordings):,} of {part.samples:,} recordings are there")
        notes += folders.lacking(name, "digits", CLASSES, (CLASSES[recording.digit] for recording in recordings))
        if strays:
            notes.append(f"{name}: {len(strays):,} files that are no recordings are ignored ({folders.some(strays)})")
    train, test = (_unread(recordings, binning) for recordings in parts)
    train_labels, test_labels = (np.array([one.digit for one in recordings], np.int64) for recordings in parts)
    return Corpus(
        kind="spikes",
        shape=binning.image,
        classes=CLASSES,
        train_samples=train,
        train_labels=train_labels,
        test_samples=test,
        test_labels=test_labels,
        origin=folders.origin(*_homes(root)),
        notes=tuple(notes),
        image=binning.image,
        names=tuple(recording.name for recordings in parts for recording in recordings),
    )


def read(
    path: Path,
    *,
    bin_ms: float = 1.0,
    steps: int = 320,
    polarity: str = "kept",
    stabilise: bool = False,
    **_others: Any,
) -> Encoded:
    """One file by options of `nmnist`: its spikes (T, W) are those that it has as a sample of the corpus.

    Raises:
        UnfitError: If it is no recording, or cannot be read.
    """
    return _spikes(str(path), path.read_bytes, Binning(bin_ms, steps, polarity, stabilise))


def decode(
    content: bytes,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Column, row, polarity (1: brighter) and time in us of the events of a file, each (E,).

    Raises:
        ValueError: If it is no recording; its text is the reason.
    """
    if not content:
        raise ValueError("it is empty")
    if len(content) % _EVENT:
        raise ValueError(f"it is cut short: {len(content):,} bytes are no whole number of events of {_EVENT}")
    x, y, high, middle, low = np.frombuffer(content, np.uint8).reshape(-1, _EVENT).T.astype(np.int64)
    marker = y == _OVERFLOW_ROW
    time = ((high & 127) << 16 | middle << 8 | low) + np.cumsum(marker) * _OVERFLOW_US
    real = ~marker
    outside = real & ((x >= SIDE) | (y >= SIDE))
    if outside.any():
        first = int(np.argmax(outside))
        where = f"column {x[first]}, row {y[first]}"
        raise ValueError(f"event {first:,} lies at {where}, outside the {SIDE} x {SIDE} pixels of N-MNIST")
    return x[real], y[real], (high >> 7)[real], time[real]


def motion(time: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How far the picture has moved right and down at a time (in us), in whole pixels, each (E,).

    The saccades go along the sides of a triangle, 105 ms each: from (0, 0) to (3.5, 7), on to (7, 0) and back, in
    pixels to the right and down. Source: the `stabilize` function that the data set's authors give with it.
    """
    corners = np.arange(4) * SACCADE_US
    right, down = np.interp(time, corners, [0, 3.5, 7, 0]), np.interp(time, corners, [0, 7, 0, 0])
    return np.rint(right).astype(np.int64), np.rint(down).astype(np.int64)


def _unread(recordings: Sequence[_Recording], binning: Binning) -> Unread:
    """The samples, and what they depend on: names, sizes and times or checksums stand for the files' contents."""
    names = "\n".join(f"{one.digit} {one.stamp}" for one in recordings)
    listing = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()

    def read(k: int) -> Encoded:
        return _spikes(recordings[k].name, recordings[k].read, binning)

    options = {"bin_ms": binning.bin_ms, "polarity": binning.polarity, "stabilise": binning.stabilise}
    width = words(math.prod(binning.image))
    key = {"corpus": "nmnist", "version": 1, "listing": listing, **options}
    return Unread(read, np.arange(len(recordings)), binning.steps, width, key)


def _spikes(name: str, content: Callable[[], bytes], binning: Binning) -> Encoded:
    try:
        return binning.encoded(content())
    except OSError as error:
        reason = f"it cannot be read ({error.strerror or error}); check its permissions"
    except (ValueError, zlib.error) as error:
        reason = f"{error}; get it anew from {SOURCE} or remove it"
    raise UnfitError(f"{name}: {reason}")


# ---- the files ------------------------------------------------------------------------------------------------------


def _found(root: Path, download: bool) -> list[tuple[Part, list[_Recording], list[str]]]:
    """The recordings and the names of other files of both parts."""
    missing = [part for part in PARTS if _places(root, part) == (None, None)]
    tried = ["not tried: data.download=false"] if missing and not download else []
    for part in missing if download else []:
        try:
            fetch.download(root / "nmnist" / part.archive, (part.address,), part.md5, inflate=False)
        except fetch.UnreachableError as error:
            tried += error.reasons
    if tried:
        raise MissingError(_missing(root, [part for part in missing if _places(root, part) == (None, None)], tried))
    found = []
    for part in PARTS:
        folder, archive = _places(root, part)
        listed = _in_folder(folder) if folder is not None else _in_archive(archive or root)
        if not listed[0]:
            raise MissingError(_missing(root, [part], [f"{folder or archive} has no file <digit>/<name>.bin"]))
        found.append((part, *listed))
    return found


def _homes(root: Path) -> list[Path]:
    return folders.folders_named(root, "nmnist", "n-mnist")


def _places(root: Path, part: Part) -> tuple[Path | None, Path | None]:
    """The folder and the archive of a part, whatever of them is there."""
    homes = _homes(root)
    place = [folder for home in homes for folder in folders.folders_named(home, part.folder)]
    files = [path for home in homes for path in folders.entries(home)]
    archive = [path for path in files if path.name.lower() == part.archive.lower() and path.is_file()]
    return (place[0] if place else None), (archive[0] if archive else None)


def _in_folder(folder: Path) -> tuple[list[_Recording], list[str]]:
    recordings, strays = [], []
    for place in folders.entries(folder):
        if not place.is_dir() or place.name not in CLASSES:
            strays.append(place.name)
            continue
        for path in folders.entries(place):
            if path.suffix.lower() != ".bin" or path.name.startswith("."):
                strays.append(f"{place.name}/{path.name}")
                continue
            try:
                facts = path.stat()
            except OSError as error:
                raise SnnrunError(f"cannot read {path}: {error.strerror or error}; get it anew or remove it") from None
            stamp = f"{path.name} {facts.st_size} {facts.st_mtime_ns}"
            recordings.append(_Recording(str(path), int(place.name), stamp, path.read_bytes))
    return recordings, strays


def _in_archive(path: Path) -> tuple[list[_Recording], list[str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        part = next(part for part in PARTS if part.archive.lower() == path.name.lower())
        raise SnnrunError(
            f"{path} is damaged or foreign ({error}). Delete it and get it anew from {SOURCE} (md5 {part.md5}); what "
            "is missing is downloaded"
        ) from None
    named = [(match, member) for member in members if (match := _MEMBER.fullmatch(member.filename))]
    recordings = [
        _Recording(f"{path}/{member.filename}", int(match[1]), f"{match[2]} {member.file_size} {member.CRC}", read)
        for match, member in sorted(named, key=lambda entry: (entry[0][1], entry[0][2]))
        for read in [_reader(path, member)]
    ]
    taken = {member.filename for _, member in named}
    return recordings, [member.filename for member in members if member.filename not in taken]


def _reader(path: Path, member: zipfile.ZipInfo) -> Callable[[], bytes]:
    """What reads a file of an archive; several threads may at once, which one open `ZipFile` does not promise."""

    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size:
                raise ValueError("the archive is cut short")
            magic, name, extra = _LOCAL_HEADER.unpack(header)
            file.seek(name + extra, 1)
            content = file.read(member.compress_size)
        if member.compress_type == zipfile.ZIP_DEFLATED:
            content = zlib.decompress(content, -zlib.MAX_WBITS)
        if magic != b"PK\3\4" or len(content) != member.file_size or zlib.crc32(content) != member.CRC:
            raise ValueError("it is damaged in its archive")
        return content

    return read


def _missing(root: Path, parts: Sequence[Part], tried: Sequence[str]) -> str:
    home = root / "nmnist"
    return "\n".join(
        [
            f"data=nmnist: recordings are missing from {home.absolute()}:",
            *(f"  {part.archive} (md5 {part.md5}), or the folder {part.folder}/ that is in it" for part in parts),
            "Download:",
            *(f"  {reason}" for reason in tried),
            "What to do, one of:",
            f"  get the archives from {SOURCE} and put them there, packed or unpacked",
            "  give the folder that holds nmnist/ by data.root=FOLDER or the environment variable SNNRUN_DATA",
        ]
    )
