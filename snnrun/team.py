"""`share`: the threads of compiled loops. They are Python threads; the loops hold no interpreter lock.

A training step calls a dozen loops with little between them, and to wake a sleeping thread takes as long as the shorter
of them. So the helpers watch for the next loop a while before they sleep, and take its items in compiled code (see
`turns`): the interpreter lock, which one thread would hand to another by waking it, is not asked for.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable

import numpy as np

from snnrun import parallel
from snnrun.turns import BOARD, COUNT, NEXT, NONE, TICKET, Turn, alone, finish, is_open, watch

# Looks of a helper before it sleeps, half a microsecond each: as long as a step's longest pause between two loops.
PATIENCE = 5000

_team: _Team | None = None
_sharing = threading.Lock()


def share(count: int, task: Callable[[Turn], None]) -> None:
    """Run `task` on several threads at once, each with the turn by which its compiled loop takes items of 0 ... count.

    It may run on one thread alone, where there is no more to share or another call has the helpers. Once it raises, or
    the caller is interrupted, no further item is taken; the first error is raised when those taken are done.
    """
    if (parallel.threads() == 1 and _team is None) or count < 2 or not _sharing.acquire(blocking=False):
        task(alone(count))
        return
    try:
        team = _team_of(parallel.threads() - 1)
        if team is None:
            task(alone(count))
        else:
            team.run(count, task)
    finally:
        _sharing.release()


def _team_of(helpers: int) -> _Team | None:
    """The team of so many; one of another size ends."""
    global _team
    if _team is not None and len(_team.members) != helpers:
        _team.dissolve()
        _team = None
    if _team is None and helpers:
        _team = _Team(helpers)
    return _team


class _Team:
    """Threads that help with compiled loops, one loop after another."""

    def __init__(self, helpers: int) -> None:
        self._board = np.zeros(BOARD, np.int64)
        self._ticket = 0
        self._job: tuple[Callable[[Turn], None], Turn] | None = None
        self._errors: list[BaseException] = []
        self._over = False
        self._asleep = [False] * helpers
        self._bells = [threading.Event() for _ in range(helpers)]
        self.members = [
            threading.Thread(target=self._help, args=(number,), name=f"snnrun-{number}", daemon=True)
            for number in range(helpers)
        ]
        for member in self.members:
            member.start()

    def run(self, count: int, task: Callable[[Turn], None]) -> None:
        turn = self._publish(count, task)  # nobody begins before this thread does
        begun = False
        while True:
            try:
                if not begun:
                    begun = True
                    task(turn)
                finish(turn)
                break
            except BaseException as error:  # the others still write into what the caller would drop
                self._errors.append(error)
        self._job = None
        if self._errors:
            errors, self._errors = self._errors, []
            raise next((error for error in errors if not isinstance(error, Exception)), errors[0])

    def dissolve(self) -> None:
        """Let the threads end, and wait until they have."""
        self._over = True
        self._publish(2, None)
        self._board[NEXT] += 1  # as if somebody had begun
        for member in self.members:
            member.join()

    def _publish(self, count: int, task: Callable[[Turn], None] | None) -> Turn:
        self._ticket += 1
        turn = Turn(self._board, count, self._ticket)
        self._job = None if task is None else (task, turn)
        self._board[COUNT] = count
        self._board[NEXT] = self._ticket << TICKET
        for number, asleep in enumerate(self._asleep):
            if asleep:
                self._bells[number].set()
        return turn

    def _help(self, number: int) -> None:
        known, away = 0, False
        while not self._over:
            ticket = watch(self._board, known, away, PATIENCE)
            away = ticket != NONE
            if away:
                known = ticket
                self._work()
            else:
                self._sleep(number, known)

    def _work(self) -> None:
        job = self._job
        if job is None:  # it is over already
            return
        task, turn = job
        try:
            task(turn)
        except BaseException as error:
            self._errors.append(error)

    def _sleep(self, number: int, known: int) -> None:
        """Until the next turn is published."""
        self._bells[number].clear()
        self._asleep[number] = True
        if not is_open(self._board, known):  # looked at after it is said that somebody must ring
            self._bells[number].wait()
        self._asleep[number] = False


def _dissolve() -> None:
    with _sharing:
        _team_of(0)


def _forget() -> None:
    """A process that is forked off has none of the threads."""
    global _team, _sharing
    _team, _sharing = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
atexit.register(_dissolve)
