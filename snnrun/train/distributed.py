"""One run in several processes: each trains its share of every batch, and the gradients are added up.

One process leads. It makes folders, shows, records and writes, as if it were alone. The others follow. They have the
same weights, since all make the same updates from the same sums. The shares depend on the batch alone, and the spikes
of a sample depend on the sample alone. So any number of processes trains the same network, up to the rounding of sums.

The processes start in one of two ways. `hardware.processes=N` starts N - 1 followers on this machine for one run. Or an
outer launcher (torchrun, srun) has started all, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment.
Then rank 0 leads, composes and sweeps, and the others wait in `follow` for the runs that it begins.

Sums of a few numbers go through gloo, gradients on a GPU through NCCL. A gloo sum comes before each NCCL sum, since
gloo notices a process that has failed: its connections close, the others raise an error, and nothing hangs.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from snnrun.errors import SnnrunError, UsageError, describe, first_line
from snnrun.signals import ENDING
from snnrun.train import launcher
from snnrun.train.launcher import LEADER, PATIENCE, POLL_S, WAIT_MINUTES, Place

# Followers that shall end have so many seconds. After that they are killed.
GRACE_S = 10.0

Task = Callable[..., object]
Follower = subprocess.Popen[str]


class Group:
    """The processes of a run. This class stands for a single process, which has nothing to exchange.

    Attributes:
        rank: Number of this process, from 0. Process 0 leads.
        size: Number of processes.
        place: Rank among those on this machine.
        here: Number of processes on this machine.
    """

    rank, size, place, here = 0, 1, 0, 1

    @property
    def leads(self) -> bool:
        """Whether this process makes folders, shows, records and writes."""
        return self.rank == 0

    def share(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part (s,) of positions (B,). Parts are contiguous, and their lengths differ by at most one."""
        return positions[self.part(len(positions))]

    def part(self, length: int) -> slice:
        """The slice of this process's part among `length` positions."""
        size, longer = divmod(length, self.size)
        start = self.rank * size + min(self.rank, longer)
        return slice(start, start + size + (self.rank < longer))

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over the processes. If one was told to stop, this raises KeyboardInterrupt in all of them."""
        return values

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add up the tensors of all processes in place, on the device where they are."""

    def copy_(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the leader's values, in place."""

    @contextmanager
    def first(self) -> Iterator[None]:
        """The leader executes the body of the `with` before the others do."""
        yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around code in which all make the same sums: one of `signals.ENDING` stops all of them at the next sum."""
        yield


class _Lost(Exception):
    """Another process is gone."""


class _Ranks(Group):
    def __init__(self, store: Store, rank: int, size: int, place: int, here: int) -> None:
        self.rank, self.size, self.place, self.here = rank, size, place, here
        self._stop = False
        # The leader comes last, since it watches the start of the others until then.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = torch.from_numpy(np.append(values, float(self._stop)))
        with _heard():
            dist.all_reduce(sums)
        if sums[-1]:
            raise KeyboardInterrupt
        return sums[:-1].numpy()

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        self._flat(tensors, dist.all_reduce)

    def copy_(self, tensors: Sequence[Tensor]) -> None:
        self._flat(tensors, lambda flat: dist.broadcast(flat, src=0))

    @staticmethod
    @torch.no_grad()
    def _flat(tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _heard():
            exchange(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    @contextmanager
    def first(self) -> Iterator[None]:
        if not self.leads:
            self.total(np.zeros(0))
        yield
        if self.leads:
            self.total(np.zeros(0))

    @contextmanager
    def together(self) -> Iterator[None]:
        if not self.leads or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: object) -> None:
            if self._stop:  # asked twice
                raise KeyboardInterrupt
            self._stop = True

        heard = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, stop) for number in heard}
        try:
            yield
        finally:
            self._stop = False
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _heard() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # the errors of gloo and NCCL have no class of their own in common
        raise _Lost(str(error)) from error


# ---- leading --------------------------------------------------------------------------------------------------------


@contextmanager
def group(processes: int, task: Task, *arguments: Any) -> Iterator[Group]:
    """The processes of one run, as long as the run takes. The other processes call `task(group, *arguments)`.

    Args:
        processes: Number of processes. Under an outer launcher: 1, or the number that it has started.
        task: A function of a module, since another process imports it.
        arguments: Values that JSON can hold.

    Raises:
        UsageError: `processes` is not the number that an outer launcher has started.
        SnnrunError: another process has failed, was killed or did not start. If it failed, this is its message, and its
            traceback is a note.
    """
    outer = launcher.outer()
    if outer is None and processes == 1:
        yield Group()
        return
    followers: list[Follower] = []
    if outer is not None:
        launcher.check(outer, processes)
        place, store = outer, _begin(arguments)
    else:
        listening = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        place, store = Place(0, processes, 0, processes), PrefixStore("0", listening)
    try:
        if outer is None:
            followers += _spawn(listening.port, processes, task, arguments)
        _wait_for(store, followers, place.size)
        yield _Ranks(store, *place)
    except _Lost as lost:
        raise _reason(store, followers, lost) from None
    finally:
        _leave()
        _end(followers)


def _spawn(port: int, processes: int, task: Task, arguments: Sequence[Any]) -> list[Follower]:
    """Start the followers. Ctrl-C in the terminal does not reach them; they stop when the leader stops."""
    about = json.dumps([port, processes, task.__module__, task.__qualname__, arguments])
    code = f"from {__name__} import follow_once; follow_once()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    followers = []
    for rank in range(1, processes):
        command = [sys.executable, "-c", code, str(rank)]
        follower = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment, start_new_session=True)
        followers.append(follower)
        assert follower.stdin is not None
        with suppress(BrokenPipeError), follower.stdin as stdin:
            stdin.write(about)
    return followers


def _wait_for(store: Store, followers: Sequence[Follower], size: int) -> None:
    ends = time.monotonic() + 60 * WAIT_MINUTES
    while store.add("arrived", 0) < size - 1:
        if time.monotonic() > ends:
            raise SnnrunError(
                f"not all of the {size} processes of this run have begun within {WAIT_MINUTES:g} minutes."
            )
        if any(follower.poll() is not None for follower in followers):
            raise _Lost("ended before it began")
        time.sleep(POLL_S)


def _reason(store: Store, followers: Sequence[Follower], lost: _Lost) -> SnnrunError:
    """The error that tells why another process has ended, from its message or its exit code."""
    with suppress(RuntimeError):
        if store.check(["error"]):
            said = json.loads(store.get("error"))
            error = (UsageError if said["usage"] else SnnrunError)(said["message"])
            error.add_note(said["traceback"])
            return error
    ends = time.monotonic() + GRACE_S / 5
    codes = {}
    for rank, follower in enumerate(followers, 1):
        with suppress(subprocess.TimeoutExpired):
            if code := follower.wait(max(0.0, ends - time.monotonic())):
                codes[rank] = code
    for rank, code in codes.items():
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return SnnrunError(
            f"process {rank + 1} of {len(followers) + 1} {how}. If memory is short, set fewer hardware.processes: each "
            "holds the corpus and a network."
        )
    error = SnnrunError(f"another process of this run has ended without a word ({first_line(lost)[:160]})")
    error.add_note(str(lost))
    return error


def _leave() -> None:
    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _end(followers: Sequence[Follower]) -> None:
    ends = time.monotonic() + GRACE_S
    for follower in followers:
        try:
            follower.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            follower.kill()
            follower.wait()


# ---- following ------------------------------------------------------------------------------------------------------


def follow_once() -> None:
    """Take part in the run of the process that has started this one. Standard input says what to do."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    port, size, module, name, arguments = json.load(sys.stdin)
    rank = int(sys.argv[1])
    with suppress(RuntimeError):  # the leader has ended meanwhile
        store = PrefixStore("0", TCPStore("127.0.0.1", port, is_master=False))
        _serve(store, Place(rank, size, rank, size), getattr(importlib.import_module(module), name), arguments)
    # End at once: threads of gloo that still run at the interpreter's normal end would abort with a message.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _serve(store: Store, place: Place, task: Task, arguments: Sequence[Any]) -> None:
    """Take part in one run. The leader reports an error of this process. The loss of another process is not one."""
    try:
        store.add("arrived", 1)
        task(_Ranks(store, *place), *arguments)
    except (_Lost, KeyboardInterrupt):
        pass
    except Exception as error:
        said = {
            "message": describe(error),
            "usage": isinstance(error, UsageError),
            "traceback": f"In process {place.rank + 1} of {place.size}:\n{''.join(traceback.format_exception(error))}",
        }
        with suppress(RuntimeError):
            store.compare_set("error", "", json.dumps(said))
    finally:
        _leave()


# ---- an outer launcher ----------------------------------------------------------------------------------------------


_runs = 0  # begun so far


def _begin(arguments: Sequence[Any]) -> Store:
    """Tell the followers that a run begins. Returns its store."""
    global _runs
    store, _runs = launcher.meet(), _runs + 1
    assert store is not None, "there is a launcher"
    store.set(f"run {_runs}", json.dumps(arguments))
    return PrefixStore(str(_runs), store)


def follow(task: Task, minutes: float = WAIT_MINUTES) -> int | None:
    """Follow the leader of an outer launcher through all its runs. Returns its exit code; None in the leader itself.

    A follower composes nothing and makes no folder.

    Raises:
        SnnrunError: the leader does not come within so many minutes.
    """
    outer = launcher.outer()
    if outer is None or outer.rank == 0:
        os.environ[LEADER] = str(os.getpid())
        launcher.expect()
        return None
    number = 0
    store = launcher.meet(minutes)
    assert store is not None
    try:
        while True:
            number += 1
            while not store.check([f"run {number}"]):
                time.sleep(POLL_S)
            message = json.loads(store.get(f"run {number}"))
            if isinstance(message, int):
                store.add("left", 1)
                return message
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # the leader stops all
            try:
                _serve(PrefixStore(str(number), store), outer, task, message)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except RuntimeError:  # the leader has ended, has said why, and its store is gone
        return SnnrunError.exit_code


def dismiss(code: int) -> int:
    """Let the followers of an outer launcher end with this exit code. Returns the code."""
    outer = launcher.outer()
    if outer is None or outer.rank != 0:
        return code
    global _runs
    _runs += 1
    with suppress(RuntimeError, SnnrunError):  # processes that are not there need no message
        store = launcher.meet(GRACE_S / 60)
        assert store is not None
        store.set(f"run {_runs}", json.dumps(code))
        ends = time.monotonic() + GRACE_S
        while store.add("left", 0) < outer.size - 1 and time.monotonic() < ends:
            time.sleep(POLL_S)
    return code
