"""What a tuning has measured, and the facts that its file keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snnrun.metric_names import BEST_VALIDATION
from snnrun.record import journal, provenance
from snnrun.runs.significance import mean_std
from snnrun.sweep import points
from snnrun.sweep.points import Point
from snnrun.tune import plan
from snnrun.tune.plan import Plan


@dataclass(frozen=True)
class Measured:
    """Mean and standard deviation (None of one value alone) of the best validation accuracy over seeds."""

    mean: float
    deviation: float | None
    seeds: int

    def __str__(self) -> str:
        """In percent."""
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.2f}"
        return f"validation {100 * self.mean:.2f}{spread} % ({self.seeds} seed{'s' if self.seeds > 1 else ''})"


def measure(runs: Sequence[Point], seeds: int) -> Measured | None:
    """The measure of runs that differ in their seed; None if one of them is missing or has failed."""
    values = [
        point.summary[BEST_VALIDATION]
        for point in runs
        if point.status == "FINISHED" and BEST_VALIDATION in point.summary
    ]
    return Measured(*mean_std(values), len(values)) if len(values) >= seeds else None


def facts(made: Plan, study: Path, new: Measured, old: Measured | None, run: Path, date: str) -> dict[str, Any]:
    """The section `tuning` of the file, without the settings; `run` is the folder of a run with the new ones."""
    request = made.request
    version, _, commit = provenance.version().partition(" (")
    return {
        "pair": made.pair,
        "encoder": made.values["encoder"]["name"],
        "origin": journal.read_tags(run).get("data.origin"),
        "accuracy": round(new.mean, 5),
        "deviation": None if new.deviation is None else round(new.deviation, 5),
        "seeds": new.seeds,
        "before": None if old is None else round(old.mean, 5),
        "trials": len(plan.tried(study)),
        "minutes": round(points.minutes(study), 1),
        "finalists": request.finalists,
        "epochs": request.epochs,
        "samples": request.samples,
        "seed": request.seed,
        "version": re.sub(r"[^\w.+-]", "", version),
        "commit": commit.rstrip(")") or None,
        "date": date,
        "study": study.name,
    }
