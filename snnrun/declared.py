"""Type and limits of an option, declared once: at a field of a dataclass, or at a keyword-only parameter.

    loss: Literal["count", "softmax"] = "count"
    decay: Annotated[float, Range(at_least=0, below=1)] = 0.2

`config.schemas` makes the schemas of the command line from these. Code called without a schema checks values by them.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import operator
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from snnrun.errors import UsageError, did_you_mean, printable

REQUIRED = inspect.Parameter.empty  # the default of an option that has none


class Range(NamedTuple):
    """The limits of a number, or of each number of a list."""

    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None

    def check(self, key: str, value: Any) -> None:
        """Raise UsageError if a value is not a number within the limits."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{key}: {value!r} is not a number")
        limits = [
            (word, within, limit) for (word, within), limit in zip(_LIMITS, self, strict=True) if limit is not None
        ]
        if not (math.isfinite(value) and all(within(value, limit) for _, within, limit in limits)):
            allowed = " and ".join(f"{word} {limit}" for word, _, limit in limits)
            raise UsageError(f"{key}: {value:g} is out of range. Allowed: {allowed}.")


# In words, and as a comparison: each limit of a range, in order.
_LIMITS = (
    ("at least", operator.ge),
    ("greater than", operator.gt),
    ("less than", operator.lt),
    ("at most", operator.le),
)


class Option(NamedTuple):
    """Type and default, and under "range" and "choices" what is allowed, as in the metadata of a dataclass's field."""

    kind: Any
    default: Any
    allowed: Mapping[str, Any]


def option(annotation: Any, default: Any, metadata: Mapping[str, Any]) -> Option:
    """The option of an annotation. A range may also stand in the metadata of its field."""
    kind, allowed = annotation, dict(metadata)
    if typing.get_origin(kind) is typing.Annotated:
        kind, *notes = typing.get_args(kind)
        allowed.update(("range", note) for note in notes if isinstance(note, Range))
    if typing.get_origin(kind) is Literal:
        allowed.setdefault("choices", typing.get_args(kind))
    return Option(kind, default, allowed)


@cache
def options(thing: Callable[..., Any]) -> dict[str, Option]:
    """The options of a dataclass (its fields) or of a function (its keyword-only parameters)."""
    hints = typing.get_type_hints(thing, include_extras=True)
    if dataclasses.is_dataclass(thing):
        fields = [entry for entry in dataclasses.fields(thing) if entry.init]
        return {entry.name: option(hints[entry.name], _default(entry), entry.metadata) for entry in fields}
    parameters = inspect.signature(thing).parameters.items()
    own = {name: entry.default for name, entry in parameters if entry.kind is entry.KEYWORD_ONLY}
    return {name: option(hints.get(name, Any), default, {}) for name, default in own.items()}


def _default(entry: dataclasses.Field[Any]) -> Any:
    if entry.default_factory is not dataclasses.MISSING:
        return entry.default_factory()
    return REQUIRED if entry.default is dataclasses.MISSING else entry.default


def check(section: str, thing: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Raise UsageError for the first value that its option does not allow. The key is `section.NAME`, or `seed`."""
    declared = options(thing)
    for name, value in values.items():
        if name in declared:
            check_value(name if name == "seed" else f"{section}.{name}", value, declared[name].allowed)


def check_value(key: str, value: Any, allowed: Mapping[str, Any]) -> None:
    """Raise UsageError if a value is outside the range or the choices of its option."""
    if value is None:
        return
    if isinstance(value, str) and printable(value) != value:
        raise UsageError(
            f"{key}={value}: only UTF-8 can be recorded. Give a folder by another name, such as a link to it, or that "
            "of the data by the environment variable SNNRUN_DATA"
        )
    if "choices" in allowed and value not in allowed["choices"]:
        choices = allowed["choices"]
        raise UsageError(
            f"{key}: {value!r} is not allowed. Allowed: {', '.join(choices)}.{did_you_mean(value, choices)}"
        )
    if "range" in allowed:
        several = isinstance(value, Sequence) and not isinstance(value, str)
        for number in value if several else [value]:
            Range(*allowed["range"]).check(key, number)
