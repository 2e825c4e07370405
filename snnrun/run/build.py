"""The parts of a run, each made once from its plain values: corpus, encoder, model, and the device they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from snnrun import data, declared, encoders
from snnrun.compiled import parallel
from snnrun.config import plugins
from snnrun.encoders.series import check_points
from snnrun.errors import UsageError
from snnrun.liquid.lsm import LsmModel
from snnrun.models import MODELS
from snnrun.network import Network, topology
from snnrun.network.model import LocalModel, Model, Signal
from snnrun.record.description import Description
from snnrun.rules import RULES
from snnrun.rules.delays import Delaying
from snnrun.rules.spike_train import SpikeTrainRule
from snnrun.run import recordings, states
from snnrun.train import hardware, memory
from snnrun.train.distributed import Group
from snnrun.train.options import OF_UPDATES, Options


class Inputs(NamedTuple):
    """A corpus, split into its parts, and the encoder that makes inputs of its samples, batch by batch."""

    dataset: data.Dataset
    encoder: encoders.Encoder


class Parts(NamedTuple):
    """What a run consists of. The values have the encoder that was chosen; `backend` is the name of the kernels.

    `seen` is what the model is trained on: the corpus and its encoder, or what the model has computed from them.
    """

    values: Mapping[str, Any]
    group: Group
    dataset: data.Dataset
    encoder: encoders.Encoder
    network: Model
    seen: Inputs
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
    device, backend = hardware.set_up(wanted["device"], wanted["threads"], wanted["kernels"], group.place, group.here)
    threads = parallel.threads()
    with group.first():
        parallel.set_threads(threads * group.here if group.leads else threads)
        dataset, encoder = load(values)
        parallel.set_threads(threads)
    if values["encoder"]["name"] == encoders.AUTO:
        values = {**values, "encoder": encoders.settings(encoder)}
    if len(dataset.train) < group.size:
        raise UsageError(f"hardware.processes: {group.size} processes for {len(dataset.train)} training samples")
    if options.patience is not None and not len(dataset.validation):
        raise UsageError(
            "train.patience: there are no validation samples to go by. Set data.validation=0.1, or train.patience=null."
        )
    _check_memory(values, dataset, min(options.batch_size, len(dataset.train)) // group.size, device)
    with group.first():
        model, seen = learner(values, Inputs(dataset, encoder), device)
    if isinstance(model, LocalModel) and group.size > 1:
        raise UsageError(
            f"hardware.processes: model={values['model']['name']} learns from one sample after another, which no other "
            "process can share. Set hardware.processes=1."
        )
    if isinstance(model, LocalModel):
        _check_local(values["model"]["name"], options)
    return Parts(values, group, dataset, encoder, model, seen, options, device, backend)


def _check_local(name: str, options: Options) -> None:
    """Refuse what is done to gradients and updates, which a model that learns by itself has not."""
    without = Options(epochs=options.epochs)
    for key in OF_UPDATES:
        if getattr(options, key) != getattr(without, key):
            usual = str(getattr(without, key)).lower() if getattr(without, key) is not None else "null"
            raise UsageError(
                f"train.{key}: model={name} learns by itself, without an optimiser. Set train.{key}={usual}."
            )


def _check_memory(values: Mapping[str, Any], dataset: data.Dataset, batch: int, device: torch.device) -> None:
    """Refuse a training that cannot fit, before any part of its model is made."""
    given = signal(values, dataset)
    if values["model"]["name"] in MODELS:
        with torch.device("meta"):
            memory.check_model(values, network(values, dataset), given, batch, device)
        return
    layers = plan(values, dataset)
    memory.check(values, layers, inputs=dataset.channels, steps=given.steps, batch=batch, device=device)


def learner(values: Mapping[str, Any], inputs: Inputs, device: torch.device) -> tuple[Model, Inputs]:
    """The model of the config, which has studied the corpus, and what it is trained with. PyTorch's threads are set."""
    model = network(values, inputs.dataset)
    hardware.share_threads(model)
    if isinstance(model, LsmModel):
        return model, Inputs(*states.studied(model, values, *inputs, device))
    return model, Inputs(*model.study(*inputs, device))


def plug_in(values: Mapping[str, Any]) -> None:
    """Import the plugins of the config, since its other parts may come from them. Raises as `plugins.load` does."""
    plugins.load(values.get("plugin"))


def load(values: Mapping[str, Any]) -> Inputs:
    """The corpus of the config and its encoder.

    Recordings come encoded, from the store below `outputs` if it has them. The encoder has nothing left to do then.
    Samples that have a file each are also read once, and then come from the store.

    Raises:
        UsageError: the encoder does not take this kind of data, or an option is out of range or does not fit the data.
        SnnrunError: the corpus is missing or damaged, or the store cannot be written.
    """
    plug_in(values)
    seed, name = values["seed"], values["data"]["name"]
    encoder = encoders.build(seed=seed, **values["encoder"])

    def encode(corpus: data.Corpus) -> data.Corpus:
        check_kind(values, encoder, corpus)
        title = name if corpus.origin == "recorded" else f"{name}_{corpus.origin}"
        store = Path(values["outputs"]) / recordings.FOLDER
        if isinstance(encoder, encoders.RecordingEncoder):
            return recordings.encoded(corpus, encoder, store, title)
        return recordings.kept(corpus, store, title) if corpus.unread else corpus

    dataset = data.load(seed=seed, encode=encode, **values["data"])
    if isinstance(encoder, encoders.RecordingEncoder):
        return Inputs(dataset, encoders.Stored(seed))
    if isinstance(encoder, encoders.Auto):
        encoder = chosen(encoder, dataset.kind, dataset.steps, values)
    if dataset.kind == "series" and encoder.steps is not None:
        check_points(dataset.steps, encoder.steps)
    channels = encoders.inputs(encoder, dataset.channels)
    if channels != dataset.channels:  # they lie on no grid then
        dataset = replace(dataset, shape=(channels,), image=None)
    return Inputs(dataset, encoder)


def check_kind(
    values: Mapping[str, Any],
    encoder: encoders.Encoder | encoders.RecordingEncoder | encoders.Auto,
    corpus: data.Corpus,
) -> None:
    """Raise UsageError if the encoder does not take this kind of data."""
    if corpus.kind not in encoder.kinds:
        raise UsageError(
            f"encoder: {values['encoder']['name']} takes {' or '.join(encoder.kinds)} data, and "
            f"data={values['data']['name']} has the kind {corpus.kind!r}. Choose another encoder, or leave it to the "
            "defaults."
        )


def chosen(auto: encoders.Auto, kind: str, points: int, values: Mapping[str, Any]) -> encoders.Encoder:
    """The encoder that is chosen for a kind of corpus, the points of its series and the model of the config."""
    rule = RULES.get(values["model"]["name"])
    reads: encoders.Reads = "values" if rule is None else "trains" if issubclass(rule, SpikeTrainRule) else "steps"
    return encoders.chosen(auto, kind, points, reads, values["seed"])


class Task(Protocol):
    """What decides the size of a model: a corpus, or the description of one."""

    @property
    def kind(self) -> str:
        """What a sample is, see `data.Corpus`."""

    @property
    def steps(self) -> int:
        """T of a sample; 0 where the encoder sets it, and for samples without time."""

    @property
    def channels(self) -> int:
        """Number of input channels."""

    @property
    def classes(self) -> Sequence[str]:
        """Name of each class."""

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Channels, rows and columns of the input; None if it is not an image."""


def signal(values: Mapping[str, Any], dataset: Task) -> Signal:
    """What the encoder of the config gives a model of a sample. The plugins must be imported already."""
    encoder = values["encoder"]
    spikes = encoders.gives_spikes(encoder["name"], dataset.kind)
    return Signal(dataset.channels, encoder.get("steps") or dataset.steps, spikes, dataset.image)


def network(values: Mapping[str, Any], dataset: Task) -> Model:
    """The model of the config, in the size that the corpus needs. The plugins must be imported already.

    Raises:
        UsageError: its options are out of range or do not fit one another, or it does not take such samples.
    """
    model = values["model"]
    name, own = model["name"], {key: value for key, value in model.items() if key != "name"}
    if name in MODELS:
        declared.check("model", MODELS[name], own)
        if encoders.makes_currents(encoders.ENCODERS[values["encoder"]["name"]]):
            raise UsageError(
                f"encoder: {values['encoder']['name']} makes currents for the networks of spiking rules, and "
                f"model={name} is none. Leave the encoder to the defaults."
            )
        return MODELS[name](**own).build(signal(values, dataset), len(dataset.classes), values["seed"])
    encoder = values["encoder"]["name"]
    if encoder == "none" and not signal(values, dataset).spikes:
        raise UsageError(
            f"encoder: none hands on values, and model={name} takes spikes or currents. Choose encoder=direct for "
            "currents, an encoder that makes spikes, such as encoder=poisson, or leave it to the defaults."
        )
    own.pop("network")
    rule = RULES[name](**own)
    if encoders.makes_currents(encoders.ENCODERS[encoder]):
        refused = rule.refuses_currents()
        if refused:
            raise UsageError(f"encoder: {encoder} makes currents, but {refused}")
        if rule.drop_inputs:
            raise UsageError(
                f"model.drop_inputs: encoder={encoder} makes currents, which have no spikes to drop. Set "
                "model.drop_inputs=0, or choose an encoder that makes spikes, such as encoder=regular."
            )
    if isinstance(rule, Delaying) and rule.delays != "none":
        _check_delays(rule, encoder, signal(values, dataset))
    return Network(
        rule,
        inputs=dataset.channels,
        topology=model["network"],
        outputs=len(dataset.classes),
        seed=values["seed"],
        image=dataset.image,
    )


def _check_delays(rule: Delaying, encoder: str, given: Signal) -> None:
    """Raise UsageError if the input has no spikes to delay, or if most of them could be lost."""
    if encoders.makes_currents(encoders.ENCODERS[encoder]):
        raise UsageError(
            f"model.delays: encoder={encoder} makes currents, which have no spikes to delay. Set model.delays=none, or "
            "choose an encoder that makes spikes, such as encoder=regular."
        )
    if 0 < given.steps <= rule.max_delay:
        raise UsageError(
            f"model.max_delay: {rule.max_delay} is not below the {given.steps} steps of a sample, and spikes that come "
            "after the last step are lost. Lower it, such as to a tenth of the steps."
        )


def plan(values: Mapping[str, Any], dataset: Task) -> list[topology.Planned]:
    """The layers of a spiking network that `network` would have. Raises UsageError as `network` does."""
    return topology.plan(
        values["model"]["network"],
        inputs=dataset.channels,
        outputs=len(dataset.classes),
        image=dataset.image,
        average_pools=RULES[values["model"]["name"]].average_pools,
    )


def describe(network: Model, dataset: data.Dataset, encoder: encoders.Encoder) -> Description:
    """The description that makes the model's weights usable without the corpus."""
    return Description(
        data=dataset.name,
        origin=dataset.origin,
        digest=dataset.digest,
        kind=dataset.kind,
        shape=dataset.shape,
        classes=dataset.classes,
        steps=encoder.steps or dataset.steps,
        layers=network.layout(),
        image=dataset.image,
        form=dataset.form,
    )
