"""`snnrun resume`: a run that stopped goes on from its last checkpoint, bit for bit, in its folder and MLflow run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snnrun import tracking
from snnrun.config.overrides import overridden
from snnrun.errors import UsageError, warn
from snnrun.record import journal, run_folder
from snnrun.run import checkpoint
from snnrun.train import patience

# Another machine or store may need these changed. The numbers do not depend on them, except on device and kernels.
MAY_CHANGE = (
    *("hardware.", "tracking.", "checkpoint.", "data.root", "data.download", "outputs"),
    *("train.epochs", "train.patience"),
)
GROUPS = ("hardware", "tracking", "checkpoint", "data", "train", "encoder", "model")
NUMBERS = ("hardware.device", "hardware.kernels", "hardware.processes")


def prepare(found: run_folder.RunFolder, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config to go on with. This writes nothing.

    Raises:
        UsageError: the run is finished, or a setting has changed that must not change.
        SnnrunError: its config or its checkpoint is damaged.
    """
    own = found.values()
    moved = found.outputs
    if moved is not None and moved != Path(own["outputs"]).resolve():  # moved, or the command runs in another folder
        own["outputs"] = str(moved)
    values = overridden(own, overrides, GROUPS)
    kept = checkpoint.load(found.path)
    before = kept.about.get("values", own) if kept else own
    history = kept.snapshot.facts["history"] if kept else []
    check(before, values, history)
    wanted, bound = values["train"]["epochs"], values["train"].get("patience")
    done = patience.over(history, wanted, bound)
    if done and any(journal.closed(entry) and entry["step"] >= len(history) for entry in journal.read(found.path)):
        raise UsageError(
            f"{found.path}: this run is finished, after {len(history)} epochs. {_longer(len(history) < wanted)}"
        )
    warn_of(kept)
    return values


def _longer(early: bool) -> str:
    if early:
        return "Validation had not risen for long. To train it longer, give a larger train.patience, or null."
    return (
        "To train it longer, give train.epochs=N (if train.schedule is neither cosine nor onecycle, and train.average "
        "not swa), or train a new run."
    )


def _check_patience(before: Mapping[str, Any], wanted: int | None, history: Sequence[Mapping[str, float]]) -> None:
    """Raise UsageError if an unfinished run would have ended earlier than it did: it may lack its last evaluation."""
    if not patience.stalled(history, wanted) or patience.over(history, before["epochs"], before.get("patience")):
        return
    since = next(n for n in range(len(history), 0, -1) if patience.stalled(history, n))
    raise UsageError(f"train.patience: {wanted}: validation has not risen for {since} epochs already. Give more.")


def warn_of(kept: checkpoint.Kept | None) -> None:
    """Warn if the checkpoint is not the last one, or if another version of snnrun wrote it."""
    if kept and kept.fault:
        warn(f"{kept.fault} The run goes on from the checkpoint before it.")
    if kept and kept.about.get("version") not in (None, tracking.version()):
        warn(
            f"this run was begun by snnrun {kept.about['version']}, and this is {tracking.version()}: its numbers may "
            "differ from those of a run without a stop."
        )


def check(before: Mapping[str, Any], now: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> None:
    """Raise UsageError for a change that would make it another run. `history` has the finished epochs."""
    old, new = tracking.flatten(before), tracking.flatten(now)
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    refused = [key for key in differing if not key.startswith(MAY_CHANGE)]
    if refused:
        changes = ", ".join(f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in refused)
        raise UsageError(
            f"a run goes on with its own config, and this differs: {changes}. Train a new run, or leave it as it was."
        )
    if "train.epochs" in differing:
        wanted = int(new["train.epochs"])
        schedule = now["train"]["schedule"]
        follows = {"cosine": "takes the learning rate to 0 over", "onecycle": "stretches the learning rate over"}
        what = f"train.schedule={schedule} {follows[schedule]}" if schedule in follows else ""
        if now["train"].get("average") == "swa":
            what = "train.average=swa begins at a share of"
        if what:
            raise UsageError(
                f"train.epochs: {old['train.epochs']} -> {wanted}: {what} the epochs, so with another number of them "
                "it would have been another run."
            )
        if wanted <= len(history):  # the last of them has not been evaluated as the last, and may have been left behind
            raise UsageError(
                f"train.epochs: {wanted}: {len(history)} epochs are trained already. Give more of them, or leave it as "
                "it was."
            )
    if "train.patience" in differing:
        _check_patience(before["train"], now["train"]["patience"], history)
    for key in NUMBERS:
        if key in differing:
            warn(
                f"{key}: {old[key]} -> {new[key]}: from here on the numbers equal those of a run without a stop to "
                "rounding, not to the bit."
            )
