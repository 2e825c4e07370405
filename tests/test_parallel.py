"""The threads that share out tasks: every task once, errors passed on, Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest

from snnrun.compiled import parallel
from snnrun.train import hardware

THREADS = [1, 2, 3, 8]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 500])
def test_every_item_runs_once(threads, count):
    parallel.set_threads(threads)
    done = []
    parallel.each(count, done.append)
    assert sorted(done) == list(range(count))
    assert parallel.threads() == threads


@pytest.mark.parametrize("threads", THREADS)
def test_so_many_threads_work_the_calling_one_included(threads):
    """All of them at the same time: each waits for the others."""
    parallel.set_threads(threads)
    meeting = threading.Barrier(threads)
    names = [""] * threads

    def meet(item: int) -> None:
        meeting.wait(timeout=30)
        names[item] = threading.current_thread().name

    parallel.each(threads, meet)
    assert len(set(names)) == threads
    assert threading.current_thread().name in names


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("bad", [0, 5, 19])
def test_what_a_task_raises_is_raised(threads, bad):
    """After the other threads are done: nothing of the call still runs."""
    parallel.set_threads(threads)
    running = []

    def task(item: int) -> None:
        if item == bad:
            raise LookupError(f"item {item}")
        running.append(item)
        time.sleep(0.001)
        running.remove(item)

    with pytest.raises(LookupError, match=f"item {bad}"):
        parallel.each(20, task)
    assert running == []
    done = []
    parallel.each(20, done.append)
    assert sorted(done) == list(range(20)), "the pool still works"


@pytest.mark.parametrize("threads", [2, 4])
def test_after_an_error_no_thread_takes_another_task(threads):
    """Whether the caller's task fails or a helper's."""
    parallel.set_threads(threads)
    for of_caller in True, False:
        started, failed = [], threading.Event()

        def task(item: int, of_caller: bool = of_caller, started: list = started, failed: threading.Event = failed):
            started.append(item)
            if (threading.current_thread() is threading.main_thread()) == of_caller:
                failed.set()
                raise LookupError
            assert failed.wait(timeout=30)
            time.sleep(0.02)  # the one that failed has said so by now

        with pytest.raises(LookupError):
            parallel.each(1000, task)
        assert len(started) <= threads


def test_the_first_of_several_errors_is_raised():
    parallel.set_threads(2)
    failed = threading.Event()

    def task(item: int) -> None:
        if threading.current_thread() is threading.main_thread():
            assert failed.wait(timeout=30)
            time.sleep(0.02)
            raise LookupError("later")
        failed.set()
        raise LookupError("first")

    with pytest.raises(LookupError, match="first"):
        parallel.each(2, task)


@pytest.mark.parametrize("where", ["in a task", "while it waits"])
def test_ctrl_c_stops_all_threads_and_passes_on(where):
    """None of the others runs on behind the caller's back, and an error of theirs does not take its place."""
    parallel.set_threads(2)
    started, ended, main = [], [], threading.get_ident()
    both, waits = threading.Barrier(2), threading.Event()

    def task(item: int) -> None:
        started.append(item)
        both.wait(timeout=30)
        if threading.get_ident() == main:
            if where == "in a task":
                signal.raise_signal(signal.SIGINT)
            waits.set()
            return
        if where == "while it waits":
            assert waits.wait(timeout=30)
            time.sleep(0.05)
            signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.1)
        ended.append(item)
        raise LookupError

    with pytest.raises(KeyboardInterrupt):
        parallel.each(1000 if where == "in a task" else 2, task)
    assert len(started) == 2
    assert len(ended) == 1


def test_a_task_may_itself_share_out_tasks():
    parallel.set_threads(3)
    done = []
    parallel.each(6, lambda k: parallel.each(4, lambda n: done.append((k, n))))
    assert sorted(done) == [(k, n) for k in range(6) for n in range(4)]


def test_two_callers_do_not_disturb_each_other():
    """The encoder's thread and the one that trains."""
    parallel.set_threads(3)
    results = [[], []]

    def call(k: int) -> None:
        for _ in range(20):
            parallel.each(10, results[k].append)

    callers = [threading.Thread(target=call, args=(k,)) for k in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(results[0]) == sorted(results[1]) == sorted(list(range(10)) * 20)


def test_threads_that_are_no_longer_wanted_end():
    def ours() -> int:
        return sum(thread.name.startswith("snnrun_") for thread in threading.enumerate())

    parallel.set_threads(4)
    parallel.each(100, lambda _: time.sleep(0.0001))
    assert 1 <= ours() <= 3
    parallel.set_threads(1)
    assert ours() == 0


@pytest.mark.parametrize("count", [0, 1, 7, 13])
def test_slices_cover_everything_once_in_order(count):
    for number in (0, 1, 3, 20):
        slices = parallel.slices(count, number)
        assert [item for start, stop in slices for item in range(start, stop)] == list(range(count))
        assert len(slices) <= max(1, number)


def test_no_thread_works_on_denormal_numbers():
    """Each thread chooses for itself, and a new one chooses as the one that starts it."""
    hardware.set_up("cpu", threads=3)
    meeting = threading.Barrier(3)
    products = np.ones(3, np.float32)

    def multiply(item: int) -> None:
        meeting.wait(timeout=30)
        products[item] = np.float32(1e-37) * np.full(1, 1e-4, np.float32)[0]

    parallel.each(3, multiply)
    assert not products.any()
