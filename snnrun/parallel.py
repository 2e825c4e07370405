"""The threads of this process: `share` for compiled loops, `each` for tasks in Python.

Both are Python threads; compiled loops hold no interpreter lock. Numba's own threading layers are not used, so nothing
competes with PyTorch's threads: these run while PyTorch waits, and PyTorch's while these wait.

A training step calls a dozen loops with little between them, and to wake a sleeping thread takes as long as the shorter
of them. So the helpers of `share` watch for the next loop a while before they sleep, and take its items in compiled
code (see `turns`): the interpreter lock, which one thread would hand to another by waking it, is not asked for.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from snnrun.turns import BOARD, COUNT, NEXT, NONE, TICKET, Turn, alone, finish, is_open, watch

# Looks of a helper before it sleeps, half a microsecond each: as long as a step's longest pause between two loops.
PATIENCE = 5000

_threads = 1
_pool: ThreadPoolExecutor | None = None
_team: _Team | None = None
_sharing = threading.Lock()


def threads() -> int:
    """How many threads work."""
    return _threads


def set_threads(number: int) -> None:
    """Let so many threads work, the calling one included."""
    global _threads, _pool, _team
    if number != _threads:
        if _pool is not None:
            _pool.shutdown()
        if _team is not None:
            _team.dissolve()
        _pool = _team = None
    _threads = number


def share(count: int, task: Callable[[Turn], None]) -> None:
    """Run `task` on several threads at once, each with the turn by which its compiled loop takes items of 0 ... count.

    It may run on one thread alone, where there is no more to share or another call has the helpers. Once it raises, or
    the caller is interrupted, no further item is taken; the first error is raised when those taken are done.
    """
    global _team
    if _threads == 1 or count < 2 or not _sharing.acquire(blocking=False):
        task(alone(count))
        return
    try:
        if _team is None:
            _team = _Team(_threads - 1)
        _team.run(count, task)
    finally:
        _sharing.release()


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
        self._members = [
            threading.Thread(target=self._help, args=(number,), name=f"snnrun-{number}", daemon=True)
            for number in range(helpers)
        ]
        for member in self._members:
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
        for member in self._members:
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


def each(count: int, task: Callable[[int], None]) -> None:
    """Run `task` for 0 ... count - 1, whichever thread is free taking the next.

    Once a task raises, or the caller is interrupted, no thread takes another. When all are done, the first error is
    raised; an interrupt goes before errors.
    """
    global _pool
    helpers = min(_threads, count) - 1
    if helpers < 1:
        for item in range(count):
            task(item)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(_threads - 1, thread_name_prefix="snnrun")
    turn = itertools.count()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not errors and (item := next(turn)) < count:
                task(item)
        except BaseException as error:
            errors.append(error)

    helping = [_pool.submit(work) for _ in range(helpers)]
    while True:
        try:
            work()
            # Whoever has not begun comes too late. To wait for it is to wait for ever if it stands behind this very
            # thread, as it does where a task calls `each`.
            wait([future for future in helping if not future.cancel()])
            break
        except KeyboardInterrupt as error:  # while waiting: the others still write into what the caller would drop
            errors.append(error)
    if errors:
        raise next((error for error in errors if not isinstance(error, Exception)), errors[0])


def slices(count: int, number: int) -> list[tuple[int, int]]:
    """Split 0 ... count into at most so many ranges of one size, the last one smaller."""
    size = max(1, -(-count // max(1, number)))
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _forget() -> None:
    """A process that is forked off has none of the threads."""
    global _pool, _team, _sharing
    _pool, _team, _sharing = None, None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
atexit.register(set_threads, 1)
