"""How many threads work, and `each`, which shares tasks in Python among them. For compiled loops see `threads`.

Numba's own threading layers are not used, so nothing competes with PyTorch's threads: these threads run while PyTorch
waits, and PyTorch runs while these wait.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

_threads = 1
_pool: ThreadPoolExecutor | None = None


def threads() -> int:
    """How many threads work."""
    return _threads


def set_threads(number: int) -> None:
    """Let `number` threads work, the calling one included."""
    global _threads, _pool
    if number != _threads and _pool is not None:
        _pool.shutdown()
        _pool = None
    _threads = number


def each(count: int, task: Callable[[int], None]) -> None:
    """Run `task` for 0 ... count - 1. Whichever thread is free takes the next.

    After a task raises, or after the caller is interrupted, no thread takes another task. When all have finished, the
    first error is raised; an interrupt goes before errors.
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
            # Helpers that have not begun are no longer needed. If a task calls `each`, they may wait for this thread
            # itself, so waiting for them would never end.
            wait([future for future in helping if not future.cancel()])
            break
        except KeyboardInterrupt as error:  # wait on: the others still write into arrays that the caller would drop
            errors.append(error)
    if errors:
        raise next((error for error in errors if not isinstance(error, Exception)), errors[0])


def slices(count: int, number: int) -> list[tuple[int, int]]:
    """Split 0 ... count into at most `number` ranges of one size; the last may be smaller."""
    size = max(1, -(-count // max(1, number)))
    return [(start, min(start + size, count)) for start in range(0, count, size)]
