"""The folder of a run: its names, its config; and how it is found by its folder, its name or its MLflow id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from snnrun.errors import SnnrunError, UsageError, first_line
from snnrun.record import atomic, journal, names

Item = TypeVar("Item")

NAME_TAG = "mlflow.runName"  # MLflow's own tag for the name of a run
# Where `conf/train.yaml` puts the folders of single runs and of the points of sweeps.
PATTERNS = ("runs/*", "sweeps/*/*")
# The most candidates that a message names.
NAMED = 5


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def run_id(self) -> str | None:
        """The id of its MLflow run, if it has one."""
        file = self.path / names.RUN_ID
        return file.read_text(encoding="utf-8").strip() if file.is_file() else None

    @property
    def started(self) -> float:
        """The time it began, in seconds since 1970: from its journal, or from the age of its config."""
        return journal.began(self.path) or (self.path / names.CONFIG).stat().st_mtime

    @property
    def name(self) -> str:
        """The name of its folder. For a point of a sweep: SWEEP/NUMBER, since the folders of points are numbers."""
        sweep = f"{self.path.parent.name}/" if self.path.parent.parent.name == "sweeps" else ""
        return sweep + self.path.name

    @property
    def names(self) -> tuple[str, ...]:
        """All its names: its folder's name, `name` and its MLflow id."""
        return (self.path.name, self.name, *filter(None, [self.run_id]))

    @property
    def outputs(self) -> Path | None:
        """The folder of outputs in which it lies now. None for a run that is kept elsewhere."""
        for pattern in PATTERNS:
            depth = pattern.count("/")
            if self.path.resolve().parents[depth - 1].name == pattern.partition("/")[0]:
                return self.path.resolve().parents[depth]
        return None

    def save_run_id(self, run_id: str) -> None:
        """Write down the id of its MLflow run. Raises OSError if the folder cannot be written to."""
        (self.path / names.RUN_ID).write_text(f"{run_id}\n", encoding="utf-8")

    def save(self, values: Mapping[str, Any]) -> None:
        """Replace its config. Raises SnnrunError if the folder cannot be written to."""
        try:
            atomic.write(self.path / names.CONFIG, OmegaConf.to_yaml(OmegaConf.create(dict(values))).encode())
        except OSError as error:
            raise SnnrunError(f"{self.path / names.CONFIG}: cannot be written ({error}).") from None

    def values(self) -> dict[str, Any]:
        """The config of the run, as plain values.

        Raises:
            SnnrunError: the file is missing or damaged.
        """
        file = self.path / names.CONFIG
        try:
            values = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
        except (OSError, OmegaConfBaseException, ValueError) as error:
            raise SnnrunError(f"{file}: the run's config cannot be read ({first_line(error)}).") from None
        except Exception as error:  # errors of the YAML parser, whose package is no dependency of ours
            raise SnnrunError(f"{file}: the run's config is damaged ({first_line(error)}).") from None
        if not isinstance(values, dict):
            raise SnnrunError(f"{file}: the run's config is damaged (no keys in it).")
        return {str(key): value for key, value in values.items()}


def folders(outputs: Path) -> list[RunFolder]:
    """The folders of all runs below `outputs`, the oldest first."""
    found = [path for pattern in PATTERNS for path in outputs.glob(pattern) if (path / names.CONFIG).is_file()]
    return sorted(map(RunFolder, found), key=lambda run: run.started)


def check_free(folder: Path) -> None:
    """Raise UsageError if the folder has the journal or weights of a run, since a new run would overwrite them."""
    if journal.read(folder) or any(folder.glob("*.safetensors")):
        raise UsageError(
            f"{folder}: this folder has a run already. Go on with it by snnrun resume, or take another folder."
        )


def find(name: str, outputs: Path) -> RunFolder:
    """The run `name`: a folder, or the beginning of a folder's name, of an MLflow run's id or of its name.

    `last` is the latest run.

    Raises:
        UsageError: there is no such run, or several.
    """
    path = Path(name)
    if (path / names.CONFIG).is_file():
        return RunFolder(path)
    known = folders(outputs)
    if name == "last" and known:
        return known[-1]
    if path.is_dir():
        raise UsageError(f"{name}: this folder has no {names.CONFIG}, so it is not a run's.")
    matches = matching(name, known, lambda run: run.names)
    if not matches:
        matches = matching(name, known, lambda run: [journal.read_tags(run.path).get(NAME_TAG, "")])
    if not matches:
        latest = ", ".join(run.path.name for run in known[-NAMED:]) or "none"
        raise UsageError(
            f"{name}: no run of this folder, name or MLflow id below {outputs}. The latest: {latest}. "
            "Runs elsewhere are found by --outputs FOLDER."
        )
    if len(matches) > 1:
        some = ", ".join(str(run.path) for run in matches[:NAMED])
        raise UsageError(f"{name}: {len(matches)} runs begin so: {some}{', ...' * (len(matches) > NAMED)}.")
    return matches[0]


def matching(name: str, known: Iterable[Item], names_of: Callable[[Item], Sequence[str]]) -> list[Item]:
    """The items with a name that begins with `name`. If `name` is the whole name of exactly one, only that one."""
    matches = [item for item in known if name and any(word.startswith(name) for word in names_of(item))]
    exact = [item for item in matches if name in names_of(item)]
    return exact if len(exact) == 1 else matches
