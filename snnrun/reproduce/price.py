"""What training a row costs on this machine: measured once in a short bench, and kept below the outputs."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnrun import tracking
from snnrun.paper.published import Published
from snnrun.record import atomic, provenance
from snnrun.reproduce.plan import Entry, settings
from snnrun.runs import records

if TYPE_CHECKING:
    from snnrun.bench.short import Short

FILE = "speed.json"  # below the outputs


class Prices:
    """The measurements of this machine below `outputs`."""

    def __init__(self, outputs: Path) -> None:
        self.file = outputs / FILE
        self._busy: dict[str, Short] = {}  # of this command alone
        self._kept: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):  # none yet, or a file cut short: they are measured again
            found = json.loads(self.file.read_text(encoding="utf-8"))
            self._kept = found if isinstance(found, dict) else {}

    def kept(self, entry: Entry) -> Short | None:
        """What was measured for a row before."""
        from snnrun.bench.short import Short

        if _key(entry) in self._busy:
            return self._busy[_key(entry)]
        with contextlib.suppress(KeyError, TypeError):
            return Short(**self._kept[_key(entry)]["measured"])
        return None

    def knows(self, row: Published) -> bool:
        """Whether a row was ever measured here, with whatever settings."""
        return any(isinstance(kept, dict) and kept.get("row") == _name(row) for kept in self._kept.values())

    def measured(self, entry: Entry, note: Callable[[str], None]) -> Short:
        """What is kept, or a measurement of a few seconds, which is then kept. `note` is told of it.

        Raises as `bench.short.run` does.
        """
        from snnrun.bench import short

        known = self.kept(entry)
        if known is not None:
            return known
        note(f"measuring {entry.row.title}, {entry.row.network} ...")
        found = short.run(entry.values)
        if found.busy:
            note(f"The machine is busy: {found.waited:.1f} times the processor's time passed. This is not kept.")
            self._busy[_key(entry)] = found
            return found
        self._kept[_key(entry)] = {"row": _name(entry.row), "measured": asdict(found)}
        with contextlib.suppress(OSError):  # it is measured again next time
            self.file.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_json(self.file, self._kept)
        return found


def parameters(entry: Entry, prices: Prices) -> int | None:
    """Trained weights and biases of a row's network as it is built here; None where no run or corpus tells its size."""
    known = prices.kept(entry)
    if known is not None:
        return known.parameters
    return next(filter(None, map(records.parameters, entry.runs.values())), None)


def _name(row: Published) -> str:
    return " ".join([str(row.experiment), *row.settings])


def _key(entry: Entry) -> str:
    """Of what decides how long a sample takes: the settings, the hardware, the machine."""
    chosen = settings(tracking.flatten(entry.values))
    chosen.pop("train.epochs", None)
    about = {
        "settings": chosen,
        "hardware": entry.values["hardware"],
        "origin": entry.origin,
        "cpu": provenance.processor(),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]


def spelt(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2 d 4 h`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"
