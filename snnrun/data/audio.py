"""Recordings on disk: one mono file each, in whatever libsndfile reads.

A file is taken for what its first bytes say, never for its extension: the .wav files of TI46 are NIST SPHERE.
libsndfile reads a file that was cut short up to its end without a word, so what a header announces is compared with
what is there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from snnrun import parallel
from snnrun.errors import SnnrunError

SUFFIXES = frozenset({".wav", ".sph", ".flac", ".ogg"})
_SPHERE = b"NIST_1A\n"
_STREAMED = 0x7FFFF000  # a length from here up, which no file of 32 bits has, stands for "not known while writing"
_LARGEST = 2.0  # lossy formats overshoot 1 a little; integers stored as floating-point numbers are far above
_OGG_PAGE = 65_307  # bytes of the largest page
_ANEW = "copy it anew from where it came"


@dataclass(frozen=True)
class Facts:
    """What a recording is, or why it cannot be used.

    Attributes:
        rate: In Hz.
        samples: Its length.
        fault: What is wrong and the remedy; empty if it can be read.
    """

    rate: int = 0
    samples: int = 0
    fault: str = ""


class _Fault(Exception):
    """Why a file cannot be used, and the remedy."""


def read(path: Path, *, rate: int | None = None) -> tuple[NDArray[np.float64], int]:
    """Read a recording.

    Args:
        path: The file.
        rate: Sample rate in Hz that it must have; None for any.

    Returns:
        Mono samples in [-1, 1], shape (S,), and the sample rate in Hz. An integer sample is divided by the range of its
        container: 12 significant bits in 16 reach 1/16, as the ear of the published runs had them.

    Raises:
        SnnrunError: If it cannot be read, is empty, cut short, compressed by shorten or no audio at all, has several
            channels, another rate, or samples that are no numbers.
    """
    try:
        return _read(path, rate)
    except _Fault as fault:
        raise SnnrunError(f"{path}: {fault}") from None


def scan(paths: Sequence[Path], rate: int | None = None) -> list[Facts]:
    """Read every file, on all threads, and tell what each is; see `read` for the faults."""
    found = [Facts()] * len(paths)

    def task(item: int) -> None:
        try:
            wave, own_rate = _read(paths[item], rate)
            found[item] = Facts(own_rate, len(wave))
        except _Fault as fault:
            found[item] = Facts(fault=str(fault))

    parallel.each(len(paths), task)
    return found


def hashes(paths: Sequence[Path]) -> list[bytes]:
    """SHA-256 of the contents of each file, on all threads.

    Raises:
        SnnrunError: If a file cannot be read.
    """
    found = [b""] * len(paths)

    def task(item: int) -> None:
        path = paths[item]
        try:
            found[item] = hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            raise SnnrunError(f"{path}: {_unreadable(error)}") from None

    parallel.each(len(paths), task)
    return found


def digest(paths: Sequence[Path], contents: Sequence[bytes]) -> str:
    """SHA-256 over names and contents of files in their order, in hexadecimal; `contents` from `hashes`.

    Upper and lower case of names and the folders do not count, for copies of one corpus differ in them.
    """
    sha = hashlib.sha256()
    for path, content in zip(paths, contents, strict=True):
        sha.update(path.name.lower().encode() + b"\0" + content)
    return sha.hexdigest()


def sphere_header(path: Path) -> dict[str, str]:
    """The fields of a NIST SPHERE header; empty if the file has none or cannot be read."""
    try:
        with path.open("rb") as file:
            return _sphere_fields(file)[1]
    except (OSError, _Fault):
        return {}


# ---- one file -------------------------------------------------------------------------------------------------------


def _read(path: Path, rate: int | None) -> tuple[NDArray[np.float64], int]:
    import soundfile

    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            magic = file.read(12)
            if not magic:
                raise _Fault(f"it is empty; {_ANEW}")
            length = _length_of_sphere(file, size) if magic.startswith(_SPHERE) else None
            if magic.startswith(b"RIFF"):
                _check_riff(file, size)
            if magic.startswith(b"OggS"):
                _check_ogg(file, size)
    except OSError as error:
        raise _Fault(_unreadable(error)) from None
    try:
        with soundfile.SoundFile(path) as sound:
            _check_form(sound.channels, sound.samplerate, rate)
            wave = sound.read(dtype="float64")
            announced = sound.frames
    except soundfile.LibsndfileError as error:
        raise _Fault(
            f"it is no audio file, or a damaged one (it begins with {magic!r}; {error.error_string.rstrip('.')}); "
            "replace or remove it"
        ) from None
    if len(wave) < announced:
        raise _cut_short(announced, len(wave))
    wave = wave[:length]
    _check_samples(wave)
    return wave, sound.samplerate


def _check_form(channels: int, found: int, wanted: int | None) -> None:
    if channels != 1:
        raise _Fault(
            f"it has {channels} channels and one is wanted; mix them into one (sox FILE NEW.wav remix -) or take one"
        )
    if wanted is not None and found != wanted:
        raise _Fault(
            f"its sample rate is {found:,} Hz and this corpus has {wanted:,} Hz; take the original file, "
            f"or resample it (sox FILE -r {wanted} NEW.wav)"
        )


def _check_samples(wave: NDArray[np.float64]) -> None:
    if not len(wave):
        raise _Fault(f"it holds no samples; {_ANEW}, or remove it")
    wrong = int(len(wave) - np.isfinite(wave).sum())
    if wrong:
        raise _Fault(f"{wrong:,} of its {len(wave):,} samples are NaN or infinite; write it anew, or remove it")
    peak = float(np.abs(wave).max())
    if peak > _LARGEST:
        raise _Fault(f"its samples reach {peak:g}, where floating-point audio ends at 1; divide them, as by 32768")


def _unreadable(error: OSError) -> str:
    return f"it cannot be read ({error.strerror or error}); check that it is a file and its permissions"


def _cut_short(announced: int, found: int, unit: str = "samples") -> _Fault:
    return _Fault(f"it is cut short: its header announces {announced:,} {unit} and {found:,} are there; {_ANEW}")


# ---- headers --------------------------------------------------------------------------------------------------------


def _sphere_fields(file: IO[bytes]) -> tuple[int, dict[str, str]]:
    """Size of a SPHERE header in bytes, and its fields."""
    file.seek(0)
    start = file.read(16)
    size = start[8:].strip()
    if not start.startswith(_SPHERE) or not size.isdigit():
        raise _Fault(f"its NIST SPHERE header is damaged (it begins with {start!r}); {_ANEW}")
    text = file.read(int(size) - 16).decode("latin-1").partition("end_head")[0]
    return int(size), dict(re.findall(r"^(\S+) -(?:i|r|s\d+) (.*?)\s*$", text, re.MULTILINE))


def _length_of_sphere(file: IO[bytes], size: int) -> int | None:
    """How many samples the header announces, once they are known to be there; None if it does not say."""
    start, fields = _sphere_fields(file)
    coding = fields.get("sample_coding", "pcm")
    if "shorten" in coding or "embedded" in coding:
        raise _Fault(
            f"it is compressed ({coding}); unpack it with sph2pipe (sph2pipe -f sph FILE NEW) or NIST's w_decode "
            "(w_decode -o pcm FILE NEW)"
        )
    try:
        samples = int(fields["sample_count"])
        width = int(fields.get("sample_n_bytes", 2)) * int(fields.get("channel_count", 1))
    except KeyError:
        return None
    except ValueError:
        raise _Fault(f"its NIST SPHERE header is damaged (a number is none); {_ANEW}") from None
    if width > 0 and size < start + samples * width:
        raise _cut_short(samples, max(0, size - start) // width)
    return samples


def _check_riff(file: IO[bytes], size: int) -> None:
    """Compare the length of the data chunk with what the file has."""
    position = 12
    while position + 8 <= size:
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        position += 8
        if head[:4] == b"data":
            if size - position < length < _STREAMED:
                raise _cut_short(length, size - position, "bytes")
            return
        position += length + length % 2
    raise _Fault(f"it is cut short: it ends before its samples begin; {_ANEW}")


def _check_ogg(file: IO[bytes], size: int) -> None:
    """See that the last page is there to its end and marked as the last, for Ogg has no length to compare."""
    file.seek(max(0, size - _OGG_PAGE))
    page = file.read().rpartition(b"OggS")[2]
    segments = page[23 : 23 + page[22]] if len(page) > 22 else b""
    if not segments or not page[1] & 4 or len(page) < 23 + len(segments) + sum(segments):
        raise _Fault(f"it is cut short: its last page is missing or torn; {_ANEW}")
