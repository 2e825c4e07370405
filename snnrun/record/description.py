"""`network.json` makes the weights of a run usable without its corpus: it has classes, input, steps, layers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from snnrun.errors import SnnrunError
from snnrun.record import names

FORMAT = 1


@dataclass(frozen=True)
class Description:
    """The description of a trained network.

    Attributes:
        data: Name of the corpus.
        origin, digest, kind, shape, classes: See `data.Dataset`. The shape is that of the encoder's samples.
        image: Channels, rows and columns of the input; None if it is not an image.
        form: How a row of a user's array becomes a sample, see `data.Dataset`; None of other corpora.
        steps: T of the samples that it was trained on; 0 for samples without time.
        layers: Inputs and neurons of each layer, and whether it is recurrent.
    """

    data: str
    origin: str
    digest: str
    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    steps: int
    layers: dict[str, dict[str, Any]]
    image: tuple[int, int, int] | None = None
    form: Mapping[str, Any] | None = None

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return math.prod(self.shape)

    def save(self, folder: Path) -> Path:
        """Write `network.json` into a run's folder."""
        path = folder / names.NETWORK
        content = {"format": FORMAT, **asdict(self)}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def load(folder: Path) -> Description | None:
    """The description in a run's folder. None if there is none, as in the folders of earlier versions.

    Raises:
        SnnrunError: the file is damaged.
    """
    path = folder / names.NETWORK
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SnnrunError(f"{path}: the description of the network cannot be read ({error}).") from None
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SnnrunError(f"{path}: the description of the network is damaged ({error!r}). Remove it.") from None


def _parse(content: Mapping[str, Any]) -> Description:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, and this version reads {FORMAT}")
    image = content.get("image")
    return Description(
        **{key: str(content[key]) for key in ("data", "origin", "digest", "kind")},
        shape=tuple(int(size) for size in content["shape"]),
        classes=tuple(str(name) for name in content["classes"]),
        steps=int(content["steps"]),
        layers={str(name): dict(layer) for name, layer in content["layers"].items()},
        image=None if image is None else (int(image[0]), int(image[1]), int(image[2])),
        form=content.get("form"),
    )
