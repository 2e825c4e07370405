"""The record of a run in its own folder: `metrics.jsonl` and `tags.json`. It needs no MLflow and no network.

`metrics.jsonl` has one JSON object for each call. It is strict JSON, so NaN and the infinities are null. A resumed run
cuts it back to its checkpoint, so that each point stands there once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from snnrun.errors import SnnrunError
from snnrun.metric_names import TEST_LAST, TRAIN_LOSS
from snnrun.record import atomic, names

# The keys of an entry that are not metrics.
OWN_KEYS = ("step", "time")

# Every training that ended by itself or by Ctrl-C has the second of these figures; those of old runs, the first.
FINAL = (TEST_LAST, "cost/samples")

Warn = Callable[[str], None]


class Journal:
    """The two files of one run. Raises SnnrunError if the folder of the run cannot be written to."""

    def __init__(self, run_dir: Path, warn: Warn) -> None:
        self.path = run_dir / names.METRICS
        self._warn: Warn | None = warn
        self._unwritten: list[str] = []
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self.path.touch()
        except OSError as error:
            raise SnnrunError(
                f"the run's folder {run_dir} cannot be written ({error}): choose another outputs="
            ) from None

    def append(self, values: Mapping[str, float], step: int) -> None:
        """Add one point of each metric. If the disk is full, they are written with the next points."""
        self._unwritten.append(_line(values, step))
        try:
            size = self.path.stat().st_size
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("".join(self._unwritten))
            except OSError:
                os.truncate(self.path, size)  # leave no half of a line
                raise
            self._unwritten.clear()
        except OSError as error:
            if self._warn is not None:
                self._warn(f"{self.path} cannot be written ({error}); training goes on, and it is tried again")
                self._warn = None

    def tags(self, values: Mapping[str, str]) -> None:
        """Write facts about the run to `tags.json`, so that they are known without MLflow."""
        known = read_tags(self.path.parent) | dict(values)
        with contextlib.suppress(OSError):  # `append` warns of a full disk
            atomic.write_json(self.path.with_name(names.TAGS), known)


def cut_back(run_dir: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Cut the journal back to the finished epochs of `history`, and add those that it lacks.

    Raises OSError if the file cannot be written.
    """
    # The step of the last epoch also has the final figures of a run that had ended. They will be made again.
    kept = [entry for entry in read(run_dir) if entry["step"] <= len(history)]
    kept = [entry for entry in kept if entry["step"] == 0 or "epoch" in entry]
    found = {entry["step"] for entry in kept if entry["step"]}
    lines = [json.dumps(entry) + "\n" for entry in kept]
    lines += [_line(metrics, step) for step, metrics in enumerate(history, 1) if step not in found]
    atomic.write(run_dir / names.METRICS, "".join(lines).encode())


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The entries of a run, in order. Lines that cannot be read are left out. Empty if there is no file."""
    with contextlib.suppress(OSError):
        return _entries(run_dir / names.METRICS)
    return []


def began(run_dir: Path) -> float | None:
    """The time of the first entry, in seconds since 1970. None if there is no entry."""
    with (
        contextlib.suppress(OSError, ValueError, KeyError, TypeError),
        (run_dir / names.METRICS).open(encoding="utf-8") as file,
    ):
        return float(json.loads(file.readline())["time"])
    return None


def ended(run_dir: Path) -> float | None:
    """The time of the last entry, in seconds since 1970. None if there is no entry."""
    times = [entry["time"] for entry in read(run_dir) if "time" in entry]
    return float(times[-1]) if times else None


def figures(run_dir: Path, warn: Warn | None = None) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The metrics of a run: the epochs in their order, and the last value of each metric.

    A last line that cannot be read is left out in silence, since a killed process may have cut it short. For any other
    such line there is a warning.
    """
    path = run_dir / names.METRICS
    epochs: dict[int, dict[str, float]] = {}
    latest: dict[str, float] = {}
    for entry in _entries(path, warn) if path.exists() else []:
        values = {
            key: float(value) for key, value in entry.items() if key not in OWN_KEYS and isinstance(value, int | float)
        }
        latest |= values
        if "epoch" in values or TRAIN_LOSS in values:
            epochs[entry["step"]] = values
    return [epochs[step] for step in sorted(epochs)], latest


def closed(figures: Mapping[str, Any]) -> bool:
    """Whether final figures are among these."""
    return any(key in figures for key in FINAL)


def _entries(path: Path, warn: Warn | None = None) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.append(entry)
        elif warn is not None and number < len(lines):
            warn(f"{path}, line {number}: not a line of metrics; it is passed over")
    return entries


def points(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, int, int]]:
    """Key, value, step and time (in ms) of each metric. null becomes NaN."""
    return [
        (key, math.nan if value is None else float(value), entry["step"], int(1000 * entry.get("time", 0)))
        for entry in entries
        for key, value in entry.items()
        if key not in OWN_KEYS
    ]


def read_tags(run_dir: Path) -> dict[str, str]:
    """The tags in the folder of a run. Empty if there is no such file, or if it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((run_dir / names.TAGS).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {str(key): str(value) for key, value in found.items()}
    return {}


def _line(values: Mapping[str, float], step: int) -> str:
    finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
    return json.dumps({"step": step, "time": round(time.time(), 3)} | finite) + "\n"
