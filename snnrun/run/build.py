"""The parts of a run from its plain values: corpus, encoder, network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from snnrun import data, encoders
from snnrun.config import plugins
from snnrun.errors import UsageError
from snnrun.network import Network, topology
from snnrun.record.description import Description
from snnrun.rules import RULES
from snnrun.run import recordings


def load(values: Mapping[str, Any]) -> data.Dataset:
    """The corpus of the config, cut. Recordings are encoded, or come encoded from the store below `outputs`.

    Likewise samples that have a file each are read once, then come from the store.

    Raises:
        UsageError: the encoder does not take this kind of data, or an option is out of range.
        SnnrunError: the corpus is missing or damaged, or the store cannot be written.
    """
    plugins.load(values.get("plugin"))
    seed, name = values["seed"], values["data"]["name"]
    encoder = encoders.build(seed=seed, **values["encoder"])

    def encode(corpus: data.Corpus) -> data.Corpus:
        if corpus.kind not in encoder.kinds:
            raise UsageError(
                f"encoder: {values['encoder']['name']} takes {' or '.join(encoder.kinds)} data, and data={name} has "
                f"the kind {corpus.kind!r}. Choose another encoder, or leave it to the defaults."
            )
        title = name if corpus.origin == "recorded" else f"{name}_{corpus.origin}"
        store = Path(values["outputs"]) / recordings.FOLDER
        if isinstance(encoder, encoders.RecordingEncoder):
            return recordings.encoded(corpus, encoder, store, title)
        return recordings.kept(corpus, store, title) if corpus.unread else corpus

    return data.load(seed=seed, encode=encode, **values["data"])


def encoder(values: Mapping[str, Any]) -> encoders.Encoder:
    """What encodes the samples that `load` gives, batch by batch: nothing is left to do for those of recordings."""
    plugins.load(values.get("plugin"))
    encoder = encoders.build(seed=values["seed"], **values["encoder"])
    return encoders.Stored(values["seed"]) if isinstance(encoder, encoders.RecordingEncoder) else encoder


class Task(Protocol):
    """What a network is sized for: a corpus, or the description of one."""

    @property
    def channels(self) -> int:
        """Number of input channels."""

    @property
    def classes(self) -> Sequence[str]:
        """Name of each class."""

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Channels, rows and columns of the input; None if it is no image."""


def network(values: Mapping[str, Any], dataset: Task) -> Network:
    """The network of the config, sized for the corpus."""
    plugins.load(values.get("plugin"))
    constants = {key: value for key, value in values["model"].items() if key not in ("name", "network")}
    return Network(
        RULES[values["model"]["name"]](**constants),
        inputs=dataset.channels,
        topology=values["model"]["network"],
        outputs=len(dataset.classes),
        seed=values["seed"],
        image=dataset.image,
    )


def plan(values: Mapping[str, Any], dataset: Task) -> list[topology.Planned]:
    """The layers that `network` would have. Raises UsageError as it does."""
    return topology.plan(
        values["model"]["network"],
        inputs=dataset.channels,
        outputs=len(dataset.classes),
        image=dataset.image,
        average_pools=RULES[values["model"]["name"]].average_pools,
    )


def describe(network: Network, dataset: data.Dataset, encoder: encoders.Encoder) -> Description:
    """What the network's weights need to be used without the corpus."""
    inputs = [network.inputs, *network.sizes[:-1]]
    layers = {
        name: {"inputs": before, "neurons": size, "recurrent": "recurrent_weight" in dict(layer.named_parameters())}
        for name, before, size, layer in zip(network.layer_names, inputs, network.sizes, network.layers, strict=True)
    }
    return Description(
        data=dataset.name,
        origin=dataset.origin,
        digest=dataset.digest,
        kind=dataset.kind,
        shape=dataset.shape,
        classes=dataset.classes,
        steps=encoder.steps or dataset.steps,
        layers=layers,
        image=dataset.image,
    )
