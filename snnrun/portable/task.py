"""A trained model, as the formats that need no snnrun see it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from snnrun import encoders
from snnrun.ann.module import AnnModel
from snnrun.errors import UsageError
from snnrun.models import MODELS
from snnrun.network import Network
from snnrun.network.model import Design, Model, Signal
from snnrun.run import build
from snnrun.run.trained import Trained

POSSIBLE = "the networks of rules, and mlp, cnn, lstm, gru, phased_lstm and lra"


@dataclass(frozen=True)
class Task:
    """What is written.

    Attributes:
        model: With its weights, on the CPU.
        name: Of the model, as `model=` has it.
        options: The design it was made from; None for a network of a rule.
        signal: Its inputs.
        currents: Whether these are currents.
        classes: Names in the order of the outputs.
        title: What a file says it is.
    """

    model: Model
    name: str
    options: Design | None
    signal: Signal
    currents: bool
    classes: tuple[str, ...]
    title: str

    def spiking(self) -> Network | None:
        """The network, or None for a model without spikes.

        Raises:
            UsageError: the model is neither.
        """
        if isinstance(self.model, Network):
            return self.model
        if isinstance(self.model, AnnModel):
            return None
        raise UsageError(
            f"model={self.name} cannot be written in this format, which is for {POSSIBLE}. Its weights are in the "
            "run's folder, as safetensors."
        )


def takes(model: Model) -> bool:
    """Whether the formats that need no snnrun are for such a model."""
    return isinstance(model, Network | AnnModel)


def task(own: Trained) -> Task:
    """What is written of a run."""
    name, options = own.values["model"]["name"], {**own.values["model"]}
    del options["name"]
    version = importlib.metadata.version("snnrun")
    return Task(
        model=own.network,
        name=name,
        options=MODELS[name](**options) if name in MODELS else None,
        signal=build.signal(own.values, own.about),
        currents=encoders.makes_currents(encoders.ENCODERS[own.values["encoder"]["name"]]),
        classes=own.about.classes,
        title=f"The {own.weights} weights of {own.folder.name}, model={name} on {own.about.data}, by snnrun {version}.",
    )
