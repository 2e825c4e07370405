"""The config that `snnrun train` would run, composed without running it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra

from snnrun.config import check, explain
from snnrun.errors import UsageError, did_you_mean


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> dict[str, Any]:
    """The plain config that `train` would run with these overrides, and with this `--config-dir`.

    Raises:
        UsageError: an override is wrong.
    """
    check.register()
    try:
        with hydra.initialize_config_module("snnrun.conf", version_base="1.3"):
            check_pairs(list(overrides), config_dir)
            place = [] if config_dir is None else [f"hydra.searchpath={json.dumps([config_dir.resolve().as_uri()])}"]
            cfg = hydra.compose("train", [*overrides, *place])
        check.check(cfg)
    except Exception as error:
        text = explain.explain(error, list(overrides))
        if text is None:
            raise
        raise UsageError(text) from None
    return check.plain(cfg, overrides)


def check_pairs(overrides: list[str], config_dir: Path | None = None) -> None:
    """Raise UsageError for an unknown `tuned` or `input`. Hydra accepts one, since these groups are optional."""
    for override in overrides:
        key, _, names = override.partition("=")
        if key not in ("tuned", "input"):
            continue
        allowed = GlobalHydra.instance().config_loader().get_group_options(key)
        if config_dir is not None:  # which Hydra learns of when it composes
            allowed = [*allowed, *(file.stem for file in sorted((config_dir / key).glob("*.yaml")))]
        for name in names.split(","):
            if name not in allowed:
                nearest = did_you_mean(name, allowed)
                raise UsageError(f"{key}: there is no {name!r}. Allowed: {', '.join(allowed)}.{nearest}")
