"""The table of a sweep: a row for each point, with the parameters that differ and the results."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snnrun.sweep import plot
from snnrun.sweep.points import Point, key_of

Row = dict[str, str]
APART = {"hardware.threads", "tuned.about", "tuned.rate"}  # these follow from others, or change no number
FIGURE, TABLE, TEXT = "parallel.png", "sweep.csv", "sweep.md"


def rows(points: Sequence[Point], configs: Mapping[int, Mapping[str, str]]) -> list[Row]:
    """Point, status, objective, each parameter in which the points differ, and their last accuracies.

    `configs` has the flat config of each point that has begun, by number. The other points have empty cells.
    """
    keys = sorted(set().union(*configs.values()) - APART) if configs else []
    differing = [key for key in keys if len({config.get(key) for config in configs.values()}) > 1]
    metrics = sorted(set().union(*(point.summary for point in points)) if points else ())
    labelled = any(point.label for point in points)
    return [
        {"point": str(point.number), "status": point.status}
        | ({"label": point.label} if labelled else {})
        | {key: configs.get(point.number, {}).get(key, "") for key in differing}
        | {"objective": _number(point.objective), "seconds": f"{point.seconds:.0f}"}
        | {key: _number(point.summary.get(key)) for key in metrics}
        | {"error": point.error, "mlflow_run": point.run_id or ""}
        for point in points
    ]


def swept(points: Sequence[Point], table: Sequence[Row]) -> list[str]:
    """The columns that the sweep itself set, in its order. Others follow from them (`data.name` from `data`)."""
    columns = table[0] if table else {}
    keys = [key_of(text) for point in points for text in point.overrides]
    named = [key if key in columns else f"{key}.{leaf}" for key in dict.fromkeys(keys) for leaf in ("name", "method")]
    return [key for key in dict.fromkeys(["label", *named]) if key in columns]


def write(table: Sequence[Row], keys: Sequence[str], folder: Path) -> list[Path]:
    """Write the table as CSV and Markdown, and the figure of parallel coordinates. Returns the files."""
    files = [folder / TABLE, folder / TEXT]
    with files[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    files[1].write_text(_markdown(table, keys), encoding="utf-8")
    done = [row for row in table if row["objective"]]
    if keys and len(done) > 1:
        columns: dict[str, list[Any]] = {key: [_value(row[key]) for row in done] for key in keys}
        plot.plot_parallel(columns, [100 * float(row["objective"]) for row in done], folder / FIGURE)
        files.append(folder / FIGURE)
    return files


def _markdown(table: Sequence[Row], keys: Sequence[str]) -> str:
    shown = ["point", "status", *keys, "objective", *(key for key in table[0] if key.startswith("test/")), "error"]
    best_first = sorted(table, key=lambda row: -float(row["objective"] or "-inf"))
    lines = [shown, ["---"] * len(shown), *([row[key].replace("|", "\\|") for key in shown] for row in best_first)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _value(text: str) -> float | str:
    try:
        return float(text.strip("[]"))  # one threshold for all layers
    except ValueError:
        return text
