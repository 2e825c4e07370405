"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from snnrun import kernels, tracking
from snnrun.compiled import parallel
from snnrun.display import plots
from snnrun.tracking import store

# What a developer has set for runs of their own is not for those of the tests, nor of the processes that they start.
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "OMP_NUM_THREADS"):
    os.environ.pop(name, None)

# The same examples in every run; --hypothesis-profile=explore draws others. No deadline: a first call may compile.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


# A shell ignores Ctrl-C for what it runs in the background, and every process that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def launches_are_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that starts Python carries the marker `launches`, so that `scripts/test --quick` stays quick."""
    if request.node.get_closest_marker("launches") or request.node.get_closest_marker("long"):
        return
    python, start = sys.executable, subprocess.Popen.__init__

    def watched(self: Any, command: Any, *rest: Any, **more: Any) -> None:
        first = command if isinstance(command, str) else str(command[0])
        assert first != python, "a test that starts Python is marked launches"
        start(self, command, *rest, **more)

    monkeypatch.setattr(subprocess.Popen, "__init__", watched)


@pytest.fixture(autouse=True)
def figures_are_empty_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the tiny trainings do. A test that looks at figures is marked `figures`."""
    if not request.node.get_closest_marker("figures"):
        monkeypatch.setattr(plots, "save", lambda _figure, path: path.write_bytes(b""))


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """An MLflow store of sqlite without runs, made once a session: its tables take longer than many a test."""

    @cache
    def made() -> Path:
        file = tmp_path_factory.mktemp("store") / "mlflow.db"
        tracking.connect(f"sqlite:///{file}").search_experiments()
        return file

    return made


@pytest.fixture(autouse=True)
def stores_are_copies(made_store: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is not there begins as a copy of the session's."""
    probe = store._probe_sqlite

    def copied(address: str) -> None:
        file = Path(address.removeprefix("sqlite:///"))
        if address.startswith("sqlite:///") and file.name == "mlflow.db" and not file.exists() and file.parent.is_dir():
            with contextlib.suppress(OSError):  # a folder that is read-only or full is told as it is
                shutil.copy(made_store(), file)
        probe(address)

    monkeypatch.setattr(store, "_probe_sqlite", copied)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real corpora: SNNRUN_SHARED, else `shared` beside the repository."""
    folder = Path(os.environ.get("SNNRUN_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no real corpora: {folder / 'data'} is not there (set SNNRUN_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def fresh_torch() -> None:
    """The reference kernels on one thread: small tensors are faster so, and no test inherits another's choice."""
    torch.set_num_threads(1)
    parallel.set_threads(1)
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(False)
    kernels.use("reference")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny run on the digits by a rule, trained once a session; not to be written to."""
    import trained_runs

    return cache(lambda rule: trained_runs.train(rule, tmp_path_factory.mktemp(f"run_{rule}")))
