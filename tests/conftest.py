"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from snnrun import kernels


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
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(False)
    kernels.use("reference")
