"""The encoder of corpora whose kind is known only when they are looked at: it chooses another by the kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from snnrun import declared
from snnrun.declared import Range

Reads = Literal["trains", "steps", "values"]  # what a model reads


@dataclass(frozen=True)
class Auto:
    """Chooses the encoder of a run once its corpus is there; the run's config then has the one that was chosen.

    Images and vectors become rates: Poisson trains for a rule that learns from whole trains, and few Bernoulli steps
    for one that learns step by step. Each value of a time series has a population of neurons. Spike trains stay.
    Models without spikes get the samples as they are.

    Attributes:
        steps: T for images, vectors and series; None: 200 for series and whole trains, 20 for rules of steps.
        attenuation: The largest value fires with probability 1 / attenuation; None: 2, and 1 for rules of steps.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "vector", "series", "spikes")

    steps: Annotated[int | None, Range(at_least=2)] = None
    attenuation: Annotated[float | None, Range(at_least=1)] = None

    def __post_init__(self) -> None:
        declared.check("encoder", Auto, vars(self))

    def chosen(self, kind: str, reads: Reads) -> Mapping[str, Any]:
        """Name and options of the encoder for a kind of corpus and a model that reads trains, steps or values."""
        if reads == "values":
            return {"name": "none"}
        if kind == "spikes":
            return {"name": "stored"}
        name, steps, attenuation = ("bernoulli", 20, 1.0) if reads == "steps" else ("poisson", 200, 2.0)
        if kind == "series":
            name, steps, attenuation = "population", 200, 2.0
        return {"name": name, "steps": self.steps or steps, "attenuation": self.attenuation or attenuation}
