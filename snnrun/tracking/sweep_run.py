"""A sweep in MLflow: one parent run, its trainings as children."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from snnrun.errors import SnnrunError, warn
from snnrun.record.journal import Warn
from snnrun.tracking.address import store_uri
from snnrun.tracking.mlflow_run import Status, reason
from snnrun.tracking.store import connect, create_run, quiet

NETWORK_TYPES = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p")
POINT_TAG, ERROR_TAG, PRUNED_TAG, OLD_TAG = "snnrun.point", "snnrun.error", "snnrun.pruned", "snnrun.superseded"
LABEL_TAG = "snnrun.label"


def warned(function: Callable[..., None], *arguments: Any, **options: Any) -> list[str]:
    """Call one of this module's functions that warn, and return its warnings: another process may have asked for it."""
    warnings: list[str] = []
    function(*arguments, **options, warn=warnings.append)
    return warnings


def start_sweep(
    *,
    outputs: Path,
    uri: str | None = None,
    experiment: str = "snnrun",
    run_name: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Create store, experiment and the parent run of a sweep; its id is the children's ``parent_run_id``.

    Call it before any worker starts: processes that create the same sqlite store at once destroy one another's
    tables. Raises SnnrunError when the store cannot be used.
    """
    _, run = create_run(outputs, uri, experiment, run_name, {"snnrun.sweep": "true"} | dict(tags or {}))
    return str(run.info.run_id)


def reopen_sweep(run_id: str, *, outputs: Path, uri: str | None = None) -> None:
    """Let the parent run of a sweep that is resumed run again; raises SnnrunError when the store does not have it."""
    address = uri or store_uri(outputs)
    try:
        with quiet():
            connect(address).update_run(run_id, status="RUNNING")
    except Exception as error:  # MLflow raises its own errors, SQLAlchemy's, requests' and the operating system's
        raise SnnrunError(
            f"sweep.resume: the sweep's MLflow run {run_id} cannot be opened in {address} ({reason(error)}): give the "
            "outputs= or tracking.uri= that the sweep had, or resume it with tracking=none"
        ) from None


def close_sweep(
    run_id: str,
    status: Status,
    *,
    outputs: Path,
    uri: str | None = None,
    files: Sequence[Path] = (),
    metrics: Mapping[str, float] | None = None,
    killed: Iterable[str] = (),
    superseded: Iterable[str] = (),
    warn: Warn = warn,
) -> None:
    """End the parent run with its table; ``killed`` and ``superseded`` are children.

    A child whose process died is still marked as running: it becomes KILLED. One whose point was run again is tagged.
    If the store fails there is one warning.
    """
    try:
        with quiet():
            client = connect(uri or store_uri(outputs))
            for child in killed:
                client.set_terminated(child, "KILLED")
            for child in superseded:
                client.set_tag(child, OLD_TAG, "true")
            for file in files:
                client.log_artifact(run_id, str(file))
            for key, value in (metrics or {}).items():
                client.log_metric(run_id, key, value)
            client.set_terminated(run_id, status)
    except Exception as error:  # as above
        warn(f"the sweep's MLflow run {run_id} cannot be closed ({reason(error)})")


def delete_sweep(run_id: str, *, outputs: Path, uri: str | None = None, warn: Warn = warn) -> None:
    """Delete the parent run of a sweep that came to no point."""
    try:
        with quiet():
            connect(uri or store_uri(outputs)).delete_run(run_id)
    except Exception as error:  # as above
        warn(f"the MLflow run {run_id} cannot be deleted ({reason(error)})")


def mark_point(
    run_id: str,
    tags: Mapping[str, str],
    *,
    outputs: Path,
    uri: str | None = None,
    file: Path | None = None,
    status: Status | None = None,
    warn: Warn = warn,
) -> None:
    """Mark a closed child with what came of it: tags, a file, another status."""
    try:
        with quiet():
            client = connect(uri or store_uri(outputs))
            for key, value in tags.items():
                client.set_tag(run_id, key, value)
            if file is not None:
                client.log_artifact(run_id, str(file))
            if status is not None:
                client.set_terminated(run_id, status)
    except Exception as error:  # as above
        warn(f"the MLflow run {run_id} cannot be marked ({reason(error)})")


def new_failure(
    tags: Mapping[str, str], *, outputs: Path, uri: str | None, experiment: str, run_name: str, params: dict[str, str]
) -> str:
    """A child for a point that failed before it had one, to be marked by ``mark_point``; returns its id."""
    from mlflow.entities import Param

    client, run = create_run(outputs, uri, experiment, run_name, dict(tags))
    with quiet():
        client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in params.items()])
    return str(run.info.run_id)


def network_mount(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The type of the network file system that a path lies on, or None if it is none or cannot be known."""
    best: tuple[int, str] = (-1, "")
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        _, place, kind, *_ = line.split()
        root = Path(place.replace("\\040", " "))
        if path.resolve().is_relative_to(root) and len(root.parts) >= best[0]:
            best = (len(root.parts), kind)
    kind = best[1]
    return kind if kind in NETWORK_TYPES or kind.startswith("fuse.") else None
