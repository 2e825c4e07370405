"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from snnrun import kernels, parallel

# The same examples in every run; --hypothesis-profile=explore draws others. No deadline: a first call may compile.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


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
