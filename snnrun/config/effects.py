"""Options that were given but do nothing beside the others: a run says so, since they were given for something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from snnrun.config import options
from snnrun.train.options import Options


class _Use(NamedTuple):
    """When the keys of a section have an effect, by that section's values, and how that is said."""

    section: str
    keys: tuple[str, ...]
    applies: Callable[[Mapping[str, Any]], bool]
    needs: str


_USES = (
    _Use("train", ("swa_start", "swa_lr"), lambda train: train["average"] == "swa", "train.average=swa"),
    _Use("train", ("average_decay",), lambda train: train["average"] == "ema", "train.average=ema"),
    _Use("train", ("decoupled_decay",), lambda train: train["weight_decay"] > 0, "train.weight_decay"),
    _Use(
        "train",
        ("schedule_factor", "schedule_milestones"),
        lambda train: train["schedule"] == "step",
        "train.schedule=step",
    ),
    _Use(
        "model",
        ("thresholds_by", "constants_lr", "constants_range"),
        lambda model: model.get("train_constants") != "none",
        "model.train_constants",
    ),
    _Use("model", ("max_delay",), lambda model: model.get("delays") != "none", "model.delays"),
    _Use("model", ("delays_lr",), lambda model: model.get("delays") == "trained", "model.delays=trained"),
    _Use(
        "model",
        ("tau_adaptation", "adaptation_strength"),
        lambda model: model.get("adaptation") != "none",
        "model.adaptation",
    ),
)


def without_effect(values: Mapping[str, Any]) -> list[str]:
    """A message for each option that has another value than its default, and no effect with the others.

    Args:
        values: the plain config of a run.
    """
    defaults = {section: _defaults(section, values) for section in ("train", "model")}
    whole = {section: default | dict(values[section]) for section, default in defaults.items()}
    found = []
    for use in _USES:
        section, default = whole[use.section], defaults[use.section]
        given = [key for key in use.keys if key in default and _plain(section[key]) != _plain(default[key])]
        if given and not use.applies(section):
            found += [f"{use.section}.{key}={section[key]} has no effect without {use.needs}." for key in given]
    train = whole["train"]
    milestones = list(train["schedule_milestones"])
    if train["schedule"] == "step" and not any(milestone < train["epochs"] for milestone in milestones):
        found.append(
            f"train.schedule=step has no effect: none of train.schedule_milestones={milestones} lies within the "
            f"{train['epochs']} of train.epochs."
        )
    return found


def _defaults(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The default of each key of a section; none of a model that is not ours."""
    if section == "train":
        return {entry.name: entry.default for entry in fields(Options)}
    text = options.files("model").get(values["model"]["name"])
    entries: dict[str, Any] = yaml.safe_load(text) if text else {}
    return entries


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
