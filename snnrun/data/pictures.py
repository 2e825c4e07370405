"""From a picture file to the pixels of a sample: the same way for corpora of files and for single files."""

from __future__ import annotations

import functools
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled import parallel
from snnrun.errors import UsageError

FITS = ("stretch", "pad", "crop")
# What Pillow knows by name and does not read, or only by another program's help.
_UNREAD = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
DIM = 1 << 14  # pictures of 16 bits that stay below this, a quarter of the range, seem to hold fewer bits
_SIXTEEN = (0.0, 65535.0)
_SIXTEEN_FORMS = ("PNG", "PPM")  # Pillow may open 16 bits of these as mode I, which has 32 elsewhere


class UnreadableError(ValueError):
    """A file is no picture that can be used; the text is the reason and the remedy."""


@dataclass(frozen=True)
class Form:
    """What a picture is brought to.

    Attributes:
        image: Channels (1: grey, 3: red, green and blue), rows, columns.
        fit: "stretch" gives up the proportions. "pad" keeps them, puts the picture into the middle and fills the rest
            with the background. "crop" keeps them and cuts both sides off.
        background: What lies behind transparent pixels and beside a padded picture, 0 (black) to 255.
        levels: The values of black and of white in pictures of more than 8 bits; None: 0 and 65,535 in those of 16
            bits, and others are refused.

    Raises:
        UsageError: If an option is out of range.
    """

    image: tuple[int, int, int]
    fit: str = "stretch"
    background: int = 0
    levels: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise UsageError(f"data.fit={self.fit}: {', '.join(FITS[:-1])} or {FITS[-1]}")
        if not 0 <= self.background <= 255:
            raise UsageError(f"data.background={self.background}: a whole number from 0 (black) to 255 is needed")
        if self.levels is not None:
            low, high = self.levels
            if not (np.isfinite([low, high]).all() and low < high):
                raise UsageError(f"data.levels={[low, high]}: the values of black and of white, the lower one first")


class Picture(NamedTuple):
    """What a file became.

    Attributes:
        pixels: uint8, (channels, rows, columns).
        size: Of the picture in the file, (rows, columns), turned as its camera says.
        transparent: Whether it had some background laid behind it.
        peak: Its brightest value, if it has 16 bits that were taken to reach to 65,535; else None.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    transparent: bool = False
    peak: int | None = None

    @property
    def dim(self) -> bool:
        """Whether it has 16 bits and seems to use fewer."""
        return self.peak is not None and 0 < self.peak < DIM


class All(NamedTuple):
    """What many files became: pixels (S, N); faults, each naming a file and the remedy; what a user should know."""

    samples: NDArray[np.uint8]
    faults: list[str]
    notes: list[str]


def read(path: Path, form: Form) -> Picture:
    """One picture: turned as its camera says, on its background, grey (ITU-R 601) or in colours, brought to its size.

    Pillow's bilinear filter changes the size; it averages over all pixels that a new one comes from. The first frame of
    a moving picture counts, and the upper 8 of 16 bits, unless the levels say otherwise.

    Raises:
        UnreadableError: If it cannot be read, or the range of its values is not known.
    """
    with warnings.catch_warnings():  # of odd metadata and of large pictures, which are no faults
        warnings.simplefilter("ignore")
        return _read(path, form)


@functools.cache
def suffixes() -> frozenset[str]:
    """The extensions, in lower case, of what Pillow reads here."""
    from PIL import Image

    Image.init()
    return frozenset(
        suffix for suffix, form in Image.registered_extensions().items() if form in Image.OPEN and form not in _UNREAD
    )


def read_all(paths: Sequence[Path], form: Form) -> All:
    """All files, read on all threads."""
    channels, rows, columns = form.image
    samples = np.zeros((len(paths), channels * rows * columns), np.uint8)
    faults, peaks, hidden = [""] * len(paths), [0] * len(paths), [False] * len(paths)

    def task(item: int) -> None:
        try:
            picture = _read(paths[item], form)
            samples[item], peaks[item] = picture.pixels.ravel(), picture.peak or 0
            hidden[item] = picture.transparent and (picture.pixels == form.background).all()
        except UnreadableError as error:
            faults[item] = f"{paths[item]}: {error}"

    with warnings.catch_warnings():  # here, since threads share what is ignored
        warnings.simplefilter("ignore")
        parallel.each(len(paths), task)
    found = [fault for fault in faults if fault]
    brightest = max(range(len(paths)), key=peaks.__getitem__, default=0)
    if paths and 0 < peaks[brightest] < DIM:
        found.append(f"{paths[brightest]}: {_too_dim(peaks[brightest])}")
    return All(samples, found, [_hidden(sum(hidden), form.background)] if any(hidden) else [])


def _too_dim(peak: int) -> str:
    return (
        f"no image of 16 bits has a value above its {peak:,}, so they seem to hold fewer bits. Say which value is "
        f"white: data.levels=[0,{(1 << peak.bit_length()) - 1}], or data.levels=[0,65535] if they are as dark as that"
    )


def _hidden(count: int, background: int) -> str:
    other = "data.background=255 lays white behind it" if background < 128 else "data.background=0 lays black behind it"
    return f"{count:,} images are drawn in their transparency alone and vanish on this background; {other}"


# ---- one picture ----------------------------------------------------------------------------------------------------


def _read(path: Path, form: Form) -> Picture:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        if not path.stat().st_size:
            raise UnreadableError("it is empty; copy it anew or remove it")
        with Image.open(path) as file:
            return brought(ImageOps.exif_transpose(file), form, file.format in _SIXTEEN_FORMS)
    except UnidentifiedImageError:
        raise UnreadableError("it is no image, or damaged from its beginning on; replace or remove it") from None
    except Image.DecompressionBombError:
        raise UnreadableError("it has too many pixels; make it smaller or remove it") from None
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise UnreadableError("it is a link that leads nowhere; mend or remove it") from None
        if error.errno:
            raise UnreadableError(f"it cannot be read ({error.strerror}); check its permissions") from None
        raise UnreadableError(f"it is damaged or cut short ({error}); copy it anew or remove it") from None
    except UnreadableError:
        raise
    except (
        ValueError,
        SyntaxError,
        EOFError,
        LookupError,
        struct.error,
        zlib.error,
    ) as error:  # Pillow's, of torn files
        raise UnreadableError(f"it is damaged ({error}); copy it anew or remove it") from None


def brought(picture: Any, form: Form, sixteen: bool = False) -> Picture:
    """A picture of Pillow, brought to the form; `sixteen` if mode I stands for 16 bits.

    Raises:
        UnreadableError: If the range of its values is not known.
    """
    from PIL import Image

    peak = None
    if picture.mode.startswith("I") or picture.mode == "F":
        sixteen = picture.mode.startswith("I;16") or (sixteen and picture.mode == "I")
        if form.levels is None and not sixteen:
            raise UnreadableError(_range_unknown(picture.mode))
        values = np.asarray(picture).astype(np.float64)
        peak = int(values.max()) if form.levels is None else None
        picture = Image.fromarray(_eight_bits(values, form.levels or _SIXTEEN))
    transparent = picture.has_transparency_data
    if transparent:
        picture = picture.convert("RGBA")
        behind = Image.new("RGBA", picture.size, (*[form.background] * 3, 255))
        picture = Image.alpha_composite(behind, picture)
    if picture.mode == "LAB":  # of which Pillow makes no grey at once
        picture = picture.convert("RGB")
    picture = picture.convert("RGB" if form.image[0] == 3 else "L")
    pixels = np.asarray(_fitted(picture, form), np.uint8)
    planes = pixels.transpose(2, 0, 1) if form.image[0] == 3 else pixels[None]
    return Picture(planes, (picture.height, picture.width), transparent, peak)


def _range_unknown(mode: str) -> str:
    kind = "floating-point numbers" if mode == "F" else "integers of 32 bits"
    return (
        f"its pixels are {kind}, whose range is not known; save it with 8 or 16 bits, or say in an image_folder which "
        "values are black and white, such as data.levels=[0,255]"
    )


def _eight_bits(values: NDArray[np.float64], levels: tuple[float, float]) -> NDArray[np.uint8]:
    """256 equal parts between the levels; of 0 and 65,535, the upper 8 of 16 bits."""
    if not np.isfinite(values).all():
        raise UnreadableError("some of its pixels are NaN or infinite; write it anew or remove it")
    low, high = levels
    return np.floor((values - low) * 256 / (high - low)).clip(0, 255).astype(np.uint8)


def _fitted(picture: Any, form: Form) -> Any:
    from PIL import Image

    _, rows, columns = form.image
    if picture.size == (columns, rows):
        return picture
    bilinear, (width, height) = Image.Resampling.BILINEAR, picture.size
    if form.fit == "stretch":
        return picture.resize((columns, rows), bilinear)
    if form.fit == "crop":
        part = min(width / columns, height / rows)
        across, down = columns * part, rows * part
        left, top = (width - across) / 2, (height - down) / 2
        return picture.resize((columns, rows), bilinear, box=(left, top, left + across, top + down))
    part = min(columns / width, rows / height)
    across, down = max(1, round(width * part)), max(1, round(height * part))
    canvas = Image.new(picture.mode, (columns, rows), form.background if form.image[0] == 1 else (form.background,) * 3)
    canvas.paste(picture.resize((across, down), bilinear), ((columns - across) // 2, (rows - down) // 2))
    return canvas
