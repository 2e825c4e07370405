"""The points of a sweep in its folder: which points there are, their results, and which are at work.

A sweep's folder holds `sweep.json` and, for every attempt at a point, a numbered folder with `point.json`. The
processes of a sweep know of one another by these files alone. So any launcher may start them, on any machine of a
shared file system, and the files are enough to go on after a power cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from snnrun import locks
from snnrun.config.paths import quoted
from snnrun.errors import SnnrunError, UsageError
from snnrun.record import atomic, names
from snnrun.record.run_folder import NAMED, matching

DONE = ("FINISHED", "PRUNED")  # these are never run again
# The numbers of a point do not depend on these, which say where it is recorded and how many processes work on it.
SECTIONS_APART = ("outputs", "tracking", "sweep", "search", "checkpoint", "tuned")
KEYS_APART = {"hardware": ("threads", "processes", "wait_minutes"), "data": ("download",)}
# A point is compared with at least so many others. A median of fewer says nothing.
RIVALS = 5


@dataclass
class Point:
    """One attempt at a point. `history` has the accuracy of each epoch. `objective` is what the sweep optimises."""

    number: int
    id: str
    overrides: list[str]
    swept: list[str] = field(default_factory=list)  # the overrides in which the points differ
    label: str = ""  # what search=list calls it
    epochs: int = 0
    workers: int = 1  # points at work at the same time on a machine
    status: str = "WAITING"  # RUNNING, FINISHED, PRUNED, FAILED, KILLED
    objective: float | None = None
    history: list[float] = field(default_factory=list)
    summary: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""  # first line of its error
    run_id: str | None = None
    pid: int | None = None  # the process that ran it
    owner: list[Any] | None = None  # machine and process of the sweep; without them the point does not begin
    begun: bool = False  # whether a process has worked in its folder; the next one goes on there

    def save(self, sweep: Path) -> None:
        """Write it to its folder in the sweep's folder, completely or not at all."""
        folder = self.folder(sweep)
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_json(folder / names.POINT, asdict(self))

    @property
    def name(self) -> str:
        """The name of the point in messages."""
        known_by = " ".join([*filter(None, [self.label]), *self.swept])
        return f"point {self.number} ({known_by})" if known_by else f"point {self.number}"

    def take_over(self, other: Point) -> None:
        """Let another attempt go on in this one's folder, with what the folder holds."""
        other.number, other.begun = self.number, self.begun or self.status != "WAITING"
        other.history, other.seconds, other.run_id = list(self.history), self.seconds, self.run_id

    @property
    def orphaned(self) -> bool:
        """Whether its sweep ran on this machine and has ended. Its workers may still be there."""
        if self.owner is None or self.owner[0] != socket.gethostname():
            return False
        try:
            os.kill(self.owner[1], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def folder(self, sweep: Path) -> Path:
        """Its folder."""
        return sweep / str(self.number)


@dataclass
class Sweep:
    """What `sweep.resume` needs: the arguments of the command, and the parent run in MLflow."""

    arguments: list[str]
    parent_run_id: str | None = None

    def save(self, folder: Path) -> None:
        """Write it to the sweep's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_json(folder / names.SWEEP, asdict(self))


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise SnnrunError(f"{path}: damaged ({error}). Remove its folder, and the point is run anew.") from None


def read_point(folder: Path) -> Point | None:
    """The record in a point's folder, or None if there is none."""
    point: Point | None = _read(folder / names.POINT, Point)
    return point


def read_sweep(folder: Path) -> Sweep | None:
    """The record in a sweep's folder, or None if there is none."""
    sweep: Sweep | None = _read(folder / names.SWEEP, Sweep)
    return sweep


def attempts(folder: Path) -> list[Point]:
    """Every attempt of a sweep, by number."""
    found = (read_point(file.parent) for file in folder.glob(f"*/{names.POINT}"))
    return sorted((point for point in found if point is not None), key=lambda point: point.number)


def latest(every: Iterable[Point]) -> list[Point]:
    """The last attempt at each point, by number."""
    return sorted({point.id: point for point in every}.values(), key=lambda point: point.number)


def minutes(folder: Path) -> float:
    """How long all attempts of a sweep have taken together."""
    return sum(point.seconds for point in attempts(folder)) / 60


def key_of(override: str) -> str:
    """The key that an override changes, such as `train.lr` of `+train.lr=0.1`."""
    return override.partition("=")[0].lstrip("+~")


def identity(values: Mapping[str, Any]) -> str:
    """The id of a point: a hash of its plain config, without the keys that do not change its numbers."""
    kept = {
        key: {name: entry for name, entry in value.items() if name not in KEYS_APART.get(key, ())}
        if isinstance(value, Mapping)
        else value
        for key, value in values.items()
        if key not in SECTIONS_APART
    }
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lags(point: Point, others: Iterable[Point], after: int) -> bool:
    """Whether to prune a point: its best epoch is worse than the median of the others' best up to the same epoch.

    A point is not pruned before `after` epochs, or with fewer than 5 others that came so far. Points with another
    number of epochs do not count, since their learning rates fall differently.
    """
    done = len(point.history)
    if not after <= done < point.epochs:
        return False
    rivals = [
        max(other.history[:done])
        for other in others
        if other.id != point.id and other.epochs == point.epochs and len(other.history) >= done
    ]
    return len(rivals) >= RIVALS and max(point.history) < statistics.median(rivals)


# ---- who is at work --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Work in a folder alone. The lock ends with the process, however the process ends.

    Raises:
        UsageError: another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locks.of_folder(folder, wait=False) as free:
        if not free:
            raise UsageError(f"{folder}: another process is at work on it. Wait for its end, or end it.")
        yield


def busy(folder: Path) -> bool:
    """Whether a process holds the folder."""
    with locks.of_folder(folder, wait=False) as free:
        return not free


# ---- finding a sweep -------------------------------------------------------------------------------------------------


def find_sweep(name: str, outputs: Path) -> Path:
    """The folder of the sweep `name`: a folder, or the beginning of its name or of its parent run's id.

    `last` is the latest sweep.

    Raises:
        UsageError: there is no such sweep, or several.
    """
    path = Path(name)
    if (path / names.SWEEP).is_file():
        return path.resolve()
    known = sorted((file.parent for file in outputs.glob(f"sweeps/*/{names.SWEEP}")), key=lambda folder: folder.name)
    if name == "last" and known:
        return known[-1].resolve()
    matches = matching(name, known, lambda folder: [folder.name]) or matching(name, known, _parents)
    if not matches:
        latest = ", ".join(folder.name for folder in known[-NAMED:]) or "none"
        raise UsageError(
            f"sweep.resume: {name!r} is no sweep's folder, name or MLflow run below {outputs}. The latest: {latest}."
        )
    if len(matches) > 1:
        some = ", ".join(folder.name for folder in matches[:NAMED])
        raise UsageError(f"sweep.resume: {len(matches)} sweeps begin with {name!r}: {some}. Write more of its name.")
    return matches[0].resolve()


def place(folder: Path) -> list[str]:
    """The arguments by which a command that says all of a sweep's arguments begins it in a folder, or goes on there."""
    named = quoted(str(folder))
    return [*([f"sweep.resume={named}"] if (folder / names.SWEEP).is_file() else []), f"hydra.sweep.dir={named}"]


def _parents(folder: Path) -> list[str]:
    sweep = read_sweep(folder)
    return [sweep.parent_run_id] if sweep and sweep.parent_run_id else []
