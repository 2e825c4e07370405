"""The processes that an outer launcher (torchrun, srun) has started for one command: which they are, how they meet.

RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment describe them. These may be left over from another
command. So a message says what the process waits for, the wait has a limit, and a signal ends it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import timedelta
from typing import NamedTuple

from torch.distributed import Store, rendezvous  # type: ignore[attr-defined]

from snnrun.errors import SnnrunError, UsageError, first_line

# The longest wait for all processes, in minutes, see `hardware.wait_minutes`.
WAIT_MINUTES = 5.0
# After so many seconds a message says what is waited for. Processes of one launcher usually come sooner.
NOTICE_S = 3.0
# A process that has come may work for a long time, for example while it downloads a corpus.
PATIENCE = timedelta(days=1)
POLL_S = 0.05
LEADER = "SNNRUN_LEADER"  # the id of the process of rank 0; processes that a sweep's launcher starts inherit it
NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Place(NamedTuple):
    """The place of a process, see `distributed.Group`."""

    rank: int
    size: int
    place: int
    here: int


def outer() -> Place | None:
    """The place of this process among those of an outer launcher. None without a launcher, or if it is alone.

    Raises UsageError if the environment is incomplete or wrong.
    """
    if "RANK" not in os.environ:
        return None
    missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(
            f"RANK is set in the environment, but not {', '.join(missing)}. A launcher such as torchrun sets all of "
            "them; without one, unset RANK and set hardware.processes."
        )
    read = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    for name, text in read.items():
        if text and not text.isdecimal():
            raise UsageError(f"{name}={text} in the environment: a whole number is needed.")
    rank, size = int(read["RANK"]), int(read["WORLD_SIZE"])
    if not rank < size:
        raise UsageError(f"RANK={rank} in the environment: with WORLD_SIZE={size}, 0 to {size - 1} are allowed.")
    return Place(rank, size, int(read["LOCAL_RANK"] or rank), int(read["LOCAL_WORLD_SIZE"] or 1)) if size > 1 else None


def check(found: Place, processes: int) -> None:
    """Raise UsageError if `hardware.processes` or the launcher of a sweep does not fit the outer launcher."""
    if processes not in (1, found.size):
        raise UsageError(
            f"hardware.processes: {processes}, but this command was started as one of {found.size} processes "
            "(WORLD_SIZE). Leave hardware.processes at 1, or start it without a launcher."
        )
    if os.environ.get(LEADER, str(os.getpid())) != str(os.getpid()):
        raise UsageError(
            "hydra/launcher: only basic goes with the launcher that has started this command (WORLD_SIZE is "
            f"{found.size}): its processes train one run after the other."
        )


class _Meeting:
    """The processes of an outer launcher meet. A thread waits, since PyTorch reacts to no signal while it waits."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._error: Exception | None = None
        self._begun, self._told = time.monotonic(), False
        self._thread = threading.Thread(target=self._meet, daemon=True)
        self._thread.start()

    def _meet(self) -> None:
        try:
            self._store = next(iter(rendezvous("env://", timeout=PATIENCE)))[0]
        except Exception as error:  # each kind of wrong address raises its own class
            self._error = error

    def store(self, minutes: float) -> Store:
        """The store that the processes share, once all are there. After `NOTICE_S` a message says what is waited for.

        Raises SnnrunError if they do not come within so many minutes, or cannot meet.
        """
        read = " ".join(f"{name}={os.environ[name]}" for name in NAMES)
        remedy = f"Without a launcher such as torchrun, unset {' '.join(NAMES)}."
        while self._thread.is_alive():
            self._thread.join(POLL_S)
            waited = time.monotonic() - self._begun
            if waited > NOTICE_S and not self._told:
                self._told = True
                print(
                    f"snnrun: waiting for the other processes of {read}, for {minutes:g} minutes at most "
                    f"(hardware.wait_minutes). {remedy}",
                    file=sys.stderr,
                    flush=True,
                )
            if waited > 60 * minutes:
                raise SnnrunError(f"waited {minutes:g} minutes for the other processes of {read}. {remedy}")
        if self._store is None:
            assert self._error is not None
            raise SnnrunError(f"the processes of {read} cannot meet ({first_line(self._error, '')}). {remedy}")
        return self._store


_meeting: _Meeting | None = None
_store: Store | None = None


def expect() -> None:
    """Begin to wait for the others in a thread, so that they find this process while it does something else."""
    global _meeting
    if outer() is not None:
        _meeting = _meeting or _Meeting()


def meet(minutes: float = WAIT_MINUTES) -> Store | None:
    """Wait until all processes of an outer launcher are there. Returns the store they share; None without a launcher.

    Raises:
        SnnrunError: they do not come within so many minutes, or cannot meet.
    """
    global _store, _meeting
    if outer() is None:
        return None
    if _store is None:
        _meeting = _meeting or _Meeting()
        _store = _meeting.store(minutes)
    return _store
