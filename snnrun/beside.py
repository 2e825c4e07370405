"""A process beside the command's own, which does in order what a training need not wait for: MLflow's work, figures.

Both take a second or two to import, which passes here while the command imports PyTorch and loads its data. `post`
hands over a function and its arguments. They are pickled, so the function is one of a module, which must not need
PyTorch. Where no process was started (a call from Python, a launcher's worker), the function runs at once in this one.

The process ends when the command does, however it ends. It ignores the signals that end a command, since the command
has still to record its end.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from snnrun import collector
from snnrun.signals import ENDING

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")

BEGIN = "import sys; sys.path[:] = {path!r}; from snnrun import beside; beside.serve({handle})"


class Gone(Exception):
    """The process ended before it had done what was posted."""


class _Process:
    """The process, and a thread of this one that hears its replies."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            begin = BEGIN.format(path=sys.path, handle=theirs.fileno())
            self._popen = subprocess.Popen(
                [sys.executable, "-c", begin],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is not for it
            )
        self._socket, self._link = ours, Connection(os.dup(ours.fileno()))
        self._numbers, self._lock = itertools.count(), threading.Lock()
        self._open: dict[int, Future[Any]] = {}
        self._gone = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def post(self, function: Callable[..., T], args: tuple[Any, ...], options: dict[str, Any]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            number = next(self._numbers)
            self._open[number] = future
            try:
                if self._gone:
                    raise OSError
                self._link.send((number, pickle.dumps((function, args, options))))
            except OSError:
                self._open.pop(number, None)
                future.set_exception(Gone())
        return future

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, value, error = self._link.recv()
                future = self._open.pop(number)
                if error is None:
                    future.set_result(value)
                else:
                    future.set_exception(error)
        with self._lock:
            self._gone = True
            for future in self._open.values():
                future.set_exception(Gone())
            self._open.clear()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._listener.join()
        self._socket.close()
        self._link.close()
        self._popen.wait()


_allowed = False
_process: _Process | None = None
_serving = False  # whether this is the process beside a command


def allow() -> None:
    """Let `start` start one: this process belongs to a command, and to nothing else."""
    global _allowed
    _allowed = True


def start() -> bool:
    """Start the process, if that is allowed and it is not there. Returns whether it is there."""
    global _process
    if _process is None and _allowed:
        with contextlib.suppress(OSError):  # no more processes or files are to be had
            _process = _Process()
    return _process is not None


def runs() -> bool:
    """Whether the process was started."""
    return _process is not None


def post(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> Future[T]:
    """Have a function called, after all that was posted before. Returns its result to come.

    The result raises what the function raises, or `Gone`.
    """
    if _process is not None:
        return _process.post(function, args, options)
    future: Future[T] = Future()
    try:
        future.set_result(function(*args, **options))
    except Exception as error:
        future.set_exception(error)
    return future


def ask(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """The result of a function that is called after all that was posted before; here if the process has gone."""
    try:
        return post(function, *args, **options).result()
    except Gone:
        return function(*args, **options)


def stop() -> None:
    """End the process. What was posted and is not done is lost: wait for the results first."""
    global _process
    process, _process = _process, None
    if process is not None:
        process.stop()


def by_two(work: Callable[[Sequence[Item]], list[T]], items: Sequence[Item]) -> list[T]:
    """`work(items)`, one result an item. In the process beside a command, a copy of it does every second one meanwhile.

    Its own thread for what is posted is no part of a copy, so `work` must need none.
    """
    if not _serving or len(items) < 2 or sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        return work(items)
    reader, writer = os.pipe()
    copy = os.fork()
    if copy == 0:
        with contextlib.suppress(Exception), os.fdopen(writer, "wb") as out:
            pickle.dump(work(items[1::2]), out)
        os._exit(0)
    os.close(writer)
    first = work(items[::2])
    with os.fdopen(reader, "rb") as results:
        said = results.read()
    os.waitpid(copy, 0)
    second = pickle.loads(said) if said else work(items[1::2])  # here it may raise
    return [result for pair in itertools.zip_longest(first, second) for result in pair][: len(items)]


# ---- in the process --------------------------------------------------------------------------------------------------


def serve(handle: int) -> None:
    """Do what is posted over the socket `handle`, until it is closed."""
    global _serving
    _serving = True
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    collector.seldom()
    link, posted = Connection(handle), SimpleQueue[tuple[int, bytes]]()
    threading.Thread(target=_receive, args=(link, posted), daemon=True).start()
    while True:
        number, message = posted.get()
        value, error = None, None
        try:
            function, args, options = pickle.loads(message)
            value = function(*args, **options)
        except Exception as raised:
            error = raised
        try:
            reply = pickle.dumps((number, value, error))
        except Exception:  # an error of a library's own, which may hold anything
            reply = pickle.dumps((number, None, RuntimeError(f"{type(error or value).__name__}: {error or value}")))
        with contextlib.suppress(OSError):
            link.send_bytes(reply)


def _receive(link: Connection, posted: SimpleQueue[tuple[int, bytes]]) -> None:
    """Take in what is posted, so that the command never waits; end this process as soon as the command has gone."""
    try:
        while True:
            posted.put(link.recv())
    except (EOFError, OSError):
        os._exit(0)
