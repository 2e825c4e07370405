"""The corpora: which there are, what is here of each, and whether it is whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from snnrun import data
from snnrun.data import DATASETS, audio, blank, events, lacks, repeats
from snnrun.data.corpus import Corpus, MissingError, scan, unseen
from snnrun.data.known import ANY, ENTRIES
from snnrun.data.spikes_file import Encoded
from snnrun.errors import SnnrunError, printable

CATALOGUE = {name: ENTRIES[function] for name, function in DATASETS.items()}


def survey(root: Path) -> list[dict[str, Any]]:
    """Every corpus with what is found of it below the data root; plain values.

    `state` is "found", "missing", "damaged", or "at hand" for what needs no files. The contents of recordings are not
    read: `verify` does. A folder of one's own is not looked for, since any folder could be one.
    """
    return [look(name, root) for name in CATALOGUE]


class Ear(Protocol):
    """What a run makes of recordings, see `run.recordings.Ear`."""

    def hear(self, wave: NDArray[np.float64], rate: int) -> Encoded:
        """The spikes of a recording, and how much of it is left out."""

    def cut(self, left_out: NDArray[np.int64], names: Sequence[str]) -> list[str]:
        """The note on what is left out of recordings."""


def verify(
    name: str, root: Path, ear: Ear | None = None, options: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Read every file of a corpus: counts, what the samples are like, the digest, and every fault; plain values.

    Args:
        name: Of the corpus.
        root: The data root.
        ear: Encodes recordings, so that what a run would be fed is known; None to read them alone.
        options: Of this corpus, see its function.
    """
    entry = CATALOGUE[name]
    report: dict[str, Any] = {"name": name, "root": printable(str(root.absolute())), "papers": entry.papers}
    try:
        corpus = data.found(name, root, False, options)
        corpus, found, details = _samples(corpus, ear)
        notes = [*corpus.notes, *([] if found else blank.notes(corpus))]
        if corpus.kind == "audio" and not found:
            notes += repeats.notes(corpus, corpus.recordings)
    except SnnrunError as error:
        return report | {"notes": [], "faults": [str(error)]}
    lacking = "" if found else lacks(name, corpus)  # what is lacking may be what is damaged
    report |= {
        "origin": corpus.origin,
        **_parts(corpus),
        **details,
        "digest": None if found else corpus.digest(),
        "notes": [printable(note) for note in notes],
        "faults": [printable(fault) for fault in found] + ([lacking] if lacking else []),
    }
    path = events.find(root) if name == "ntidigits" else None
    if path is not None and corpus.origin == "recorded" and not found and not events.published(path):
        report["notes"].append(f"{path} is not the published file (md5 {events.MD5})")
    return report


def look(name: str, root: Path) -> dict[str, Any]:
    """What is found of one corpus, as in `survey`."""
    entry = CATALOGUE[name]
    status: dict[str, Any] = {
        "name": name,
        "about": entry.about,
        "licence": entry.licence,
        "place": str((root / entry.place).absolute()) if entry.place else None,
        "papers": entry.papers,
    }
    if not entry.place or entry.place == ANY:
        return status | {"state": "at hand"}
    try:
        corpus = DATASETS[name](root, False)
    except MissingError as error:
        return status | {"state": "missing", "message": str(error)}
    except SnnrunError as error:
        return status | {"state": "damaged", "message": str(error)}
    return status | {
        "state": "damaged" if corpus.faults else "found",
        "origin": corpus.origin,
        "train": len(corpus.train_labels) - (0 if corpus.validation is None else len(corpus.validation)),
        "test": len(corpus.test_labels),
        "notes": list(corpus.notes),
        "message": corpus.faults[0] if corpus.faults else "",
    }


# ---- samples --------------------------------------------------------------------------------------------------------


def _parts(corpus: Corpus) -> dict[str, Any]:
    """What is to train on, to validate on where the corpus says, and to test on."""
    if corpus.validation is None:
        labels = {"train": corpus.train_labels}
    else:
        rest = np.delete(corpus.train_labels, corpus.validation)
        labels = {"train": rest, "validation": corpus.train_labels[corpus.validation]}
    labels["test"] = corpus.test_labels
    return {part: _count(own, corpus.classes) for part, own in labels.items()}


def _count(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return {"samples": len(labels), "classes": dict(zip(classes, counts, strict=True))}


def _samples(corpus: Corpus, ear: Ear | None) -> tuple[Corpus, list[str], dict[str, Any]]:
    """The corpus, which knows its contents then; faults of the samples, and what they are like."""
    if corpus.kind == "audio":
        return _recordings(corpus, ear)
    if corpus.kind != "spikes":
        return corpus, list(corpus.faults), {"shape": list(corpus.shape), "form": corpus.form}
    details = {"form": corpus.form, "channels": math.prod(corpus.shape), "steps": corpus.train_samples.shape[1]}
    if corpus.unread:
        found, counts, *numbers, contents = scan(*corpus.unread)
        notes = [*unseen(corpus.unread[0].steps, *numbers), *blank.silent(counts == 0, corpus.names)]
        corpus = replace(corpus, contents=contents, notes=(*corpus.notes, *notes))
        return corpus, [*corpus.faults, *found], {**details, "spikes": _spread(counts[counts >= 0])}
    # Of a negative number, NumPy counts the bits of the absolute value.
    words = [part[:].view(np.uint64) for part in (corpus.train_samples, corpus.test_samples)]
    counts = np.concatenate([np.bitwise_count(part).sum(axis=(1, 2), dtype=np.int64) for part in words])
    return corpus, list(corpus.faults), {**details, "spikes": _spread(counts)}


def _recordings(corpus: Corpus, ear: Ear | None) -> tuple[Corpus, list[str], dict[str, Any]]:
    paths = corpus.recordings
    facts = audio.scan(paths, corpus.sample_rate, ear.hear if ear else None)
    found = [f"{path}: {fact.fault}" for path, fact in zip(paths, facts, strict=True) if fact.fault]
    whole = [fact for fact in facts if not fact.fault]
    rates = Counter(fact.rate for fact in whole)
    details = {
        "rates": {str(rate): rates[rate] for rate in sorted(rates)},
        "seconds": _spread(np.array([fact.samples / fact.rate for fact in whole])),
    }
    names = corpus.names or tuple(map(str, paths))
    notes = blank.silent(np.array([fact.spikes == 0 for fact in facts], np.bool_), names)
    if ear is not None:
        notes = [*ear.cut(np.array([fact.left_out for fact in facts], np.int64), names), *notes]
    return replace(corpus, notes=(*corpus.notes, *notes)), [*corpus.faults, *found], details


def _spread(values: NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {}
    spread = {"total": values.sum(), "mean": values.mean(), "least": values.min(), "most": values.max()}
    return {name: round(float(value), 3) for name, value in spread.items()}
