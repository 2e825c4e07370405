"""The weights of another run as those that a training begins with (`model.weights`)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from snnrun.errors import UsageError
from snnrun.network import Network
from snnrun.record import run_folder
from snnrun.rules.constants import TENSORS
from snnrun.run import trained

# What a layer may have that those of the source have not.
OWN = {*TENSORS.values(), "delay"}


def take(network: Network, source: str, outputs: Path, own: Path) -> str:
    """Load the leading layers of `network` that a run or a file also has, and leave the others as they were drawn.

    Layers are compared from the input on, by the shapes of their weights. The first that differs ends it, so a network
    may have other layers or classes behind those that it takes over. Constants that are trained here and not there
    begin at their initial values, and delays that are not there are those that were drawn.

    Args:
        network: gets the weights.
        source: a file of weights, or a run as `run_folder.find` takes it. Of a run: the best weights if it has them.
        outputs: folder of all runs.
        own: folder of the run that begins, which has no weights of its own yet.

    Returns:
        A note on what was taken.

    Raises:
        UsageError: there is no such run or file, or not even the first layer fits.
        SnnrunError: the file is damaged.
    """
    path = _file(source, outputs, own)
    found, wanted, taken = trained.read(path), network.state_dict(), list[str]()
    for number, name in enumerate(network.layer_names):
        here, there = (_layer(state, number) for state in (wanted, found))
        new = {key for key in here.keys() - there.keys() if key.rpartition(".")[2] in OWN}
        if here.keys() - new != there.keys() or any(here[key].shape != there[key].shape for key in there):
            break
        wanted |= there
        taken += [name] if there else []
    if not taken:
        raise UsageError(
            f"model.weights: {path} does not fit: its first layer is {_shapes(_layer(found, 0))}, and this network's "
            f"{_shapes(_layer(network.state_dict(), 0))}. Give the weights of a network that begins as this one does."
        )
    network.load_state_dict(wanted)
    return f"Of {path}: the weights of {', '.join(taken)}. {_others(network.layer_names, taken)}"


def _file(source: str, outputs: Path, own: Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    try:
        folder = run_folder.find(source, outputs).path
    except UsageError as error:
        raise UsageError(f"model.weights: {error}") from None
    if folder.resolve() == own.resolve():
        raise UsageError(f"model.weights: {source!r} is this run itself, which has none yet. Give another by its name.")
    there = [folder / file for file in trained.WEIGHTS.values() if (folder / file).is_file()]
    if not there:
        raise UsageError(f"model.weights: {trained.no_weights(folder)}")
    return there[0]


def _layer(state: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.startswith(f"layers.{number}.")}


def _shapes(layer: dict[str, Tensor]) -> str:
    weights = {key.rpartition(".")[2]: tuple(value.shape) for key, value in layer.items() if not key.endswith("mask")}
    return ", ".join(f"{name} {shape}" for name, shape in weights.items()) or "absent"


def _others(layers: list[str], taken: list[str]) -> str:
    rest = layers[layers.index(taken[-1]) + 1 :]
    return f"Those of {', '.join(rest)} are drawn." if rest else "Nothing is drawn."
