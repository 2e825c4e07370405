"""A finished run as one small file that can be kept with the source: settings, origin, curves, figures, no weights.

A folder of such files stands for `outputs` wherever runs are looked at: `snnrun runs list --outputs results`. What says
where the run was made on its machine (folders, store, user) is left out.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnrun.errors import SnnrunError
from snnrun.metric_names import CPU_SECONDS, CURVES
from snnrun.record import atomic

if TYPE_CHECKING:
    from snnrun.runs.collect import Run

FORMAT = 1
SUFFIX = ".run.json"
# The metrics of an epoch that are kept; the last value of every metric is kept beside them.
KEPT = (*CURVES, CPU_SECONDS)
# Parameters and words of a command that say where a run was made, and what it is apart from that.
PLACES = ("outputs", "data.root", "data.download", "tracking", "checkpoint", "sweep.", "hydra", "plugin", "hardware.")
TAGS = re.compile(
    r"snnrun\.(version|label|git\.\w+)|git\.\w+|data\.\w+|host\.(cpu|cores)|(python|torch|numpy|numba)\.version"
    r"|device|kernels|processes"
)
DIGITS = 7


@dataclass(frozen=True)
class Record:
    """What a file says of its run, in the form of `Run`; `parameters` are the trained weights and biases."""

    name: str
    started: float
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    epochs: list[dict[str, float]]
    parameters: int | None
    changed: dict[str, tuple[str, str]]


def keep(run: Run, epochs: Sequence[Mapping[str, float]], parameters: int | None, folder: Path) -> Path:
    """Write the record of a finished run into a folder, in place of one of the same settings, samples and seed.

    Raises:
        SnnrunError: the file cannot be written.
    """
    params = {key: value for key, value in run.params.items() if not key.startswith(PLACES)}
    path = _place(folder, params, run.tags)
    curves = {
        key: [_rounded(epoch[key]) for epoch in epochs]
        for key in KEPT
        if all(math.isfinite(epoch.get(key, math.nan)) for epoch in epochs)
    }
    content = {
        "format": FORMAT,
        "name": run.name,
        "started": round(run.started),
        "command": _command(run.tags.get("snnrun.command", "")),
        "parameters": parameters,
        "params": params,
        "tags": {key: value for key, value in sorted(run.tags.items()) if TAGS.fullmatch(key)},
        **({"changed": {key: list(pair) for key, pair in run.changed.items()}} if run.changed else {}),
        "metrics": {key: _rounded(value) for key, value in run.metrics.items() if math.isfinite(value)},
        "epochs": curves,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(path, _text(content).encode())
    except OSError as error:
        raise SnnrunError(f"{path}: cannot be written ({error.strerror}). Name another folder by --to.") from None
    return path


def parameters(run: Run) -> int | None:
    """Trained weights and biases of a run's network; None where its folder does not tell, or is of an early version."""
    if run.parameters is not None or run.folder is None:
        return run.parameters
    from snnrun.record import description
    from snnrun.record.run_folder import RunFolder
    from snnrun.run import build

    try:
        about, values = description.load(run.folder), RunFolder(run.folder).values()
        if about is None:
            return None
        build.plug_in(values)
        return build.network(values, about).synapses()
    except SnnrunError:
        return None


def files(folder: Path) -> list[Path]:
    """The records in a folder and in the folders in it."""
    return sorted([*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*/*{SUFFIX}")])


def read(path: Path) -> Record:
    """What a file has.

    Raises:
        SnnrunError: it is damaged, or of a later version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise SnnrunError(f"{path}: written by a later version of snnrun.")
        curves = content["epochs"]
        length = min(map(len, curves.values()), default=0)
        epochs = [{key: float(values[place]) for key, values in curves.items()} for place in range(length)]
        return Record(
            name=str(content["name"]),
            started=float(content["started"]),
            params={str(key): str(value) for key, value in content["params"].items()},
            metrics={str(key): float(value) for key, value in content["metrics"].items()},
            tags=_tags(content),
            epochs=[{"epoch": place + 1.0} | epoch for place, epoch in enumerate(epochs)],
            parameters=None if content["parameters"] is None else int(content["parameters"]),
            changed={str(key): (str(old), str(new)) for key, (old, new) in content.get("changed", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnnrunError(f"{path}: no record of a run ({type(error).__name__}: {error}).") from None


def _place(folder: Path, params: Mapping[str, str], tags: Mapping[str, str]) -> Path:
    """The file of a run. One of the same settings on other samples, such as those of a surrogate, has another."""
    plain = folder / f"{_stem(params)}{SUFFIX}"
    samples = {key: tags.get(key, "") for key in ("data.origin", "data.digest")}
    if not plain.is_file():
        return plain
    try:
        there = read(plain).tags
    except SnnrunError:
        return plain  # damaged, so nothing is lost
    if all(there.get(key, "") == value for key, value in samples.items()):
        return plain
    return folder / f"{_stem(params, samples)}{SUFFIX}"


def _tags(content: Mapping[str, Any]) -> dict[str, str]:
    tags = {str(key): str(value) for key, value in content["tags"].items()}
    command = content.get("command")
    return tags | ({"snnrun.command": str(command)} if command else {})


def _stem(params: Mapping[str, str], samples: Mapping[str, str] | None = None) -> str:
    """A name by what the run is; the digits tell settings apart that it does not name."""
    settings = sorted((key, value) for key, value in params.items() if key != "seed")
    settings += [] if samples is None else sorted(samples.items())
    digits = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:DIGITS]
    words = [params.get(key, "") for key in ("data.name", "model.name", "model.network")]
    return "_".join([*(re.sub(r"[^\w-]+", "-", word) for word in words if word), digits, f"seed{params.get('seed')}"])


def _command(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError:
        return ""
    return shlex.join(word for word in words if not word.startswith((*PLACES, "search", "-")))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _text(content: Mapping[str, Any]) -> str:
    """JSON with a line for each entry and each curve, so that a change shows as one."""
    return "{\n" + ",\n".join(_lines(content, " ")) + "\n}\n"


def _lines(content: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            inner = ",\n".join(_lines(value, f"{indent} "))
            yield f"{indent}{json.dumps(key)}: {{\n{inner}\n{indent}}}"
        else:
            yield f"{indent}{json.dumps(key)}: {json.dumps(value, allow_nan=False, ensure_ascii=False)}"
