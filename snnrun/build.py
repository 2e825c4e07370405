"""The parts of a run from its plain values: corpus, encoder, network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snnrun import data, encoders, plugins, recordings
from snnrun.errors import UsageError
from snnrun.network import Network
from snnrun.rules import RULES


def load(values: Mapping[str, Any]) -> data.Dataset:
    """The corpus of the config, cut. Recordings are encoded, or come encoded from the store below `outputs`.

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
        if not isinstance(encoder, encoders.RecordingEncoder):
            return corpus
        title = name if corpus.origin == "recorded" else f"{name}_{corpus.origin}"
        return recordings.encoded(corpus, encoder, Path(values["outputs"]) / recordings.FOLDER, title)

    return data.load(seed=seed, encode=encode, **values["data"])


def encoder(values: Mapping[str, Any]) -> encoders.Encoder:
    """What encodes the samples that `load` gives, batch by batch: nothing is left to do for those of recordings."""
    plugins.load(values.get("plugin"))
    encoder = encoders.build(seed=values["seed"], **values["encoder"])
    return encoders.Stored(values["seed"]) if isinstance(encoder, encoders.RecordingEncoder) else encoder


def network(values: Mapping[str, Any], dataset: data.Dataset) -> Network:
    """The network of the config, sized for the corpus."""
    plugins.load(values.get("plugin"))
    constants = {key: value for key, value in values["model"].items() if key not in ("name", "network")}
    return Network(
        RULES[values["model"]["name"]](**constants),
        inputs=dataset.channels,
        topology=values["model"]["network"],
        outputs=len(dataset.classes),
        seed=values["seed"],
    )
