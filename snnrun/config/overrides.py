"""Changes to the config of a run that was made before, checked as `snnrun train` checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from snnrun.config import plugins
from snnrun.config.check import check_paths
from snnrun.config.paths import expanded
from snnrun.config.schemas import SCHEMAS, Checkpoint, Train
from snnrun.declared import check_value
from snnrun.errors import UsageError, did_you_mean, first_line

PLACES = ("root", "uri")
GROUPS = ("data", "encoder", "hardware")
# The schemas of each section by the `name` in it. A section without a `name` has a single schema.
SECTIONS: dict[str, dict[str, type]] = SCHEMAS | {"train": {"train": Train}, "checkpoint": {"checkpoint": Checkpoint}}


def overridden(values: Mapping[str, Any], overrides: Sequence[str], groups: Sequence[str] = GROUPS) -> dict[str, Any]:
    """The values, changed by overrides such as `encoder.steps=100`. `groups` says which groups may change.

    Raises:
        UsageError: an override has no such key, its value has the wrong type or is out of range, or the run's plugin
            does not exist.
        SnnrunError: the plugin cannot be imported.
    """
    plugins.load(values.get("plugin"))
    changed = deepcopy(dict(values))
    for override in overrides:
        key, equals, text = override.partition("=")
        group, _, name = key.partition(".")
        if not equals or group not in groups or not name:
            raise UsageError(
                f"{override}: no change that can be made here. Allowed: KEY=VALUE with a key of {', '.join(groups)}, "
                "such as data.root=FOLDER or hardware.kernels=reference."
            )
        changed[group][name] = _value(group, name, changed[group], key, text)
    return changed


def _value(group: str, name: str, section: Mapping[str, Any], key: str, text: str) -> Any:
    options = SECTIONS[group]
    chosen = section.get("name", next(iter(options)))
    if chosen not in options:
        raise UsageError(
            f"{key}: the run's {group}, {chosen!r}, is not known here, so neither are its keys. It comes from a plugin "
            "that the run's config does not name."
        )
    schema = options[chosen]
    known = [entry.name for entry in fields(schema) if entry.name != "name"]
    if name not in known:
        raise UsageError(f"{key}: no such key. Allowed: {', '.join(known)}.{did_you_mean(name, known)}")
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.from_dotlist([f"{name}={text}"]))
        assert isinstance(typed, DictConfig)
        value = typed[name]
    except (OmegaConfBaseException, ValueError) as error:
        raise UsageError(f"{key}: {text!r} does not fit ({first_line(error)}).") from None
    if name in PLACES and isinstance(value, str):
        value = expanded(value)
        check_paths({key: value})
    check_value(key, value, next(entry.metadata for entry in fields(schema) if entry.name == name))
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
