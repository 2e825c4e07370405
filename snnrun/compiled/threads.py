"""The threads of compiled loops. They are Python threads; the loops hold no interpreter lock.

A training step calls a dozen loops with little between them. Waking a sleeping thread takes as long as a short loop.
So the helpers watch for the next loop for a while before they sleep. They take its items in compiled code (see
`turns`), which does not need the interpreter lock. Instead of waiting, one of them works ahead on a loop that is needed
later (`Ahead`).
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable

import numpy as np

from snnrun.compiled import parallel
from snnrun.compiled.jit import Counts
from snnrun.compiled.turns import (
    AHEAD,
    COUNT,
    NEXT,
    NONE,
    NOTHING,
    PLACES,
    TICKET,
    Turn,
    alone,
    enter,
    finish,
    has_items,
    is_open,
    watch,
)

# A helper looks so often before it sleeps, half a microsecond each: as long as the longest pause between two loops.
PATIENCE = 5000

Task = Callable[[Turn], None]

_helpers: _Helpers | None = None
_sharing = threading.Lock()


def share(count: int, task: Task) -> None:
    """Run `task` on several threads, each with the turn from which its compiled loop takes items of 0 ... count.

    It runs on one thread alone if there are fewer than two items, or if another call has the helpers. After it raises,
    or after the caller is interrupted, no further item is taken. The first error is raised when the threads are done.
    """
    if (parallel.threads() == 1 and _helpers is None) or count < 2 or not _sharing.acquire(blocking=False):
        task(alone(count))
        return
    try:
        helpers = _helpers_of(parallel.threads() - 1)
        if helpers is None:
            task(alone(count))
        else:
            helpers.run(count, task)
    finally:
        _sharing.release()


def _helpers_of(count: int) -> _Helpers | None:
    """Exactly `count` helpers, None for 0. If there is another number of them, these end first."""
    global _helpers
    if _helpers is not None and len(_helpers.threads) != count:
        _helpers.end()
        _helpers = None
    if _helpers is None and count:
        _helpers = _Helpers(count)
    return _helpers


class Ahead:
    """A loop like those of `share` that is needed later. A helper works on it while there is nothing else to do."""

    def __init__(self, count: int, task: Task) -> None:
        self.over = False
        self._task, self._turn = task, alone(count)
        if count > 1 and parallel.threads() > 1 and _sharing.acquire(blocking=False):
            try:
                helpers = _helpers_of(parallel.threads() - 1)
                turn = helpers and helpers.start_ahead(self, count, task)
                self._turn = turn or self._turn
            finally:
                _sharing.release()

    def finish(self) -> None:
        """Work on the rest of it with all threads. When all is done, return or raise the first error."""
        rest, task = self._turn._replace(urgent=NOTHING), self._task

        def join(turn: Turn) -> None:
            enter(turn)
            task(rest)

        try:
            if has_items(rest.queue, rest.items):
                share(parallel.threads() + 1, join)  # an item for each thread, and one more so that help stays wanted
        finally:
            finish(self._turn)
            self.over = True


def _run(turn: Turn, task: Task, errors: list[BaseException]) -> None:
    """Run the task of a turn and always wait for the helpers; then raise the first of the errors."""
    started = False
    while True:
        try:
            if not started:
                started = True
                task(turn)
            finish(turn)
            break
        except BaseException as error:  # wait on: the others still write into arrays that the caller would drop
            errors.append(error)
    if errors:
        found = errors.copy()
        errors.clear()
        raise next((error for error in found if not isinstance(error, Exception)), found[0])


class _Helpers:
    """Threads that help with compiled loops, one loop after another."""

    def __init__(self, count: int) -> None:
        self._queue, self._ahead = np.zeros((2, PLACES), np.int64)
        self._ticket = 0
        self._job: tuple[Task, Turn] | None = None
        self._last: weakref.ref[Ahead] | None = None
        self._job_ahead: tuple[Task, Turn] | None = None
        self._errors: list[BaseException] = []
        self._over = False
        self._asleep = [False] * count
        self._bells = [threading.Event() for _ in range(count)]
        self.threads = [
            threading.Thread(target=self._help, args=(number,), name=f"snnrun-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, count: int, task: Task) -> None:
        """Run a task with all helpers that are free in time. None begins before this thread does."""
        turn = self._turn(self._queue, count, NOTHING)
        self._job = task, turn
        self._publish(turn)
        try:
            _run(turn, task, self._errors)
        finally:
            self._job = None

    def start_ahead(self, work: Ahead, count: int, task: Task) -> Turn | None:
        """Let the first helper work on it when it has nothing else to do; None if an earlier one is not over."""
        last = None if self._last is None else self._last()
        if last is not None and not last.over:
            return None
        turn = self._turn(self._ahead, count, self._queue)
        self._last, self._job_ahead = weakref.ref(work), (task, turn)
        self._publish(turn)
        return turn

    def end(self) -> None:
        """Let the threads end, and wait until they have."""
        self._over = True
        self._publish(self._turn(self._queue, 2, NOTHING))
        self._queue[NEXT] += 1  # as if a thread had begun
        for thread in self.threads:
            thread.join()

    def _turn(self, queue: Counts, count: int, urgent: Counts) -> Turn:
        self._ticket += 1
        return Turn(queue, count, self._ticket, urgent)

    def _publish(self, turn: Turn) -> None:
        turn.queue[COUNT] = turn.items
        turn.queue[NEXT] = turn.ticket << TICKET
        for number, asleep in enumerate(self._asleep):
            if asleep:
                self._bells[number].set()

    def _help(self, number: int) -> None:
        known, found = 0, NONE
        ahead = NOTHING if number else self._ahead  # more than one helper would only slow down the caller
        while not self._over:
            found = watch(self._queue, ahead, known, found, PATIENCE)
            if found == NONE:
                self._sleep(number, known)
            elif found == AHEAD:
                self._work(self._job_ahead)
            else:
                known = found
                self._work(self._job)
        watch(self._queue, ahead, known, found, 0)  # say that this helper is back; then the thread ends

    def _work(self, job: tuple[Task, Turn] | None) -> None:
        if job is None:  # already over
            return
        task, turn = job
        try:
            task(turn)
        except BaseException as error:
            self._errors.append(error)

    def _sleep(self, number: int, known: int) -> None:
        """Sleep until the next turn is published."""
        self._bells[number].clear()
        self._asleep[number] = True
        # Look once more after `_asleep` is set, so that no turn is missed. A loop for later is not urgent enough.
        if not is_open(self._queue, known):
            self._bells[number].wait()
        self._asleep[number] = False


def _end() -> None:
    with _sharing:
        _helpers_of(0)


def _forget() -> None:
    """A forked process has none of the threads."""
    global _helpers, _sharing
    _helpers, _sharing = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
atexit.register(_end)
