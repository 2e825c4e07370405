"""The encoder of corpora whose kind is known only when they are looked at: it chooses another by the kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from snnrun import declared
from snnrun.declared import Range

Reads = Literal["trains", "steps", "values"]  # what a model reads

_LEAST = 200  # steps of a series


@dataclass(frozen=True)
class Auto:
    """Chooses the encoder of a run once its corpus is there; the run's config then has the one that was chosen.

    Images and vectors become rates: Poisson trains for a rule that learns from whole trains, and few Bernoulli steps
    for one that learns step by step. Each value of a time series has a population of neurons. Spike trains stay.
    Models without spikes get the samples as they are.

    Attributes:
        steps: T for images, vectors and series; None: 200 for whole trains and 20 for rules of steps. Of a series each
            point has equally many steps then, as few as give 200 or more.
        attenuation: The largest value fires with probability 1 / attenuation; None: for whole trains 2, and 1 of
            series; for rules of steps 1, and 2 of series.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "vector", "series", "spikes")

    steps: Annotated[int | None, Range(at_least=2)] = None
    attenuation: Annotated[float | None, Range(at_least=1)] = None

    def __post_init__(self) -> None:
        declared.check("encoder", Auto, vars(self))

    def chosen(self, kind: str, points: int, reads: Reads) -> Mapping[str, Any]:
        """Name and options of the encoder for a kind of corpus and a model.

        Args:
            kind: Of the corpus.
            points: Of a series; not used for other kinds.
            reads: What the model reads.
        """
        if reads == "values":
            return {"name": "none"}
        if kind == "spikes":
            return {"name": "stored"}
        name, steps, attenuation = ("bernoulli", 20, 1.0) if reads == "steps" else ("poisson", 200, 2.0)
        if kind == "series":
            # A neuron of STBP that is driven beyond the window of its surrogate does not learn any more.
            name, steps, attenuation = "population", points * -(-_LEAST // points), 2.0 if reads == "steps" else 1.0
        return {"name": name, "steps": self.steps or steps, "attenuation": self.attenuation or attenuation}
