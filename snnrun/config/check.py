"""The config of a run: its schemas given to Hydra, the checks that types cannot express, and its plain values.

While Hydra composes, OmegaConf refuses an unknown key or a wrong type, by the dataclasses of `schemas`. `check` checks
the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from snnrun.config import tuned
from snnrun.config.paths import expanded
from snnrun.config.schemas import PLUGINS, SCHEMAS, Config, Search, Sweep, Tracking, Train, Tuning
from snnrun.declared import check_value
from snnrun.errors import UsageError, did_you_mean
from snnrun.train.options import Options

tuned.register()  # at import, since a launcher's processes get a config that is composed already


_stored: dict[tuple[str | None, str], type] = {}


def register() -> None:
    """Put the schemas where Hydra finds them: `train_schema` and `<group>/<option>_schema`."""
    _store(None, "train", Config)
    for group, options in SCHEMAS.items():
        for option, schema in options.items():
            _store(group, option, schema)


def _store(group: str | None, option: str, schema: type) -> None:
    if _stored.get((group, option)) is not schema:
        ConfigStore.instance().store(group=group, name=f"{option}_schema", node=schema)
        _stored[group, option] = schema


# ---- checks ---------------------------------------------------------------------------------------------------------


def check(cfg: DictConfig) -> None:
    """Raise UsageError for a value out of range and for values that cannot work together. Loads no data.

    Imports the plugins. Their options get their schemas and defaults here.
    """
    _check_section("", cfg, Config)
    _check_places(cfg)
    if cfg.plugin is not None:
        _plug_in(cfg)
    for group, options in SCHEMAS.items():
        schema = OmegaConf.get_type(cfg[group])
        if schema is None or schema not in options.values():
            raise UsageError(
                f"{group}: this option has no schema, so its keys cannot be checked. Begin its file with "
                f"defaults: [<one of {', '.join(options)}>, _self_], or give it the name of a plugin's and set plugin."
            )
        _check_section(f"{group}.", cfg[group], schema)
        name = cfg[group].get("name")
        if name is not None and options.get(name) is not schema:
            raise UsageError(f"{group}.name: {name!r} does not belong to these keys. Choose it by {group}={name}")
    _check_section("train.", cfg.train, Train)
    _check_section("sweep.", cfg.sweep, Sweep)
    _check_section("tuning.", cfg.tuning, Tuning)
    _check_model(cfg.model)
    if cfg.train.momentum and cfg.train.optimizer not in ("sgd", "rmsprop"):
        raise UsageError(
            f"train.momentum: train.optimizer={cfg.train.optimizer} has none. Set train.momentum=0 or choose sgd or "
            "rmsprop."
        )
    train = OmegaConf.to_container(cfg.train, resolve=True)
    assert isinstance(train, dict)
    Options(**{str(key): value for key, value in train.items()})  # what they say of one another
    _check_hardware(cfg.hardware, cfg.train.batch_size)


def _check_places(cfg: DictConfig) -> None:
    root = cfg.data.get("root")  # a ~ at its beginning means the home folder, in a file too
    if isinstance(root, str):
        root = expanded(root)
    check_paths({"outputs": cfg.outputs, "data.root": root, "tracking.uri": cfg.tracking.get("uri")})


def check_paths(paths: Mapping[str, Any]) -> None:
    """Raise UsageError for a path with a `~` or a variable that no shell has expanded."""
    for key, path in paths.items():
        if isinstance(path, str) and re.search(r"(^|/)(~[^/]*(/|$)|\$\{?\w)", path):
            raise UsageError(
                f"{key}: {path!r} would be a folder of this very name: no shell expands ~ or a variable between "
                f"quotes. Write the path in full, or {key}=$HOME/FOLDER without quotes."
            )


def _plug_in(cfg: DictConfig) -> None:
    from snnrun.config import plugins

    plugins.load(OmegaConf.to_container(cfg.plugin) if OmegaConf.is_config(cfg.plugin) else cfg.plugin)
    for (group, name), schema in PLUGINS.items():
        if cfg[group].get("name") == name and OmegaConf.get_type(cfg[group]) is dict:
            typed = OmegaConf.create({group: OmegaConf.structured(schema)})
            typed.merge_with({group: cfg[group]})
            with open_dict(cfg):
                cfg[group] = typed[group]


def check_sweep(cfg: DictConfig) -> None:
    """Raise UsageError if something is wrong with a sweep as a whole. Runs before any of its points."""
    _check_places(cfg)
    _check_section("search.", cfg.search, Search)
    _check_section("sweep.", cfg.sweep, Sweep)
    _check_section("tracking.", cfg.tracking, Tracking)


def _check_section(prefix: str, section: DictConfig, schema: type) -> None:
    known = [entry.name for entry in fields(schema)]
    for name in map(str, section):
        if name not in known and name != "hydra":  # added by +key=value
            raise UsageError(f"{prefix}{name}: no such key. Allowed: {', '.join(known)}.{did_you_mean(name, known)}")
    for entry in fields(schema):
        key = prefix + entry.name
        if OmegaConf.is_missing(section, entry.name):
            raise UsageError(f"{key}: has no value. Write {key}=VALUE")
        check_value(key, section[entry.name], entry.metadata)


def _check_model(model: DictConfig) -> None:
    from snnrun.models import MODELS

    if model.get("name") in MODELS:
        own = OmegaConf.to_container(model, resolve=True)
        assert isinstance(own, dict)
        MODELS[model.name](**{str(key): value for key, value in own.items() if key != "name"})
        return
    if "desired" in model and not model.undesired < model.desired:
        raise UsageError(f"model.undesired: {model.undesired:g} is not less than model.desired, {model.desired:g}.")
    if model.get("temperature", 1.0) != 1.0 and model.loss != "softmax":
        raise UsageError(
            f"model.temperature: model.loss={model.loss} has none. Set model.temperature=1 or model.loss=softmax."
        )
    if model.get("name") == "hm2bp" and model.tau_m == model.tau_s:
        raise UsageError(
            f"model.tau_s: {model.tau_s:g} equals model.tau_m, for which HM2-BP's closed form has no value."
        )
    from snnrun.network.topology import check_connections, check_thresholds, frozen_layers
    from snnrun.rules import RULES

    own = OmegaConf.to_container(model, resolve=True)
    assert isinstance(own, dict)
    options = {str(key): value for key, value in own.items() if key not in ("name", "network")}
    RULES[model.name](**options | {"v_th": _thresholds(model.v_th)})  # what its options say of one another
    average_pools = RULES[model.name].average_pools
    check_thresholds(_thresholds(model.v_th), model.network, average_pools)
    check_connections(model.network, RULES[model.name].recurrent_layers, RULES[model.name].skip_connections)
    frozen_layers(model.frozen, model.network, average_pools)


def _check_hardware(hardware: DictConfig, batch_size: int) -> None:
    from snnrun import kernels
    from snnrun.train.hardware import check_gpus, choose

    # In this order, a machine without the device also gets the message about a wrong pair of settings.
    kernels.choose(hardware.kernels, choose("auto") if hardware.device == "auto" else hardware.device)
    device = choose(hardware.device)
    if hardware.processes > batch_size:
        raise UsageError(
            f"hardware.processes: {hardware.processes} processes share every batch, and train.batch_size is "
            f"{batch_size}. Set fewer processes or larger batches."
        )
    if device == "cuda" and hardware.processes > 1:
        check_gpus(hardware.processes)


# ---- to plain values ------------------------------------------------------------------------------------------------


def _thresholds(v_th: Any) -> list[float]:
    return [float(value) for value in (v_th if OmegaConf.is_list(v_th) or isinstance(v_th, list) else [v_th])]


def plain(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config as plain, resolved dictionaries, without what is a sweep's. `model.v_th` becomes a list of floats.

    `tuned` says what the settings rest on, in place of the facts of `tuning`, see `tuned.standing`. `overrides` are
    those of the command line, as far as they are known.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    if "v_th" in values["model"]:
        values["model"]["v_th"] = _thresholds(values["model"]["v_th"])
    values["tuned"] = tuned.standing(cfg, {str(key): value for key, value in values.items()}, overrides)
    return {str(key): value for key, value in values.items() if key not in ("search", "sweep", "tuning")}
