"""Changes to the config of a run that was made before, checked as `snnrun train` checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from snnrun.config import check_value, did_you_mean
from snnrun.errors import UsageError
from snnrun.schemas import SCHEMAS

GROUPS = ("data", "encoder", "hardware")


def apply(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The values with overrides such as `encoder.steps=100`; of the data, the encoder and the hardware.

    Raises:
        UsageError: an override is no such key, or its value is of the wrong type or out of range.
    """
    changed = deepcopy(dict(values))
    for override in overrides:
        key, equals, text = override.partition("=")
        group, _, name = key.partition(".")
        if not equals or group not in GROUPS or not name:
            raise UsageError(
                f"{override}: not an override of a finished run. Allowed: KEY=VALUE with a key of {', '.join(GROUPS)}, "
                "such as encoder.steps=100, data.root=FOLDER or hardware.kernels=reference."
            )
        changed[group][name] = _value(group, name, changed[group], key, text)
    return changed


def _value(group: str, name: str, section: Mapping[str, Any], key: str, text: str) -> Any:
    options = SCHEMAS[group]
    schema = options.get(str(section.get("name")), next(iter(options.values())))
    known = [entry.name for entry in fields(schema) if entry.name != "name"]
    if name not in known:
        raise UsageError(f"{key}: no such key. Allowed: {', '.join(known)}.{did_you_mean(name, known)}")
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.from_dotlist([f"{name}={text}"]))
        assert isinstance(typed, DictConfig)
        value = typed[name]
    except (OmegaConfBaseException, ValueError) as error:
        raise UsageError(f"{key}: {text!r} does not fit ({str(error).splitlines()[0]}).") from None
    entry = next(entry for entry in fields(schema) if entry.name == name)
    check_value(key, value, entry)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
