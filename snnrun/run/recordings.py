"""Recordings are encoded once for each corpus and encoder. After that their spikes come from the store (`data.cache`).

The store also keeps the samples of corpora with one file a sample, although these are spikes already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.packed_arrays import words
from snnrun.data import audio, cache, folders, repeats
from snnrun.data.corpus import Corpus, Mapped, UnfitError, unseen
from snnrun.data.spikes_file import Encoded
from snnrun.encoders import CuttingEncoder, RecordingEncoder
from snnrun.errors import SnnrunError

FOLDER = "cache"  # the name of the store in the folder of all outputs


@dataclass(frozen=True)
class Ear:
    """What an encoder makes of recordings, and what it leaves out of them."""

    encoder: RecordingEncoder

    def hear(self, wave: NDArray[np.float64], rate: int) -> Encoded:
        """The spikes (T, W) of a recording (S,) of this rate in Hz, and how many steps are cut off at its end.

        Raises:
            ValueError: the recording cannot be encoded.
        """
        left_out = self.encoder.left_out(len(wave), rate) if isinstance(self.encoder, CuttingEncoder) else 0
        return Encoded(self.encoder.encode_recording(wave, rate), left_out)

    def cut(self, left_out: NDArray[np.int64], names: Sequence[str]) -> list[str]:
        """The note on recordings that are cut. `left_out` (S,) is the number of steps cut off each of them."""
        longer = np.flatnonzero(left_out).tolist()
        if not longer or not isinstance(self.encoder, CuttingEncoder):
            return []
        steps, step_s = self.encoder.steps, self.encoder.step_s
        return [
            f"{len(longer):,} of {len(left_out):,} recordings are longer than {steps * step_s:.3g} s "
            f"(encoder.steps={steps}) and are cut there ({folders.some(names[k] for k in longer)}); the longest takes "
            f"{steps + int(left_out.max())} steps; `snnrun data show` draws them"
        ]


def encoded(corpus: Corpus, encoder: RecordingEncoder, folder: Path, title: str) -> Corpus:
    """A corpus of recordings as one of spikes.

    The stored file depends on the recordings alone, in an order of its own. Other splits of them use the same file.

    Args:
        corpus: A corpus of the kind "audio".
        encoder: Makes the spikes of one recording.
        folder: The folder of the store.
        title: The beginning of the file's name.

    Raises:
        UnfitError: a recording cannot be encoded.
        SnnrunError: a file cannot be read, or the store cannot be written.
    """
    paths, ear = corpus.recordings, Ear(encoder)
    contents = audio.hashes(paths)
    order = sorted(range(len(paths)), key=lambda k: (paths[k].name.lower(), contents[k]))
    recordings = audio.digest([paths[k] for k in order], [contents[k] for k in order])

    def encode(k: int) -> Encoded:
        path = paths[order[k]]
        try:
            return ear.hear(*audio.read(path, rate=corpus.sample_rate))
        except ValueError as error:
            raise UnfitError(f"{path}: {error}") from None
        except SnnrunError as error:
            raise UnfitError(str(error)) from None

    spikes, left_out, *_ = cache.stored(
        folder,
        {"recordings": recordings, "encoder": encoder.key()},
        count=len(paths),
        steps=encoder.steps,
        width=words(encoder.channels),
        encode=encode,
        title=title,
    )
    place = np.empty(len(paths), np.int64)
    place[order] = np.arange(len(paths))
    train, names = len(corpus.train_labels), corpus.names or tuple(map(str, paths))
    return replace(
        corpus,
        kind="spikes",
        shape=(encoder.channels,),
        train_samples=Mapped(spikes, place[:train]),
        test_samples=Mapped(spikes, place[train:]),
        contents=audio.digest(paths, contents),
        notes=(*corpus.notes, *ear.cut(left_out[place], names), *repeats.notes(corpus, paths, contents)),
        names=names,
    )


def kept(corpus: Corpus, folder: Path, title: str) -> Corpus:
    """A corpus with one file a sample, as one whose samples lie together in one file of the store.

    Args:
        corpus: A corpus whose samples are of type `Unread`.
        folder: The folder of the store.
        title: The beginning of the file's name.

    Raises:
        UnfitError: a sample cannot be read.
        SnnrunError: the store cannot be read or written.
    """
    parts = corpus.unread
    samples = [(part, k) for part in parts for k in part.rows.tolist()]
    place: dict[str, Any] = {"count": len(samples), "steps": parts[0].steps, "width": parts[0].width, "title": title}

    def read(position: int) -> Encoded:
        part, k = samples[position]
        return part.read(k)

    key = {"samples": [dict(part.key) for part in parts]}
    spikes, *numbers = cache.stored(folder, key, encode=read, **place)
    order, train = np.arange(len(samples)), len(corpus.train_labels)
    return replace(
        corpus,
        train_samples=Mapped(spikes, order[:train]),
        test_samples=Mapped(spikes, order[train:]),
        contents=cache.sha256(folder, key, **place),
        notes=(*corpus.notes, *unseen(parts[0].steps, *numbers)),
    )
