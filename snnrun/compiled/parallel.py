"""How many threads work, and `each`, which shares out tasks in Python. Compiled loops have their own way: `threads`.

Numba's own threading layers are not used, so nothing competes with PyTorch's threads: these run while PyTorch waits,
and PyTorch's while these wait.
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
    """Let so many threads work, the calling one included."""
    global _threads, _pool
    if number != _threads and _pool is not None:
        _pool.shutdown()
        _pool = None
    _threads = number


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
