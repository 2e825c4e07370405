"""`snnrun runs import`: what a run's folder has and MLflow lacks, after a server was away or with `tracking=none`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from snnrun import tracking
from snnrun.errors import SnnrunError
from snnrun.record import journal, names, run_folder, run_lock
from snnrun.runs import collect

STATUS: dict[str, tracking.Status] = {"finished": "FINISHED", "failed": "FAILED"}  # any other: KILLED
# Where the record keeps the files of a run's folder, by their endings.
PLACES = {".safetensors": "weights", ".png": "figures", ".yaml": "config"}
# Of use to `snnrun resume` alone.
LEFT_OUT = (names.CHECKPOINT, names.CHECKPOINT_BEFORE)


def import_runs(wanted: Sequence[str], outputs: Path, uri: str | None) -> None:
    """Send each run to the store below `outputs` or at `uri`: to its own MLflow run there, or to a new one.

    Raises:
        UsageError: there is no such run, or another process works on it.
        SnnrunError: a run's folder is damaged, or the store cannot be used.
    """
    for found in [run_folder.find(name, outputs) for name in wanted]:
        with run_lock.alone(found.path):
            print(f"{found.path}: MLflow run {import_run(found, outputs, uri)}")


def import_run(found: run_folder.RunFolder, outputs: Path, uri: str | None) -> str:
    """Send one run; returns its MLflow id."""
    values, problems = found.values(), list[str]()
    tracker = tracking.open_tracker(
        "mlflow",
        run_dir=found.path,
        outputs=outputs if uri else found.outputs or outputs,
        uri=uri or values["tracking"]["uri"],
        experiment=values["tracking"]["experiment"],
        run_name=values["tracking"]["run_name"] or found.path.name,
        resumed=True,
        anew=True,
        warn=problems.append,
    )
    tracker.params(values)
    tracker.tags(journal.read_tags(found.path))
    tracker.catch_up()
    for path in sorted(found.path.iterdir()):
        if path.is_file() and path.name not in LEFT_OUT and not path.name.startswith("."):
            tracker.artifact(path, PLACES.get(path.suffix, ""))
    tracker.finish(STATUS.get(collect.status_of(found), "KILLED"), journal.ended(found.path))
    if problems:
        raise SnnrunError(f"{found.path}: {problems[0]}")
    assert tracker.run_id is not None
    return tracker.run_id
