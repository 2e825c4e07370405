"""`state.safetensors` in a run's folder: the state of its training, so that it can go on after any end.

One file holds the whole state and is replaced as a whole. If the process is killed, the old file or the new one is
there. The old one then stays under another name, in case the disk damages the new one; the checksum shows that. Tensors
are safetensors, the rest is JSON in their header. Nothing in the file is ever executed.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from snnrun.errors import SnnrunError
from snnrun.record import atomic, names
from snnrun.train.progress import Snapshot

FORMAT = 1
# The errors that may come from reading a file that is damaged or of another program.
_DAMAGES = (OSError, SafetensorError, KeyError, TypeError, ValueError)


class Kept(NamedTuple):
    """A snapshot and facts about it. If it is not the last one, `fault` says what is wrong with the last; else ''."""

    snapshot: Snapshot
    about: dict[str, Any]
    fault: str = ""


class Keeper:
    """Keeps the snapshots of a training in its run's folder: after each epoch, and every `every_minutes` within one.

    If a snapshot cannot be written, there is one warning, the snapshot before it stays, and the next one is tried.
    `fault` says why the last one could not be written, or is empty.
    """

    def __init__(
        self, folder: Path, every_minutes: float | None, about: Mapping[str, Any], warn: Callable[[str], None]
    ) -> None:
        self.path, self.fault = folder / names.CHECKPOINT, ""
        self._every, self._about, self._warn = every_minutes, dict(about), warn
        self._kept_at = time.monotonic()
        self._best_epoch: int | None = None
        self._sound: bool | None = None  # whether the file can be read; None: not known yet

    def due(self) -> bool:
        """Whether `every_minutes` have passed since the last snapshot. 0 means after each batch, None never."""
        return self._every is not None and time.monotonic() - self._kept_at >= 60.0 * self._every

    def keep(self, snapshot: Snapshot) -> None:
        """Replace the file and the plain weights beside it, which can be read even if the run never ends."""
        self._kept_at = time.monotonic()
        best = snapshot.facts.get("best_epoch")
        try:
            atomic.write(self.path, encode(snapshot, self._about), self._before())
            self._sound = True
            kept = {key.partition("/")[0] for key in snapshot.tensors}
            last = next((prefix for prefix in ("last", "average") if prefix in kept), "network")
            self._weights(names.LAST, f"{last}/", snapshot)
            if best != self._best_epoch:
                self._weights(names.BEST, "best/", snapshot)
                self._best_epoch = best
        except (OSError, SafetensorError) as error:
            if not self.fault:
                self._warn(
                    f"{self.path} cannot be written ({error}); training goes on, and the next checkpoint is tried again"
                )
            self.fault = str(error)
        else:
            self.fault = ""

    def _before(self) -> Path | None:
        """The new name for the present file. None if that file is damaged: the file with this name is better then."""
        if self._sound is None:
            self._sound = False
            with suppress(*_DAMAGES):
                _read(self.path)
                self._sound = True
        return self.path.with_name(names.CHECKPOINT_BEFORE) if self._sound else None

    def _weights(self, name: str, prefix: str, snapshot: Snapshot) -> None:
        weights = {
            key.removeprefix(prefix): value.contiguous()
            for key, value in snapshot.tensors.items()
            if key.startswith(prefix)
        }
        if weights:
            atomic.write(self.path.with_name(name), save(weights))


def encode(snapshot: Snapshot, about: Mapping[str, Any]) -> bytes:
    """The content of the file. `load` returns `about` together with the snapshot."""
    tensors = {key: value.contiguous() for key, value in snapshot.tensors.items()}
    parts = {"format": FORMAT, "checksum": _checksum(tensors), "facts": snapshot.facts, "about": dict(about)}
    content: bytes = save(tensors, metadata={"snnrun": json.dumps(parts)})
    return content


def load(folder: Path) -> Kept | None:
    """The last checkpoint of a run, or the one before if the last is damaged. None if the run has none.

    Raises:
        SnnrunError: all of them are damaged, or of another program or version.
    """
    path, before = folder / names.CHECKPOINT, folder / names.CHECKPOINT_BEFORE
    if not path.exists():
        return None
    try:
        return _read(path)
    except _DAMAGES as error:
        fault = f"{path}: the checkpoint cannot be read ({type(error).__name__}: {error})."
    with suppress(*_DAMAGES):
        return _read(before)._replace(fault=fault)
    raise SnnrunError(f"{fault} Without this file, `snnrun resume` starts the run from its beginning.")


def _read(path: Path) -> Kept:
    with safe_open(path, framework="pt") as file:
        parts = json.loads((file.metadata() or {})["snnrun"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dictionary
    if parts["format"] != FORMAT:
        raise ValueError(f"its format is {parts['format']}, and this version reads {FORMAT}")
    if "checksum" in parts and parts["checksum"] != _checksum(tensors):  # the first versions wrote none
        raise ValueError("its content is not what was written")
    return Kept(Snapshot(tensors, dict(parts["facts"])), dict(parts["about"]))


def _checksum(tensors: Mapping[str, Any]) -> int:
    """CRC-32 of all tensors."""
    crc = 0
    for key in sorted(tensors):
        crc = zlib.crc32(tensors[key].numpy().tobytes(), crc)
    return crc
