"""Single samples as a run gets them, for someone who looks: input, label, and the picture or sound that it comes from.

The samples that are asked for are read and encoded, and no others. Nothing is downloaded, and the store of encoded
spikes is neither read nor written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun import data, declared, encoders
from snnrun.compiled.packed_arrays import unpack
from snnrun.data import audio
from snnrun.data.corpus import Corpus, MissingError
from snnrun.data.parts import PARTS
from snnrun.errors import SnnrunError, UsageError, unknown
from snnrun.record.description import Description
from snnrun.run import build, recordings
from snnrun.run.samples import Reader, without_input


@dataclass(frozen=True)
class Look:
    """One sample.

    Attributes:
        source: The file, or `train:17`, its number among the training samples.
        input: What the network gets: spikes, bool (T, N), or values, float32 (P, N). Each point is held for an equal
            part of the steps, and P is 1 for a constant input.
        steps: T.
        step_ms: Length of a step, in ms.
        label: Name of its class; None if it is not known.
        name: Of its file; empty if it has none.
        image: (channels, rows, columns) of the input; None if its channels are no pixels.
        picture: Pixels 0 to 255 or 0.0 to 1.0, (channels, rows, columns): the image, or how many events each pixel has.
        series: Values of the time series that the input was made from, (P, F), NaN after its end.
        wave: Sound in [-1, 1], (S,), and its sample rate in Hz.
        notes: What the user should know.
    """

    source: str
    input: NDArray[Any]
    steps: int
    step_ms: float
    label: str | None = None
    name: str = ""
    image: tuple[int, int, int] | None = None
    picture: NDArray[Any] | None = None
    series: NDArray[np.float32] | None = None
    wave: tuple[NDArray[np.float64], int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def spiking(self) -> bool:
        """Whether the input is spikes, and not values."""
        return bool(self.input.dtype == np.bool_)

    def facts(self) -> dict[str, Any]:
        """All that is said of it, as plain values; steps and channels count from 0."""
        shared = {
            "source": self.source,
            "file": self.name or None,
            "label": self.label,
            "steps": self.steps,
            "step_ms": self.step_ms,
            "channels": self.input.shape[1],
        }
        return shared | (self._of_spikes() if self.spiking else self._of_values()) | {"notes": list(self.notes)}

    def _of_spikes(self) -> dict[str, Any]:
        times = np.flatnonzero(self.input.any(axis=1))
        spikes, seconds = int(self.input.sum()), self.steps * self.step_ms / 1000
        return {
            "spikes": spikes,
            "rate_hz": spikes / self.input.shape[1] / seconds,
            "first_step": int(times[0]) if spikes else None,
            "last_step": int(times[-1]) if spikes else None,
            "silent_channels": np.flatnonzero(~self.input.any(axis=0)).tolist(),
        }

    def _of_values(self) -> dict[str, Any]:
        # An encoder may make 0 of what comes after the end of a series.
        points = self.input if self.series is None else self.series
        known = self.input[~np.isnan(points).any(axis=1)]
        empty = not known.size
        return {
            "constant": len(self.input) == 1,
            "length": round(len(known) * self.steps / len(self.input)),
            "least": None if empty else float(known.min()),
            "mean": None if empty else float(known.mean(dtype=np.float64)),
            "most": None if empty else float(known.max()),
            "silent_channels": np.flatnonzero(~np.nan_to_num(self.input).any(axis=0)).tolist(),
        }


class Samples:
    """The samples of the corpus of a config, each read when it is asked for.

    Args:
        values: The config of a run.
        invert: Take the bright pixels of a file for dark ones.

    Raises:
        UsageError: The encoder does not take this kind of data, or an option is out of range.
        SnnrunError: The corpus is missing or cannot be used.
    """

    def __init__(self, values: Mapping[str, Any], invert: bool = False) -> None:
        build.plug_in(values)
        self.values, self.invert = values, invert
        self._named = encoders.build(seed=values["seed"], **values["encoder"])
        self._shared = {key: value for key, value in values["data"].items() if key in declared.options(data.load)}

    @cached_property
    def encoder(self) -> encoders.Encoder | encoders.RecordingEncoder:
        """The encoder of a run."""
        named = self._named
        if not isinstance(named, encoders.Auto):
            return named
        points = self.corpus.train_samples.shape[1] if self.corpus.kind == "series" else 0
        return build.chosen(named, self.corpus.kind, points, self.values)

    def _resolved(self) -> Mapping[str, Any]:
        """The config with the encoder that was chosen."""
        if isinstance(self._named, encoders.Auto) and not isinstance(self.encoder, encoders.RecordingEncoder):
            return {**self.values, "encoder": encoders.settings(self.encoder)}
        return self.values

    @property
    def _drawn(self) -> dict[str, Any]:
        """The options of augmentation, and the seed that it draws by."""
        return {**self._shared, "seed": self.values["seed"]}

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus as it is found."""
        name, own = self.values["data"]["name"], {**self.values["data"]}
        for key in (*self._shared, "name"):
            own.pop(key, None)
        declared.check("data", data.load, self._shared)
        try:
            corpus = data.found(name, data.data_root(self._shared.get("root")), False, own)
        except MissingError as error:
            more = f"\n  have it downloaded: snnrun data prepare {name}" if self._shared.get("download") else ""
            raise MissingError(f"{error}{more}") from None
        data.check_usable(name, corpus, corpus.faults)
        build.check_kind(self.values, self._named, corpus)
        return corpus

    @cached_property
    def _positions(self) -> dict[str, NDArray[np.int64]]:
        """The numbers in the corpus of each part's samples, as in a run."""
        limit, validation = self._shared.get("limit"), self._shared.get("validation", 0.1)
        train, held = data.cut(self.corpus, limit, validation, self.values["seed"])
        size = len(self.corpus.train_labels)
        return dict(zip(PARTS, (train, held, size + np.arange(len(self.corpus.test_labels))), strict=True))

    def choose(self, part: str, first: int, count: int, wanted: str | None = None) -> list[int]:
        """The numbers within a part of `count` samples from number `first` on, of all or of those of one class.

        Raises:
            UsageError: There is no such class, or no such sample.
        """
        corpus, positions = self.corpus, self._positions[part]
        name, of = self.values["data"]["name"], ""
        if not len(positions):
            why = f" (data.validation={self._shared.get('validation')})" if part == "validation" else ""
            raise UsageError(f"--split {part}: no sample of data={name} is in this part{why}.")
        chosen = np.arange(len(positions))
        if wanted is not None:
            if wanted not in corpus.classes:
                raise UsageError(unknown(f"class of data={name}", wanted, corpus.classes))
            labels = np.concatenate([corpus.train_labels, corpus.test_labels])[positions]
            chosen, of = np.flatnonzero(labels == corpus.classes.index(wanted)), f" of class {wanted}"
            if not len(chosen):
                raise UsageError(f"--class {wanted}: no sample of this class is in the part {part} of data={name}.")
        if first >= len(chosen):
            raise UsageError(
                f"--sample {first}: no such sample in the part {part} of data={name}; those{of} are numbered from 0 "
                f"to {len(chosen) - 1:,}."
            )
        numbers: list[int] = chosen[first : first + count].tolist()
        return numbers

    def read(self, part: str, number: int, epoch: int = 0) -> Look:
        """A sample, as an evaluation gets it (epoch 0) or as the training does in an epoch, with its augmentation.

        Raises:
            SnnrunError: Its file cannot be used.
        """
        k, corpus = int(self._positions[part][number]), self.corpus
        size = len(corpus.train_labels)
        samples, at, labels = (
            (corpus.train_samples, k, corpus.train_labels)
            if k < size
            else (corpus.test_samples, k - size, corpus.test_labels)
        )
        raw, index, encoder = samples[np.array([at])], np.array([k]), self.encoder
        name, notes, more = corpus.names[k] if corpus.names else "", list[str](), dict[str, Any]()
        if isinstance(encoder, encoders.RecordingEncoder):
            name = name or str(raw[0])
            raw, more["wave"], notes = self._heard(encoder, raw[0], corpus)
            corpus, encoder = replace(corpus, kind="spikes", shape=(encoder.channels,)), encoders.Stored(0)
        augment = data.augmentation(corpus.kind, corpus.shape, corpus.image, raw, self._drawn)
        shown = raw if augment is None else augment(raw, index, epoch)
        image = corpus.image
        if corpus.kind == "image":
            image = image or (1, 1, math.prod(corpus.shape))
            more["picture"] = shown.reshape(image)
        if corpus.kind == "series":
            more["series"] = shown[0]
        label, given = corpus.classes[labels[at]], encoder.encode(shown, index, epoch)
        return self._look(
            f"{part}:{number}", given, math.prod(corpus.shape), image, notes, label=label, name=name, **more
        )

    def read_file(self, path: Path) -> Look:
        """A file, made a sample as the corpus makes its own.

        Raises:
            UsageError: There is no such file, or the corpus has no such samples.
            SnnrunError: The file is damaged.
        """
        about = self._about()
        sample = Reader(self._resolved(), about, self.invert).read(str(path))
        more: dict[str, Any] = {"picture": sample.pixels, "name": str(path)}
        if isinstance(self.encoder, encoders.RecordingEncoder) and path.suffix != ".npy":
            more["wave"] = audio.read(path)
        if sample.series is not None:
            more["series"] = sample.series
        if sample.label is not None and about.classes:
            more["label"] = about.classes[sample.label]
        image = about.image if sample.pixels is None else sample.pixels.shape
        return self._look(path.name, sample.inputs, about.channels, image, list(sample.notes), **more)

    def _about(self) -> Description:
        """What is to be known of the corpus to read a file; it need not be there if its files need nothing of it."""
        name = self.values["data"]["name"]
        own: dict[str, Any] = {"data": name, "origin": "", "digest": "", "classes": (), "layers": {}}
        if isinstance(self.encoder, encoders.RecordingEncoder):
            shape, steps = (self.encoder.channels,), self.encoder.steps
            return Description(kind="spikes", shape=shape, steps=steps, **own)
        if name in data.PICTURES:
            image = data.PICTURES[name](**self.values["data"]).image
            return Description(kind="image", shape=image, image=image, steps=self.encoder.steps or 0, **own)
        corpus = self.corpus
        steps = self.encoder.steps or (corpus.train_samples.shape[1] if corpus.kind == "spikes" else 0)
        own["classes"] = corpus.classes
        return Description(
            kind=corpus.kind, shape=corpus.shape, image=corpus.image, form=corpus.form, steps=steps, **own
        )

    def _heard(
        self, encoder: encoders.RecordingEncoder, path: Path, corpus: Corpus
    ) -> tuple[NDArray[np.int64], tuple[NDArray[np.float64], int], list[str]]:
        """The spikes of a recording (1, T, W), its wave and rate, and a note if it is cut."""
        wave, rate = audio.read(path, rate=corpus.sample_rate)
        try:
            heard = recordings.Ear(encoder).hear(wave, rate)
        except ValueError as error:
            raise SnnrunError(f"{path}: {error}") from None
        cut = [f"it is cut: {heard.left_out:,} steps of it come after the last one"] if heard.left_out else []
        return heard.spikes[None], (wave, rate), cut

    def _look(self, source: str, given: NDArray[Any], channels: int, image: Any, notes: list[str], **more: Any) -> Look:
        """A sample from what its encoder gave: bits (1, T, W) int64 or values (1, T, N)."""
        if not isinstance(self.encoder, encoders.RecordingEncoder):
            of_encoder = encoders.inputs(self.encoder, channels)
            channels, image = of_encoder, image if of_encoder == channels else None
        if given.dtype != np.int64:
            inputs, steps = given[0], self.encoder.steps or given.shape[1]
        else:
            inputs, steps = unpack(given[0], channels), given.shape[1]
            if image is not None and more.get("picture") is None:
                more["picture"] = inputs.sum(axis=0).reshape(image) / max(int(inputs.sum(axis=0).max()), 1)
        notes = [*notes, *without_input(given)]
        step_ms = step_of(self.encoder, self.values)
        return Look(source, inputs, steps, step_ms, image=image, notes=tuple(dict.fromkeys(notes)), **more)


def step_of(encoder: Any, values: Mapping[str, Any]) -> float:
    """Length of a step in ms: of the encoder of sound, or as events are binned, else 1 by definition."""
    if isinstance(encoder, encoders.CuttingEncoder):
        return 1000 * encoder.step_s
    return float(values["data"].get("bin_ms") or 1.0)
