"""What a run has under options that are newer than the run: the declared defaults, as it would have had them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from snnrun import tracking
from snnrun.config.defaults import declared
from snnrun.runs.collect import Run


def completed(run: Run) -> Run:
    """A run with the declared defaults of options that are newer than it, so that it does not differ by their names."""
    names = {part: name for part in ("data", "encoder", "model") if (name := run.params.get(f"{part}.name"))}
    names |= {"train": "train"} if "train.epochs" in run.params else {}
    return replace(run, params={**_declared(tuple(names.items())), **run.params})


@cache
def _declared(names: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return tracking.flatten(declared(dict(names)))
