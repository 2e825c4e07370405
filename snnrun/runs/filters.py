"""Which runs are meant: `model=strsbp data=fsdd status=finished 'train.lr>0.001'`, all of which must hold.

A key is a parameter (`train.lr`), a metric (`test/accuracy_last`), a group (`model`, for `model.name`) or a fact of the
run (`status`, `origin`, `started`, `name`, `id`, `folder`, `commit`, `dirty`, `device`, `sweep`, `label`). Operators
are `= != > >= < <=`, and `~` for a text that holds another. `key=a,b` means one of the two. An option that is newer
than the run counts as its default. A run without the key fails every filter on it but `!=`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

from snnrun.errors import UsageError, did_you_mean
from snnrun.runs.collect import STATUSES, Run, keys_of
from snnrun.runs.defaults import completed

FACTS = tuple(Run("", "", 0.0).facts())
PATTERN = re.compile(r"\s*(?P<key>[\w./: -]+?)\s*(?P<operator>!=|>=|<=|==|=|>|<|~)(?P<value>.*)", re.DOTALL)
ORDERED: dict[str, Callable[[Any, Any], bool]] = {">": gt, ">=": ge, "<": lt, "<=": le}
SHOWN = 8  # values named in a message


@dataclass(frozen=True)
class Filter:
    """One condition: `key` as `keys` has it, an operator, and the values of which one must fit."""

    key: str
    operator: str
    values: tuple[str, ...]

    def fits(self, run: Run) -> bool:
        """Whether the run meets it."""
        value = value_of(run, self.key)
        if value is None:
            return self.operator == "!="
        if self.operator in ORDERED:
            return any(self._compares(value, wanted) for wanted in self.values)
        if self.operator == "~":
            return any(wanted.lower() in str(value).lower() for wanted in self.values)
        return any(_equal(value, wanted) for wanted in self.values) is (self.operator == "=")

    def _compares(self, value: str | float, wanted: str) -> bool:
        if self.key == "started":  # its text is in the order of time
            return ORDERED[self.operator](str(value), wanted)
        left, right = as_number(value), as_number(wanted)
        return left is not None and ORDERED[self.operator](left, right)


def select(runs: Sequence[Run], texts: Sequence[str]) -> tuple[list[Run], list[Filter]]:
    """The runs that meet all filters, in their order, and the filters as they were understood.

    Raises:
        UsageError: a filter has no operator, or a key or a value that no run has.
    """
    whole = [completed(run) for run in runs] if texts else runs
    filters = [_parse(text, whole) for text in texts]
    fits = [all(entry.fits(run) for entry in filters) for run in whole]
    return [run for run, fit in zip(runs, fits, strict=True) if fit], filters


def keys(runs: Sequence[Run]) -> list[str]:
    """All that can be asked for."""
    metrics = sorted(set().union(*(run.metrics for run in runs)))
    return [*FACTS, *keys_of(runs), *metrics]


def key_named(word: str, runs: Sequence[Run]) -> str:
    """The key that a word of the command line means.

    Raises:
        UsageError: no run has it; the message names the nearest.
    """
    known = keys(runs)
    for key in (word, f"{word}.name"):
        if key in known:
            return key
    same = [key for key in known if re.split(r"[./]", key)[-1] == word]
    short = [key.removesuffix(".name") for key in known]
    hint = f" Did you mean {same[0]}?" if same else did_you_mean(word, [*known, *short])
    raise UsageError(
        f"{word}: no run has this key. Parameters are written as in `snnrun train` (train.lr), metrics as recorded "
        f"(test/accuracy_last); beside them there are {', '.join(FACTS)}.{hint}"
    )


def value_of(run: Run, key: str) -> str | float | None:
    """What a run has under a key of `keys`: text, or a number for metrics; None where it has nothing."""
    if key in run.metrics:
        return run.metrics[key]
    if key in run.params:
        return run.params[key]
    return run.facts().get(key) or None


def ordered(runs: Sequence[Run], key: str, *, reverse: bool = False) -> list[Run]:
    """Sorted by a key: numbers from the largest down, texts from A on; `reverse` turns it round. Without it: last."""
    having = [run for run in runs if value_of(run, key) is not None]
    lacking = [run for run in runs if value_of(run, key) is None]
    numbers = [as_number(value_of(run, key)) for run in having]
    if None not in numbers:
        having = [run for _, run in sorted(zip(numbers, having, strict=True), key=lambda pair: -(pair[0] or 0.0))]
    else:
        having = sorted(having, key=lambda run: str(value_of(run, key)), reverse=key == "started")
    return [*(reversed(having) if reverse else having), *lacking]


def as_number(value: str | float | None) -> float | None:
    """A value as a finite number, or None."""
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _parse(text: str, runs: Sequence[Run]) -> Filter:
    found = PATTERN.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{text}: not a filter. Write KEY=VALUE, or one of != > >= < <= ~ between them; a filter with < or > "
            "needs quotes ('train.lr>0.001'), since the shell takes these signs for itself."
        )
    if found["operator"] in ("=", "==") and found["value"].startswith((">", "<", "=")):
        sign = found["value"][0]
        raise UsageError(f"{text}: not a filter. Write '{found['key']}{sign}={found['value'][1:]}'.")
    key, operator = key_named(found["key"], runs), found["operator"].replace("==", "=")
    values = tuple(part.strip() for part in re.split(r",(?![^\[]*\])", found["value"]))
    if "" in values:
        raise UsageError(f"{text}: a value is missing. Write KEY{operator}VALUE.")
    if operator in ORDERED and key != "started":
        for value in values:
            if as_number(value) is None:
                raise UsageError(f"{text}: {value!r} is not a number, which {operator} needs.")
        if not any(as_number(value_of(run, key)) is not None for run in runs):
            raise UsageError(f"{text}: no run has a number under {key}, which {operator} needs. Write {key}=VALUE.")
    if operator == "=":
        _check_values(text, key, values, runs)
    return Filter(key, operator, values)


def _check_values(text: str, key: str, values: Sequence[str], runs: Sequence[Run]) -> None:
    if any(key in run.metrics for run in runs):
        return
    here = sorted({str(value) for run in runs if (value := value_of(run, key)) is not None}, key=_natural)
    known = [*here, *STATUSES] if key == "status" else here
    for value in values:
        if not any(_equal(other, value) for other in known):
            allowed = list(STATUSES) if key == "status" else here
            more = f", ... ({len(allowed)} in all)" if len(allowed) > SHOWN else ""
            there = f"There are {', '.join(allowed[:SHOWN])}{more}.{did_you_mean(value, allowed)}"
            raise UsageError(f"{text}: no run has {key}={value}. {there}")


def _natural(value: str) -> tuple[float, str]:
    number = as_number(value)
    return (math.inf if number is None else number, value)


def _equal(value: str | float, wanted: str) -> bool:
    left, right = as_number(value), as_number(wanted)
    if left is not None and right is not None:
        return math.isclose(left, right, rel_tol=1e-9)
    return str(value).replace(" ", "") == wanted.replace(" ", "")
