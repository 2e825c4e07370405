"""What produced a run: the command, the commits, the versions, the machine."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("snnrun", "torch", "numpy", "numba", "hydra-core", "omegaconf", "mlflow")


def provenance(command: Sequence[str]) -> dict[str, str]:
    """Tags of a run: ``snnrun.command``, ``git.commit``, ``git.dirty``, ``<package>.version``, ``host.*``.

    The commit is that of the repository of the working directory, or "none". If snnrun runs from another checkout,
    ``snnrun.git.commit`` names its commit. Dirty means that tracked files are changed. The ``mlflow.*`` tags fill the
    columns of MLflow's table.
    """
    tags = {
        "snnrun.command": shlex.join(command),
        "python.version": platform.python_version(),
        "host.platform": platform.platform(),
        "host.cpu": processor(),
        "host.cores": str(os.cpu_count()),
        "mlflow.source.name": " ".join(command[:2]),
        "mlflow.source.type": "LOCAL",
    }
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            tags[f"{package}.version"] = importlib.metadata.version(package)
    return tags | _commits(Path.cwd())


def version() -> str:
    """Version of snnrun, with its commit if it runs from a checkout."""
    commit = _own_commit()
    return importlib.metadata.version("snnrun") + (f" ({commit[:12]})" if commit else "")


def _commits(here: Path) -> dict[str, str]:
    commit = _git(here, "rev-parse", "HEAD")
    tags = {"git.commit": commit or "none"}
    if commit:
        tags |= {"git.dirty": _dirty(here), "mlflow.source.git.commit": commit}
    own = _own_commit()
    if own and own != commit:
        tags |= {"snnrun.git.commit": own, "snnrun.git.dirty": _dirty(Path(__file__).resolve().parent)}
    return tags


def _own_commit() -> str | None:
    """The commit of snnrun. None if it is installed, maybe in a .venv inside a repository that does not track it."""
    source = Path(__file__).resolve()
    tracked = _git(source.parent, "ls-files", source.name)
    return _git(source.parent, "rev-parse", "HEAD") if tracked else None


def _dirty(folder: Path) -> str:
    return "true" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "false"


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git. None if there is no git, no repository or no commit."""
    command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def processor() -> str:
    """Name of the processor."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
