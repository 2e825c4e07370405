"""The parts of a run, each made once from its plain values: corpus, encoder, network, and the device they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from snnrun import data, encoders, kernels
from snnrun.compiled import parallel
from snnrun.config import plugins
from snnrun.errors import UsageError
from snnrun.network import Network, topology
from snnrun.record.description import Description
from snnrun.rules import RULES
from snnrun.run import recordings
from snnrun.train import hardware, memory
from snnrun.train.distributed import Group
from snnrun.train.options import Options


class Inputs(NamedTuple):
    """A corpus, split into its parts, and the encoder that makes spikes of its samples, batch by batch."""

    dataset: data.Dataset
    encoder: encoders.Encoder


class Parts(NamedTuple):
    """What a run consists of. `backend` is the name of its kernels."""

    values: Mapping[str, Any]
    group: Group
    dataset: data.Dataset
    encoder: encoders.Encoder
    network: Network
    options: Options
    device: torch.device
    backend: str


def parts(values: Mapping[str, Any], group: Group) -> Parts:
    """What each process of a run needs. The leader downloads and encodes first, on all cores, if that is needed.

    Raises:
        UsageError: the settings do not fit one another or this machine.
        SnnrunError: the corpus is missing or damaged, or the store of encoded spikes cannot be written.
    """
    wanted, options = values["hardware"], Options(**values["train"])
    device = hardware.set_up(wanted["device"], wanted["threads"], group.place, group.here)
    backend = kernels.use(wanted["kernels"], device.type)
    threads = parallel.threads()
    with group.first():
        parallel.set_threads(threads * group.here if group.leads else threads)
        dataset, encoder = load(values)
        parallel.set_threads(threads)
    if len(dataset.train) < group.size:
        raise UsageError(f"hardware.processes: {group.size} processes for {len(dataset.train)} training samples")
    memory.check(
        values,
        plan(values, dataset),
        inputs=dataset.channels,
        steps=encoder.steps or dataset.steps,
        batch=min(options.batch_size, len(dataset.train)) // group.size,
        device=device,
    )
    return Parts(values, group, dataset, encoder, network(values, dataset), options, device, backend)


def plug_in(values: Mapping[str, Any]) -> None:
    """Import the plugins of the config, since its other parts may come from them. Raises as `plugins.load` does."""
    plugins.load(values.get("plugin"))


def load(values: Mapping[str, Any]) -> Inputs:
    """The corpus of the config and its encoder.

    Recordings come encoded, from the store below `outputs` if it has them. The encoder has nothing left to do then.
    Samples that have a file each are also read once, and then come from the store.

    Raises:
        UsageError: the encoder does not take this kind of data, or an option is out of range.
        SnnrunError: the corpus is missing or damaged, or the store cannot be written.
    """
    plug_in(values)
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

    dataset = data.load(seed=seed, encode=encode, **values["data"])
    if isinstance(encoder, encoders.RecordingEncoder):
        return Inputs(dataset, encoders.Stored(seed))
    channels = encoders.inputs(encoder, dataset.channels)
    if channels != dataset.channels:  # they lie on no grid then
        dataset = replace(dataset, shape=(channels,), image=None)
    return Inputs(dataset, encoder)


class Task(Protocol):
    """What decides the size of a network: a corpus, or the description of one."""

    @property
    def channels(self) -> int:
        """Number of input channels."""

    @property
    def classes(self) -> Sequence[str]:
        """Name of each class."""

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Channels, rows and columns of the input; None if it is not an image."""


def network(values: Mapping[str, Any], dataset: Task) -> Network:
    """The network of the config, in the size that the corpus needs. The plugins must be imported already."""
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
    """The layers that `network` would have. Raises UsageError as `network` does."""
    return topology.plan(
        values["model"]["network"],
        inputs=dataset.channels,
        outputs=len(dataset.classes),
        image=dataset.image,
        average_pools=RULES[values["model"]["name"]].average_pools,
    )


def describe(network: Network, dataset: data.Dataset, encoder: encoders.Encoder) -> Description:
    """The description that makes the network's weights usable without the corpus."""
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
