"""Where a store is: its address, and the file that it is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeGuard

SQLITE = "sqlite:///"


def usual_uri() -> str | None:
    """The store that MLFLOW_TRACKING_URI names, which `tracking.uri` is by default; None without it."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def store_file(outputs: Path) -> Path:
    """The sqlite store under ``outputs``."""
    return outputs / "mlflow.db"


def store_uri(outputs: Path) -> str:
    """The address of the sqlite store under ``outputs``."""
    return f"{SQLITE}{store_file(outputs.resolve())}"


def file_of(uri: str) -> Path | None:
    """The file of a sqlite store; None for a store of another kind."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def is_server(uri: str | None) -> TypeGuard[str]:
    """Whether an address is that of a server."""
    return uri is not None and uri.startswith(("http://", "https://"))


def place_of(uri: str | None, outputs: Path) -> str:
    """How a store is named to the user: without a password that its address may hold."""
    return re.sub(r"//[^/@]*@", "//", uri) if uri else str(store_file(outputs))
