"""One sample from a file, as the input of a trained model. The file has a recording, an image or spikes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun import data, encoders
from snnrun.compiled.packed_arrays import pack
from snnrun.data import Split, array_files, array_row, audio, pictures
from snnrun.data.spikes_file import Encoded
from snnrun.errors import SnnrunError, UsageError
from snnrun.record.description import Description
from snnrun.run import build

_INDEX = re.compile(r"(test|validation|train):(\d+)")
_NUMBERED = re.compile(r"(.+):(\d+)")  # a file of many samples, and the number of one
_BRIGHT = 127.0  # an image with a higher mean of its pixels is called mostly bright
_NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class Sample:
    """Input spikes as bits, int64 (1, T, W), or values, float32 (1, T, N); the label, if known; notes for the user.

    Of a picture: its pixels, uint8 (channels, rows, columns). Of a row of time series: its values, float32 (P, F), NaN
    after its end.
    """

    inputs: NDArray[Any]
    label: int | None = None
    notes: tuple[str, ...] = ()
    pixels: NDArray[np.uint8] | None = None
    series: NDArray[np.float32] | None = None


def without_input(inputs: NDArray[Any]) -> tuple[str, ...]:
    """The note on a sample, as `Sample.inputs` has it, of which a network gets nothing; none if it gets something."""
    if inputs.any():
        return ()
    return ("it has no input spike" if inputs.dtype == np.int64 else "all of its input is 0",)


@dataclass
class Reader:
    """Reads the files and samples that `snnrun predict` gets.

    Attributes:
        values: Config of the run.
        about: Description of its network and corpus.
        invert: Take bright pixels for dark ones.
        epoch: What the encoder draws for, see `train.presentations`.
    """

    values: Mapping[str, Any]
    about: Description
    invert: bool = False
    epoch: int = 0

    def read(self, source: str) -> Sample:
        """The sample of a path, or of a text such as `test:17`.

        Raises:
            UsageError: there is no such file or sample, or the network does not take this kind.
            SnnrunError: the file is damaged, or its format is not one that can be read.
        """
        index = _INDEX.fullmatch(source)
        path = Path(source)
        if index is not None and not path.exists():
            return self._indexed(index[1], int(index[2]))
        if self.about.form is not None and (path.exists() or array_row.parse(source)):
            found = self._row(source, path, self.about.form)
            if found is not None:
                return found
        if self.about.data in data.NUMBERED and path.suffix != ".npy":
            return self._numbered(source)
        if not path.is_file():
            what = "this is a folder" if path.is_dir() else "there is no such file"
            raise UsageError(f"{source}: {what}. Give files, or samples of the corpus as test:17.")
        try:
            with path.open("rb") as file:
                is_array = file.read(len(_NPY)) == _NPY
        except OSError as error:
            raise SnnrunError(f"{source}: it cannot be read ({error.strerror or error}).") from None
        if is_array and not (self.about.data == "tonic" and self._is_of_events(path)):
            return self._array(path)
        if isinstance(self.encoder, encoders.RecordingEncoder):
            return self._recording(path, self.encoder)
        if self.about.kind == "image":
            return self._image(path, self.encoder)
        if self.about.data in data.RECORDINGS:
            return self._binned(data.RECORDINGS[self.about.data](path, **self.values["data"]))
        raise UsageError(
            f"{source}: this run was trained on the spikes of data={self.about.data}; its files are arrays (.npy) of "
            f"0 and 1, (steps, {self.about.channels}), or samples of the corpus as test:17."
        )

    @cached_property
    def encoder(self) -> encoders.Encoder | encoders.RecordingEncoder:
        """The encoder of the run."""
        encoder = encoders.build(seed=self.values["seed"], **self.values["encoder"])
        assert not isinstance(encoder, encoders.Auto), "a run's config has the encoder that was chosen"
        return encoder

    @cached_property
    def inputs(self) -> build.Inputs:
        """The corpus and its encoder, for samples that are given by their index."""
        return build.load(self.values)

    def _indexed(self, part: str, position: int) -> Sample:
        dataset, encoder = self.inputs
        split: Split = getattr(dataset, part)
        if position >= len(split):
            last = f"they are numbered from 0 to {len(split) - 1:,}" if len(split) else "there are none"
            raise UsageError(f"{part}:{position}: no such sample of data={self.about.data}; {last}.")
        at = np.array([position])
        spikes = encoder.encode(split.samples[at], split.index[at], self.epoch)
        return Sample(spikes, int(split.labels[position]))

    def _recording(self, path: Path, encoder: encoders.RecordingEncoder) -> Sample:
        wave, rate = audio.read(path)
        seconds = len(wave) / rate
        try:
            spikes = encoder.encode_recording(wave, rate)
        except ValueError as error:
            raise SnnrunError(f"{path}: {error}") from None
        notes = []
        if isinstance(encoder, encoders.CuttingEncoder) and encoder.left_out(len(wave), rate):
            heard = encoder.steps * encoder.step_s
            notes.append(f"it is cut: the first {heard:.3g} s of its {seconds:.3g} s are heard, {encoder.steps} steps")
        if not spikes.any():
            notes.append(f"it has no input spike (silent, or shorter than a frame: {seconds:.2f} s)")
        return Sample(spikes[None], notes=tuple(notes))

    def _image(self, path: Path, encoder: encoders.Encoder) -> Sample:
        own = data.PICTURES.get(self.about.data)  # a corpus of files prepares other files as its own
        section = self.values["data"]
        form = own(**section) if own else pictures.Form(self._planes(path), section.get("fit", "pad"))
        if self.invert:  # what is beside and behind the picture is not inverted
            form = replace(form, background=255 - form.background)
        try:
            picture = pictures.read(path, form)
        except pictures.UnreadableError as error:
            raise SnnrunError(f"{path}: {error}") from None
        pixels = 255 - picture.pixels if self.invert else picture.pixels
        spikes = encoder.encode(pixels.reshape(1, -1), np.zeros(1, np.int64), self.epoch)
        notes = ["it is of one colour"] if pixels.min() == pixels.max() else []
        return Sample(spikes, notes=tuple(notes if own else notes + _guesses(picture, pixels)), pixels=pixels)

    def _planes(self, path: Path) -> tuple[int, int, int]:
        """Channels, rows and columns of a picture that the network takes."""
        shape = self.about.image or self.about.shape
        planes = (1, *shape) if len(shape) == 2 else shape
        if len(planes) != 3 or planes[0] not in (1, 3):
            raise UsageError(f"{path}: samples of the shape {shape} are not made from image files.")
        return planes[0], planes[1], planes[2]

    def _binned(self, own: Encoded) -> Sample:
        assert not isinstance(self.encoder, encoders.RecordingEncoder)
        spikes = self.encoder.encode(own.spikes[None], np.zeros(1, np.int64), self.epoch)
        notes = [f"{own.left_out:,} of its events come after the last step and are left out"] if own.left_out else []
        return Sample(spikes, notes=(*notes, *without_input(spikes)))

    def _is_of_events(self, path: Path) -> bool:
        """Whether an array is no spike trains of this network; tonic has corpora whose events lie in such files."""
        try:
            return bool(np.load(path, mmap_mode="r", allow_pickle=False).shape[1:] != (self.about.channels,))
        except (OSError, ValueError, EOFError):
            return True

    def _numbered(self, source: str) -> Sample:
        match = _NUMBERED.fullmatch(source)
        if match is None or not Path(match[1]).is_file():
            there = "it holds many samples" if Path(source).is_file() else "there is no such file"
            raise UsageError(f"{source}: {there}. Give a file and the number of a sample in it, as shd_test.h5:17.")
        return self._binned(data.NUMBERED[self.about.data](Path(match[1]), int(match[2]), **self.values["data"]))

    def _row(self, source: str, path: Path, form: Mapping[str, Any]) -> Sample | None:
        """A row of a file of arrays, or the one of a .npy file; None for a picture."""
        wanted = None if path.exists() else array_row.parse(source)
        if wanted is not None:
            row = array_row.read(*wanted, form)
        elif path.suffix.lower() in array_files.ENDINGS or path.is_dir():
            if path.suffix.lower() != ".npy":
                raise array_row.which(path)
            row = array_row.file(path, form)
        else:
            return None
        assert not isinstance(self.encoder, encoders.RecordingEncoder), "arrays have no recordings"
        inputs = self.encoder.encode(row.sample, np.zeros(1, np.int64), self.epoch)
        series = row.sample[0] if self.about.kind == "series" else None
        return Sample(inputs, row.label, (*row.notes, *without_input(inputs)), series=series)

    def _array(self, path: Path) -> Sample:
        """Spikes (T, N) of 0 and 1, cut to the steps of the run, or filled up with silence."""
        if encoders.makes_currents(self.encoder):
            raise UsageError(
                f"{path}: this run's input has currents (encoder={self.values['encoder']['name']}), and an array has "
                "spikes. Give images, or samples of the corpus as test:17."
            )
        wanted = f"an array of 0 and 1, (steps, {self.about.channels})"
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SnnrunError(f"{path}: it is damaged ({error}); wanted is {wanted}.") from None
        if array.ndim != 2 or array.shape[1] != self.about.channels or array.dtype.kind not in "buif":
            raise UsageError(f"{path}: it is {array.dtype} {array.shape}; wanted is {wanted}.")
        if not np.isin(array, (0, 1)).all():
            raise UsageError(f"{path}: it has values other than 0 and 1; wanted is {wanted}.")
        steps = self._steps()
        spikes = np.zeros((steps, self.about.channels), bool)
        kept = min(steps, len(array))
        spikes[:kept] = array[:kept]
        what = "cut" if len(array) > steps else "followed by silence"
        notes = () if len(array) == steps else (f"its {len(array):,} steps are {what}: the run has {steps:,}",)
        return Sample(pack(spikes)[None], notes=notes)

    def _steps(self) -> int:
        return int(self.values["encoder"].get("steps") or self.about.steps)


def _guesses(picture: pictures.Picture, pixels: NDArray[np.uint8]) -> list[str]:
    """Notes on what was assumed about a picture, for a corpus that has no files to compare with."""
    notes = []
    (height, width), (_, rows, columns) = picture.size, pixels.shape
    if height * columns != width * rows:
        notes.append(f"its {height} x {width} pixels are filled up to the proportions of {rows} x {columns}")
    if picture.dim:
        notes.append(f"of 65,535 that 16 bits allow, its brightest pixel is {picture.peak:,}: has it fewer bits?")
    if len(pixels) == 1 and pixels.mean() > _BRIGHT:
        notes.append("most of it is bright; is it dark on bright, where the corpus is bright on dark? Try --invert")
    return notes
