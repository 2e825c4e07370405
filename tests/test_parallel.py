"""The threads of the compiled loops."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnrun import hardware, parallel

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
        return sum(thread.name.startswith("snnrun") for thread in threading.enumerate())

    parallel.set_threads(4)
    parallel.each(100, lambda _: time.sleep(0.0001))
    assert 1 <= ours() <= 3
    parallel.set_threads(1)
    assert ours() == 0


@given(st.integers(0, 300), st.sampled_from(THREADS))
def test_ranges_cover_everything_once_in_order(count, threads):
    parallel.set_threads(threads)
    ranges = parallel.ranges(count)
    assert [item for start, stop in ranges for item in range(start, stop)] == list(range(count))
    assert all(start < stop for start, stop in ranges)
    assert len(ranges) >= min(count, 4 * threads), "enough of them for every thread"


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
