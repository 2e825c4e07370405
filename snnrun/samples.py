"""One sample from a file, as the input spikes of a trained network: a recording, an image, or spikes themselves."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun import build, encoders
from snnrun.data import Dataset, Split, audio
from snnrun.data.corpus import pack
from snnrun.description import Description
from snnrun.errors import SnnrunError, UsageError

_INDEX = re.compile(r"(test|validation|train):(\d+)")
_BRIGHT = 127.0  # mean of the pixels from which an image is told to be mostly bright
_NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class Sample:
    """Input spikes as bits, int64 (1, T, W); the label, where it is known; what the user should know of it."""

    spikes: NDArray[np.int64]
    label: int | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Reader:
    """Reads what `snnrun predict` is given.

    Attributes:
        values: Config of the run.
        about: What its network was trained for.
        invert: Take bright pixels for dark ones.
    """

    values: Mapping[str, Any]
    about: Description
    invert: bool = False

    def read(self, source: str) -> Sample:
        """The sample that a path, or `test:17`, means.

        Raises:
            UsageError: there is no such file or sample, or the network does not take this kind.
            SnnrunError: the file is damaged, or none of those that can be read.
        """
        index = _INDEX.fullmatch(source)
        path = Path(source)
        if index is not None and not path.exists():
            return self._indexed(index[1], int(index[2]))
        if not path.is_file():
            what = "this is a folder" if path.is_dir() else "there is no such file"
            raise UsageError(f"{source}: {what}. Give files, or samples of the corpus as test:17.")
        try:
            with path.open("rb") as file:
                is_array = file.read(len(_NPY)) == _NPY
        except OSError as error:
            raise SnnrunError(f"{source}: it cannot be read ({error.strerror or error}).") from None
        if is_array:
            return self._array(path)
        if isinstance(self.encoder, encoders.RecordingEncoder):
            return self._recording(path, self.encoder)
        if self.about.kind == "image":
            return self._image(path, self.encoder)
        raise UsageError(
            f"{source}: this run was trained on the spikes of data={self.about.data}; its files are arrays (.npy) of "
            f"0 and 1, (steps, {self.about.channels}), or samples of the corpus as test:17."
        )

    @cached_property
    def encoder(self) -> encoders.Encoder | encoders.RecordingEncoder:
        """Of the run."""
        return encoders.build(seed=self.values["seed"], **self.values["encoder"])

    @cached_property
    def dataset(self) -> Dataset:
        """The corpus, for samples given by their index."""
        return build.load(self.values)

    def _indexed(self, part: str, position: int) -> Sample:
        split: Split = getattr(self.dataset, part)
        if position >= len(split):
            last = f"they are numbered from 0 to {len(split) - 1:,}" if len(split) else "there are none"
            raise UsageError(f"{part}:{position}: no such sample of data={self.about.data}; {last}.")
        at = np.array([position])
        spikes = build.encoder(self.values).encode(split.samples[at], split.index[at], 0)
        return Sample(spikes, int(split.labels[position]))

    def _recording(self, path: Path, encoder: encoders.RecordingEncoder) -> Sample:
        wave, rate = audio.read(path)
        seconds = len(wave) / rate
        try:
            spikes = encoder.encode_recording(wave, rate)
        except ValueError as error:
            raise SnnrunError(f"{path}: {error}") from None
        silent = () if spikes.any() else (f"it has no input spike (silent, or shorter than a frame: {seconds:.2f} s)",)
        return Sample(spikes[None], notes=silent)

    def _image(self, path: Path, encoder: encoders.Encoder) -> Sample:
        pixels = image(path, self.about.image or self.about.shape)
        pixels = 255 - pixels if self.invert else pixels
        notes = []
        if pixels.mean() > _BRIGHT and (self.about.image or (1,))[0] == 1:
            notes.append("most of it is bright; is it dark on bright, where the corpus is bright on dark? Try --invert")
        spikes = encoder.encode(pixels.reshape(1, -1), np.zeros(1, np.int64), 0)
        return Sample(spikes, notes=tuple(notes))

    def _array(self, path: Path) -> Sample:
        """Spikes (T, N) of 0 and 1, cut or filled up with silence to the steps of the run."""
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
        return Sample(np.ascontiguousarray(pack(spikes), np.int64)[None], notes=notes)

    def _steps(self) -> int:
        return int(self.values["encoder"].get("steps") or self.about.steps)


def image(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An image file in the form of a corpus: uint8 of the shape (rows, columns), or (1 or 3, rows, columns).

    It is turned as its EXIF data say, laid on black where it is transparent, made grey by ITU-R 601 (or RGB for three
    planes), filled up with black to the corpus's proportions with the image in the middle, and brought to its size by
    Pillow's bilinear filter, which averages over all pixels that one comes from. 16 bits are divided by 257.

    Raises:
        UsageError: the corpus's samples are no images of these kinds.
        SnnrunError: the file cannot be read, or is no image.
    """
    from PIL import Image, ImageOps

    planes = shape[0] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or planes not in (1, 3):
        raise UsageError(f"{path}: samples of the shape {shape} are not made from image files.")
    rows, columns = shape[-2:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of large images, which are read all the same
            with Image.open(path) as file:
                picture = _eight_bits(path, ImageOps.exif_transpose(file))
    except Image.DecompressionBombError as error:
        raise SnnrunError(f"{path}: the image is too large ({error}).") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise SnnrunError(f"{path}: no image that Pillow reads, or a damaged one ({error}).") from None
    over = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    over.alpha_composite(picture.convert("RGBA"))
    flat = over.convert("L" if planes == 1 else "RGB")
    width, height = flat.size
    across = max(width, math.ceil(height * columns / rows))
    down = max(height, math.ceil(width * rows / columns))
    canvas = Image.new(flat.mode, (across, down))
    canvas.paste(flat, ((across - width) // 2, (down - height) // 2))
    if canvas.size != (columns, rows):
        canvas = canvas.resize((columns, rows), Image.Resampling.BILINEAR)
    pixels = np.asarray(canvas, np.uint8)
    return (pixels if planes == 1 else pixels.transpose(2, 0, 1)).reshape(shape)


def _eight_bits(path: Path, picture: Any) -> Any:
    from PIL import Image

    picture.load()
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture, np.float64) / 257).round().astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise SnnrunError(f"{path}: an image of mode {picture.mode} has no fixed range; save it with 8 or 16 bits.")
    return picture
