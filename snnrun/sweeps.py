"""A sweep in MLflow: one parent run, its trainings as children, and a table of them at the end."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snnrun.tracking import Status, Warn, connect, create_run, quiet, reason, store_uri, to_stderr


def start_sweep(
    *,
    outputs: Path,
    uri: str | None = None,
    experiment: str = "snnrun",
    run_name: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Create store, experiment and the parent run of a sweep; its id is the children's ``parent_run_id``.

    To be called before any worker starts: processes that create the same sqlite store at once destroy one another's
    tables. Raises SnnrunError when the store cannot be used.
    """
    _, run = create_run(outputs, uri, experiment, run_name, {"snnrun.sweep": "true"} | dict(tags or {}))
    return str(run.info.run_id)


def finish_sweep(
    run_id: str, status: Status, *, outputs: Path, uri: str | None = None, warn: Warn = to_stderr
) -> list[dict[str, str]]:
    """Close the parent run, attach ``sweep.csv`` to it, and return that table's rows in the order of their start.

    A row is a child: its run name, status, the parameters in which the children differ, and its last metrics of loss
    and accuracy. A store that fails costs one warning and gives no rows.
    """
    try:
        with quiet():
            client = connect(uri or store_uri(outputs))
            rows = _rows(_children(client, run_id))
            if rows:
                _attach(client, run_id, rows)
            client.set_terminated(run_id, status)
    except Exception as error:  # MLflow raises its own errors, SQLAlchemy's, requests' and the operating system's
        warn(f"the sweep's MLflow run {run_id} cannot be closed ({reason(error)})")
        return []
    return rows


def _children(client: Any, run_id: str) -> Sequence[Any]:
    children: Sequence[Any] = client.search_runs(
        [client.get_run(run_id).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{run_id}'",
        max_results=50_000,
        order_by=["attributes.start_time ASC"],
    )
    return children


def _rows(children: Sequence[Any]) -> list[dict[str, str]]:
    params = [child.data.params for child in children]
    differing = [key for key in sorted(set().union(*params)) if len({values.get(key) for values in params}) > 1]
    metrics = sorted(
        key
        for key in set().union(*(child.data.metrics for child in children))
        if key.startswith(("train/", "validation/", "test/")) or key == "best_epoch"
    )
    return [
        {"run": child.info.run_name or child.info.run_id, "status": child.info.status}
        | {key: child.data.params.get(key, "") for key in differing}
        | {key: f"{child.data.metrics[key]:.6g}" if key in child.data.metrics else "" for key in metrics}
        for child in children
    ]


def _attach(client: Any, run_id: str, rows: Sequence[Mapping[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "sweep.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        client.log_artifact(run_id, str(table))
