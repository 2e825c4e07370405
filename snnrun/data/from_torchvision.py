"""Labelled image corpora as torchvision reads and downloads them: KMNIST, EMNIST, SVHN, CIFAR-100, Omniglot and others.

The class of torchvision finds the files and gives picture and label; `pictures` brings the pictures to one size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled import parallel
from snnrun.data import folders, library, pictures
from snnrun.data.corpus import Corpus
from snnrun.data.known import ANY, known
from snnrun.declared import Range
from snnrun.errors import SnnrunError, UsageError

# Those that give a picture and one class; torchvision has others, of boxes, masks, pairs and videos.
NAMES = (
    *("CIFAR10", "CIFAR100", "Caltech101", "Caltech256", "Country211", "DTD", "EMNIST", "EuroSAT", "FER2013"),
    *("FGVCAircraft", "FakeData", "FashionMNIST", "Flowers102", "Food101", "GTSRB", "INaturalist", "ImageNet"),
    *("Imagenette", "KMNIST", "LFWPeople", "MNIST", "Omniglot", "OxfordIIITPet", "PCAM", "Places365", "QMNIST"),
    *("RenderedSST2", "SEMEION", "STL10", "SUN397", "SVHN", "StanfordCars", "USPS"),
)
PLACE = "torchvision"  # the folder below the data root
_GREY = ("1", "L", "LA", "I", "F")  # modes of pictures, those of 16 bits beside


class _Pictures(NamedTuple):
    """Pixels (S, N), the label of each, how many in colour were made grey, and faults."""

    samples: NDArray[np.uint8]
    labels: list[int | str]
    greyed: int
    faults: list[str]


@known(
    "any labelled image corpus of torchvision, which data.dataset names: KMNIST, EMNIST, SVHN, CIFAR100, Omniglot ...",
    "downloaded by torchvision when it is first used, under the terms of each corpus",
    ANY,
)
def torchvision(
    root: Path,
    download: bool,
    *,
    dataset: str | None = None,
    options: Any = None,
    rows: Annotated[int | None, Range(at_least=1, at_most=4096)] = None,
    columns: Annotated[int | None, Range(at_least=1, at_most=4096)] = None,
    colour: bool | None = None,
    fit: Literal["stretch", "pad", "crop"] = "stretch",
    background: Annotated[int, Range(at_least=0, below=256)] = 0,
    test_fraction: Annotated[float, Range(above=0, below=1)] = 0.2,
    split_seed: Annotated[int, Range(at_least=0)] = 0,
) -> Corpus:
    """A corpus of torchvision in its order, with its parts; its files lie in `root/torchvision`.

    Args:
        dataset: Name of its class in `torchvision.datasets`.
        options: Arguments of that class besides the part, such as {split: letters} of EMNIST; a mapping.
        rows, columns: Of the images; None: as the pictures have them, if all have the same.
        colour: Red, green and blue, one after the other; None: if the first picture has them.
        fit, background: See `pictures.Form`.
        test_fraction: Share of the pictures to test on where the corpus has no such part, the same in every class.
        split_seed: Seeds the draw; the run's seed does not move it.

    Raises:
        MissingError: If files are missing or damaged, and cannot be had.
        SnnrunError: If torchvision is not installed, or does not fit PyTorch.
        UsageError: If there is no such corpus or option, or pictures differ in size and none is given.
    """
    name = library.choose("torchvision", dataset, NAMES)
    objects = _objects(name, root / PLACE, download, dict(options or {}))
    first = next(iter(objects.values()))
    form = _form(name, first[0][0], rows, columns, colour, fit, background)
    read = {part: _pictures(f"{name}, {part}", own, form, rows is None) for part, own in objects.items()}
    names = getattr(first, "classes", None) or getattr(first, "categories", None)
    classes, labels, notes = library.numbered({part: own.labels for part, own in read.items()}, names)
    train, test, validation = _divided(read, labels, test_fraction, split_seed)
    notes += _notes(read, validation, test_fraction)
    planes, *size = form.image
    return Corpus(
        kind="image",
        shape=form.image if planes == 3 else tuple(size),
        classes=classes,
        train_samples=train[0],
        train_labels=train[1],
        test_samples=test[0],
        test_labels=test[1],
        origin="synthetic" if name == "FakeData" else folders.origin(root / PLACE),
        notes=tuple(notes),
        faults=tuple(fault for own in read.values() for fault in own.faults),
        image=form.image,
        validation=validation,
    )


def _objects(name: str, place: Path, download: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    """The objects of torchvision for each part."""
    cls = getattr(_library(), name)
    taken = library.parameters(cls)
    where = {key: value for key, value in (("root", str(place)), ("download", download)) if key in taken}
    return library.parts(cls, options, partial(library.made, "torchvision", cls, str(place), download, **where))


def _library() -> Any:
    try:
        import torchvision.datasets
    except ImportError:
        raise SnnrunError(
            "data=torchvision: torchvision is not installed. Install it: pip install 'snnrun[vision]'"
        ) from None
    except RuntimeError as error:  # one built for another PyTorch
        raise SnnrunError(
            f"data=torchvision: the torchvision that is installed does not fit this PyTorch ({error}). Install both "
            "from the same place: pip install --force-reinstall torch torchvision"
        ) from None
    return torchvision.datasets


def _form(
    name: str, first: Any, rows: int | None, columns: int | None, colour: bool | None, fit: str, background: int
) -> pictures.Form:
    """What the pictures are brought to, by the options and the first of them."""
    if (rows is None) != (columns is None):
        raise UsageError("data.rows, data.columns: give both or neither")
    if not hasattr(first, "convert"):
        raise UsageError(f"data.dataset={name}: a sample of it is a {type(first).__name__} and no picture")
    colour = first.mode not in _GREY and not first.mode.startswith("I;16") if colour is None else colour
    width, height = first.size
    return pictures.Form((3 if colour else 1, rows or height, columns or width), fit, background)


def _notes(read: Mapping[str, _Pictures], validation: NDArray[np.int64] | None, fraction: float) -> list[str]:
    greyed, notes = sum(own.greyed for own in read.values()), []
    if greyed:
        notes.append(f"{greyed:,} pictures are in colour and are made grey; data.colour=true keeps it")
    if validation is not None:
        notes.append(folders.validates(len(validation), "pictures"))
    return [*notes, library.drawn(fraction)] if library.WHOLE in read else notes


def _divided(
    read: Mapping[str, _Pictures], labels: Mapping[str, NDArray[np.int64]], fraction: float, seed: int
) -> tuple[tuple[Any, Any], tuple[Any, Any], NDArray[np.int64] | None]:
    """Samples and labels to train and to test on, and which of the former to validate on."""
    if library.WHOLE in read:
        samples, own = read[library.WHOLE].samples, labels[library.WHOLE]
        test = library.tested(own, fraction, seed)
        train = np.setdiff1d(np.arange(len(own)), test)
        return (samples[train], own[train]), (samples[test], own[test]), None
    test_part = read["test"].samples, labels["test"]
    if "validation" not in read:
        return (read["train"].samples, labels["train"]), test_part, None
    both = [np.concatenate([values["train"], values["validation"]]) for values in _columns(read, labels)]
    return (both[0], both[1]), test_part, np.arange(len(labels["train"]), len(both[1]))


def _columns(read: Mapping[str, _Pictures], labels: Mapping[str, NDArray[np.int64]]) -> list[dict[str, NDArray[Any]]]:
    return [{part: own.samples for part, own in read.items()}, dict(labels)]


# ---- pictures -------------------------------------------------------------------------------------------------------


def _pictures(name: str, dataset: Any, form: pictures.Form, natural: bool) -> _Pictures:
    """All pictures of a part; `natural` if all must have the size of the form already."""
    at_once = _stacked(dataset, form)
    if at_once is not None:
        return at_once
    count, (planes, rows, columns) = len(dataset), form.image
    samples = np.zeros((count, planes * rows * columns), np.uint8)
    labels: list[int | str] = [0] * count
    faults, sizes, greyed = [""] * count, {(columns, rows)}, [False] * count
    order = _order(dataset)

    def task(k: int) -> None:
        try:
            picture, target = dataset[order[k]]
            labels[k] = library.label(target if not hasattr(dataset, "_characters") else dataset._characters[target])
            sizes.add(picture.size)
            greyed[k] = planes == 1 and picture.mode not in _GREY and not picture.mode.startswith("I;16")
            samples[k] = pictures.brought(picture, form).pixels.ravel()
        except TypeError as error:
            raise UsageError(f"data.dataset={name}: {error}, so that no network can be trained on it") from None
        except Exception as error:  # whatever a library raises for a file that is damaged
            faults[k] = f"{name} {k}: it cannot be read ({error}); get the corpus anew"

    parallel.each(count, task)
    if natural and len(sizes) > 1:
        some = folders.some(f"{high} x {wide}" for wide, high in sorted(sizes))
        raise UsageError(f"data.dataset={name}: its pictures differ in size ({some}). Give data.rows and data.columns")
    return _Pictures(samples, labels, sum(greyed), [fault for fault in faults if fault])


def _order(dataset: Any) -> Sequence[int]:
    """Of the samples: that of the library, but for Omniglot, which lists files as the file system happens to."""
    if not hasattr(dataset, "_flat_character_images"):
        return range(len(dataset))
    files = [(dataset._characters[label], file) for file, label in dataset._flat_character_images]
    return sorted(range(len(files)), key=files.__getitem__)


def _stacked(dataset: Any, form: pictures.Form) -> _Pictures | None:
    """The pictures of a part that torchvision holds in one array; None if they must be read one by one.

    What the array holds is compared with the first, the middle and the last picture that torchvision gives.
    """
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    try:
        pixels, targets = np.asarray(dataset.data), [int(target) for target in np.asarray(labels)]
    except (AttributeError, TypeError, ValueError):
        return None
    if pixels.dtype != np.uint8 or not len(pixels) == len(targets) == len(dataset) > 0:
        return None
    planes, rows, columns = form.image
    if planes == 3 and pixels.shape[1:] == (rows, columns, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.shape[1:] not in ((rows, columns), form.image) or (planes == 1 and pixels.ndim == 4):
        return None
    samples = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    for k in {0, len(samples) // 2, len(samples) - 1}:
        picture, target = dataset[k]
        if target != targets[k] or not np.array_equal(pictures.brought(picture, form).pixels.ravel(), samples[k]):
            return None
    own: Sequence[int | str] = targets
    return _Pictures(samples, list(own), 0, [])
