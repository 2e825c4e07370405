"""Recordings on disk: one mono file each, in any format that libsndfile reads.

A file is taken for what its first bytes say, never for its extension: the .wav files of TI46 are NIST SPHERE. What
its header announces is compared with what is there, see `sound_headers`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled import parallel
from snnrun.data import sound_headers
from snnrun.data.sound_headers import ANEW, CONVERT, Fault
from snnrun.data.spikes_file import Encoded
from snnrun.errors import SnnrunError

# The extensions of libsndfile's formats, but of those that hold no recordings as a rule (MAT4, MAT5, HTK, XI) or tell
# nothing of themselves (RAW).
_SUFFIXES = {
    **{"WAV": (".wav", ".wave"), "NIST": (".sph", ".nist"), "FLAC": (".flac",), "OGG": (".ogg", ".oga", ".opus")},
    **{"MP3": (".mp3",), "AIFF": (".aiff", ".aif", ".aifc"), "AU": (".au", ".snd"), "CAF": (".caf",), "W64": (".w64",)},
    **{"RF64": (".rf64",), "VOC": (".voc",), "SVX": (".8svx", ".svx", ".iff"), "IRCAM": (".sf",), "PAF": (".paf",)},
    **{"PVF": (".pvf",), "WVE": (".wve",), "AVR": (".avr",), "SD2": (".sd2",)},
}
# Containers whose length is checked here or by libsndfile; of others, a file that was cut short could not be told.
_CHECKED = frozenset({"WAV", "WAVEX", "RF64", "AIFF", "SVX", "AU", "W64", "CAF", "FLAC", "OGG", "MP3", "NIST"})
_UNKNOWN = 1 << 62  # samples: libsndfile's largest number is what it has for a length that the header lacks
_LARGEST = 2.0  # lossy formats overshoot 1 a little; integers stored as floating-point numbers are far above


@dataclass(frozen=True)
class Facts:
    """What a recording is, or why it cannot be used.

    Attributes:
        rate: In Hz.
        samples: Its length.
        fault: What is wrong and the remedy; empty if it can be used.
        spikes, left_out: Of what it is encoded to, see `Encoded`; -1 and 0 if it is not.
    """

    rate: int = 0
    samples: int = 0
    fault: str = ""
    spikes: int = -1
    left_out: int = 0


@dataclass(frozen=True)
class Cut:
    """A piece of a longer recording, which is a recording itself: so many samples from `start` on."""

    path: Path
    start: int
    samples: int

    @property
    def name(self) -> str:
        """Of the file, with the piece."""
        return f"{self.path.name}[{self.start}:{self.start + self.samples}]"

    def __str__(self) -> str:
        return str(self.path.with_name(self.name))


Recording = Path | Cut


@functools.cache
def suffixes() -> frozenset[str]:
    """The extensions, in lower case, of what libsndfile reads here."""
    import soundfile

    there = soundfile.available_formats()
    return frozenset(suffix for form, own in _SUFFIXES.items() if form in there for suffix in own)


def read(path: Recording, *, rate: int | None = None) -> tuple[NDArray[np.float64], int]:
    """Read a recording.

    Args:
        path: The file, or a piece of one.
        rate: Sample rate in Hz that it must have; None for any.

    Returns:
        Mono samples in [-1, 1], shape (S,), and the sample rate in Hz. An integer sample is divided by the range of its
        container: 12 significant bits in 16 reach 1/16, as the ear of the published runs had them.

    Raises:
        SnnrunError: If it cannot be read, is empty, cut short, compressed by shorten or no audio at all, has several
            channels, another rate, or samples that are no numbers.
    """
    try:
        return _wave(path, rate)
    except Fault as fault:
        raise SnnrunError(f"{path}: {fault}") from None


def scan(
    paths: Sequence[Recording],
    rate: int | None = None,
    hear: Callable[[NDArray[np.float64], int], Encoded] | None = None,
) -> list[Facts]:
    """Read every file, on all threads, and tell what each is; see `read` for the faults.

    Args:
        paths: The files.
        rate: Sample rate in Hz that each must have; None for any.
        hear: Encodes a recording (S,) of a rate in Hz, or raises ValueError; None to read the files alone.
    """
    found = [Facts()] * len(paths)

    def task(item: int) -> None:
        try:
            wave, own_rate = _wave(paths[item], rate)
            sample = hear(wave, own_rate) if hear else None
        except (Fault, ValueError) as fault:
            found[item] = Facts(fault=str(fault))
            return
        spikes = int(np.bitwise_count(sample.spikes.view(np.uint64)).sum()) if sample else -1
        found[item] = Facts(own_rate, len(wave), "", spikes, sample.left_out if sample else 0)

    parallel.each(len(paths), task)
    return found


def hashes(paths: Sequence[Recording]) -> list[bytes]:
    """SHA-256 of the contents of each file, on all threads; of a piece, of that of its file and its place.

    Raises:
        SnnrunError: If a file cannot be read.
    """
    files = list(dict.fromkeys(path.path if isinstance(path, Cut) else path for path in paths))
    found: dict[Path, bytes] = {}

    def task(item: int) -> None:
        path = files[item]
        try:
            found[path] = hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            raise SnnrunError(f"{path}: {_unreadable(path, error)}") from None

    parallel.each(len(files), task)
    return [
        hashlib.sha256(found[path.path] + path.name.encode()).digest() if isinstance(path, Cut) else found[path]
        for path in paths
    ]


def digest(paths: Sequence[Recording], contents: Sequence[bytes]) -> str:
    """SHA-256 over names and contents of files in their order, in hexadecimal; `contents` from `hashes`.

    Upper and lower case of names, the form of their Unicode and the folders do not count: copies of one corpus differ
    in them.
    """
    sha = hashlib.sha256()
    for path, content in zip(paths, contents, strict=True):
        name = unicodedata.normalize("NFC", path.name).lower()
        sha.update(name.encode(errors="surrogateescape") + b"\0" + content)
    return sha.hexdigest()


def sphere_header(path: Path) -> dict[str, str]:
    """The fields of a NIST SPHERE header; empty if the file has none or cannot be read."""
    try:
        with path.open("rb") as file:
            return sound_headers.sphere_fields(file)[1]
    except (OSError, Fault):
        return {}


# ---- one file -------------------------------------------------------------------------------------------------------


def _wave(recording: Recording, rate: int | None) -> tuple[NDArray[np.float64], int]:
    if not isinstance(recording, Cut):
        return _read(recording, rate)
    try:
        changed = recording.path.stat().st_mtime_ns
    except OSError as error:
        raise Fault(_unreadable(recording.path, error)) from None
    wave, own_rate = _long(recording.path, rate, changed)
    return wave[recording.start : recording.start + recording.samples], own_rate


@functools.lru_cache(maxsize=8)
def _long(path: Path, rate: int | None, _changed: int) -> tuple[NDArray[np.float64], int]:
    """A recording of which many pieces are wanted."""
    return _read(path, rate)


def _read(path: Path, rate: int | None) -> tuple[NDArray[np.float64], int]:
    import soundfile

    try:
        with path.open("rb") as file:
            length = sound_headers.check(file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            magic = file.read(12)
    except OSError as error:
        raise Fault(_unreadable(path, error)) from None
    try:
        sound = soundfile.SoundFile(os.fsencode(path))
    except soundfile.LibsndfileError as error:
        raise Fault(
            f"it is no audio file, or a damaged one (it begins with {magic!r}; {error.error_string.rstrip('.')}); "
            "replace or remove it"
        ) from None
    with sound:
        _check_form(sound, rate)
        try:
            wave = sound.read(sound.frames, dtype="float64")  # a number, for GSM and G.721 cannot be sought in
        except soundfile.LibsndfileError as error:
            kind = f"{sound.format}, {sound.subtype}: {error.error_string.rstrip('.')}"
            raise Fault(
                f"it is damaged or cut short, or coded in a way that is not read here ({kind}); {ANEW}, or {CONVERT}"
            ) from None
        except MemoryError:
            raise Fault(
                f"its header announces {sound.frames:,} samples, for which there is no memory; {ANEW}"
            ) from None
    if len(wave) < sound.frames:
        raise sound_headers.cut_short(sound.frames, len(wave))
    wave = wave[:length]
    _check_samples(wave)
    return wave, sound.samplerate


def _check_form(sound: Any, rate: int | None) -> None:
    if sound.format not in _CHECKED:
        raise Fault(f"it is a {sound.format} file, and nobody can tell whether such a file is whole; {CONVERT}")
    if sound.frames >= _UNKNOWN:
        raise Fault(f"it does not say how long it is, as if written to a pipe; {CONVERT}")
    if sound.channels != 1:
        raise Fault(
            f"it has {sound.channels} channels and one is wanted; mix them into one (sox FILE NEW.wav remix -) or "
            "take one"
        )
    if rate is not None and sound.samplerate != rate:
        raise Fault(
            f"its sample rate is {sound.samplerate:,} Hz and this corpus has {rate:,} Hz; take the original file, "
            f"or resample it (sox FILE -r {rate} NEW.wav)"
        )


def _check_samples(wave: NDArray[np.float64]) -> None:
    if not len(wave):
        raise Fault(f"it holds no samples; {ANEW}, or remove it")
    wrong = int(len(wave) - np.isfinite(wave).sum())
    if wrong:
        raise Fault(f"{wrong:,} of its {len(wave):,} samples are NaN or infinite; write it anew, or remove it")
    peak = float(np.abs(wave).max())
    if peak > _LARGEST:
        raise Fault(f"its samples reach {peak:g}, where floating-point audio ends at 1; divide them, as by 32768")


def _unreadable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"it is a link to {path.readlink()}, which is not there; put the file there, or remove the link"
    return f"it cannot be read ({error.strerror or error}); check that it is a file and its permissions"
