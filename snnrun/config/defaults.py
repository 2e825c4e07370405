"""The defaults of options as they are declared: what a run has where an option is newer than the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from snnrun.config.overrides import SECTIONS


def declared(names: Mapping[str, str]) -> dict[str, Any]:
    """Default by dotted key of the sections in `names`, which says which schema each has, such as `model`: `strsbp`.

    A section whose schema is not known, as that of a plugin, has none here.
    """
    found: dict[str, Any] = {}
    for section, name in names.items():
        schema = SECTIONS.get(section, {}).get(name)
        for entry in dataclasses.fields(schema) if schema is not None else ():
            made: Any = entry.default_factory  # after a sweep by joblib it may be a copy of `dataclasses.MISSING`
            found[f"{section}.{entry.name}"] = made() if callable(made) else entry.default
    return found
