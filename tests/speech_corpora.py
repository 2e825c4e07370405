"""Corpora of speech as their readers load or refuse them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snnrun import data
from snnrun.errors import SnnrunError


def load(name: str, root: Path, **options: Any) -> data.Dataset:
    """The corpus at `root`, all of its training samples."""
    return data.load(name, root=root, download=False, **{"validation": 0, **options})


def failure(name: str, root: Path, kind: type[SnnrunError] = SnnrunError, **options: Any) -> str:
    """The message of the error, of just this kind, with which the corpus is refused."""
    with pytest.raises(kind) as error:
        load(name, root, **options)
    assert type(error.value) is kind or kind is SnnrunError
    return str(error.value)
