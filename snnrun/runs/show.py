"""`snnrun runs show`: one run on a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from snnrun import tracking
from snnrun.display.accuracies import final_accuracies
from snnrun.metric_names import BEST_EPOCH, CURVES, FINAL_ACCURACIES
from snnrun.record import run_lock
from snnrun.runs.collect import Run
from snnrun.runs.tables import epochs_of, number, when

BARS = "▁▂▃▄▅▆▇█"
SPARKS = 40  # characters of a curve


def spark(values: Sequence[float]) -> str:
    """A curve as one line of bars from its least to its largest value, at most `SPARKS` of them."""
    if len(values) > SPARKS:
        values = [values[round(place * (len(values) - 1) / (SPARKS - 1))] for place in range(SPARKS)]
    low, high = min(values), max(values)
    if high == low:
        return BARS[3] * len(values)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in values)


def show(run: Run, epochs: Sequence[dict[str, float]], link: str | None, out: Console) -> None:
    """All that is known of one run."""
    rows = [("status", _said_status(run)), ("started", when(run.started)), ("data", _said_data(run))]
    rows += [(section, text) for section, text in _config(run)]
    if run.changed:
        told = [f"{key} {before} -> {now}" for key, (before, now) in run.changed.items()]
        rows.append(("changed", f"{', '.join(told)}: it was resumed with these, which count"))
    rows += _figures(run)
    rows += [(f"curve {key}", text) for key, text in _curves(epochs, out)]
    rows.append(("command", run.tags.get("snnrun.command", "not known: no record but the folder")))
    rows.append(("commit", _commit(run)))
    if "device" in run.tags:
        rows.append(("device", f"{run.tags['device']}, {run.tags.get('kernels', '?')} kernels"))
    if run.folder is not None:
        rows += [("folder", str(run.folder)), ("files", ", ".join(_files(run.folder)))]
    else:
        where = run.tags.get(tracking.RUN_DIR_TAG, "?")
        rows.append(("folder", where if Path(where).is_dir() else f"{where} (not on this machine now)"))
    rows.append(("MLflow", _mlflow(run, link)))
    out.print(Text(f"{run.name}" + (f"  ({run.short})" if run.run_id else ""), style="bold cyan"), soft_wrap=True)
    width = max(len(name) for name, _ in rows) + 4
    for name, value in rows:
        line = Text.assemble((f"  {name:<{width - 2}}", "dim"), value)
        if out.is_terminal and name not in ("folder", "command", "MLflow"):  # these are copied by hand: unbroken
            for place, part in enumerate(Text(value).wrap(out, max(out.width - width, 20))):
                out.print(Text.assemble((f"  {name if not place else '':<{width - 2}}", "dim"), part), no_wrap=True)
        else:
            out.print(line, soft_wrap=True)


def _mlflow(run: Run, link: str | None) -> str:
    if run.run_id is None:
        return "no run there"
    served = tracking.is_server(run.uri)
    where = "" if link is None else f"  {link}" if served else f"  {link} (while snnrun ui is open)"
    return run.run_id + where


def _said_status(run: Run) -> str:
    words = [run.status, f"epochs {epochs_of(run)}"]
    if run.ended is not None:
        words.append(f"{run.ended - run.started:,.0f} s")
    return ", ".join([*words, *_known_of_its_process(run)])


def _known_of_its_process(run: Run) -> list[str]:
    """Who works or worked on a run that has no end."""
    if run.folder is None:
        return ["says its store; whether it was killed, only the machine with its folder can tell"] * (
            run.status == "running"
        )
    holder = run_lock.holder_of(run.folder) or "its process"
    go_on = f"snnrun resume {shlex.quote(str(run.folder))} goes on"
    said = {
        "running": holder,
        "killed": f"{holder} left without a word; {go_on}",
        "unfinished": f"whether {holder} works on it still cannot be seen from here; if not, {go_on}",
    }
    return [said[run.status]] if run.status in said else []


def _said_data(run: Run) -> str:
    sizes = [
        f"{int(run.tags[f'data.{part}_samples']):,} {part}"
        for part in ("train", "validation", "test")
        if run.tags.get(f"data.{part}_samples", "").isdigit()
    ]
    digest = run.tags.get("data.digest", "")
    words = [run.data, f"origin {run.origin}", *sizes, *([f"digest {digest[:12]}"] if digest else [])]
    notes = run.tags.get("data.notes", "none")
    return ", ".join(words) + ("" if notes == "none" else f"; {notes}")


def _config(run: Run) -> list[tuple[str, str]]:
    """The parameters, a line a section."""
    sections: dict[str, list[str]] = {}
    for key, value in run.params.items():
        section, dot, leaf = key.partition(".")
        sections.setdefault(section if dot else "config", []).append(f"{leaf or key}={value}")
    return [(f"[{section}]", "  ".join(entries)) for section, entries in sections.items()]


def _figures(run: Run) -> list[tuple[str, str]]:
    rows = list(final_accuracies(run.metrics).items())
    known = {*FINAL_ACCURACIES, *CURVES, BEST_EPOCH, "epoch"}
    rest = [f"{key} {value:.4g}" for key, value in sorted(run.metrics.items()) if key not in known]
    return rows + ([("last values", "  ".join(rest))] if rest else [])


def _curves(epochs: Sequence[dict[str, float]], out: Console) -> list[tuple[str, str]]:
    rows = []
    for key in CURVES:
        values = [entry[key] for entry in epochs if key in entry]
        if values:
            bars = f"{spark(values)}  " if out.encoding.lower().startswith("utf") else ""
            rows.append((key, f"{bars}{number(key, values[0])} to {number(key, values[-1])}"))
    return rows


def _commit(run: Run) -> str:
    """That of the folder in which the run was started, and snnrun's own, if it is another."""
    commits = [_named(run, ""), _named(run, "snnrun.")]
    if commits[1] is None:
        return {None: "not known", "none": "none: started in no repository"}.get(commits[0], str(commits[0]))
    return f"{commits[1]} of snnrun; {'none' if commits[0] is None else commits[0]} of the folder it was started in"


def _named(run: Run, whose: str) -> str | None:
    commit = run.tags.get(f"{whose}git.commit")
    dirty = commit is not None and run.tags.get(f"{whose}git.dirty") == "true"
    return f"{commit} with changes that are in no commit (dirty)" if dirty else commit


def _files(folder: Path) -> list[str]:
    return [f"{path.name} ({_size(path)})" for path in sorted(folder.iterdir()) if path.is_file()]


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB" if size >= 1e3 else f"{size} B"
