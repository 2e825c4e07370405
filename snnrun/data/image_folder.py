"""Pictures of one's own: a folder for each class, in whatever form Pillow reads."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun import parallel
from snnrun.data import class_folders
from snnrun.data.corpus import Corpus
from snnrun.errors import UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".pnm", ".tif", ".tiff", ".webp"})
_LARGEST = 4096  # rows or columns: more is a slip


class UnreadableError(ValueError):
    """A file is no picture that can be used; the text is the reason and the remedy."""


def image_folder(
    root: Path,
    _download: bool,
    *,
    rows: int = 32,
    columns: int = 32,
    colour: bool = False,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Corpus:
    """Pictures in a folder for each class, all brought to one size; see `class_folders.find`.

    A picture is turned as its camera says, laid on black where it is transparent, and stretched to the size that is
    wanted, its proportions given up. Of 16 bits the upper 8 count; of a moving picture, the first.

    Args:
        root: The folder itself.
        rows, columns: Of the images.
        colour: Red, green and blue, one after the other; else grey.
        test_fraction: Share of the pictures to test on where no `train` and `test` tell, the same in every class.
        split_seed: Seeds their choice; the run's seed does not move it.

    Raises:
        MissingError: If there are no two classes with pictures.
        SnnrunError: If the test folder has a class of its own.
        UsageError: If a number is out of range.
    """
    for key, value in ("rows", rows), ("columns", columns):
        if not 1 <= value <= _LARGEST:
            raise UsageError(f"data.{key}={value}: a whole number from 1 to {_LARGEST} is needed")
    found = class_folders.find(
        root,
        corpus="image_folder",
        what="images",
        suffixes=SUFFIXES,
        example="<name>.png",
        test_fraction=test_fraction,
        split_seed=split_seed,
    )
    image = (3 if colour else 1, rows, columns)
    samples, faults = read_all([*found.train, *found.test], image)
    size = len(found.train)
    return Corpus(
        kind="image",
        shape=image if colour else image[1:],
        classes=found.classes,
        train_samples=samples[:size],
        train_labels=found.train_labels,
        test_samples=samples[size:],
        test_labels=found.test_labels,
        origin=found.origin,
        notes=found.notes,
        faults=tuple(faults),
        image=image,
    )


def read_all(paths: Sequence[Path], image: tuple[int, int, int]) -> tuple[NDArray[np.uint8], list[str]]:
    """Pixels (S, N) of all files, read on all threads, and the faults of those that cannot be read."""
    samples = np.zeros((len(paths), image[0] * image[1] * image[2]), np.uint8)
    faults = [""] * len(paths)

    def task(item: int) -> None:
        try:
            samples[item] = read(paths[item], image).ravel()
        except UnreadableError as error:
            faults[item] = f"{paths[item]}: {error}"

    with warnings.catch_warnings():  # of odd metadata and of large pictures, which are no faults
        warnings.simplefilter("ignore")
        parallel.each(len(paths), task)
    return samples, [fault for fault in faults if fault]


def read(path: Path, image: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One picture in this size, (channels, rows, columns).

    Raises:
        UnreadableError: If it cannot be read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        if not path.stat().st_size:
            raise UnreadableError("it is empty; copy it anew or remove it")
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            return _pixels(picture, image)
    except UnidentifiedImageError:
        raise UnreadableError("it is no image, or damaged from its beginning on; replace or remove it") from None
    except Image.DecompressionBombError:
        raise UnreadableError("it has too many pixels; make it smaller or remove it") from None
    except OSError as error:
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


def _pixels(picture: Any, image: tuple[int, int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    channels, rows, columns = image
    if picture.mode.startswith("I"):  # 16 bits, which a conversion would clip
        picture = Image.fromarray((np.asarray(picture).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if picture.mode == "F":
        raise UnreadableError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    picture = picture.convert("RGB" if channels == 3 else "L")
    if picture.size != (columns, rows):
        picture = picture.resize((columns, rows), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8)
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]
