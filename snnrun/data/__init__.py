"""Corpora: found, checked and cut into training, validation and test samples."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from snnrun import declared
from snnrun.data import (
    arrays,
    audio,
    blank,
    cifar,
    events,
    from_tonic,
    from_torchvision,
    heidelberg,
    image_folder,
    images,
    nmnist,
    pictures,
    speech,
    speech_commands,
    ti46,
)
from snnrun.data.augment import Augment
from snnrun.data.augment_spikes import AugmentSpikes
from snnrun.data.corpus import Augmentation, Corpus, Dataset, Split, UnfitError, listed, pick, scan, stratified
from snnrun.data.spikes_file import Encoded
from snnrun.data.utterances import utterances
from snnrun.declared import Range
from snnrun.errors import SnnrunError, UsageError, printable

__all__ = [
    "DATASETS",
    "NUMBERED",
    "PICTURES",
    "RECORDINGS",
    "Augment",
    "AugmentSpikes",
    "Augmentation",
    "Corpus",
    "Dataset",
    "Split",
    "augmentation",
    "check_usable",
    "cut",
    "data_root",
    "faults",
    "found",
    "lacks",
    "load",
]

# A new corpus is one line here: a function of (root folder, may download) and of the options that it alone has.
DATASETS: dict[str, Callable[..., Corpus]] = {
    "digits": images.digits,
    "mnist": images.mnist,
    "fashion_mnist": images.fashion_mnist,
    "utterances": utterances,
    "ti46_alpha": ti46.ti46_alpha,
    "ti46_digits": ti46.ti46_digits,
    "fsdd": speech.fsdd,
    "speech_commands": speech_commands.speech_commands,
    "audio_folder": speech.audio_folder,
    "ntidigits": events.ntidigits,
    "nmnist": nmnist.nmnist,
    "shd": heidelberg.shd,
    "ssc": heidelberg.ssc,
    "cifar10": cifar.cifar10,
    "image_folder": image_folder.image_folder,
    "tonic": from_tonic.tonic,
    "torchvision": from_torchvision.torchvision,
    "arrays": arrays.arrays,
}

# How a single file becomes a sample as those of the corpus did, from the options of the corpus: what a picture is
# brought to, the spikes (T, W) of a recording of events, and those of a recording by its number in a file of many.
PICTURES: dict[str, Callable[..., pictures.Form]] = {"image_folder": image_folder.form}
RECORDINGS: dict[str, Callable[..., Encoded]] = {"nmnist": nmnist.read, "tonic": from_tonic.read}
NUMBERED: dict[str, Callable[..., Encoded]] = {"shd": heidelberg.read, "ssc": heidelberg.read}

_OF_SPIKES = ("time_shift", "channel_shift", "jitter", "drop", "speed")  # the options that change spike trains alone

# Distinct streams of the run's seed; large, so that no encoder key (seed, epoch, index) equals one of them.
_VALIDATION_STREAM = 0x76616C69
_LIMIT_STREAM = 0x6C696D69


def load(
    name: str,
    *,
    root: str | Path | None = None,
    limit: Annotated[int | None, Range(at_least=1)] = None,
    validation: Annotated[float, Range(at_least=0, below=1)] = 0.1,
    seed: Annotated[int, Range(at_least=0)] = 0,
    download: bool = True,
    encode: Callable[[Corpus], Corpus] | None = None,
    mirror: bool = False,
    shift: Annotated[int, Range(at_least=0)] = 0,
    elastic: Annotated[float, Range(at_least=0)] = 0.0,
    rotation: Annotated[float, Range(at_least=0, at_most=180)] = 0.0,
    scale: Annotated[float, Range(at_least=0, at_most=1)] = 0.0,
    erase: Annotated[float, Range(at_least=0, at_most=1)] = 0.0,
    distortion: Literal["own", "authors"] = "own",
    time_shift: Annotated[int, Range(at_least=0)] = 0,
    channel_shift: Annotated[int, Range(at_least=0)] = 0,
    jitter: Annotated[float, Range(at_least=0)] = 0.0,
    drop: Annotated[float, Range(at_least=0, below=1)] = 0.0,
    speed: Annotated[float, Range(at_least=0, below=1)] = 0.0,
    **options: Any,
) -> Dataset:
    """Load a corpus and cut it; every part keeps the order of the corpus.

    The validation samples are cut from the full training set first; `limit` then applies to what is left to train on.
    So the validation samples, and with them the choice of an epoch, do not depend on the limit.

    Args:
        name: A key of `DATASETS`.
        root: Folder that holds a folder `name`; None: the environment variable SNNRUN_DATA, else `data`.
        limit: Train on the first so many of the remaining training samples after a seeded shuffle; None: on all.
        validation: Fraction of the training samples to hold out, the same in every class to within one sample;
            exactly `round(validation * S)` in all. 0: none. A corpus that has a validation part holds out that.
        seed: Seeds the choice of the validation samples and the limit's shuffle; the test samples never depend on it.
        download: Whether missing files may be downloaded.
        encode: Gives the corpus that is used for the one that was found, such as the spikes of its recordings, or
            refuses it; None: that one.
        mirror, shift, elastic, rotation, scale, erase, distortion: Augmentation of the training images, see `Augment`.
        time_shift, channel_shift, jitter, drop, speed: Of training samples that are spike trains, see `AugmentSpikes`;
            those on a grid of pixels take `mirror` and `shift` too.
        options: Of this corpus, see its function.

    Raises:
        UsageError: If there is no such corpus, or if an option is out of range.
        SnnrunError: If files are missing and cannot be had, or are damaged; of several the first few are named.
    """
    given = dict(locals())
    declared.check("data", load, locals())
    if name not in DATASETS:
        raise UsageError(f"data={name}: no such corpus; there are {', '.join(DATASETS)}")
    corpus = found(name, data_root(root), download, options)
    check_usable(name, corpus, faults(corpus) if encode is None or corpus.faults else ())
    if encode is not None:
        try:
            corpus = encode(corpus)
        except UnfitError:  # it is about one file, and the user should know of all
            _refuse(name, faults(corpus))
            raise
    augment = augmentation(corpus.kind, corpus.shape, corpus.image, corpus.train_samples[:1], given)
    train, held = cut(corpus, limit, validation, seed)
    size = len(corpus.train_labels)
    return Dataset(
        name=name,
        kind=corpus.kind,
        shape=corpus.shape,
        classes=corpus.classes,
        train=Split(pick(corpus.train_samples, train), corpus.train_labels[train], train),
        validation=Split(pick(corpus.train_samples, held), corpus.train_labels[held], held),
        test=Split(corpus.test_samples, corpus.test_labels, size + np.arange(len(corpus.test_labels))),
        digest=corpus.digest(),
        origin=corpus.origin,
        notes=tuple(map(printable, (*corpus.notes, *blank.notes(corpus)))),
        augment=augment,
        image=corpus.image,
        form=corpus.form,
    )


def found(name: str, root: Path, download: bool, options: Mapping[str, Any]) -> Corpus:
    """A corpus, whole, from the options that it alone has.

    Raises:
        UsageError: If an option is out of range.
        SnnrunError: If files are missing and cannot be had, or are damaged.
    """
    declared.check("data", DATASETS[name], options)
    return DATASETS[name](root, download, **options)


def data_root(root: str | Path | None) -> Path:
    """The folder that holds the corpora: the one given, else that of the environment variable, else `data`.

    Raises:
        UsageError: If it begins with the home folder of nobody.
    """
    if root is None:
        root = os.environ.get("SNNRUN_DATA") or "data"
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise UsageError(f"data.root={root}: {error}") from None


def faults(corpus: Corpus) -> list[str]:
    """All that forbids the use of a corpus, each fault naming the file and the remedy; reads every file."""
    found = [*corpus.faults, *scan(*corpus.unread).faults]
    if corpus.kind == "audio":
        facts = audio.scan(corpus.recordings, corpus.sample_rate)
        found += [f"{path}: {fact.fault}" for path, fact in zip(corpus.recordings, facts, strict=True) if fact.fault]
    return found


def check_usable(name: str, corpus: Corpus, found: Sequence[str]) -> None:
    """Raise SnnrunError if a corpus has one of the faults that were found, or if nothing is left of a part."""
    _refuse(name, found)
    lacking = lacks(name, corpus)
    if lacking:
        raise SnnrunError(lacking)


def _refuse(name: str, found: Sequence[str]) -> None:
    if found:
        what = "a file" if len(found) == 1 else f"{len(found):,} files"
        raise SnnrunError(f"data={name}: {what} cannot be used:\n{listed(found)}")


def lacks(name: str, corpus: Corpus) -> str:
    """Why a corpus cannot be used though its files can: nothing is left of a part; empty if all is there."""
    for part, labels in ("train", corpus.train_labels), ("test", corpus.test_labels):
        if not len(labels):
            lines = [f"data={name}: nothing is left to {part} on, and every run does. What is known of this copy:"]
            return "\n".join([*lines, *(f"  {note}" for note in corpus.notes)])
    return ""


def augmentation(
    kind: str, shape: tuple[int, ...], image: tuple[int, int, int] | None, some: NDArray[Any], given: Mapping[str, Any]
) -> Augmentation | None:
    """What is done to the training samples by the options of `load`; None for nothing.

    Args:
        kind, shape, image: Of the samples, see `Corpus`.
        some: One or more of them, (B, ...).
        given: The options and the seed; those that are left out are off.

    Raises:
        UsageError: If an option is on that has no meaning for these samples.
    """
    pixels, maps, trains = ("mirror", "shift"), ("elastic", "rotation", "scale"), _OF_SPIKES
    known = {
        "image": (*pixels, *maps, "erase", "distortion"),
        "spikes": trains if image is None else (*pixels, *trains),
    }
    takes = known.get(kind, ())
    wrong = [f"data.{key}" for key in (*pixels, *maps, "erase", *trains) if given.get(key) and key not in takes]
    if wrong:
        what = {"image": "spike trains", "spikes": "images"}.get(kind, "images and spike trains")
        raise UsageError(f"{', '.join(wrong)}: only {what} can be augmented so; these samples are of kind {kind}")
    own = {key: given[key] for key in takes if key in given}
    distorts = [f"data.{key}" for key in maps if own.get(key)]
    if distorts and some.dtype != np.uint8:
        raise UsageError(
            f"{', '.join(distorts)}: only pixels of 8 bits can be distorted; those of these images are floats"
        )
    if not any(value for key, value in own.items() if key != "distortion"):
        return None
    if kind == "spikes":
        return AugmentSpikes(math.prod(shape), some.shape[1], image, given["seed"], **own)
    return Augment(image, given["seed"], **own)


def cut(corpus: Corpus, limit: int | None, validation: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the training and of the validation samples, each ascending; see `load` for the arguments.

    Raises:
        UsageError: If the limit is larger than what is there, or nothing is left to train on.
    """
    labels, held = corpus.train_labels, corpus.validation
    if held is None:
        held = stratified(labels, round(validation * len(labels)), _generator(seed, _VALIDATION_STREAM))
    train = np.setdiff1d(np.arange(len(labels)), held)
    if not len(train):
        raise UsageError(f"data.validation={validation}: no sample of {len(labels)} is left to train on")
    if limit is not None:
        if limit > len(train):
            raise UsageError(
                f"data.limit={limit}: only {len(train)} samples are there to train on "
                f"({len(held)} of {len(labels)} are held out for validation)"
            )
        train = np.sort(_generator(seed, _LIMIT_STREAM).permutation(train)[:limit])
    return train, held


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream))))
