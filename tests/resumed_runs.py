"""Runs that are stopped and resumed, for the tests of `snnrun resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from made_runs import values

from snnrun import cli
from snnrun.record import journal, run_folder
from snnrun.run import experiment


def only_run(outputs: Path) -> run_folder.RunFolder:
    """The one run below a folder of outputs."""
    (found,) = run_folder.folders(outputs)
    return found


def is_time(key: str) -> bool:
    """Whether a metric depends on how fast the machine is."""
    return key.startswith("time/") or key == "samples_per_s"


def without_times(run_dir: Path) -> list[dict[str, Any]]:
    """The journal of a run without what depends on the machine: two equal trainings have equal ones."""
    return [
        {key: value for key, value in entry.items() if not is_time(key) and key != "time"}
        for entry in journal.read(run_dir)
    ]


def stopped(outputs: Path, after: int = 1, /, **sections: dict[str, Any]) -> Path:
    """The folder of a run that a kill has ended after so many epochs of two: nothing is closed, nothing is written."""

    class Killed(BaseException):
        pass

    def kill(metrics: Any) -> None:
        if metrics["epoch"] > after:
            raise Killed

    folder = outputs / "runs" / "r"
    folder.mkdir(parents=True)
    plain = values(outputs, "stbp", 0, **sections)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    with pytest.raises(Killed):
        experiment.run(plain, folder, command=["snnrun", "train"], on_epoch=kill)
    return folder


def resume(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code of `snnrun resume`, what it printed, and its errors as one line."""
    code = cli.main(["resume", *arguments])
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())
