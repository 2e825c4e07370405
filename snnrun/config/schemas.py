"""The schema of every option of every config group: which keys exist, of which type and in which range.

A key is declared where its value is used. A rule, an encoder or a corpus declares its keys in its own signature. Those
of a training are in `train.options`, the others here. The default values of a run stand in `conf/`, each beside the
reason for it. `compose` composes the config, `check` checks it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import MISSING

from snnrun.config import options, source
from snnrun.declared import REQUIRED, Option, Range
from snnrun.declared import options as declared_options
from snnrun.train.options import Options

Section = TypeVar("Section")
SCALARS = (str, int, float, bool)


# ---- from options to schemas ----------------------------------------------------------------------------------------


def schema(name: str, declared: Mapping[str, Option]) -> type:
    """A dataclass of options for OmegaConf. Range and choices are the metadata of its fields."""
    fields = [(key, _kind(entry.kind), _field(entry)) for key, entry in declared.items()]
    # Nobody compares or prints one, and Python would compile three functions for each.
    made = dataclasses.make_dataclass(name, fields, init=False, repr=False, eq=False)
    made.__module__ = __name__
    return made


def section(cls: type[Section]) -> type[Section]:
    """The schema that a class of annotations declares."""
    declared: Any = dataclass(frozen=True, kw_only=True)(cls)
    return typing.cast("type[Section]", schema(cls.__name__, declared_options(declared)))


def model(name: str, rule: Mapping[str, Option]) -> type:
    """The schema of a rule: its options and the network's layers."""
    thresholds = rule["v_th"]._replace(kind=Any)  # a number or a list of them: no OmegaConf type allows both
    return schema(f"model_{name}", {"name": NAME, "network": Option(str, REQUIRED, {}), **rule, "v_th": thresholds})


def other_model(name: str, own: Mapping[str, Option]) -> type:
    """The schema of a model that is no network of a rule."""
    return schema(f"model_{name}", {"name": NAME, **own})


def encoder(name: str, own: Mapping[str, Option]) -> type:
    """The schema of an encoder, without its seed, which is the run's."""
    return schema(f"encoder_{name}", {"name": NAME} | {key: entry for key, entry in own.items() if key != "seed"})


def corpus(name: str, own: Mapping[str, Option]) -> type:
    """The schema of a corpus: its own options, and those of `data.load` that its file sets."""
    file = FILES.get(name)
    shared = {key: entry for key, entry in SHARED.items() if file is None or key in options.keys(file)}
    return schema(f"data_{name}", {"name": NAME, **shared, **own})


def _kind(kind: Any) -> Any:
    """The type of an option in a form that OmegaConf accepts."""
    if kind in SCALARS:
        return kind
    origin: Any = typing.get_origin(kind)
    parts: tuple[Any, ...] = typing.get_args(kind)
    if origin is Literal:
        return str
    if origin in (list, tuple, Sequence) and parts[0] in SCALARS:
        return types.GenericAlias(list, parts[:1])
    if origin is types.UnionType:  # None and one type beside it; in a config a path is a text
        known: list[Any] = [_kind(part) for part in parts if part not in (Path, type(None))]
        if len(known) == 1 and known != [Any]:
            return known[0] | None if type(None) in parts else known[0]
    return Any


def _field(entry: Option) -> Any:
    default = MISSING if entry.default is REQUIRED else entry.default
    if isinstance(default, list | tuple):
        return field(default_factory=lambda: list(default), metadata=entry.allowed)
    return field(default=default, metadata=entry.allowed)


# ---- the sections that have one schema ------------------------------------------------------------------------------


@section
class Train(Options):
    """The section `train`: the loop and the optimiser."""


@section
class Checkpoint:
    """The section `checkpoint`."""

    every_minutes: Annotated[float | None, Range(at_least=0)]


@section
class Hardware:
    """`hardware=auto`, `cpu`, `gpu`."""

    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int | None, Range(at_least=1, below=1025)]
    processes: Annotated[int, Range(at_least=1)]
    wait_minutes: Annotated[float, Range(above=0)]
    kernels: Literal["auto", "reference", "cpu", "gpu"]


@section
class Tracking:
    """`tracking=mlflow`, `none`."""

    kind: Literal["mlflow", "none"]
    uri: str | None
    experiment: str
    run_name: str | None
    system_metrics: bool


@section
class Search:
    """`search=grid`, `random`, `optuna`, `list`."""

    method: Literal["grid", "random", "optuna", "list"]
    trials: Annotated[int, Range(at_least=1)]
    startup: Annotated[int, Range(at_least=1)]
    parallel: Annotated[int | None, Range(at_least=1)]
    prune: bool
    prune_after: Annotated[int, Range(at_least=1)]
    minutes: Annotated[float | None, Range(above=0)] = None
    baseline: bool = False
    retry: bool = True
    with_space: bool = False
    space: Any
    points: list[str]


@section
class Sweep:
    """The section `sweep`."""

    resume: str | None
    fail_fast: bool


@section
class Tuning:
    """The section `tuning`, which `snnrun tune` writes: how the settings of a pair were chosen, and how good they are.

    `accuracy` and `deviation` are mean and standard deviation over seeds of the best validation accuracy at full
    length; `settings` are those that were measured, by their keys, and `encoder` is the one that they were measured
    with. Not all is known of settings chosen by hand.
    """

    pair: str | None = None
    encoder: str | None = None
    origin: Literal["recorded", "surrogate"] | None = None
    accuracy: Annotated[float | None, Range(at_least=0, at_most=1)] = None
    deviation: Annotated[float | None, Range(at_least=0)] = None
    seeds: Annotated[int | None, Range(at_least=1)] = None
    before: Annotated[float | None, Range(at_least=0, at_most=1)] = None
    trials: Annotated[int | None, Range(at_least=1)] = None
    finalists: Annotated[int | None, Range(at_least=1)] = None
    minutes: float | None = None
    epochs: Annotated[int | None, Range(at_least=1)] = None
    samples: Annotated[int | None, Range(at_least=1)] = None
    seed: int | None = None
    version: str | None = None
    commit: str | None = None
    date: str | None = None
    study: str | None = None
    settings: Any = None


@dataclass
class Config:
    """The whole config, in the order in which a run uses it. The chosen option of a group gives the group's type."""

    seed: int = field(default=MISSING, metadata={"range": Range(at_least=0, below=2**32)})
    outputs: str = MISSING
    plugin: Any = None  # a name or a list of names
    data: Any = MISSING
    encoder: Any = MISSING
    model: Any = MISSING
    train: Train = field(default_factory=lambda: typing.cast(Any, Train))
    checkpoint: Checkpoint = field(default_factory=lambda: typing.cast(Any, Checkpoint))
    hardware: Any = MISSING
    tracking: Any = MISSING
    search: Any = MISSING
    sweep: Sweep = field(default_factory=lambda: typing.cast(Any, Sweep))
    tuning: Tuning = field(default_factory=lambda: typing.cast(Any, Tuning))


# ---- the groups -----------------------------------------------------------------------------------------------------

NAME = Option(str, REQUIRED, {})
SHARED = source.function("snnrun.data", "load", skip=("seed", "encode"))
FILES = options.files("data")
SCHEMAS: dict[str, dict[str, type]] = {
    "data": {name: corpus(name, own) for name, own in source.table("snnrun.data", "DATASETS").items()},
    "encoder": {name: encoder(name, own) for name, own in source.table("snnrun.encoders", "ENCODERS").items()},
    "model": {
        **{name: model(name, own) for name, own in source.table("snnrun.rules", "RULES").items()},
        **{name: other_model(name, own) for name, own in source.table("snnrun.models", "MODELS").items()},
    },
    "hardware": dict.fromkeys(("auto", "cpu", "gpu"), Hardware),
    "tracking": dict.fromkeys(("mlflow", "none"), Tracking),
    "search": dict.fromkeys(
        ("grid", "random", "optuna", "list", "stbp_curves", "ablation_fsdd", "ablation_fashion_mnist", "ladder"), Search
    ),
}
# By their names here a launcher's processes find them. Otherwise they would get copies, which are others than those of
# `SCHEMAS`.
globals().update({kind.__name__: kind for kinds in SCHEMAS.values() for kind in kinds.values()})
# Those of `SCHEMAS` that plugins have registered. The file of such an option need not name its schema.
PLUGINS: dict[tuple[str, str], type] = {}
